"""One part of a training with what a person or a scheduler wants around it: progress, states, looks, logs."""

import time
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ebsc.data import Dataset
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.training import Objective, Schedule, Trainer
from ebsc.validation import denoising_error, pictures, quick_certificates
from jobs.launch import OnStop
from jobs.progress import Reporter, duration
from jobs.record import Keeper, Logbook, is_main

__all__ = ["Fitting", "Watch"]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How often to look at a training.

    Attributes:
        log: steps between lines of metrics.jsonl and points in TensorBoard.
        looks: how many times to show denoised pictures, and to certify the held-out images quickly.
        save: seconds between saved states; a signal of SLURM saves one too.

    Raises:
        InputError: a value that is not allowed.
    """

    log: int = 50
    looks: int = 8
    save: float = 120.0

    def __post_init__(self) -> None:
        if self.log < 1 or self.looks < 1 or not 0 <= self.save < inf:
            raise InputError("steps between lines and looks must be at least 1, seconds between states not negative")


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """Trains a model part by part; each part goes on from its last state, and a finished one is read back.

    Attributes:
        net: the model.
        train: what to train on.
        held: images that no part trains on, for looks.
        folder: the model folder.
        device: where to train.
        watch: how often to look.
        on_stop: told how to save a state when SLURM is about to stop this process.
    """

    net: Ebsc
    train: Dataset
    held: Dataset | None
    folder: Path
    device: torch.device
    watch: Watch
    on_stop: OnStop

    def part(self, name: str, title: str, objective: Objective, schedule: Schedule, *, pick: bool = False) -> None:
        """Train those parameters of the model that require gradients.

        Args:
            name: ``energy`` or ``head``.
            title: for people.
            objective: see :data:`ebsc.training.Objective`.
            schedule: see :class:`ebsc.training.Schedule`.
            pick: end with the weights that certify the held-out images best, instead of the last average.
        """
        trainer = Trainer(self.net, self.train, objective, schedule, device=self.device)
        keeper = Keeper(self.folder / "checkpoint" / f"{name}.safetensors", trainer)
        self.on_stop(keeper.save)
        if not is_main():
            while not trainer.done:
                trainer.advance()
        elif not trainer.done:
            with Reporter(f"training the {title}") as reporter, Logbook(self.folder, name, trainer.step) as logbook:
                self._watched(trainer, keeper, reporter, logbook, pick)
        keeper.finish()

    def _watched(self, trainer: Trainer, keeper: Keeper, reporter: Reporter, logbook: Logbook, pick: bool) -> None:
        begun, before, saved, running = time.monotonic(), trainer.step, time.monotonic(), 0.0
        look = max(1, trainer.schedule.steps // self.watch.looks)
        while not trainer.done:
            due = (trainer.step + 1) % look == 0 or trainer.step + 1 == trainer.schedule.steps
            if due:  # what stops the training before its look is made goes back to here, or the look would be lost
                keeper.save()
            keeper.closed = due
            step = trainer.advance()
            running = step.loss if step.step == before + 1 else 0.98 * running + 0.02 * step.loss
            each = (time.monotonic() - begun) / (step.step - before)
            rate, left = trainer.schedule.batch / each, duration(each * (step.steps - step.step))
            reporter.show(step.step, step.steps, f"loss {running:.5f}, {rate:,.0f} images/s, {left} left")
            if due or step.step % self.watch.log == 0:
                scalars = {name: float(value) for name, value in step.scalars.items()} | {"loss": step.loss}
                rates = {"images_per_second": rate, "learning_rate": trainer.schedule.rate(step.step - 1)}
                seen = self._look(trainer, keeper, logbook, pick) if due else {}
                logbook.write(step.step, step.steps, scalars | rates | seen)
            keeper.closed = False
            if due or time.monotonic() - saved >= self.watch.save:
                keeper.save()
                saved = time.monotonic()

    def _look(self, trainer: Trainer, keeper: Keeper, logbook: Logbook, pick: bool) -> dict[str, float]:
        """What the average of the weights is worth now, on held-out images where there are any."""
        average = cast(Ebsc, trainer.average.module)
        if not isinstance(average.denoiser, nn.Identity):
            logbook.picture(trainer.step, pictures(average, self.held or self.train, device=self.device))
        if self.held is None:
            return {}
        if not pick:
            error = denoising_error(average.denoiser, self.held, average.sigma, device=self.device)
            return {"held_out_denoising_error": error}
        quick = quick_certificates(average, self.held, device=self.device, precision=trainer.schedule.precision)
        keeper.judge(quick.acr)
        return asdict(quick)
