"""Two Gaussian classes and a linear classifier: where denoising helps, exactly and by certificates from votes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtri

from ebsc.bounds import clopper_pearson_lower, clopper_pearson_upper
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.theory import Numbers, Vector, Vectors, exact_model, margin, mean_radius, share_lowered, signed_radius
from ebsc.votes import Voter, certify

__all__ = ["Point", "Problem", "Region", "certified"]

_LEVELS = 255


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Two Gaussian classes at +mu and -mu, and a linear classifier at an angle to them.

    Attributes:
        sigma: standard deviation of the noise.
        length: of mu. Unit: pixels on [0, 1].
        angle: between w and mu, in degrees.
        s: standard deviation of each class; infinity stands for plain smoothing.

    >>> plain = Problem(sigma=0.5, length=1.0, angle=60.0, s=np.inf)
    >>> round(plain.at_mean, 6)  # the margin: cos 60 degrees
    0.5
    >>> Problem(sigma=0.5, length=1.0, angle=60.0, s=0.25).at_mean > plain.at_mean
    True
    """

    sigma: float
    length: float
    angle: float
    s: float

    @property
    def mu(self) -> Vector:
        """Half the difference of the class means, in the plane."""
        return np.array([self.length, 0.0])

    @property
    def w(self) -> Vector:
        """The unit normal of the classifier, in the plane."""
        return np.array([np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))])

    @property
    def plain(self) -> bool:
        """Whether nothing is denoised."""
        return self.s == np.inf

    def radius(self, x: Vectors) -> Numbers:
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
    axis: Float64[np.ndarray, " side"]
    plain: Float64[np.ndarray, "side side"]
    ebsc: Float64[np.ndarray, "side side"]

    @classmethod
    def of(cls, problem: Problem, side: int = 81) -> "Region":
        """A square around the centre that reaches twice as far as mu, but no further than the exact integrals do."""
        axis = min(2 * problem.length, 25 * problem.sigma) * np.linspace(-1, 1, side)
        points = np.stack(np.meshgrid(axis, axis), -1)
        ebsc = np.stack([problem.radius(row) for row in points])  # a row at a time, for memory's sake
        return cls(problem=problem, axis=axis, plain=points @ problem.w, ebsc=ebsc)

    @property
    def gain(self) -> Float64[np.ndarray, "side side"]:
        """What denoising adds to the signed radius."""
        return self.ebsc - self.plain
