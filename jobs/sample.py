"""``ebsc sample``: walk-jump sampling, to see what an energy has learned."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from torchvision.utils import make_grid

from ebsc import data
from ebsc.device import Device, pick
from ebsc.errors import InputError
from ebsc.files import make_folder, write_whole
from ebsc.model import ModelSpec
from ebsc.noise import check_seed, perturb
from ebsc.validation import coloured
from ebsc.walkjump import Walk, check_can_walk, split_r_hat, walk
from jobs.options import DataRoot
from jobs.plots import walks
from jobs.progress import Reporter
from jobs.provenance import options_of, provenance
from jobs.runs import load_model

__all__ = ["Sample"]

COMPONENTS = 5
"""Principal components of the jumps whose mixing is judged."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sample from what an energy has learned: Langevin walks on the smoothed density, jumps to clean images.

    Walk: y <- y - (delta^2 / 2) grad phi(y) + delta N(0, I). Jump, from any point of it: to xhat(y). (Saremi &
    Hyvärinen 2019.) Gives pictures of both, a pair of rows a chain, and says whether the chains have mixed: split R-hat
    of the leading principal components of the jumps (near 1: they have), and how many classes a chain visits.

    Example: ebsc sample models/mnist-residual-linear-0.5 --steps 2000 --friction 1
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Model folder, as written by `ebsc train`, or the name of a released model."""
    allow: tuple[str, ...] = ()
    """Python modules of your own that the model may import; see `ebsc certify --help`."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for walks.png and sample.json. Default: MODEL/sample, or samples/NAME of a released model."""
    chains: int = 8
    """Chains to walk."""
    walk: Annotated[Walk, tyro.conf.OmitArgPrefixes] = field(default_factory=lambda: Walk(steps=1000))
    """How each of them walks."""
    start: Literal["noise", "data"] = "noise"
    """noise: pixels uniform on [0, 1], under noise; data: test images under noise."""
    data_root: DataRoot = None
    columns: int = 12
    """Pictures of each chain, at equal distances from the start to the end."""
    seed: int = 0
    """Seed of starts and walks."""
    device: Device = "auto"
    """cpu, cuda, or auto: CUDA where there is one."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.chains < 2 or self.columns < 2 or self.walk.steps < 7:
            raise InputError("give 2 chains, 2 columns and 7 steps or more")
        if self.columns > self.walk.steps + 1:
            raise InputError(
                f"{self.walk.steps} steps and the start are {self.walk.steps + 1} pictures: --columns {self.columns} is"
                " too many"
            )

    def run(self) -> None:
        """Walk, and write what was seen."""
        how = self.walk
        net, spec = load_model(self.model, self.allow)
        check_can_walk(net)
        ours = self.model / "sample" if self.model.exists() else Path("samples") / self.model
        folder, device = self.out or ours, pick(self.device)
        generator = torch.Generator(device).manual_seed(self.seed)
        start = self._start(spec, generator)
        make_folder(folder, "samples")
        normals = (torch.randn(start.shape, generator=generator, device=device) for _ in range(how.normals))
        shown = {round(column * how.steps / (self.columns - 1)) for column in range(self.columns)}
        net, pictures, jumps, classes = net.to(device).eval(), [], [], []
        with torch.no_grad(), Reporter(f"walking with {self.model.name}") as reporter:
            for step, (y, jump) in enumerate(walk(net.denoiser, start, normals, net.sigma, how)):
                if step in shown:
                    pictures.append(torch.stack([y, jump], 1).cpu())
                if not jump.isfinite().all():
                    raise InputError(f"the walk diverged at step {step}: give a smaller --step-size")
                if step > how.steps // 2:  # before, a walk is on the way from its start
                    jumps.append(jump.flatten(1).cpu())
                    classes.append(net.classifier(jump).argmax(1).cpu())
                reporter.show(step, how.steps, f"step {step:,} of {how.steps:,}")
        found = _mixing(torch.stack(jumps, 1), torch.stack(classes, 1).numpy())
        walks(_grid(torch.stack(pictures, 2)), f"{self.model.name}, sigma {net.sigma:g}", folder / "walks.png")
        record = {
            "mixing": found,
            "walk": asdict(how),
            "options": options_of(self),
            "provenance": provenance(self.device),
        }
        write_whole(folder / "sample.json", json.dumps(record, indent=2).encode() + b"\n")
        print(_say(found, self.chains, how.steps))
        print(f"walks and jumps: {folder / 'walks.png'}")

    def _start(self, spec: ModelSpec, generator: torch.Generator) -> Tensor:
        shape, device = (self.chains, *spec.shape), generator.device
        z = torch.randn(shape, generator=generator, device=device)
        if self.start == "noise":
            return torch.rand(shape, generator=generator, device=device) + spec.sigma * z
        if "data" not in spec.training:
            raise InputError(f"{self.model} does not say what it was trained on: start from noise")
        test = data.load(spec.training["data"], "test", self.data_root)
        if (test.shape, test.levels) != (spec.shape, spec.levels):
            raise InputError(f"{test.name} no longer holds the images that {self.model} was trained on")
        images = torch.from_numpy(test.images[: self.chains])
        if len(images) < self.chains:
            raise InputError(f"there are only {len(images)} test images to start from")
        return perturb(images.to(device), z, spec.sigma, spec.levels)


def _mixing(jumps: Tensor, classes: np.ndarray) -> dict[str, float]:
    """What is said about chains: jumps of shape (chain, step, pixel), and their classes."""
    flat = (jumps - jumps.mean((0, 1))).flatten(0, 1).double()
    directions = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -COMPONENTS:]
    r_hat = split_r_hat((flat @ directions).reshape(*jumps.shape[:2], -1).numpy())
    return {
        "r_hat": round(float(r_hat.max()), 3),
        "classes_each": float(np.mean([len(set(chain)) for chain in classes.tolist()])),
        "classes_all": len(np.unique(classes)),
        "changes_each": float((classes[:, 1:] != classes[:, :-1]).sum(1).mean()),
    }


def _say(found: dict[str, float], chains: int, steps: int) -> str:
    """The same in words."""
    mixed = "the chains have mixed" if found["r_hat"] < 1.1 else "the chains have NOT mixed in this time"
    return (
        f"{chains} chains of {steps:,} steps, second halves: R-hat {found['r_hat']:.3f} ({mixed});\na chain's jumps are"
        f" of {found['classes_each']:.1f} classes on average and change class {found['changes_each']:.1f} times; all"
        f" chains together: {found['classes_all']:.0f} classes"
    )


def _grid(pictures: Tensor) -> Tensor:
    """Pictures of shape (chain, walk or jump, column, channel, height, width) as one, in [0, 1]."""
    return make_grid(coloured(pictures).flatten(0, 2).clamp(0, 1), nrow=pictures.shape[2], padding=1, pad_value=0.5)


if __name__ == "__main__":
    from jobs.cli import start

    start(Sample)
