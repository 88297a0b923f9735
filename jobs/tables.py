"""``ebsc table``: runs and published logs side by side, as certified accuracy at a grid of radii."""

import csv
import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tabulate import tabulate

from cluster import certificates
from cluster.folder import read_config
from ebsc.bounds import false_certificates, floor_radius
from ebsc.errors import InputError, one_line
from ebsc.files import write_whole
from jobs.options import parse_radii

__all__ = ["Entry", "Format", "Table", "floor_percent", "notes", "put", "read_entry", "render", "typeset"]

Format = Literal["text", "markdown", "latex", "csv"]
_TABULATE = {"text": "simple", "markdown": "github", "latex": "latex_booktabs"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a table.

    Attributes:
        name: what the row is called.
        index: indices of the images in their data set, shape (N,).
        radius: certified radius where the certificate is for the right class, else 0, shape (N,).
        abstained: share of images without a certificate.
        sigma, n, alpha: of the run; None where a log does not say.
        draws: draws for each image, on average; None where a log does not say.
        published: the radii are those of somebody's log, rounded to nearest in print.
        decided: radii that a sequential budget decided; None where the radius itself was certified.
        tolerance: to which the run knew its table, as of :class:`ebsc.budgets.Tolerance`; None where it decided all.
        two_sided: the radii are those of the bound with p_B.
        sound: whether the certificates hold in floating point.
        steps: of the chain by which a draw votes; 0 where it votes by one jump.
    """

    name: str
    index: np.ndarray
    radius: np.ndarray
    abstained: np.ndarray
    sigma: float | None = None
    n: int | None = None
    alpha: float | None = None
    draws: float | None = None
    published: bool = False
    decided: tuple[float, ...] | None = None
    tolerance: dict[str, float | None] | None = None
    two_sided: bool = False
    sound: bool = True
    steps: int = 0

    def only(self, images: np.ndarray) -> "Entry":
        """The same row over these images."""
        keep = np.isin(self.index, images)
        fewer = len(keep) / max(int(keep.sum()), 1)  # all that is open may lie among these
        tolerance = self.tolerance and {name: value and value * fewer for name, value in self.tolerance.items()}
        kept = {name: getattr(self, name)[keep] for name in ("index", "radius", "abstained")}
        return replace(self, **kept, tolerance=tolerance)

    def accuracy(self, radius: float) -> float:
        """Certified accuracy: share of images whose certificate is for the right class and reaches ``radius``."""
        return float(((self.radius >= radius) & (self.radius > 0)).mean())

    @property
    def acr(self) -> float:
        """Average certified radius; wrong or abstaining images count 0."""
        return float(self.radius.mean())


def read_entry(path: Path) -> Entry:
    """A row from a run folder or from a log in the field's tab-separated form.

    Raises:
        InputError: neither of them.
    """
    return _read_run(path) if path.is_dir() else _read_log(path)


def _read_run(folder: Path) -> Entry:
    question = read_config(folder)["question"]
    table = certificates.read(folder)
    try:
        budget, sound = question["budget"], question["lattice"]
        return Entry(
            name=folder.name if sound else f"{folder.name} (NOT SOUND IN FLOATING POINT: --no-lattice)",
            index=table["index"],
            radius=np.where(certificates.correct(table), table["radius"], 0.0),
            abstained=table["radius"] == 0,
            sigma=question["sigma"],
            n=budget["n"],
            alpha=budget["alpha"],
            draws=float(table["draws"].mean()),
            decided=tuple(budget["radii"]) if "radii" in budget else None,
            tolerance=budget.get("tolerance"),
            two_sided=budget.get("two_sided", False),
            sound=sound,
            steps=question.get("walk", {"steps": 0})["steps"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}/config.json is not that of a certification: {error!r}") from error


def _read_log(path: Path) -> Entry:
    try:
        with path.open(newline="") as file:
            rows = [
                (int(row["idx"]), float(row["radius"]), {"0": False, "1": True}[row["correct"]], row["predict"] == "-1")
                for row in csv.DictReader(file, delimiter="\t")
            ]
    except FileNotFoundError:
        raise InputError(f"{path}: no such run folder or log") from None
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        reason = one_line(repr(error), 80)
        raise InputError(f"{path} is not a log of the form idx label predict radius correct time: {reason}") from error
    if not rows:
        raise InputError(f"{path} holds no image")
    index, radius, correct, abstained = (np.array(column) for column in zip(*rows, strict=True))
    if not (np.isfinite(radius) & (radius >= 0)).all():
        raise InputError(
            f"{path} is not a log of the form idx label predict radius correct time: a radius is no radius"
        )
    if len(np.unique(index)) < len(index):
        raise InputError(f"{path} holds an image twice")
    sigma = re.search(r"sigma[_-]?(\d+(?:\.\d+)?)", path.stem)
    return Entry(
        name=path.stem,
        index=index,
        radius=np.where(correct, radius, 0.0),
        abstained=abstained,
        sigma=float(sigma[1]) if sigma else None,
        published=True,
    )


def common_images(entries: list[Entry]) -> list[Entry]:
    """The same rows over the images that all of them have.

    Raises:
        InputError: there are none.
    """
    images = entries[0].index
    for entry in entries[1:]:
        images = np.intersect1d(images, entry.index)
    if not len(images):
        raise InputError("these runs have no image in common")
    return [entry.only(images) for entry in entries]


def floor_percent(share: float, images: int) -> str:
    """A share of images in per cent, rounded down to a tenth: a printed accuracy is never above the true one."""
    return f"{round(share * images) * 1000 // images / 10:.1f}"


def render(
    entries: list[Entry],
    radii: tuple[float, ...],
    form: Format = "text",
    rho: float = 0.001,
    *,
    envelope: bool = False,
) -> str:
    """The table as text.

    Args:
        entries: rows, over the same images.
        radii: columns.
        form: ``text``, ``markdown``, ``latex`` (booktabs) or ``csv``.
        rho: error probability of the bound that holds for the whole set at once.
        envelope: a last row of the best of ours, and of the best published log, at each radius.
    """

    def known(value: float | None, pattern: str) -> str:
        return "" if value is None else format(value, pattern)

    images = len(entries[0].index)
    head = ["run", "sigma", "n", "alpha", "draws/image", "ACR", "abstain"] + [f"r={radius:g}" for radius in radii]
    body = [
        [entry.name, known(entry.sigma, "g"), known(entry.n, "d"), known(entry.alpha, "g"), known(entry.draws, ".0f")]
        + [floor_radius(entry.acr), floor_percent(float(entry.abstained.mean()), images)]
        + [floor_percent(entry.accuracy(radius), images) for radius in radii]
        for entry in entries
    ]
    said = notes(entries, radii, rho)
    if envelope:
        for name, published in (("envelope", False), ("envelope of published logs", True)):
            mine = [entry for entry in entries if entry.published == published and entry.sound]
            if mine:
                best = [max(entry.accuracy(radius) for entry in mine) for radius in radii]
                body.append([name, *[""] * 6, *(floor_percent(share, images) for share in best)])
        said.append(
            "Envelope: at each radius the best row, of those that are sound. No one network does it; so the field"
            f" compares methods. The best of {len(entries)} rows is chosen after all are seen: what holds for the whole"
            f" set at once holds for it with probability {1 - len(entries) * rho:g}."
        )
    return typeset(head, body, said, form)


def typeset(head: list[str], body: list[list[str]], notes: list[str], form: Format) -> str:
    """Any table as text, with notes below it where the form has room for them (``csv`` has none)."""
    if form == "csv":
        sink = io.StringIO()
        csv.writer(sink, lineterminator="\n").writerows([head, *body])
        return sink.getvalue()
    aligned = ("left", *["right"] * (len(head) - 1))
    table = tabulate(body, head, tablefmt=_TABULATE[form], disable_numparse=True, colalign=aligned)
    comment = "% " if form == "latex" else ""
    return "\n".join([table, "", *(comment + note for note in notes)]) + "\n"


def put(text: str, out: Path | None) -> None:
    """Print a table, or write it to a file.

    Raises:
        InputError: the file cannot be written.
    """
    if out is None:
        print(text, end="")
        return
    try:
        write_whole(out, text.encode())
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error


def notes(entries: list[Entry], radii: tuple[float, ...], rho: float) -> list[str]:
    """What is to be said below rows of runs and logs; see :func:`render`."""
    images = entries[0].index
    step = np.unique(np.diff(images))
    which = f"every {step[0]}th of them, " if len(step) == 1 and step[0] > 1 else ""
    notes = [
        f"Certified accuracy in per cent at L2 radius r (pixels on [0, 1]), rounded down, on {len(images)} images"
        f" ({which}{images[0]} to {images[-1]}). ACR: average certified radius.",
        "Each certificate is wrong with probability at most alpha.",
    ]
    for alpha in sorted({entry.alpha for entry in entries if entry.alpha is not None}):
        false = false_certificates(len(images), alpha, rho)
        notes.append(
            f"Alpha {alpha:g}: with probability {1 - rho:g}, no more than {false} of the {len(images)} are wrong: less"
            f" {-(-1000 * false // len(images)) / 10:.1f} points, a column holds for the whole set at once."
        )
    if any(entry.published for entry in entries):
        notes.append("Rows without n are published logs, whose radii are rounded to nearest: some are a little high.")
    for entry in entries:
        if entry.decided is not None:
            missing = ", ".join(f"{radius:g}" for radius in radii if radius not in entry.decided)
            low = f"its ACR and its columns {missing} are" if missing else "its ACR is"
            notes.append(
                f"{entry.name} stopped each image when its radii were decided: {low} too low, never too high; so may"
                " the others be, by images given up at the futility level."
            )
        if entry.tolerance is not None:
            parts = {"accuracy": "an accuracy at those radii by about {:g}", "acr": "its ACR by about {:g}"}
            more = " and ".join(parts[name].format(value) for name, value in entry.tolerance.items() if value)
            notes.append(
                f"{entry.name} stopped before that when its table was known: n draws for every image could raise {more}"
                " at most, and by what the futility level gave up. Images whose candidate is wrong got few draws: its"
                " abstain is too high."
            )
        if entry.two_sided:
            notes.append(f"{entry.name} certifies with a bound on the strongest other class too (two-sided).")
        if entry.steps:
            cost = f"a chain of {entry.steps} steps, and {entry.steps + 1} evaluations of the network"
            notes.append(f"{entry.name} votes by walk-jump: a draw is {cost}.")
    return notes


@dataclass(frozen=True, kw_only=True)
class Table:
    """Put runs and published logs side by side: certified accuracy at a grid of radii.

    A row is a run folder of `ebsc certify`, or a log in the tab-separated form `idx label predict radius correct time`.
    When they cover different images, the table is over those that all of them have.

    Example: ebsc table runs/* logs/gaussian_sigma0.50.tsv --radii 0:1.75:0.25 --format markdown
    """

    rows: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders and logs."""
    radii: str = "0:1.75:0.25"
    """Columns: 0.5, or 0,0.5,1, or start:stop:step."""
    format: Format = "text"
    """text, markdown, latex (booktabs) or csv."""
    rho: float = 0.001
    """Error probability of the bound for the whole set."""
    envelope: bool = False
    """Add the best of our rows at each radius, whatever their sigma, and the best of the published logs."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write here instead of to the terminal."""
    plot: Path | None = None
    """Also draw certified accuracy against radius: .png, .svg or .pdf."""

    def run(self) -> None:
        """Print or write the table."""
        if not self.rows:
            raise InputError("name at least one run folder or log")
        if not 0 < self.rho < 1:
            raise InputError(f"rho must lie in (0, 1), not {self.rho}")
        radii = parse_radii(self.radii)
        entries = common_images([read_entry(path) for path in self.rows])
        put(render(entries, radii, self.format, self.rho, envelope=self.envelope), self.out)
        if self.plot:
            from jobs.plots import curves

            curves(entries, self.plot)


if __name__ == "__main__":
    from jobs.cli import start

    start(Table)
