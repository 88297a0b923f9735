"""One training loop, which can be left after any step and gone on with; what is learned is a small function."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import cos, isfinite, pi
from typing import Literal

import numpy as np
import torch
import torch.distributed
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ebsc.data import Dataset
from ebsc.device import as_graph, compiling
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.noise import check_seed, perturb
from ebsc.votes import Precision

__all__ = [
    "Batch",
    "Objective",
    "Randomness",
    "Schedule",
    "Step",
    "Trainer",
    "classification",
    "denoising",
    "share",
]


_FASTEST = 3e37
"""The largest learning rate: Adam's first step is ten times as long, and must be a number of float32."""


class _Stream(IntEnum):
    ORDER = 0
    NOISE = 1
    NETWORK = 2


class Randomness:
    """The random numbers of one step: the same ones for a row of the batch, whichever process draws them.

    They follow from the seed and the step alone, so that nothing about them needs to be stored to go on with a
    training, and they are drawn for the whole batch and then cut, so that any number of processes sees the same.

    Args:
        seed: of the training.
        step: counted from 0.
        batch: images of the step, over all processes.
        rows: those of this process.
        device: where the numbers live.

    >>> whole, part = (Randomness(0, 7, 4, rows, "cpu") for rows in (slice(0, 4), slice(2, 4)))
    >>> bool((whole.normal(3, 1, 2, 2)[:, 2:] == part.normal(3, 1, 2, 2)).all())
    True
    """

    def __init__(self, seed: int, step: int, batch: int, rows: slice, device: torch.device | str) -> None:
        self._batch = batch
        self._rows = rows
        self._generator = torch.Generator(device).manual_seed(_entropy(seed, _Stream.NOISE, step))

    def normal(self, draws: int, *shape: int) -> Float[Tensor, "draw row *shape"]:
        """Standard normals, ``draws`` for each row of this process."""
        device = self._generator.device
        return torch.randn(draws, self._batch, *shape, generator=self._generator, device=device)[:, self._rows]

    def uniform(self, draws: int) -> Float[Tensor, "draw row"]:
        """Uniform numbers in [0, 1), ``draws`` for each row of this process."""
        device = self._generator.device
        return torch.rand(draws, self._batch, generator=self._generator, device=device)[:, self._rows]


@dataclass(frozen=True)
class Batch:
    """What an objective sees of one step.

    Attributes:
        images: integers on the lattice, those of this process.
        labels: theirs.
        step: counted from 0.
        random: see :class:`Randomness`.
    """

    images: UInt8[Tensor, "row channel height width"]
    labels: Int64[Tensor, " row"]
    step: int
    random: Randomness


Objective = Callable[[Batch], dict[str, Tensor]]
"""A batch -> scalars, of which ``loss`` is minimised; the others are for people to watch."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train: Adam, linear warm-up, decay, an average of the weights at the end.

    Attributes:
        steps: how many steps.
        batch: images a step, over all processes. An energy learns far faster from many small steps than from few large
            ones.
        learning_rate: peak.
        warmup: steps of linear warm-up.
        decay: cosine: to zero; step: a tenth after each third of the steps, as in the published recipes.
        clip: largest norm of the gradient; near its usual norm, or an energy's training may diverge in one bad step.
        ema: decay of the exponential moving average of the weights, which is what training returns.
        precision: of the network; ``bfloat16`` by autocast. The weights stay float32.
        compile: compile the network, its gradients and those of the attack; needs a C++ compiler on a CPU.
        seed: of the order of images and the noise; the energy's also of the first weights of both networks.

    Raises:
        InputError: a value that is not allowed.
    """

    steps: int = 9000
    batch: int = 64
    learning_rate: float = 3e-3
    warmup: int = 100
    decay: Literal["cosine", "step"] = "cosine"
    clip: float = 0.1
    ema: float = 0.999
    precision: Precision = "float32"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.batch >= 1 and self.clip > 0 and self.warmup >= 0):
            raise InputError("steps, batch and clip must be positive, and warmup not negative")
        if not 0 < self.learning_rate <= _FASTEST:
            raise InputError(f"learning_rate must be positive and at most {_FASTEST:g}, not {self.learning_rate}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must lie in [0, 1), not {self.ema}")
        check_seed(self.seed)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        ramp = min(1.0, (step + 1) / (self.warmup + 1))
        share = step / self.steps
        return (
            self.learning_rate
            * ramp
            * (0.5 * (1 + cos(pi * share)) if self.decay == "cosine" else 0.1 ** int(3 * share))
        )


@dataclass(frozen=True)
class Step:
    """What a step saw: how many steps are done, of how many, and the objective's scalars."""

    step: int
    steps: int
    loss: float
    scalars: Mapping[str, Tensor]


def denoising(model: Ebsc, levels: int, compiled: bool = False) -> Objective:
    """Least squares: E|x - xhat(x + sigma eps)|^2 per pixel, whose minimiser is the Bayes estimator.

    For an energy this is denoising score matching of the smoothed density (Saremi & Hyvärinen 2019).
    """
    estimate = as_graph(model.denoiser, compiled)

    def loss(batch: Batch) -> dict[str, Tensor]:
        z = batch.random.normal(1, *batch.images.shape[1:])[0]
        y = perturb(batch.images, z, model.sigma, levels)
        return {"loss": (estimate(y) - batch.images / levels).square().mean()}

    return loss


def classification(classifier: nn.Module, levels: int, compiled: bool = False) -> Objective:
    """Cross-entropy on clean images."""
    scores = as_graph(classifier, compiled)

    def loss(batch: Batch) -> dict[str, Tensor]:
        logits = scores(batch.images / levels)
        right = (logits.argmax(1) == batch.labels).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, batch.labels), "accuracy": right}

    return loss


def share(batch: int, processes: int | None = None) -> int:
    """Images of a batch that each of so many processes takes; by default each of those of this group.

    Raises:
        InputError: they cannot be shared equally.
    """
    if processes is None:
        processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if batch % processes:
        raise InputError(f"a batch of {batch} images cannot be shared equally by {processes} processes")
    return batch // processes


class Trainer:
    """Minimises an objective over a module's parameters, in place, a step at a time.

    Under ``torch.distributed`` each process takes its rows of every batch and the gradients are averaged: the same
    training as in one process, but for the rounding of sums, and for batch normalisation, which sees only a process's
    own rows. Left after any step and restored from :meth:`state`, it ends with the weights of an undisturbed one, bit
    for bit.

    Args:
        module: what is trained: those of its parameters that require gradients. The objective refers to it.
        data: images on the lattice and labels.
        objective: see :data:`Objective`.
        schedule: see :class:`Schedule`.
        device: where to train.

    Raises:
        InputError: the data are off the lattice, or the batch cannot be shared equally among the processes.
    """

    def __init__(
        self,
        module: nn.Module,
        data: Dataset,
        objective: Objective,
        schedule: Schedule,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if not data.on_lattice:
            raise InputError(f"{data.name}: training needs images on the lattice {{0..{data.levels}}}")
        spread = torch.distributed.is_initialized()
        rows = share(schedule.batch)
        self._rank = torch.distributed.get_rank() if spread else 0
        self._rows = slice(self._rank * rows, (self._rank + 1) * rows)
        self._spread = spread
        self.step = 0
        self.whole = True
        self._before: dict[str, Tensor] = {}
        self.schedule = schedule
        self.module = module
        self._device = torch.device(device)
        module.to(self._device).to(memory_format=torch.channels_last).train()
        self._weights = [weight for weight in module.parameters() if weight.requires_grad]
        frozen = {weight.data_ptr() for weight in module.parameters() if not weight.requires_grad}
        self.average = AveragedModel(module, multi_avg_fn=_ema(schedule.ema, frozen), use_buffers=True)
        saved = module.state_dict().keys()  # without buffers that are made anew and not stored
        self._buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
        self._optimizer = torch.optim.Adam(self._weights, lr=schedule.learning_rate)
        loss = _Loss(module, objective)
        # a network of somebody's own may have weights that a loss does not use
        own = any(not type(part).__module__.startswith(("ebsc.", "torch.")) for part in module.modules())
        self._loss = DistributedDataParallel(loss, find_unused_parameters=own) if spread else loss
        self._images, self._labels = (torch.from_numpy(part).to(device) for part in (data.images, data.labels))
        self._orders: dict[int, np.ndarray] = {}

    @property
    def done(self) -> bool:
        """Whether all steps are made."""
        return self.step >= self.schedule.steps

    def advance(self) -> Step:
        """Make one step.

        Raises:
            InputError: the loss became NaN or infinite.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        # batch normalisation changes its statistics half-way through a step
        self._before = {f"module.{name}": buffer.clone() for name, buffer in self._buffers.items()}
        torch.manual_seed(_entropy(self.schedule.seed, _Stream.NETWORK, self.step, self._rank))  # of dropout, if any
        bfloat16 = self.schedule.precision == "bfloat16"
        config = compiling(optimize_ddp=False)  # DDP's own splitting does not know torch.func
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bfloat16), config:
            scalars = self._loss(self._batch())
            loss = scalars["loss"]
            self._optimizer.zero_grad()
            loss.backward()
        value = loss.detach().clone()
        if self._spread:
            torch.distributed.all_reduce(value)
            value /= torch.distributed.get_world_size()
        if not isfinite(value.item()):
            raise InputError(f"the loss became {value.item()} at step {self.step + 1}: lower the learning rate")
        nn.utils.clip_grad_norm_(self._weights, self.schedule.clip)
        self.whole = False  # a signal handler that saves now would save half a step
        self._optimizer.step()
        self.average.update_parameters(self.module)
        self.step += 1
        self._before = {}
        self.whole = True
        return Step(self.step, self.schedule.steps, value.item(), {k: v.detach() for k, v in scalars.items()})

    def state(self) -> dict[str, Tensor]:
        """All that the steps still to come depend on: weights, their average, the optimiser, the step.

        Random numbers are not part of it, as they follow from the seed and the step. On a CPU it is a view of the live
        weights. Called in the middle of a step (by a signal handler, while ``whole``), it is the state before it.
        """
        state = {"step": torch.tensor(self.step)}
        state |= {f"module.{name}": value for name, value in self.module.state_dict().items()} | self._before
        state |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, values in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        return {name: value.contiguous().cpu() for name, value in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` gave.

        Raises:
            InputError: it is the state of another training.
        """
        try:
            self.module.load_state_dict(_below(state, "module"))
            self.average.load_state_dict(_below(state, "average"))
            if not 0 <= int(state["step"]) <= self.schedule.steps:
                raise ValueError("a step beyond the last")
            optimizer = self._optimizer.state_dict()
            moments = {index: _below(state, f"optimizer.{index}") for index in range(len(self._weights))}
            # a weight that no loss used has none
            optimizer["state"] = {index: found for index, found in moments.items() if found}
            theirs = {name: value.shape for name, value in _below(state, "optimizer").items()}
            ours = {
                f"{index}.{name}": torch.Size() if name == "step" else self._weights[index].shape
                for index in optimizer["state"]
                for name in ("step", "exp_avg", "exp_avg_sq")
            }
            if theirs != ours or bool(ours) != bool(state["step"]):
                raise ValueError("moments of other weights")
            self._optimizer.load_state_dict(optimizer)
            self.step = int(state["step"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError("this is the state of another training") from error

    def finish(self) -> None:
        """Put the average in place of the weights; the module is in evaluation mode on the CPU then."""
        self.module.load_state_dict(self.average.module.state_dict())
        self.module.cpu().eval()

    def _batch(self) -> Batch:
        """Images in a new random order every epoch; the last, incomplete batch of one joins the next epoch's first."""
        first = self.step * self.schedule.batch
        positions = np.arange(first, first + self.schedule.batch)[self._rows]
        epochs, places = np.divmod(positions, len(self._labels))
        self._orders = {epoch: self._order(epoch) for epoch in np.unique(epochs).tolist()}
        chosen = [self._orders[epoch][place] for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)]
        index = torch.tensor(chosen, device=self._device)
        random = Randomness(self.schedule.seed, self.step, self.schedule.batch, self._rows, self._device)
        return Batch(self._images[index], self._labels[index], self.step, random)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch in self._orders:
            return self._orders[epoch]
        rng = np.random.default_rng(_entropy(self.schedule.seed, _Stream.ORDER, epoch))
        return rng.permutation(len(self._labels))


class _Loss(nn.Module):
    """The objective as a module whose parameters are what is trained, as DistributedDataParallel wants it."""

    def __init__(self, module: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.module = module
        self._objective = objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self._objective(batch)


def _entropy(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}


def _ema(decay: float, frozen: Collection[int]) -> Callable[..., None]:
    """Exponential moving average that forgets its start: the decay grows to ``decay`` over the first steps.

    Weights at the addresses ``frozen`` do not change, and are left alone.
    """

    def update(average: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        done = int(count)
        weight = 1 - min(decay, (1 + done) / (10 + done))
        for kept, new in zip(average, current, strict=True):
            if new.data_ptr() in frozen:
                continue
            if kept.is_floating_point():
                kept.lerp_(new, weight)
            else:
                kept.copy_(new)

    return update
