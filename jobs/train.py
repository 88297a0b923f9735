"""``ebsc train``: learn the energy of the smoothed density, and a classifier on clean images."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import nn

from ebsc import data, model, training
from ebsc.data import Dataset
from ebsc.device import Device, pick
from ebsc.errors import InputError
from ebsc.files import make_folder
from ebsc.model import Ebsc, ModelSpec
from ebsc.training import Objective, Schedule, Step
from jobs.progress import Reporter, duration
from jobs.provenance import options, provenance

__all__ = ["Train"]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train an empirical Bayes smoothed classifier (plug-in) and write a model folder.

    First the energy phi of the smoothed density, by least squares: E|x - xhat(x + sigma eps)|^2 with
    xhat(y) = y - sigma^2 grad phi(y). Then the classifier, on clean images. `ebsc certify` votes with both.

    Example: ebsc train --data mnist --sigma 0.5 --energy.precision bfloat16
    """

    data: str = "digits"
    """Data set: digits, mnist, fashion-mnist, kmnist, cifar10, or a path ending in .npz."""
    data_root: Path | None = None
    """Where data sets live. Default: $EBSC_DATA, else ~/.cache/ebsc/data."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Model folder to write. Default: models/DATA-DENOISER-CLASSIFIER-SIGMA."""
    overwrite: bool = False
    """Replace a model that is already there."""
    sigma: float = 0.5
    """Standard deviation of the noise, on the scale where pixels lie in [0, 1]."""
    denoiser: Literal["residual", "scalar", "network", "none"] = "residual"
    """residual: phi = |y - h(y)|^2 / (2 sigma^2); scalar: a network with one output; network: no energy, plain
    regression of the clean image; none: plain smoothing."""
    width: int = 32
    """Channels of the denoiser's network."""
    classifier: Literal["linear", "lenet", "resnet"] = "linear"
    """Base classifier, trained on clean images."""
    energy: Schedule = field(default_factory=lambda: Schedule(steps=9000))
    """How to train the denoiser."""
    head: Schedule = field(default_factory=lambda: Schedule(steps=5000, learning_rate=1e-3, batch=128, clip=1.0))
    """How to train the classifier."""
    device: Device = "auto"
    """cpu, cuda, or auto: CUDA where there is one."""

    def run(self) -> None:
        """Train, evaluate on the test split, save."""
        model.check_sigma(self.sigma)
        out = self.out or Path("models") / f"{Path(self.data).stem}-{self.denoiser}-{self.classifier}-{self.sigma:g}"
        if (out / "model.json").exists() and not self.overwrite:
            raise InputError(f"{out} already holds a model: give another --out, or --overwrite")
        started, device = time.monotonic(), pick(self.device)
        train, test = (data.load(self.data, split, self.data_root) for split in ("train", "test"))
        for part in (train, test):
            if not part.on_lattice:
                raise InputError(f"{part.name}: training needs images on the lattice of {part.levels} levels")
        torch.manual_seed(self.energy.seed)
        spec = ModelSpec(
            sigma=self.sigma,
            shape=train.shape,
            n_classes=train.n_classes,
            levels=train.levels,
            denoiser={"kind": self.denoiser} | ({} if self.denoiser == "none" else {"width": self.width}),
            classifier={"kind": self.classifier},
        )
        net = model.build(spec)
        make_folder(out, "model")
        if self.denoiser != "none":
            objective = training.denoising(net.denoiser, self.sigma, train.levels)
            _fit(f"{self.denoiser} denoiser", net.denoiser, train, objective, self.energy, device)
        objective = training.classification(net.classifier, train.levels)
        _fit(f"{self.classifier} classifier", net.classifier, train, objective, self.head, device)
        figures = _evaluate(net, test, device) | {"seconds": round(time.monotonic() - started, 1)}
        record = {"data": self.data, "checksum": train.checksum, "figures": figures, "options": options(self)}
        model.save(out, net, replace(spec, training={**record, **provenance()}))
        print(f"model written to {out} ({sum(p.numel() for p in net.parameters()):,} parameters)")


def _fit(
    title: str, module: nn.Module, train: Dataset, objective: Objective, schedule: Schedule, device: torch.device
) -> None:
    """Train with progress shown."""
    started = time.monotonic()
    running = 0.0
    with Reporter(f"training the {title}") as reporter:

        def report(step: Step) -> None:
            nonlocal running
            running = step.loss if step.step == 1 else 0.98 * running + 0.02 * step.loss
            seconds = time.monotonic() - started
            left = duration(seconds / step.step * (step.steps - step.step))
            reporter.show(
                step.step, step.steps, f"loss {running:.5f}, {step.images / seconds:,.0f} images/s, {left} left"
            )

        training.fit(module, train, objective, schedule, device=device, report=report)


def _evaluate(net: Ebsc, test: Dataset, device: torch.device) -> dict[str, float]:
    """What a user wants to know before certifying, said and recorded."""
    figures = {"accuracy_on_noisy": training.accuracy(net.plain(), test, device=device)}
    print(f"accuracy of the classifier on y = x + sigma eps: {figures['accuracy_on_noisy']:.1%}")
    if not isinstance(net.denoiser, nn.Identity):
        figures["accuracy_on_xhat"] = training.accuracy(net, test, device=device)
        figures["denoising_error"] = training.denoising_error(net.denoiser, test, net.sigma, device=device)
        print(f"accuracy of the classifier on xhat(y): {figures['accuracy_on_xhat']:.1%}")
        print(f"denoising error: {figures['denoising_error']:.5f} per pixel (the noise itself: {net.sigma**2:g})")
    net.cpu()
    return figures


if __name__ == "__main__":
    from jobs.cli import start

    start(Train)
