"""Figures: certified accuracy, radii, draws, trainings, images, walks, distances between classes, the exact case."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from ebsc.bounds import floor_radius
from ebsc.data import Dataset
from ebsc.errors import InputError
from ebsc.geometry import overlap, shell, shell_overlap
from ebsc.model import Ebsc
from ebsc.twoclass import Point, Problem, Region
from ebsc.validation import pictures
from jobs.attacked import Empirical
from jobs.entries import Entry, envelopes
from jobs.prints import check_figure, write_output

__all__ = ["curves", "denoised", "distances", "draws", "radii", "style", "theory", "training", "walks"]

WIDTH = 5.0
"""Inches; 3.3 is a column of a paper."""

# Okabe & Ito: told apart by colour-blind readers; line styles tell them apart in grey
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_STYLES = ["-", "--", "-.", ":"]


def curves(
    entries: Sequence[Entry],
    path: Path,
    attacked: Mapping[str, Empirical] | None = None,
    width: float = WIDTH,
    *,
    envelope: bool = False,
) -> None:
    """Certified accuracy against radius, one step curve a row; the ending of ``path`` chooses the format.

    ``attacked``: for rows by name, what an attack left standing, drawn as points. ``envelope``: the best of our rows
    and of published logs at each radius, over the rows that they are the best of, in the background.
    """
    with _axes(path, width) as axes:
        if envelope:
            _envelopes(axes, entries)
        for number, entry in enumerate(() if envelope else entries):
            label = f"{entry.name} (ACR {floor_radius(entry.acr)})"
            axes.step(*_staircase(entry), where="pre", label=label, **style(number))
            if attacked and entry.name in attacked:
                under = attacked[entry.name]
                fewer = f", {under.images} images" if under.images < len(entry.index) else ""
                label = f"{entry.name} under attack (estimate{fewer})"
                shares = 100 * np.array(under.shares)
                axes.plot(under.radii, shares, "v:", color=style(number)["color"], markersize=4, label=label)
        certified = "accuracy (%)" if attacked else "certified accuracy (%)"
        axes.set(xlabel="L2 radius (pixels on [0, 1])", ylabel=certified, ylim=(0, 100))
        axes.set_xlim(left=0)


def _envelopes(axes: Axes, entries: Sequence[Entry]) -> None:
    for number, (best, rows) in enumerate(envelopes(entries)):
        for row in rows:
            axes.step(*_staircase(row), where="pre", color=style(number)["color"], linewidth=0.4, alpha=0.6)
        axes.step(*_staircase(best), where="pre", label=f"{best.name} ({len(rows)} rows)", **style(number))


def _staircase(entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    """Radii, and per cent of images whose radius is at least that: falls by 1/N at each certified radius."""
    radii = np.sort(entry.radius[entry.radius > 0])
    shares = 100 * np.arange(len(radii), 0, -1) / len(entry.radius)
    return np.concatenate([[0], radii]), np.concatenate([[100 * len(radii) / len(entry.radius)], shares])


def radii(entries: Sequence[Entry], path: Path, width: float = WIDTH) -> None:
    """Histogram of the radii certified for the right class; the legend says how many images have none."""
    most = max(float(entry.radius.max()) for entry in entries) or 1.0
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, most) if most <= 50 * step)
    bins = step * np.arange(int(most / step) + 2)  # a bin holds whole units of radii that were rounded in print
    with _axes(path, width) as axes:
        for number, entry in enumerate(entries):
            right = entry.radius > 0
            none, wrong = (100 * float(part.mean()) for part in (entry.abstained, ~right & ~entry.abstained))
            counts = np.histogram(entry.radius[right], bins)[0]
            label = f"{entry.name} (abstains {none:.1f}%, wrong {wrong:.1f}%)"
            axes.stairs(100 * counts / len(entry.radius), bins, label=label, **style(number))
        axes.set(xlabel="certified L2 radius (pixels on [0, 1])", ylabel=f"images in a bin of {step:.2g} (%)")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)


def draws(entries: Sequence[Entry], path: Path, width: float = WIDTH) -> None:
    """Share of images that a number of draws was enough for, one curve a run.

    Raises:
        InputError: a row does not say how many draws its images took.
    """
    with _axes(path, width) as axes:
        for number, entry in enumerate(entries):
            if entry.draws is None:
                raise InputError(f"{entry.name} is a log: it does not say how many draws each image took")
            spent = np.sort(entry.draws)
            shares = 100 * np.arange(1, len(spent) + 1) / len(spent)
            label = f"{entry.name} (mean {spent.mean():,.0f})"
            axes.step(spent, shares, where="post", label=label, **style(number))
        axes.set(xlabel="draws of an image", ylabel="images that took no more (%)", xscale="log", ylim=(0, 100))


def training(
    courses: Mapping[str, Sequence[tuple[int, float]]], quantity: str, path: Path, width: float = WIDTH
) -> None:
    """One quantity of trainings against the step.

    Args:
        courses: steps and values, by name.
        quantity: what they are.
        path: where the figure goes.
        width: inches.
    """
    with _axes(path, width) as axes:
        for number, (name, course) in enumerate(courses.items()):
            steps, values = np.array(course).T
            axes.plot(steps, values, label=name, marker="." if len(steps) < 20 else None, **style(number))
        lowest = min(value for course in courses.values() for _, value in course)
        axes.set(xlabel="step", ylabel=quantity, yscale="log" if "loss" in quantity and lowest > 0 else "linear")


def denoised(model: Ebsc, data: Dataset, path: Path, images: int = 8) -> None:
    """Rows of pictures: clean x, noisy y = x + sigma eps, and xhat(y)."""
    rows = pictures(model, data, images)
    titles = "clean x", f"y, sigma {model.sigma:g}", "xhat(y)"
    figure = Figure(figsize=(images, 3.2), layout="constrained")
    axes = figure.subplots(3, rows.shape[1], squeeze=False)
    for line, title, row in zip(axes, titles, rows, strict=True):
        for place, picture in zip(line, row, strict=True):
            place.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(title)
    _save(figure, path)


def walks(grid: Float[Tensor, "channel height width"], title: str, path: Path) -> None:
    """A grid of pictures: in pairs of rows the points of a walk, and the jumps from them."""
    height, width = grid.shape[1:]
    figure = Figure(figsize=(8, 8 * height / width + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set(
        xticks=[], yticks=[], xlabel="start to end of the walk", ylabel="chains: walk above, jumps below", title=title
    )
    _save(figure, path)


def distances(other: np.ndarray, same: np.ndarray, errors: Mapping[float, float], dimension: int, path: Path) -> None:
    """Distances beside the radii of shells; and what images at these distances share, against sigma.

    Args:
        other: distance from each image to the nearest of another class.
        same: to the nearest of its own class.
        errors: error of the kernel Bayes classifier on y, a share, for each sigma.
        dimension: of an image.
        path: where the figure goes; the ending chooses the format.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = 100 * np.arange(1, len(other) + 1) / len(other)
    for values, label, pen in ((same, "nearest of its own class", 1), (other, "nearest of another class", 0)):
        left.step(np.sort(values), shares, where="post", label=label, color=_COLOURS[pen], linestyle=_STYLES[pen])
    for number, sigma in enumerate(errors):
        left.axvline(
            shell(sigma, dimension)[0],
            label=f"radius of the shell, sigma {sigma:g}",
            color=_COLOURS[2 + number % 5],
            linestyle=_STYLES[2 + number % 2],
        )
    left.set(
        xlabel="L2 distance (pixels on [0, 1])", ylabel="images with a training image that near (%)", ylim=(0, 100)
    )
    left.set_xlim(left=0)
    typical = float(np.median(other))
    sigmas = np.geomspace(min(errors) / 2, 2 * max(errors), 50)
    masses = {
        "shared mass of nearest images of two classes, mean": [overlap(other, sigma).mean() for sigma in sigmas],
        "of their shells, at the median distance": [shell_overlap(typical, sigma, dimension) for sigma in sigmas],
    }
    for (label, mass), pen in zip(masses.items(), (0, 1), strict=True):
        right.plot(sigmas, 100 * np.array(mass), label=label, color=_COLOURS[pen], linestyle=_STYLES[pen])
    right.plot(
        list(errors),
        [100 * error for error in errors.values()],
        "o:",
        color="#000000",
        label="kernel Bayes: error on y",
    )
    right.set(xlabel="sigma", ylabel="%", xscale="log", ylim=(0, 100), xticks=list(errors))
    right.set_xticks([], minor=True)
    right.set_xticklabels([f"{sigma:g}" for sigma in errors])
    for axes, place in ((left, "lower right"), (right, "upper left")):
        axes.grid(alpha=0.3)
        axes.legend(loc=place, fontsize="small")
    _save(figure, path)


def theory(rows: Sequence[Sequence[Problem]], points: Sequence[Point], region: Region, path: Path) -> None:
    """Exact radius at the mean against the angle with certificates laid over it; where in the plane denoising helps."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    fine = np.linspace(rows[0][0].angle, rows[-1][0].angle, 61)
    for number, problem in enumerate(rows[0]):
        colour = "#000000" if problem.plain else _COLOURS[(number - 1) % len(_COLOURS)]
        label = "plain: the margin" if problem.plain else f"EBSC, s = {problem.s:g}"
        radii = [replace(problem, angle=float(angle)).at_mean for angle in fine]
        left.plot(fine, radii, color=colour, linestyle="--" if problem.plain else "-", label=label)
        mine = [point for point in points if point.problem.s == problem.s]
        low, high = (np.array([getattr(point, end) for point in mine]) for end in ("low", "high"))
        angles, bars = [point.problem.angle for point in mine], {"color": colour, "linewidth": 1}
        left.vlines(angles, low, np.minimum(high, 2 * problem.length), **bars)  # no end where all votes agree
        left.plot(angles, [point.certified for point in mine], "v", color=colour, markersize=4)
    left.plot([], [], "v", color="grey", markersize=4, label="certified, and interval, from votes")
    left.set(xlabel="angle between w and mu (degrees)", ylabel="L2 radius at x = mu", ylim=(0, 1.08 * problem.length))
    left.grid(alpha=0.3)
    left.legend(fontsize="small")
    _plane(figure, right, region)
    _save(figure, path)


def _plane(figure: Figure, axes: Axes, region: Region) -> None:
    """What denoising adds to the signed radius, and the boundaries of both classifiers."""
    problem, axis, most = region.problem, region.axis, max(float(np.abs(region.gain).max()), 1e-9)
    colours = LinearSegmentedColormap.from_list("gain", [_COLOURS[1], "#FFFFFF", _COLOURS[0]])
    image = axes.contourf(axis, axis, region.gain, 12, cmap=colours, vmin=-most, vmax=most)
    figure.colorbar(image, ax=axes, label="signed radius: EBSC minus plain")
    names = {
        "-": (region.gain, "no change"),
        "--": (region.plain, "boundary, plain"),
        ":": (region.ebsc, "boundary, EBSC"),
    }
    for line, (values, name) in names.items():
        axes.contour(axis, axis, values, levels=[0.0], colors="black", linestyles=line, linewidths=1)
        axes.plot([], [], color="black", linestyle=line, linewidth=1, label=name)
    for sign in (1, -1):
        axes.add_patch(Circle((sign * problem.length, 0), problem.s, fill=False, color="grey"))
        axes.annotate(f"{'+' if sign > 0 else '-'}mu", (sign * problem.length, 0), ha="center", va="center")
    title = f"class +1 gains (blue), loses (orange)\n{problem.angle:g} degrees, s = {problem.s:g}"
    axes.set(xlabel="x along mu", ylabel="x across mu", aspect="equal", title=title)
    axes.legend(fontsize="small", loc="lower left")


def style(number: int) -> dict[str, Any]:
    """Colour and line style of the row of this number: 28 pairs, as 7 and 4 have no common divisor."""
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _STYLES[number % len(_STYLES)]}


@contextmanager
def _axes(path: Path, width: float) -> Iterator[Axes]:
    """Axes to draw on; then the legend goes below them, where it hides nothing, and the figure to ``path``."""
    with rc_context({"font.size": 8, "legend.fontsize": 7, "lines.linewidth": 1.2}):
        figure = Figure(figsize=(width, 0.68 * width), layout="constrained")
        axes = figure.subplots()
        axes.grid(alpha=0.3)
        yield axes
        # matplotlib calls a line without a label _childN
        named = [line for line in axes.lines if not re.fullmatch(r"_child\d+", str(line.get_label()))]
        handles = [*named, *(patch for patch in axes.patches if patch.get_label())]
        labels = [str(handle.get_label()).replace("$", r"\$") for handle in handles]
        columns = max(1, min(len(labels), int(width / (0.3 + 0.055 * max(map(len, labels))))))
        figure.set_figheight(0.68 * width + 0.16 * -(-len(labels) // columns))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    check_figure(path)
    whole = io.BytesIO()
    try:
        figure.savefig(whole, dpi=200, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the figure {path}: {error}") from error
    write_output(path, whole.getvalue(), "the figure ")
