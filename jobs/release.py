"""``ebsc release``: a model for others, with its card and the runs behind its numbers; ``ebsc models``: which."""

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tabulate import tabulate

from ebsc import model
from ebsc.errors import InputError
from ebsc.files import make_folder, write_whole
from ebsc.model import RELEASED, Ebsc, ModelSpec
from ebsc.own import is_own
from jobs.entries import Entry, common_images, read_entry
from jobs.launch import Slurm
from jobs.options import DataRoot, command_line, parse_radii, recall
from jobs.prints import floor_percent, spelled, typeset
from jobs.runs import certification, other_than
from jobs.tables import render
from jobs.train import Train
from jobs.verify import keep, verify

__all__ = ["LARGEST", "Models", "Release", "card"]

LARGEST = 3_000_000
"""Bytes of weights that a released model may have: it lives in the repository."""

_PARTS = {"README.md", "model.json", "model.safetensors", "runs"}
"""What a released model's folder holds."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """Release a model: weights, the runs that certify it, and a model card made from both.

    The runs are verified (`ebsc verify`) and kept with their ledger compressed, so that the card's table can be rebuilt
    and checked. What is left of training, and all else in the folder, is not taken along. Refused: weights above
    3 MB, runs of other weights, runs that are not sound in floating point.

    Example: ebsc release models/learned --run runs/learned --name ebsc-mnist-0.50
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Model folder."""
    runs: Annotated[tuple[Path, ...], tyro.conf.arg(name="run")]
    """Finished run folders of this model. The first is the headline, and its row is named like the model."""
    name: str
    """Name under which all commands will find it: small letters, digits, points and hyphens."""
    radii: str = "0:2:0.25"
    """Columns of the card's table: 0.5, or 0,0.5,1, or start:stop:step."""
    into: Path | None = None
    """Folder of the released models. Default: that of the program, where it runs from its repository."""
    overwrite: bool = False
    """Replace a released model of this name."""
    data_root: DataRoot = None

    def run(self) -> None:
        """Release it, whole or not at all."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.name):
            raise InputError(f"name {self.name!r}: give small letters, digits, points and hyphens")
        folder = self._shelf / self.name
        if folder.exists() and not self.overwrite:
            raise InputError(f"{folder} is there already; --overwrite replaces it")
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise InputError(f"{folder} is no folder: a released model cannot replace it")
        if folder.exists() and {path.name for path in folder.iterdir()} not in (set(), _PARTS):
            raise InputError(f"{folder} holds something else than a released model: --overwrite leaves it alone")
        origin = model.locate(self.model)
        spec, weights = model.read(origin)
        if any(is_own(part["kind"]) for part in (spec.denoiser, spec.classifier)):
            raise InputError(f"{self.model} has networks of your own: a released model comes without code of its own")
        net, size = model.unpack(spec, weights, str(self.model)), len(weights)
        if size > LARGEST:
            half = "" if spec.storage == "float16" else "; train it with --storage float16, or a smaller --width"
            raise InputError(f"{self.model} has {size:,} bytes of weights, a released model at most {LARGEST:,}{half}")
        self._check(spec)
        for run in self.runs:
            verify(run, self.data_root)
        make_folder(self._shelf, "folder of released models")
        apart = Path(tempfile.mkdtemp(prefix=f".{self.name}.", dir=self._shelf))
        part, before = apart / "new", apart / "before"
        part.mkdir()
        try:
            for name in ("model.json", "model.safetensors"):
                write_whole(part / name, (origin / name).read_bytes())
            for name, run in self._named.items():
                keep(run, part / "runs" / name)
            entries = [read_entry(part / "runs" / name) for name in self._named]
            questions = [certification(run)["question"] for run in self.runs]
            text = card(self.name, net, spec, entries, questions, parse_radii(self.radii), size)
            write_whole(part / "README.md", text.encode())
            if folder.exists():
                folder.rename(before)
            part.rename(folder)
        finally:
            if before.exists() and not folder.exists():
                before.rename(folder)
            shutil.rmtree(apart, ignore_errors=True)
        known = self.name if self._shelf == RELEASED else folder
        print(f"released: {folder}; certify it with: ebsc certify {known}")

    @property
    def _shelf(self) -> Path:
        """Where the model goes: never unasked among a program's installed files."""
        if self.into is None and not (RELEASED.parents[1] / "pyproject.toml").exists():
            raise InputError("name the folder that the model is to stand in with --into")
        return self.into or RELEASED

    @property
    def _named(self) -> dict[str, Path]:
        """What the runs are called where they are kept."""
        return {Path(os.path.realpath(run)).name if place else self.name: run for place, run in enumerate(self.runs)}

    def _check(self, spec: ModelSpec) -> None:
        """Only sound runs of these weights, each of a name of its own."""
        if not self.runs:
            raise InputError("name at least one finished run of the model with --run")
        if len(self._named) < len(self.runs):
            raise InputError("two runs would be kept under the same name")
        for run in self.runs:
            question = certification(run)["question"]
            if others := other_than(question, spec):
                raise InputError(f"{run} is not a run of {self.model}: {others}")
            if question["plain"] and run == self.runs[0]:
                raise InputError(f"{run} votes without the model's denoiser: it cannot be the headline of its card")
            if not question["lattice"]:
                raise InputError(
                    f"{run} is not sound in floating point (--no-lattice): it cannot stand on a model card"
                )


def card(
    name: str,
    net: Ebsc,
    spec: ModelSpec,
    entries: list[Entry],
    questions: Sequence[dict[str, Any]],
    radii: tuple[float, ...],
    size: int,
) -> str:
    """The model card, in Markdown: all of it follows from the model's folder and its runs."""
    how = [f"--precision {one['precision']}" + " --compile" * one["compile"] for one in questions]
    data, training = spec.training.get("data", "unknown"), spec.training
    if "objective" not in training.get("options", ()):  # not that of `ebsc train`: it is free
        training = {}
    facts = _facts(net, spec, training, how, size)
    made = "\n".join(_chain(training)) or "# how it was trained is not recorded"
    table = render(common_images(entries), radii, "markdown")
    return f"""# {name}

An empirical Bayes smoothed classifier (arXiv 2005.04504) of {data} images: it votes over
Gaussian noise, and its certificates are L2 radii. Made by `ebsc release`.

{tabulate(facts.items(), ["", ""], tablefmt="github", disable_numparse=True)}

Trained by

```sh
{made}
```

## Certified accuracy

{table}
The runs are in `runs/`: options, certificates, and all votes. To check the certificates against the votes, and to
make the table again (in this folder):

```sh
ebsc verify runs/*
ebsc table runs/* --radii {",".join(map(spelled, radii))}
```

## Use

```sh
ebsc certify {name} --images ::20 --n 10000 {how[0]}
```

```python
from ebsc import model

# net(y): logits of f(xhat(y)) for images y under noise of sigma {spec.sigma:g}, in float32
net, spec = model.load("{name}")
```

{_limits(spec)}"""


def _known(spec: ModelSpec) -> int:
    """How many of its classes a model answers."""
    return len(spec.training.get("options", {}).get("classes", ())) or spec.n_classes


def _limits(spec: ModelSpec) -> str:
    """The end of a card: what its numbers say, and what they do not."""
    return f"""## What is a guarantee, and what is not

A certificate is about the smoothed classifier g, the most likely vote under noise of sigma {spec.sigma:g}: with
probability at least 1 - alpha over the draws, g does not change within the L2 radius. It says nothing about a single
evaluation of the network, about other norms or changes, or about images that were not certified; accuracies here are
of the images that the table names.

## Intended use and limits

Research on certified robustness, comparison, teaching. Not for decisions about people or for security: images of
other sources, rotations, occlusions and perturbations beyond the radius are not covered, and a class is always
answered or abstained from among the {_known(spec)} known ones.
"""


def _facts(net: Ebsc, spec: ModelSpec, training: dict[str, Any], how: Sequence[str], size: int) -> dict[str, str]:
    """What stands at the top of a card."""
    return {
        "model": f"{_part(dict(spec.denoiser))} as denoiser, {_part(dict(spec.classifier))} as classifier;"
        f" {sum(p.numel() for p in net.parameters()):,} parameters",
        "noise": f"sigma {spec.sigma:g}, pixels on [0, 1], on the lattice of {spec.levels} levels",
        "data": f"{spec.training.get('data', 'unknown')}, training split; SHA-256 of images and labels"
        f" `{spec.training.get('checksum', 'unknown')}`",
        **_training(training),
        "votes": f"by the network with {', '.join(f'`{one}`' for one in dict.fromkeys(how))}; with another precision it"
        " is another function",
        "weights": f"`model.safetensors`, {spec.storage}, {size:,} bytes, SHA-256 `{spec.sha256}`",
    }


def _part(options: dict[str, Any]) -> str:
    """A denoiser or classifier in words."""
    names = {"none": "nothing", "residual": "residual energy", "scalar": "scalar energy", "network": "plain network"}
    kind = str(options.pop("kind"))
    return " ".join([names.get(kind, kind), *(f"({key} {value})" for key, value in options.items())])


def _training(training: dict[str, Any]) -> dict[str, str]:
    """What is recorded about how the weights came to be."""
    said = training.get("options", {})
    facts = {}
    if said:
        seeds = {said["energy"]["seed"], said["head"]["seed"]}
        facts["recipe"] = said.get("recipe") or "none: the options are in the command below"
        facts["seed"] = ", ".join(map(str, sorted(seeds)))
        if classes := said.get("classes"):
            facts["classes"] = (
                f"{', '.join(map(str, classes))} alone: images of others are answered as one of these and count as lost"
            )
    if "figures" in training:
        where = training.get("device", "unknown device")
        again = ", from a trained denoiser" if said.get("start_from") else ""
        facts["training"] = (
            f"{training['figures']['seconds']:,.0f} s on {where}{again} (the last session, if interrupted)"
        )
    if "commit" in training:
        facts["made with"] = f"commit {training['commit']}, torch {training['versions']['torch']}, {training['time']}"
    return facts


def _chain(training: dict[str, Any]) -> list[str]:
    """The commands of a training and of those that it started from, the first one first."""
    origin = training.get("started_from")
    return (_chain(origin["training"]) if origin else []) + _commands(training)


def _commands(training: dict[str, Any]) -> list[str]:
    """The command of a training, but for where its files were."""
    if "options" not in training:
        return []
    train = recall(Train, training["options"])
    return [command_line(replace(train, out=None, data_root=None, overwrite=False, cluster="here", slurm=Slurm()))]


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the released models: every command takes one by its name where it takes a model folder.

    Certified accuracy in per cent, rounded down, is that of a model's headline run, at the radii that it decided: blank
    is not asked, not 0. The model's card, README.md in its folder, has all runs and what is to be said of them.

    Example: ebsc models
    """

    def run(self) -> None:
        """Print the list."""
        body = []
        for name in model.released():
            net, spec = model.load(name)
            size = (model.locate(name) / "model.safetensors").stat().st_size
            parameters = sum(p.numel() for p in net.parameters())
            row = [name, spec.training.get("data", ""), f"{spec.sigma:g}", f"{parameters:,}", f"{size / 1e6:.1f} MB"]
            entry = read_entry(model.locate(name) / "runs" / name)
            classes = f"{_known(spec)}" + f" of {spec.n_classes}" * (_known(spec) < spec.n_classes)
            run = [f"{len(entry.index):,}", f"{entry.n:,}", classes, "with p_B" if entry.two_sided else "one-sided"]
            body.append([*row, *run, *_decided(entry)])
        if not body:
            print("no model is released yet")
            return
        head = ["model", "data", "sigma", "parameters", "size", "images", "n", "classes", "bound"]
        head += [f"r={spelled(radius)}" for radius in _COLUMNS]
        said = [
            "Certified accuracy in per cent, rounded down, of the headline run, at radii that it decided; blank is not"
            " asked, not 0. Images of classes that a model does not answer count as lost.",
            f"Each model's card has all its runs: {RELEASED}/MODEL/README.md",
        ]
        print(typeset(head, body, said, "text"), end="")


_COLUMNS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def _decided(entry: Entry) -> list[str]:
    """Certified accuracies at the columns of the list; none where a sequential run did not decide that radius."""
    return [
        floor_percent(entry.accuracy(radius), len(entry.index))
        if entry.decided is None or radius in entry.decided
        else ""
        for radius in _COLUMNS
    ]


if __name__ == "__main__":
    from jobs.cli import start

    start(Release)
