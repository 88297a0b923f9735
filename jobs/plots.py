"""Figures: certified accuracy against radius, what a denoiser makes of noise, and the exact case."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from ebsc.bounds import floor_radius
from ebsc.data import Dataset
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.validation import pictures
from jobs.tables import Entry
from jobs.theory import Point, Problem, Region

__all__ = ["curves", "denoised", "theory"]

# Okabe & Ito: told apart by colour-blind readers; line styles tell them apart in grey
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_STYLES = ["-", "--", "-.", ":"]


def curves(entries: Sequence[Entry], path: Path) -> None:
    """Certified accuracy against radius, one step curve a row; the ending of ``path`` chooses the format."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for number, entry in enumerate(entries):
        # exact staircase: the share of images whose radius is at least r falls by 1/N at each certified radius
        radii = np.sort(entry.radius[entry.radius > 0])
        shares = 100 * np.arange(len(radii), 0, -1) / len(entry.radius)
        axes.step(
            np.concatenate([[0], radii]),
            np.concatenate([[100 * len(radii) / len(entry.radius)], shares]),
            where="pre",
            label=f"{entry.name} (ACR {floor_radius(entry.acr)})",
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_STYLES[number % len(_STYLES)],
        )
    axes.set(xlabel="L2 radius (pixels on [0, 1])", ylabel="certified accuracy (%)", ylim=(0, 100))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


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
    for style, (values, name) in names.items():
        axes.contour(axis, axis, values, levels=[0.0], colors="black", linestyles=style, linewidths=1)
        axes.plot([], [], color="black", linestyle=style, linewidth=1, label=name)
    for sign in (1, -1):
        axes.add_patch(Circle((sign * problem.length, 0), problem.s, fill=False, color="grey"))
        axes.annotate(f"{'+' if sign > 0 else '-'}mu", (sign * problem.length, 0), ha="center", va="center")
    title = f"class +1 gains (blue), loses (orange)\n{problem.angle:g} degrees, s = {problem.s:g}"
    axes.set(xlabel="x along mu", ylabel="x across mu", aspect="equal", title=title)
    axes.legend(fontsize="small", loc="lower left")


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the figure {path}: {error}") from error
