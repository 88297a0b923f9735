"""How many draws an image may use, what they certify at each look, and when they are enough."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from ebsc.bounds import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    equivalent_probability,
    radius,
    required_probability,
)
from ebsc.errors import InputError
from ebsc.noise import BLOCK

__all__ = ["Budget", "Fixed", "Sequential", "Standing", "Tolerance", "budget_of"]

Rows = Int64[np.ndarray, " row"]
Probabilities = Float64[np.ndarray, " row"]


@dataclass(frozen=True)
class Standing:
    """What the draws of some images say at a look of each.

    Attributes:
        candidate: votes for the candidate class.
        rival: votes for the strongest other class.
        look: index into :attr:`Budget.looks`.
    """

    candidate: Rows
    rival: Rows
    look: Rows

    @classmethod
    def of(cls, counts: Shaped[np.ndarray, "row class"], predicted: Rows, look: Rows) -> "Standing":
        """From the votes for every class."""
        here = np.arange(len(counts))
        others = counts.astype(np.int64)
        candidate = others[here, predicted]
        others[here, predicted] = 0
        return cls(candidate, others.max(1, initial=0), look)

    def foreseen(self, rows: Bool[np.ndarray, " row"], growth: Float64[np.ndarray, " some"], look: int) -> "Standing":
        """Some of the images at a later look, with ``growth`` times the draws at the rates that they have shown."""
        candidate, rival = (np.rint(votes[rows] * growth).astype(np.int64) for votes in (self.candidate, self.rival))
        return Standing(candidate, rival, np.full(len(growth), look))


@dataclass(frozen=True, kw_only=True)
class Budget(ABC):
    """What every budget has.

    Attributes:
        n: draws that estimate, at most.
        n0: draws that select the candidate class.
        alpha: probability that a certificate is wrong, per image.
        two_sided: bound the other classes from above as well (half of alpha): where several of them share the rest, the
            radius is larger, and some candidates with a probability below 1/2 are certified.
        extends: what n was before this budget was extended, and extended again. The looks of the smaller budgets stay
            looks of this one, with less of alpha, so that it can adopt their draws and is as valid as from the start.

    Raises:
        InputError: alpha outside (0, 1), n < n0, or an extension that is none.
    """

    n: int = 100_000
    n0: int = 100
    alpha: float = 0.001
    two_sided: bool = False
    extends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha must lie in (0, 1), not {self.alpha}")
        if self.n0 < 1:
            raise InputError(f"n0 must be at least 1, not {self.n0}")
        if not self.n0 <= self.n < 2**31:
            raise InputError(f"n must be at least n0 = {self.n0} and below 2^31, not {self.n}")
        if any(later <= n for n, later in pairwise((*self.extends, self.n))):
            raise InputError(
                f"an extension must have a larger n: not {self.n} after {', '.join(map(str, self.extends))}"
            )

    @property
    @abstractmethod
    def looks(self) -> Int64[np.ndarray, " look"]:
        """Total estimation draws at each look, increasing; the last is n."""

    @property
    @abstractmethod
    def spending(self) -> Float64[np.ndarray, " look"]:
        """Error probability of the lower bound at each look; sums to at most alpha."""

    def bound(self, standing: Standing) -> Probabilities:
        """At a look of each image, a lower bound of the probability p that certifies radius sigma Phi^-1(p).

        The bounds of all looks of an image hold together with probability 1 - alpha.
        """
        draws, alpha = self.looks[standing.look], self.spending[standing.look]
        if not self.two_sided:
            return clopper_pearson_lower(standing.candidate, draws, alpha)
        lower = clopper_pearson_lower(standing.candidate, draws, alpha / 2)
        # the likeliest of the others has no more votes than the rival: the bound of the rival's votes holds for it, too
        upper = clopper_pearson_upper(standing.rival, draws, alpha / 2)
        return equivalent_probability(lower, np.minimum(upper, 1 - lower))

    def largest_radius(self, sigma: float) -> float:
        """That of an image of which every vote is for one class: no radius beyond it can be certified.

        >>> round(Fixed(n=100_000).largest_radius(1.0), 3), round(Sequential(radii=(0.0,)).largest_radius(1.0), 3)
        (3.811, 3.804)
        """
        all_won = Standing(np.array([self.n]), np.array([0]), np.array([len(self.looks) - 1]))
        return float(radius(self.bound(all_won), sigma)[0])

    @abstractmethod
    def judge(
        self, p_lower: Probabilities, standing: Standing, sigma: float
    ) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
        """After a look: whether a radius that was asked for is undecided; whether to draw on."""


@dataclass(frozen=True, kw_only=True)
class Fixed(Budget):
    """n draws for every image and one look (Cohen et al. 2019): comparable with every published log.

    >>> Fixed(n=10_000).looks.tolist()
    [10000]
    """

    @property
    def looks(self) -> Int64[np.ndarray, " look"]:
        return np.array([*self.extends, self.n])

    @property
    def spending(self) -> Float64[np.ndarray, " look"]:
        return np.array([0.0] * len(self.extends) + [self.alpha])

    def judge(
        self, p_lower: Probabilities, standing: Standing, sigma: float
    ) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
        return np.zeros(len(p_lower), dtype=bool), standing.look < len(self.extends)


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a table may lie below that of n draws for every image.

    Attributes:
        accuracy: of the certified accuracy at each radius, a share of the images; None where it does not matter.
        acr: of the average certified radius (pixels on [0, 1]); None where it does not matter.

    Raises:
        InputError: neither is given, or one is not positive.
    """

    accuracy: float | None = None
    acr: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.accuracy, self.acr) if value is not None]
        if not given or not all(0 < value < float("inf") for value in given):
            said = " and ".join(map(str, given)) or "nothing"
            raise InputError(f"give a tolerance of the accuracy, the ACR or both, each a positive number, not {said}")


@dataclass(frozen=True, kw_only=True)
class Sequential(Budget):
    """At most n draws; an image stops as soon as every radius that was asked for is decided.

    The lower bounds of all looks hold together at level alpha: each is a Clopper-Pearson bound at its own share of
    alpha, and the shares sum to alpha, most of it kept for the last look. An image stops when no radius asked for lies
    between what is certified and what more draws could still certify: no more than an upper bound at level ``futility``
    allows, and no more than if every further draw were a success. The upper side decides only when to stop, so its
    error costs power, never soundness.

    With a tolerance, all stop as soon as the table is known well enough; see :mod:`ebsc.waves`.

    Attributes:
        radii: the radii that the table asks for.
        tolerance: how well the table must be known; None decides every image.
        last_share: share of alpha kept for the last look.
        futility: level of the upper bound.
        growth: about the ratio of successive looks.

    Raises:
        InputError: no radius or a negative one, shares outside (0, 1).

    >>> budget = Sequential(radii=(0.0, 0.5), n=1000)
    >>> budget.looks.tolist(), round(float(budget.spending.sum()), 6)
    ([128, 256, 384, 512, 640, 768, 1000], 0.001)
    """

    radii: tuple[float, ...]
    tolerance: Tolerance | None = None
    last_share: float = 0.8
    futility: float = 0.04
    growth: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.radii or not all(0 <= r < float("inf") for r in self.radii):
            raise InputError(f"radii must be one or more numbers >= 0, not {self.radii}")
        if not (0 < self.last_share < 1 and 0 < self.futility < 1 and self.growth > 1):
            raise InputError("last_share and futility must lie in (0, 1), and growth above 1")

    @cached_property
    def looks(self) -> Int64[np.ndarray, " look"]:
        totals: list[int] = []
        for n in (*self.extends, self.n):
            totals += [total for total in self._grid(n) if total > max(totals, default=0)]
        return np.array(totals)

    def _grid(self, n: int) -> Sequence[int]:
        """Geometric, in whole blocks of noise, and n."""
        if n <= BLOCK:
            return [n]
        steps = 2 + int(np.log(n / BLOCK) / np.log(self.growth))
        blocks = np.unique(np.rint(np.geomspace(BLOCK, n, steps)[:-1] / BLOCK).astype(np.int64)) * BLOCK
        return [*blocks[blocks < n].tolist(), n]

    @cached_property
    def spending(self) -> Float64[np.ndarray, " look"]:
        if len(self.looks) == 1:
            return np.array([self.alpha])
        early = np.sqrt(self.looks[:-1])  # a late look costs most draws: there more alpha saves most
        return self.alpha * np.append((1 - self.last_share) * early / early.sum(), self.last_share)

    def thresholds(self, sigma: float) -> Float64[np.ndarray, " threshold"]:
        """Radius r is certified when p_lower >= Phi(r / sigma); radius 0 asks for p strictly above 1/2."""
        return np.maximum(required_probability(np.unique(self.radii), sigma), np.nextafter(0.5, 1.0))

    def reach(self, standing: Standing) -> tuple[Probabilities, Probabilities]:
        """The largest p that is plausible at level ``futility``; and the largest that n draws can still certify."""
        draws = self.looks[standing.look]
        plausible = clopper_pearson_upper(standing.candidate, draws, self.futility)
        if self.two_sided:
            plausible = equivalent_probability(plausible, clopper_pearson_lower(standing.rival, draws, self.futility))
        all_won = replace(
            standing,
            candidate=standing.candidate + self.n - draws,
            look=np.full_like(standing.look, len(self.looks) - 1),
        )
        return plausible, np.minimum(plausible, self.bound(all_won))

    def judge(
        self, p_lower: Probabilities, standing: Standing, sigma: float
    ) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
        certified, plausible, reachable = (
            np.searchsorted(self.thresholds(sigma), p, side="right") for p in (p_lower, *self.reach(standing))
        )
        wanted = reachable > certified
        if self.tolerance and self.tolerance.acr is not None:  # where in between two radii matters too
            wanted = np.ones(len(p_lower), dtype=bool)
        return plausible > certified, wanted & (standing.look < len(self.looks) - 1)


def budget_of(stated: Mapping[str, Any]) -> Budget:
    """The budget that a config.json states: ``{"kind": "fixed" or "sequential", **attributes}``.

    Raises:
        KeyError, TypeError: it states none.
    """
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()
    }
    if options.pop("kind") == "fixed":
        return Fixed(**options)
    if options.get("tolerance"):
        options["tolerance"] = Tolerance(**options["tolerance"])
    return Sequential(**options)
