"""``ebsc table``: runs and published logs side by side, as certified accuracy at a grid of radii."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_UP, Context
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from scipy.stats import binomtest

from ebsc.bounds import ceil_radius, false_certificates, floor_radius
from ebsc.errors import InputError
from jobs.entries import Entry, envelopes, side_by_side
from jobs.options import parse_radii
from jobs.prints import Format, all_but, ceil_percent, check_figure, check_rho, floor_percent, put, spelled, typeset

__all__ = ["Comparison", "Table", "compare", "notes", "render"]

_LEVEL = Context(prec=1, rounding=ROUND_UP)


@dataclass(frozen=True)
class Comparison:
    """A table before it is typeset.

    Attributes:
        head: names of the columns.
        body: rows of cells, as they are printed: accuracies in per cent and radii, both rounded down.
        best: for each row, the columns in which it is the best.
        notes: what is to be said below.
    """

    head: list[str]
    body: list[list[str]]
    best: list[set[int]]
    notes: list[str]


def compare(
    entries: list[Entry],
    radii: tuple[float, ...],
    rho: float = 0.001,
    *,
    envelope: bool = False,
    spread: bool = False,
    paired: bool = False,
) -> Comparison:
    """Rows side by side.

    Args:
        entries: rows, over the same images.
        radii: columns; 0, clean accuracy, is always one.
        rho: error probability of the bound that holds for the whole set at once.
        envelope: a last row of the best of ours, and of the best published log, at each radius.
        spread: rows of mean and spread of the rows whose names differ in ``-seedN`` only.
        paired: a row for each row but the first, of the images that only one of the two certifies, and of the
            difference of their average certified radii.
    """
    radii = radii if 0.0 in radii else (0.0, *radii)
    columns = ["run", "sigma", "n", "alpha", "draws/image", "ACR", "abstain"]
    head = [*columns, *(f"r={spelled(radius)}" for radius in radii)]
    body = [_row(entry, radii) for entry in entries]
    best = _best(entries, radii, head)
    said = notes(entries, radii, rho)
    more: list[list[str]] = []
    if spread:
        more += _spreads(entries, radii)
        said.append(
            "Mean and spread (largest less smallest) are over trainings of other seeds: an estimate of what to expect."
        )
    if envelope:
        more += _envelopes(entries, radii)
        said.append(
            "Envelope: at each radius the best row, of those that are sound. No one network does it; so the field"
            f" compares methods. The best of {len(entries)} rows is chosen after all are seen: what holds for the whole"
            f" set at once holds for it with probability {all_but(len(entries) * rho)}."
        )
    if paired:
        more += _pairs(entries, radii)
        said.append(
            "Pairs: images that only the first row certifies : only the other, with the rounding of logs in the other's"
            " favour; in brackets the p-value of McNemar's exact test (two-sided), rounded up. It is of one pair"
            " at one radius: among many, small ones come by chance. ACR, where both have a fixed budget: that of the"
            " first row less the other's, rounded towards 0, and in brackets the standard error of this mean over"
            " images; logs as they stand."
        )
    return Comparison(head, body + more, best + [set() for _ in more], said)


def _row(entry: Entry, radii: tuple[float, ...]) -> list[str]:
    def known(value: float | None, pattern: str) -> str:
        return "" if value is None else format(value, pattern)

    images = len(entry.index)
    return [
        *(entry.name, known(entry.sigma, "g"), known(entry.n, "d"), known(entry.alpha, "g")),
        "" if entry.draws is None else f"{entry.draws.mean():.0f}",
        *(floor_radius(entry.acr), ceil_percent(float(entry.abstained.mean()), images)),
        *(floor_percent(entry.accuracy(radius), images) for radius in radii),
    ]


def _envelopes(entries: list[Entry], radii: tuple[float, ...]) -> Iterator[list[str]]:
    """The best of our rows, and of the published logs, at each radius."""
    for row, _ in envelopes(entries):
        yield [row.name, *[""] * 6, *(floor_percent(row.accuracy(radius), len(row.index)) for radius in radii)]


def _pairs(entries: list[Entry], radii: tuple[float, ...]) -> Iterator[list[str]]:
    """The first row beside each other one."""
    first, *others = entries
    for other in others:
        counts = (_pair(first, other, radius) for radius in radii)
        yield [f"{first.name} : {other.name}", *[""] * 4, _acr_difference(first, other), "", *counts]


def _pair(one: Entry, other: Entry, radius: float) -> str:
    """How many images only one of two rows certifies at a radius, and how likely that is if neither is the better.

    Empty where a row did not decide that radius, or not for all images, or could not certify it whatever the votes.
    """
    for entry in (one, other):
        if radius > entry.reach or entry.tolerance or (entry.decided is not None and radius not in entry.decided):
            return ""
    (least, most), (their_least, their_most) = (
        [entry.by_image(reached) for reached in entry.reaching(radius)] for entry in (one, other)
    )
    # what rounding leaves open counts for a log, and between two logs against a difference of either sign
    readings = [(least, their_most)] * (other.published or not one.published) + [(most, their_least)] * one.published
    splits = [(int((ours & ~theirs).sum()), int((theirs & ~ours).sum())) for ours, theirs in readings]
    level, ours, theirs = max((_sign_test(*split), *split) for split in splits)
    if len({np.sign(ours - theirs) for ours, theirs in splits}) > 1:
        level = 1.0
    shown = "<1e-99" if level < 1e-99 else format(float(_LEVEL.create_decimal_from_float(level)), ".1g")
    return f"{ours}:{theirs} ({shown})"


def _sign_test(ours: int, theirs: int) -> float:
    return float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0


def _acr_difference(one: Entry, other: Entry) -> str:
    """How much larger the one's average certified radius is, and the standard error of that over images.

    Empty where a row stopped its images before their radii were known.
    """
    if any(entry.decided is not None for entry in (one, other)):
        return ""
    more = one.by_image(one.radius) - other.by_image(other.radius)
    if len(more) < 2:
        return ""
    error = more.std(ddof=1) / np.sqrt(len(more))
    return f"{'-' if more.mean() < 0 else '+'}{floor_radius(abs(more.mean()))} ({ceil_radius(error)})"


def _spreads(entries: list[Entry], radii: tuple[float, ...]) -> Iterator[list[str]]:
    """For each group of rows of one training with several seeds: the mean, rounded as in a row, and the spread, up."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(re.sub(r"-seed\d+", "", entry.name), []).append(entry)
    for name, group in groups.items():
        if len(group) < 2:
            continue
        images = len(group[0].index)
        acrs = [entry.acr for entry in group]
        # counts, not shares, so that nothing is rounded before it is printed
        counts = [[round(images * entry.abstained.mean()) for entry in group]]
        counts += [[round(images * entry.accuracy(radius)) for entry in group] for radius in radii]
        rounded = [ceil_percent, *[floor_percent] * len(radii)]
        everywhere = images * len(group)
        means = [percent(sum(row) / everywhere, everywhere) for percent, row in zip(rounded, counts, strict=True)]
        ranges = [ceil_percent((max(row) - min(row)) / images, images) for row in counts]
        blank = [""] * 4
        yield [f"{name}: mean of {len(group)} seeds", *blank, floor_radius(sum(acrs) / len(acrs)), *means]
        yield [f"{name}: spread", *blank, ceil_radius(max(acrs) - min(acrs)), *ranges]


def _best(entries: list[Entry], radii: tuple[float, ...], head: list[str]) -> list[set[int]]:
    """The columns in which each row is the best; several are where rounding in print leaves it open which is."""
    best: list[set[int]] = [set() for _ in entries]
    sound = [number for number, entry in enumerate(entries) if entry.sound]
    if len(sound) < 2:
        return best
    images = len(entries[0].index)
    columns = {"ACR": [tuple(floor_radius(end) for end in _acr(entries[number])) for number in sound]}
    for radius in radii:
        ends = [entries[number].accuracies(radius) for number in sound]
        columns[f"r={spelled(radius)}"] = [tuple(floor_percent(end, images) for end in pair) for pair in ends]
    for name, printed in columns.items():  # what looks equal in print is marked alike
        surely = max(float(least) for least, _ in printed)
        for number, (_, most) in zip(sound, printed, strict=True):
            if float(most) >= surely and float(most) > 0:
                best[number].add(head.index(name))
    return best


def _acr(entry: Entry) -> tuple[float, float]:
    """The least and the most that the ACR can be, given how the radii were rounded in print."""
    slack = 0.0 if entry.rounding is None else float((entry.rounding * (entry.radius > 0)).mean())
    return entry.acr - slack, entry.acr + slack


def render(
    entries: list[Entry],
    radii: tuple[float, ...],
    form: Format = "text",
    rho: float = 0.001,
    *,
    envelope: bool = False,
    spread: bool = False,
    paired: bool = False,
) -> str:
    """The table as text: :func:`compare`, typeset, with the best of each column marked; or all of it as JSON."""
    return _printed(compare(entries, radii, rho, envelope=envelope, spread=spread, paired=paired), entries, radii, form)


def _printed(found: Comparison, entries: list[Entry], radii: tuple[float, ...], form: Format) -> str:
    if form == "json":
        return _exact(entries, radii, found)
    return typeset(found.head, found.body, found.notes, form, found.best)


def _exact(entries: list[Entry], radii: tuple[float, ...], found: Comparison) -> str:
    """JSON with every number of the rows as it is, not as it is printed; envelope, spread and pairs as printed."""
    rows = [
        {
            "run": entry.name,
            "sigma": entry.sigma,
            "n": entry.n,
            "alpha": entry.alpha,
            "draws_per_image": None if entry.draws is None else float(entry.draws.mean()),
            "published": entry.published,
            "sound": entry.sound,
            "acr": entry.acr,
            "clean_accuracy": entry.accuracy(0.0),
            "abstained": float(entry.abstained.mean()),
            "certified_accuracy": {spelled(radius): entry.accuracy(radius) for radius in radii},
            "best": [found.head[column] for column in sorted(best)],
        }
        for entry, best in zip(entries, found.best, strict=False)
    ]
    summaries = [dict(zip(found.head, row, strict=True)) for row in found.body[len(entries) :]]
    said = {"images": entries[0].index.tolist(), "rows": rows, "summaries": summaries, "notes": found.notes}
    return json.dumps(said, indent=2) + "\n"


def notes(entries: list[Entry], radii: tuple[float, ...], rho: float) -> list[str]:
    """What is to be said below rows of runs and logs; see :func:`render`."""
    images = np.sort(entries[0].index)
    step = np.unique(np.diff(images))
    which = f"every {step[0]}th of them, " if len(step) == 1 and step[0] > 1 else ""
    notes = [
        f"Certified accuracy in per cent at L2 radius r (pixels on [0, 1]), rounded down, on {len(images)} images"
        f" ({which}{images[0]} to {images[-1]}). At r=0: clean accuracy of the smoothed classifier. ACR:"
        " average certified radius.",
        "Each certificate is wrong with probability at most alpha.",
    ]
    for alpha in sorted({entry.alpha for entry in entries if entry.alpha is not None}):
        false = false_certificates(len(images), alpha, rho)
        notes.append(
            f"Alpha {alpha:g}: with probability {all_but(rho)}, no more than {false} of the {len(images)} are wrong:"
            f" less {ceil_percent(false / len(images), len(images))} points, a column holds for the whole set at once."
        )
    if any(entry.whole > len(images) for entry in entries):
        more = ", ".join(f"{entry.name} ({entry.whole})" for entry in entries if entry.whole > len(images))
        notes.append(f"Rows that cover more images are cut to those that all rows have: {more}.")
    known = [entry for entry in entries if entry.data]
    if len(sets := sorted({entry.data for entry in known})) > 1 and len({entry.checksum for entry in known}) > 1:
        notes.append(
            f"Rows are of {', '.join(sets)}: that what they call image {images[0]} is one image was not checked, only"
            " that labels agree."
        )
    logs = [entry.name for entry in entries if entry.published]
    if logs:
        notes.append(_rounding_note(logs, entries, radii))
    if coarse := [entry.name for entry in entries if entry.precision not in ("", "float32")]:
        notes.append(f"The networks voted in bfloat16, not float32, which is another function: {_some(coarse)}.")
    for entry in entries:
        if entry.decided is not None:
            missing = ", ".join(spelled(radius) for radius in radii if radius not in entry.decided)
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
        if entry.extends:
            notes.append(
                f"{entry.name} was extended: the best of it and what it was before, chosen after seeing them, is wrong"
                f" with probability up to {entry.extends + 1} alpha, if the votes did not decide how far to extend it."
            )
        if entry.seeds > 1:
            notes.append(
                f"{entry.name} adds up {entry.seeds} seeds: it holds at level alpha if that many were meant before any"
                " was looked at."
            )
        if entry.two_sided:
            notes.append(f"{entry.name} certifies with a bound on the strongest other class too (two-sided).")
        if entry.plain:
            notes.append(f"{entry.name} votes without its model's denoiser: plain smoothing.")
        if entry.steps:
            cost = f"a chain of {entry.steps} steps, and {entry.steps + 1} evaluations of the network"
            notes.append(f"{entry.name} votes by walk-jump: a draw is {cost}.")
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} of the rows"


def _rounding_note(logs: list[str], entries: list[Entry], radii: tuple[float, ...]) -> str:
    """What rounding in print does to the rows that are logs."""
    images = len(entries[0].index)
    gaps = {radius: max(most - least for least, most in (e.accuracies(radius) for e in entries)) for radius in radii}
    worst = max(gaps, key=lambda radius: gaps[radius])
    note = f"Published logs, whose radii are rounded to nearest in print and are taken as they stand: {_some(logs)}."
    if gaps[worst]:
        points = f"{ceil_percent(gaps[worst], images)} points (r={spelled(worst)})"
        note += (
            f" The rounding may change an accuracy by {points} at most: where it could decide which row is best, all"
            " that may be are marked."
        )
    return note


@dataclass(frozen=True, kw_only=True)
class Table:
    """Put runs and published logs side by side: certified accuracy at a grid of radii.

    A row is a run folder of `ebsc certify`, or a log in the tab-separated form `idx label predict radius correct time`.
    When they cover different images, the table is over those that all of them have. The best of each column is marked.

    Example: ebsc table runs/* logs/gaussian_sigma0.50.tsv --radii 0:1.75:0.25 --format markdown
    """

    rows: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders and logs."""
    radii: str = "0:1.75:0.25"
    """Columns: 0.5, or 0,0.5,1, or start:stop:step."""
    format: Format = "text"
    """text, markdown, latex (booktabs), csv (notes go to stderr), or json (numbers as they are, not as printed)."""
    rho: float = 0.001
    """Error probability of the bound for the whole set."""
    envelope: bool = False
    """Add the best of our rows at each radius, whatever their sigma, and the best of the published logs."""
    spread: bool = False
    """Add mean and spread of rows that are one training with several seeds, by their names: NAME, NAME-seed1, ..."""
    paired: bool = False
    """Add, for each row but the first, how many images only one of the two certifies, and the difference of ACRs."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write here instead of to the terminal."""
    plot: Path | None = None
    """Also draw certified accuracy against radius, as `ebsc plot` does: .png, .svg or .pdf."""

    def run(self) -> None:
        """Print or write the table."""
        check_rho(self.rho)
        if self.paired and len(self.rows) < 2:
            raise InputError("--paired compares the first row with others: name two or more")
        if self.plot:
            check_figure(self.plot)
        radii, entries = parse_radii(self.radii), side_by_side(self.rows)
        summaries = {"envelope": self.envelope, "spread": self.spread, "paired": self.paired}
        found = compare(entries, radii, self.rho, **summaries)
        put(_printed(found, entries, radii, self.format), self.out)
        if self.format == "csv":
            print(*found.notes, sep="\n", file=sys.stderr)
        if self.plot:
            from jobs.plots import curves

            curves(entries, self.plot, envelope=self.envelope)


if __name__ == "__main__":
    from jobs.cli import start

    start(Table)
