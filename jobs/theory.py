"""``ebsc theory``: the two-class linear case exactly, with certificates of the real pipeline laid over it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from scipy.special import ndtri

from ebsc.bounds import clopper_pearson_lower, clopper_pearson_upper
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.errors import InputError
from ebsc.model import check_sigma
from ebsc.noise import check_seed
from ebsc.theory import exact_model, margin, mean_radius, share_lowered, signed_radius
from ebsc.votes import Voter, certify
from jobs.options import parse_numbers
from jobs.prints import Format, put, typeset

__all__ = ["Point", "Problem", "Region", "Theory", "certified"]

_LEVELS = 255
_SAME = 1e-6  # radii closer than this are equal: the quadratures are no better


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Two Gaussian classes at +mu and -mu, and a linear classifier at an angle to them.

    Attributes:
        sigma: standard deviation of the noise.
        length: of mu. Unit: pixels on [0, 1].
        angle: between w and mu, in degrees.
        s: standard deviation of each class; infinity stands for plain smoothing.
    """

    sigma: float
    length: float
    angle: float
    s: float

    @property
    def mu(self) -> np.ndarray:
        """Half the difference of the class means, in the plane."""
        return np.array([self.length, 0.0])

    @property
    def w(self) -> np.ndarray:
        """The unit normal of the classifier, in the plane."""
        return np.array([np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))])

    @property
    def plain(self) -> bool:
        """Whether nothing is denoised."""
        return self.s == np.inf

    def radius(self, x: np.ndarray) -> np.ndarray:
        """Exact signed radius at points of the plane."""
        return np.asarray(x @ self.w) if self.plain else signed_radius(x, self.w, self.mu, self.s, self.sigma)

    @cached_property
    def at_mean(self) -> float:
        """Exact radius at the mean of class +1."""
        return float(self.radius(self.mu))

    @cached_property
    def mean(self) -> float:
        """Mean of the signed radius over class +1. By plain smoothing it is the margin at mu, whatever s is."""
        return margin(self.mu, self.w) if self.plain else mean_radius(self.w, self.mu, self.s, self.sigma)

    @cached_property
    def lowered(self) -> float:
        """Share of class +1 whose signed radius denoising lowers."""
        return share_lowered(self.w, self.mu, self.s, self.sigma)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A certificate from votes.

    Attributes:
        problem: what was certified.
        exact: the exact signed radius of the class that it names, at the image that was voted on.
        certified: the certified radius.
        low, high: radii between which the exact one lies with probability 1 - alpha: a two-sided interval.
    """

    problem: Problem
    exact: float
    certified: float
    low: float
    high: float

    @property
    def false(self) -> bool:
        """Whether the certificate claims more than is true."""
        return self.certified > max(self.exact, 0.0)

    @property
    def missed(self) -> bool:
        """Whether the exact radius lies outside the interval."""
        return not self.low <= self.exact <= self.high


def certified(problem: Problem, side: int, budget: Fixed, seed: int, number: int) -> Point:
    """Certify the mean of class +1 as an image, by the pipeline that certifies everything else.

    Class +1 is bright, class -1 dark, and w also looks at how much brighter the upper half is. Pixels are rounded to
    the lattice so that the errors of neighbours cancel, and the exact radius is that of the rounded image.

    Args:
        problem: the classes and the classifier, in the plane; the rest of the pixels changes nothing.
        side: of the image, in pixels.
        budget: draws and alpha.
        seed: of the draws.
        number: addresses the draws: those of different numbers are independent.
    """
    upper = np.where(np.arange(side**2) < side**2 // 2, 1.0, -1.0)
    upper -= upper.mean()
    basis = np.stack([np.full(side**2, 1 / side), upper / np.linalg.norm(upper)])
    mu, w = problem.mu @ basis, problem.w @ basis
    image = np.diff(np.rint(np.cumsum(_LEVELS * (mu + 0.5))), prepend=0).astype(np.uint8).reshape(1, side, side)
    model = exact_model(w, mu, 0.0 if problem.plain else problem.s, problem.sigma, image.shape)
    voter = Voter(model.plain() if problem.plain else model, image[None], levels=_LEVELS, n_classes=2, batch=4096)
    campaign = Campaign(np.ones(1, np.int64), 2, problem.sigma, budget=budget, images=np.array([number]), seed=seed)
    (row,) = certify(campaign, voter)
    sign, votes = 2 * int(row["predicted"]) - 1, int(row["counts"][row["predicted"]])
    ends = (bound(votes, budget.n, budget.alpha / 2) for bound in (clopper_pearson_lower, clopper_pearson_upper))
    low, high = (float(problem.sigma * ndtri(end)) for end in ends)
    exact = sign * float(problem.radius(basis @ (image.ravel() / _LEVELS - 0.5)))
    return Point(problem=problem, exact=exact, certified=float(row["radius"]), low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Region:
    """Where in the plane of mu and w denoising helps, and where it hurts.

    Attributes:
        problem: the classes and the classifier.
        axis: coordinates of the points along mu, and across it.
        plain: signed radii by plain smoothing, a row for each coordinate across.
        ebsc: those of the EBSC.
    """

    problem: Problem
    axis: np.ndarray
    plain: np.ndarray
    ebsc: np.ndarray

    @classmethod
    def of(cls, problem: Problem, side: int = 81) -> "Region":
        """A square around the centre that reaches twice as far as mu, but no further than the exact integrals do."""
        axis = min(2 * problem.length, 25 * problem.sigma) * np.linspace(-1, 1, side)
        points = np.stack(np.meshgrid(axis, axis), -1)
        ebsc = np.stack([problem.radius(row) for row in points])  # a row at a time, for memory's sake
        return cls(problem=problem, axis=axis, plain=points @ problem.w, ebsc=ebsc)

    @property
    def gain(self) -> np.ndarray:
        """What denoising adds to the signed radius."""
        return self.ebsc - self.plain


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
        check_seed(self.seed)
        Fixed(n=self.n, alpha=self.alpha)  # says what is wrong with them

    def run(self) -> None:
        """Print or write the table, and draw the figure."""
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
