"""How many draws an image may use, and when they are enough."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ebsc.bounds import clopper_pearson_lower, clopper_pearson_upper, probability
from ebsc.errors import InputError
from ebsc.noise import BLOCK

__all__ = ["Budget", "Fixed", "Sequential"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every budget has.

    Attributes:
        n: draws that estimate, at most.
        n0: draws that select the candidate class.
        alpha: probability that a certificate is wrong, per image.

    Raises:
        InputError: alpha outside (0, 1), n < n0.
    """

    n: int = 100_000
    n0: int = 100
    alpha: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha must lie in (0, 1), not {self.alpha}")
        if self.n0 < 1:
            raise InputError(f"n0 must be at least 1, not {self.n0}")
        if not self.n0 <= self.n < 2**31:
            raise InputError(f"n must be at least n0 = {self.n0} and below 2^31, not {self.n}")

    @property
    def looks(self) -> Int64[np.ndarray, " look"]:
        """Total estimation draws at each look, increasing; the last is n."""
        raise NotImplementedError

    @property
    def spending(self) -> Float64[np.ndarray, " look"]:
        """Error probability of the lower bound at each look; sums to at most alpha."""
        raise NotImplementedError

    def judge(
        self,
        p_lower: Float64[np.ndarray, " row"],
        successes: Int64[np.ndarray, " row"],
        look: Int64[np.ndarray, " row"],
        sigma: float,
    ) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
        """After a look: is a radius that was asked for undecided, and is it worth while to draw on?"""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Fixed(Budget):
    """n draws for every image and one look (Cohen et al. 2019): comparable with every published log.

    >>> Fixed(n=10_000).looks.tolist()
    [10000]
    """

    @property
    def looks(self) -> Int64[np.ndarray, " look"]:
        return np.array([self.n])

    @property
    def spending(self) -> Float64[np.ndarray, " look"]:
        return np.array([self.alpha])

    def judge(
        self,
        p_lower: Float64[np.ndarray, " row"],
        successes: Int64[np.ndarray, " row"],
        look: Int64[np.ndarray, " row"],
        sigma: float,
    ) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
        no = np.zeros(len(p_lower), dtype=bool)
        return no, no


@dataclass(frozen=True, kw_only=True)
class Sequential(Budget):
    """At most n draws; an image stops as soon as every radius that was asked for is decided.

    The lower bounds of all looks hold together at level alpha: each is a Clopper-Pearson bound at its own share of
    alpha, and the shares sum to alpha, most of it kept for the last look. An image stops when no radius asked for lies
    between what is certified and what more draws could still certify: no more than an upper bound at level ``futility``
    allows, and no more than if every further draw were a success. The upper side decides only when to stop, so its
    error costs power, never soundness.

    Attributes:
        radii: the radii that the table asks for.
        last_share: share of alpha kept for the last look.
        futility: level of the upper bound.
        growth: about the ratio of successive looks.

    Raises:
        InputError: no radius or a negative one, shares outside (0, 1).

    >>> budget = Sequential(radii=(0.0, 0.5), n=1000)
    >>> budget.looks.tolist(), round(float(budget.spending.sum()), 6)
    ([128, 256, 384, 512, 768, 1000], 0.001)
    """

    radii: tuple[float, ...]
    last_share: float = 0.8
    futility: float = 0.01
    growth: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.radii or not all(0 <= r < float("inf") for r in self.radii):
            raise InputError(f"radii must be one or more numbers >= 0, not {self.radii}")
        if not (0 < self.last_share < 1 and 0 < self.futility < 1 and self.growth > 1):
            raise InputError("last_share and futility must lie in (0, 1), and growth above 1")

    @cached_property
    def looks(self) -> Int64[np.ndarray, " look"]:
        if self.n <= BLOCK:
            return np.array([self.n])
        steps = 2 + int(np.log(self.n / BLOCK) / np.log(self.growth))
        blocks = np.unique(np.rint(np.geomspace(BLOCK, self.n, steps) / BLOCK).astype(np.int64)) * BLOCK
        return np.append(blocks[blocks < self.n], self.n)

    @cached_property
    def spending(self) -> Float64[np.ndarray, " look"]:
        early = len(self.looks) - 1
        if not early:
            return np.array([self.alpha])
        return np.append(np.full(early, self.alpha * (1 - self.last_share) / early), self.alpha * self.last_share)

    def judge(
        self,
        p_lower: Float64[np.ndarray, " row"],
        successes: Int64[np.ndarray, " row"],
        look: Int64[np.ndarray, " row"],
        sigma: float,
    ) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
        # Radius r is certified when p_lower >= Phi(r / sigma). Radius 0 asks whether anything is: p strictly above 1/2.
        thresholds = np.maximum(probability(np.unique(self.radii), sigma), np.nextafter(0.5, 1.0))
        draws = self.looks[look]
        upper = clopper_pearson_upper(successes, draws, self.futility)
        best = clopper_pearson_lower(successes + self.n - draws, self.n, float(self.spending[-1]))
        certified, plausible, reachable = (
            np.searchsorted(thresholds, p, side="right") for p in (p_lower, upper, np.minimum(upper, best))
        )
        return plausible > certified, (reachable > certified) & (look < len(self.looks) - 1)
