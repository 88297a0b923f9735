"""``ebsc theory``: the two-class linear case exactly, with certificates of the real pipeline laid over it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from ebsc.budgets import Fixed
from ebsc.errors import InputError
from ebsc.model import MOST_SIGMA, check_sigma
from ebsc.noise import check_seed
from ebsc.twoclass import Point, Problem, Region, certified
from jobs.options import parse_numbers
from jobs.prints import Format, check_figure, put, typeset

__all__ = ["Theory"]

_SAME = 1e-6  # radii closer than this are equal: the quadratures are no better


@dataclass(frozen=True, kw_only=True)
class Theory:
    """Show when denoising helps certification and when it hurts, in the case where both are known exactly.

    Images are Gaussian around +mu or -mu with standard deviation s in every pixel, and the base classifier is
    sign(w.x). Plain smoothing certifies the margin |w.x| / |w|. The empirical Bayes smoothed classifier (EBSC) votes
    with the same w on xhat(y), and xhat knows where the classes are: the narrower they are beside the noise, the more
    its boundary turns from w to mu, the boundary that separates them best. Only |mu|, its angle to w, s and sigma
    matter, not the number of pixels.

    The table gives the exact radius at x = mu; the mean over class +1 of the signed radius, which is negative where
    the class loses the vote; and the share of the class whose signed radius denoising lowers. Certificates of the real
    pipeline, from votes on images of SIDE x SIDE pixels, must lie at or below the exact radius, but for alpha.

    Example: ebsc theory --plot theory.png

    Example: ebsc theory --sigma 0.25 --s 0,0.2 --angles 0:80:20 --format markdown
    """

    sigma: float = 0.5
    """Standard deviation of the noise, on the scale where pixels lie in [0, 1]."""
    length: float = 1.0
    """Length of mu, half the distance of the class means; at most half of the side."""
    s: str = "0,0.1,0.25,0.5,1"
    """Standard deviations of the classes: 0.5, or 0,0.5,1, or start:stop:step."""
    angles: str = "0:75:15"
    """Angles between w and mu in degrees, below 90, in the same form. Beyond, w takes one class for the other."""
    region_s: float = 0.5
    """Standard deviation of the classes in the picture of the plane, and in what is said of it."""
    region_angle: float = 60.0
    """Angle between w and mu in that picture, in degrees."""
    n: int = 10_000
    """Draws for each certificate, after 100 that select."""
    alpha: float = 0.001
    """Error probability of a certificate, and of an interval around its radius."""
    seed: int = 0
    """Seed of all draws."""
    side: int = 8
    """Side of the images that are voted on, in pixels."""
    format: Format = "text"
    """text, markdown, latex (booktabs), csv (no notes) or json."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write here instead of to the terminal."""
    plot: Path | None = None
    """Also draw the radius against the angle, with the certificates, and the plane of mu and w: .png, .svg or .pdf."""

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        parse_numbers(self.s, "s")
        angles = (*parse_numbers(self.angles, "angles"), self.region_angle)
        if not all(0 <= angle < 90 for angle in angles):
            raise InputError("angles between w and mu must lie in [0, 90) degrees")
        if not 0 <= self.region_s < float("inf"):
            raise InputError(f"region_s must be a number that is not negative, not {self.region_s}")
        if self.side < 2 or not 0 < self.length <= self.side / 2:
            raise InputError(
                f"images of {self.side} x {self.side} pixels have room for a length of mu above 0 and up to"
                f" {max(self.side, 0) / 2:g}, not {self.length:g}; the side must be at least 2"
            )
        if self.length * np.cos(np.radians(max(angles))) < 1e-5:
            raise InputError("votes are float32: w.mu, the length times the cosine of the angle, must be at least 1e-5")
        if max(*parse_numbers(self.s, "s"), self.region_s) > MOST_SIGMA:
            raise InputError(f"standard deviations of classes must be at most {MOST_SIGMA:g}")
        check_seed(self.seed)
        Fixed(n=self.n, alpha=self.alpha)  # says what is wrong with them

    def run(self) -> None:
        """Print or write the table, and draw the figure."""
        if self.plot:
            check_figure(self.plot)
        columns = [np.inf, *parse_numbers(self.s, "s")]
        rows = [[self._problem(angle, s) for s in columns] for angle in parse_numbers(self.angles, "angles")]
        body, budget = _body(rows), Fixed(n=self.n, alpha=self.alpha)
        problems = [problem for row in rows for problem in row]
        points = [certified(problem, self.side, budget, self.seed, at) for at, problem in enumerate(problems)]
        region = Region.of(self._problem(self.region_angle, self.region_s))
        head = ["exact", "angle", "plain", *(f"s={s:g}" for s in columns[1:])]
        put(typeset(head, body, self._notes(rows, points, region), self.format), self.out)
        if self.plot:
            from jobs.plots import theory

            theory(rows, points, region, self.plot)

    def _problem(self, angle: float, s: float) -> Problem:
        return Problem(sigma=self.sigma, length=self.length, angle=angle, s=s)

    def _notes(self, rows: list[list[Problem]], points: list[Point], region: Region) -> list[str]:
        above, missed = sum(point.false for point in points), sum(point.missed for point in points)
        return [
            f"Sigma {self.sigma:g}, |mu| {self.length:g}. Exact L2 radii (pixels on [0, 1]), rounded to nearest; plain:"
            " the margin, by plain smoothing.",
            _compared("At x = mu", [[problem.at_mean for problem in row] for row in rows], rows),
            _compared("On the mean over the class", [[problem.mean for problem in row] for row in rows], rows),
            _hurt(rows),
            _extremes(region),
            f"{len(points)} certificates at x = mu from {self.n} draws each, on images of {self.side} x {self.side}"
            f" pixels: {above} above the exact radius, {missed} of their intervals miss it; each does so with"
            f" probability at most {self.alpha:g}.",
        ]


def _body(rows: list[list[Problem]]) -> list[list[str]]:
    """Three lines an angle: what is exact at the mean, over the class, and for how much of it denoising hurts."""
    lines: dict[str, Callable[[Problem], str]] = {
        "radius at mu": lambda p: f"{p.at_mean:.3f}",
        "mean radius": lambda p: f"{p.mean:.3f}",
        "lowered, %": lambda p: "" if p.plain else f"{100 * p.lowered:.1f}",
    }
    return [[name, f"{row[0].angle:g}", *map(show, row)] for name, show in lines.items() for row in rows]


def _compared(where: str, radii: list[list[float]], rows: list[list[Problem]]) -> str:
    """How often denoising raises and lowers a radius, and where most."""
    table = np.array(radii)
    gain = table[:, 1:] - table[:, :1]
    said = f"{where} denoising raises {(gain > _SAME).sum()} of {gain.size} radii and lowers {(gain < -_SAME).sum()}"
    for word, sign in (("most", 1), ("worst", -1)):
        row, column = _place((sign * gain).argmax(), gain)
        if sign * gain[row, column] > _SAME:
            problem = rows[row][column + 1]
            said += (
                f"; {word} at {problem.angle:g} degrees, s = {problem.s:g}: from {table[row, 0]:.3f} to"
                f" {table[row, column + 1]:.3f}"
            )
    return said + "."


def _place(flat: np.intp, table: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(flat, table.shape)
    return int(row), int(column)


def _hurt(rows: list[list[Problem]]) -> str:
    """Whether there are points of the class that denoising hurts, and for which classes most."""
    worst = max((problem for row in rows for problem in row[1:]), key=lambda problem: problem.lowered)
    if not worst.lowered:
        return "No point of these classes has its radius lowered."
    return (
        f"Yet single points lose: most of them at {worst.angle:g} degrees, s = {worst.s:g}, where denoising lowers the"
        f" radius of {100 * worst.lowered:.1f}% of the class."
    )


def _extremes(region: Region) -> str:
    """The points nearer to +mu than to -mu where denoising adds and takes most; the other half mirrors them."""
    gain, problem = np.where(region.axis > 0, region.gain, 0.0), region.problem
    ends = [
        f"{word} most at ({region.axis[column]:.2f}, {region.axis[row]:.2f}), where the signed radius is"
        f" {region.plain[row, column]:.3f} plain and {region.ebsc[row, column]:.3f} with denoising"
        for word, (row, column) in (("adds", _place(gain.argmax(), gain)), ("takes", _place(gain.argmin(), gain)))
        if abs(gain[row, column]) > _SAME
    ]
    where = (
        f"Coordinates along and across mu, at {problem.angle:g} degrees, s = {problem.s:g}, nearer to +mu than to -mu"
    )
    return f"{where}: denoising {'; '.join(ends) or 'changes no radius'}."


if __name__ == "__main__":
    from jobs.cli import start

    start(Theory)
