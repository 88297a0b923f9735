"""One row of a comparison: a run, or a log in the field's form, as certified radii."""

import os.path
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from cluster import certificates
from cluster.folder import read_config, read_run
from ebsc.budgets import budget_of
from ebsc.errors import InputError

__all__ = [
    "Entry",
    "check_sound",
    "common_images",
    "distinct",
    "envelopes",
    "folder_name",
    "log_name",
    "named_sigma",
    "read_entry",
    "side_by_side",
]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a table.

    Attributes:
        name: what the row is called.
        index: indices of the images in their data set, shape (N,).
        label: the true class of each image, shape (N,); None where it is not known.
        whole: images that the run has, where these are only some of them; else 0.
        radius: certified radius where the certificate is for the right class, else 0, shape (N,).
        abstained: whether an image has no certificate, shape (N,).
        sigma, n, alpha: of the run; None where a log does not say.
        reach: the largest radius that its budget can certify; infinite where a log does not say.
        extends: how many tables it was extended from: of smaller budgets, of the other bound.
        seeds: whose votes it adds up.
        precision: of the network that voted; empty where a log does not say.
        draws: spent on each image, shape (N,); None where a log does not say.
        rounding: how far each radius may be from the true one by rounding in print, shape (N,); None for our runs,
            whose radii are exact.
        decided: radii that a sequential budget decided; None where the radius itself was certified.
        tolerance: to which the run knew its table, as of :class:`ebsc.budgets.Tolerance`; None where it decided all.
        two_sided: the radii are those of the bound with p_B.
        sound: whether the certificates hold in floating point.
        plain: its model has a denoiser that it did not vote with.
        steps: of the chain by which a draw votes; 0 where it votes by one jump.
        checksum: of its images and labels as a run knows them; empty where it is not known.
        data: the data set, and the split where it is not ``test``; empty where it is not known.
    """

    name: str
    index: np.ndarray
    radius: np.ndarray
    abstained: np.ndarray
    sigma: float | None = None
    n: int | None = None
    alpha: float | None = None
    reach: float = inf
    extends: int = 0
    seeds: int = 1
    precision: str = ""
    draws: np.ndarray | None = None
    rounding: np.ndarray | None = None
    decided: tuple[float, ...] | None = None
    tolerance: dict[str, float | None] | None = None
    two_sided: bool = False
    sound: bool = True
    steps: int = 0
    plain: bool = False
    label: np.ndarray | None = None
    whole: int = 0
    checksum: str = ""
    data: str = ""

    @property
    def published(self) -> bool:
        """Whether this is somebody's log."""
        return self.rounding is not None

    def only(self, images: np.ndarray) -> "Entry":
        """The same row over these images."""
        keep = np.isin(self.index, images)
        fewer = len(keep) / max(int(keep.sum()), 1)  # all that is open may lie among these
        tolerance = self.tolerance and {name: value and value * fewer for name, value in self.tolerance.items()}
        columns = {name: getattr(self, name) for name in ("index", "radius", "abstained", "draws", "rounding", "label")}
        kept = {name: column[keep] for name, column in columns.items() if column is not None}
        return self if keep.all() else replace(self, **kept, tolerance=tolerance, whole=self.whole or len(keep))

    def accuracy(self, radius: float) -> float:
        """Certified accuracy: share of images whose certificate is for the right class and reaches ``radius``."""
        return float(((self.radius >= radius) & (self.radius > 0)).mean())

    def accuracies(self, radius: float) -> tuple[float, float]:
        """The least and the most that the certified accuracy can be, given how the radii were rounded in print."""
        least, most = self.reaching(radius)
        return float(least.mean()), float(most.mean())

    def reaching(self, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """The images that surely reach ``radius``, and those that may, given how the radii were rounded in print."""
        slack = 0.0 if self.rounding is None else self.rounding
        right = self.radius > 0
        return (self.radius - slack >= radius) & right, (self.radius + slack >= radius) & right

    def by_image(self, values: np.ndarray) -> np.ndarray:
        """Values of this row's images, shape (N,), in the order of their indices: rows over the same images align."""
        return values[np.argsort(self.index)]

    @property
    def acr(self) -> float:
        """Average certified radius; wrong or abstaining images count 0."""
        return float(self.radius.mean())


def envelopes(entries: Sequence[Entry]) -> list[tuple[Entry, list[Entry]]]:
    """Of our rows, and of published logs: the best at each radius of those that are sound, and which these are.

    The best is a row too, though that of no one network: its k-th largest radius is the largest k-th of any row.
    """
    found = []
    for name, published in (("envelope", False), ("envelope of published logs", True)):
        rows = [entry for entry in entries if entry.published == published and entry.sound]
        if rows:
            radius = np.max([np.sort(row.radius) for row in rows], axis=0)
            none = np.zeros(len(radius), dtype=bool)
            found.append((Entry(name=name, index=rows[0].index, radius=radius, abstained=none), rows))
    return found


def read_entry(path: Path) -> Entry:
    """A row from a run folder or from a log in the field's tab-separated form.

    Raises:
        InputError: neither of them.
    """
    return _read_run(path) if path.is_dir() else _read_log(path)


def _read_run(folder: Path) -> Entry:
    config = read_run(folder)
    question = config["question"]
    name = folder_name(folder)
    if "log" in question:
        about = {key: question.get(key) for key in ("sigma", "n", "alpha")}
        try:
            for key, value in about.items():
                if value is not None:
                    _number(value, int if key == "n" else int | float)
        except TypeError as error:
            raise InputError(f"{folder}/config.json is not that of an imported log: {error}") from error
        return replace(_read_log(folder / certificates.LOG), name=name, **about)
    if "budget" not in question:
        raise InputError(f"{folder}/config.json is not that of a certification: no budget")
    table = certificates.read(folder)
    try:
        budget, sound = question["budget"], question["lattice"]
        return Entry(
            name=name if sound else f"{name} (NOT SOUND IN FLOATING POINT: --no-lattice)",
            index=table["index"],
            label=table["label"],
            radius=np.where(certificates.correct(table), table["radius"], 0.0),
            abstained=table["radius"] == 0,
            sigma=_number(question["sigma"]),
            n=_number(budget["n"], int),
            alpha=budget["alpha"],
            reach=budget_of(budget).largest_radius(question["sigma"]),
            extends=len(budget.get("extends", ())) + ("two-sided" in config["options"].get("extend", ())),
            seeds=len(np.atleast_1d(question["seed"])),
            precision=question["precision"],
            draws=table["draws"],
            decided=tuple(budget["radii"]) if "radii" in budget else None,
            tolerance=budget.get("tolerance"),
            two_sided=budget.get("two_sided", False),
            sound=sound,
            plain=question["plain"],
            steps=question.get("walk", {"steps": 0})["steps"],
            checksum=question["checksum"] if sound else "",
            data=question["data"] + f" ({question['split']})" * (question["split"] != "test"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}/config.json is not that of a certification: {error!r}") from error


def _number(value: Any, kind: Any = int | float) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {'whole ' * (kind is int)}number")
    return value


def check_sound(log: Path) -> None:
    """Raise :class:`InputError` for the log of a run whose certificates are not sound: it has no place to say so."""
    beside = log.with_name("config.json")
    if log.name == certificates.LOG and beside.exists() and read_config(log.parent)["question"].get("lattice") is False:
        raise InputError(f"{log} is of a run with --no-lattice, and has no place to say so: name {log.parent}")


def _read_log(path: Path) -> Entry:
    check_sound(path)
    log = certificates.from_tsv(path)
    right = (log["predicted"] == log["label"]) & (log["predicted"] >= 0)
    some = np.maximum(log["radius"], np.finfo(np.float64).tiny)  # what did not abstain has a radius, if it prints as 0
    return Entry(
        name=log_name(path),
        index=log["index"],
        label=log["label"],
        radius=np.where(right, some, 0.0),
        abstained=log["predicted"] == -1,
        sigma=named_sigma(path),
        rounding=log["rounding"],
    )


def named_sigma(path: Path) -> float | None:
    """The sigma in a file name like ``method_sigma0.50.tsv``, or like ``noise_0.5`` as many logs are called.

    >>> named_sigma(Path("gaussian_sigma0.50.tsv")), named_sigma(Path("mnist/noise_0.5")), named_sigma(Path("log.txt"))
    (0.5, 0.5, None)
    """
    found = re.search(r"(?:sigma|noise)[_-]?(\d+(?:\.\d+)?)", log_name(path))
    return float(found[1]) or None if found else None


def log_name(path: Path) -> str:
    """What a log is called: its file's name without an ending, which many have not.

    >>> log_name(Path("test/sigma_0.50")), log_name(Path("gaussian_sigma0.50.tsv"))
    ('sigma_0.50', 'gaussian_sigma0.50')
    """
    return path.stem if path.suffix in (".tsv", ".txt", ".log", ".csv") else path.name


def side_by_side(paths: Sequence[Path]) -> list[Entry]:
    """Rows of a comparison over the images that all of them have, each with a name of its own.

    Raises:
        InputError: one is neither run nor log, or they have no image in common.
    """
    if not paths:
        raise InputError("name at least one run folder or log")
    entries = [read_entry(path) for path in paths]
    names = distinct([entry.name for entry in entries], paths)
    return common_images([replace(entry, name=name) for entry, name in zip(entries, names, strict=True)])


def folder_name(folder: Path) -> str:
    """What a folder is called, also one that is named as ``.``."""
    return os.path.basename(os.path.abspath(folder))


def distinct(names: list[str], paths: Sequence[Path]) -> list[str]:
    """Names of these files or folders, with as many folders before equal ones as tell them apart."""
    folders = [list(Path(os.path.realpath(path)).parents) for path in paths]
    while len(set(names)) < len(names) and all(folders):
        names = [
            f"{above.pop(0).name}/{name}" if names.count(name) > 1 else name
            for name, above in zip(names, folders, strict=True)
        ]
    return names


def common_images(entries: list[Entry]) -> list[Entry]:
    """The same rows over the images that all of them have.

    Raises:
        InputError: there are none, or their labels differ, as those of other data sets do.
    """
    for one, other in combinations([entry for entry in entries if entry.checksum], 2):
        if one.checksum != other.checksum and np.array_equal(one.index, other.index):
            raise InputError(f"{one.name} and {other.name} are about different images: their checksums differ")
    images = entries[0].index
    for entry in entries[1:]:
        images = np.intersect1d(images, entry.index)
    if not len(images):
        raise InputError("these runs have no image in common")
    entries = [entry.only(images) for entry in entries]
    known = [(entry.name, entry.by_image(entry.label)) for entry in entries if entry.label is not None]
    for name, labels in known[1:]:
        if not np.array_equal(labels, known[0][1]):
            raise InputError(f"{known[0][0]} and {name} are about different images: their labels differ")
    return entries
