"""From a run folder back to its model and its data; models as commands take them."""

import os
import sys
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any

from cluster.folder import read_run
from ebsc import data, model
from ebsc.data import Dataset, Split
from ebsc.errors import InputError
from ebsc.model import Ebsc, ModelSpec
from jobs.options import parse_images

__all__ = [
    "certification",
    "check_images",
    "data_of_run",
    "images_of",
    "load_model",
    "look_here",
    "model_of_run",
    "other_than",
]

_QUESTION = {
    **dict.fromkeys(("model", "data", "split", "images", "checksum", "precision"), str),
    **dict.fromkeys(("plain", "lattice", "compile"), bool),
    "sigma": int | float,
    "seed": int | list,
    "budget": dict,
}
"""What every certification was asked, and the kind of each; a merger of several seeds has a list of them."""


def look_here(allow: Sequence[str]) -> None:
    """Let allowed modules lie in the working folder too, behind what is installed."""
    if allow and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def load_model(folder: Path, allow: Sequence[str]) -> tuple[Ebsc, ModelSpec]:
    """:func:`ebsc.model.load`, with modules of the working folder."""
    look_here(allow)
    return model.load(folder, allow)


def certification(folder: Path) -> dict[str, Any]:
    """``config.json`` of a certification.

    Raises:
        InputError: it is missing, damaged, or of something else.
    """
    config = read_run(folder)
    question = config["question"]
    if "log" in question:
        raise InputError(f"{folder} is an imported log: it holds radii, and no votes")
    wrong = [name for name, kind in _QUESTION.items() if not isinstance(question.get(name), kind)]
    if "sigma" not in wrong and not 0 < question["sigma"] < inf:
        wrong.append("sigma")
    options = config.get("options")
    if not (
        isinstance(options, dict)
        and isinstance(options.get("model", ""), str)
        and isinstance(options.get("extend", []), list)
    ):
        wrong.append("options")
    if wrong:
        raise InputError(f"{folder}/config.json is not that of a certification: look at {', '.join(wrong)}")
    return config


def check_images(folder: Path, question: dict[str, Any], whole: Dataset) -> None:
    """Raise :class:`InputError` unless a run was made on these images: their pixels and labels must be the same."""
    if images_of(question, whole).checksum != question["checksum"]:
        raise InputError(f"{folder} was made on other images than {whole.name} holds now: their checksums differ")


def images_of(question: dict[str, Any], whole: Dataset) -> Dataset:
    """The images that a run certifies, off the lattice where it does."""
    chosen = whole.take(parse_images(question["images"], len(whole.labels)))
    return chosen if question["lattice"] else chosen.off_lattice()


def model_of_run(
    folder: Path, config: dict[str, Any], named: Path | None = None, allow: Sequence[str] = ()
) -> tuple[Ebsc, ModelSpec]:
    """What a run voted over: its own model, without the denoiser where it was plain; and the model's specification.

    Args:
        folder: the run folder.
        config: its ``config.json``.
        named: where the model is, when it is not where the run found it.
        allow: modules of a user's own that it may import.

    Raises:
        InputError: it cannot be found or read, or is another one.
    """
    question = config["question"]
    at = named or config["options"].get("model")
    if not at:
        raise InputError(f"{folder} does not name its model: name it with --model")
    try:
        net, spec = load_model(Path(at), allow)
    except InputError as error:
        holder = Path(os.path.realpath(folder)).parent.parent  # a released model holds its runs
        if named:
            raise
        if not (holder / "model.json").exists():
            raise InputError(f"{error}; {folder} was made with it: if it was moved, name it with --model") from error
        net, spec = load_model(holder, allow)
    if others := other_than(question, spec):
        raise InputError(f"{at} is not the model of {folder}: {others}; name it with --model")
    return net.plain() if question["plain"] else net, spec


def other_than(question: dict[str, Any], spec: ModelSpec) -> str:
    """What sets a model apart from the one that a run voted over; empty if nothing does."""
    now, names = model.identity(spec), {"model": "weights", "code": "Python code"}
    keys = ("model", "sigma", "code", "denoiser", "classifier")
    others = [names.get(key, key) for key in keys if now.get(key) != question.get(key)]
    return f"other {', '.join(others)}" if others else ""


def data_of_run(
    folder: Path,
    question: dict[str, Any],
    data_root: Path | None = None,
    load: Callable[[str, Split, Path | None], Dataset] = data.load,
) -> Dataset:
    """The whole data set that a run was made on, off the lattice where the run was.

    Args:
        folder: the run folder.
        question: of the run.
        data_root: where data sets live.
        load: reads a data set; one that remembers, where many runs share it.

    Raises:
        InputError: it cannot be read, or holds other images now.
    """
    whole = load(question["data"], question["split"], data_root)
    check_images(folder, question, whole)
    return whole if question["lattice"] else whole.off_lattice()
