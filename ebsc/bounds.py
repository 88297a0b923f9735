"""Binomial confidence bounds and the radii they certify; pure functions of counts."""

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped
from scipy import stats
from scipy.special import betainc, betaincc, betainccinv, betaincinv, ndtr, ndtri

__all__ = [
    "ceil_radius",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "equivalent_probability",
    "false_certificates",
    "floor_radius",
    "radius",
    "required_probability",
]

_BELOW_ONE = float(np.nextafter(1.0, 0.0))

Counts = Shaped[np.ndarray, "*shape"] | int


def clopper_pearson_lower(
    successes: Counts, draws: Counts, alpha: float | Float64[np.ndarray, "*shape"]
) -> Float64[np.ndarray, "*shape"]:
    """Exact one-sided lower confidence bound of a binomial probability (Clopper & Pearson 1934).

    P[bound <= p] >= 1 - alpha for every p. 0 where there is no success.

    Args:
        successes: from 0 to ``draws``.
        draws: 1 or more.
        alpha: probability in (0, 1) that the bound is above p.

    >>> round(float(clopper_pearson_lower(100_000, 100_000, 0.001)), 6)
    0.999931
    """
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    some = np.maximum(k, 1)
    p = _checked(betaincinv(some, n - some + 1, alpha), lambda p: betainc(some, n - some + 1, p), alpha)
    return np.where(k > 0, np.minimum(p, _BELOW_ONE), 0.0)


def clopper_pearson_upper(
    successes: Counts, draws: Counts, alpha: float | Float64[np.ndarray, "*shape"]
) -> Float64[np.ndarray, "*shape"]:
    """Exact one-sided upper confidence bound of a binomial probability; 1 where there is no failure.

    Args:
        successes: from 0 to ``draws``.
        draws: 1 or more.
        alpha: probability in (0, 1) that the bound is below p.

    >>> round(float(clopper_pearson_upper(0, 1000, 0.05)), 6)
    0.002991
    """
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    some = np.minimum(k, n - 1)
    p = _checked(betainccinv(some + 1, n - some, alpha), lambda p: betaincc(some + 1, n - some, p), alpha)
    return np.where(k < n, np.maximum(p, 1 - _BELOW_ONE), 1.0)


def _checked(
    p: Shaped[np.ndarray, "*shape"] | float,
    tail: Callable[[Any], Any],
    alpha: float | Float64[np.ndarray, "*shape"],
) -> Float64[np.ndarray, "*shape"]:
    """A bound where its tail is alpha, found by bisection where it is not.

    scipy 1.17 inverts the incomplete beta function wrongly where a shape is 1,000: the bound of 999 misses in 10^9
    draws would be wrong eight times as often as it says at alpha = 1e-5.
    """
    p = np.asarray(p)
    wrong = ~(np.isclose(tail(p), alpha, rtol=1e-6, atol=0) | np.isnan(p))
    if not wrong.any():
        return p
    low, high = np.zeros_like(p), np.ones_like(p)  # the tail is below alpha at one, above it at the other
    falls = tail(low) > tail(high)
    for _ in range(60):
        middle = (low + high) / 2
        left = (tail(middle) < alpha) == falls
        low, high = np.where(left, low, middle), np.where(left, middle, high)
    return np.where(wrong, np.where(falls, high, low), p)


def radius(p_lower: Shaped[np.ndarray, "*shape"] | float, sigma: float) -> Float64[np.ndarray, "*shape"]:
    """Certified L2 radius R = sigma Phi^-1(p) of a class whose probability under noise is at least p.

    0 where p <= 1/2: nothing is certified (Cohen, Rosenfeld & Kolter 2019, theorem 1). Unit: pixels on [0, 1].

    >>> radius(np.array([0.4, 0.5, 0.975]), 0.5).round(4).tolist()
    [0.0, 0.0, 0.98]
    """
    return np.asarray(np.maximum(sigma * ndtri(p_lower), 0.0))


def required_probability(radii: Shaped[np.ndarray, "*shape"] | float, sigma: float) -> Float64[np.ndarray, "*shape"]:
    """Phi(r / sigma): the probability that certifies radius r; the inverse of :func:`radius`.

    >>> float(required_probability(0.0, 0.5))
    0.5
    """
    return np.asarray(ndtr(np.asarray(radii, dtype=np.float64) / sigma))


def equivalent_probability(
    p_a: Shaped[np.ndarray, "*shape"] | float, p_b: Shaped[np.ndarray, "*shape"] | float
) -> Float64[np.ndarray, "*shape"]:
    """The p_A that alone would certify the two-sided radius sigma/2 (Phi^-1(p_A) - Phi^-1(p_B)).

    It is p_A itself where p_B = 1 - p_A, and more where several classes share the rest (Cohen et al. 2019, theorem 1).

    Args:
        p_a: probability of the class under noise, at least.
        p_b: probability of every other class under noise, at most.

    >>> equivalent_probability(np.array([0.45, 0.9]), np.array([0.2, 0.1])).round(3).tolist()
    [0.64, 0.9]
    """
    return np.asarray(ndtr((ndtri(p_a) - ndtri(p_b)) / 2))


def floor_radius(value: float, digits: int = 3) -> str:
    """A radius for print, never above the stored one: at most ``digits`` decimals, rounded down.

    >>> floor_radius(0.4996), f"{0.4996:.3}"
    ('0.499', '0.5')
    >>> floor_radius(1.001)
    '1.001'
    """
    # truncate the shortest decimal that reads back as the number: floor(1000 * 1.001) / 1000 would print 1.000
    whole, _, fraction = np.format_float_positional(value, unique=True, trim="k").partition(".")
    return f"{whole}.{fraction[:digits]:0<{digits}}"


def ceil_radius(value: float) -> str:
    """A difference of radii, or an error of one, for print: three decimals, rounded up.

    >>> ceil_radius(0.0041)
    '0.005'
    """
    return f"{ceil(1000 * value) / 1000:.3f}"


def false_certificates(n_images: int, alpha: float, rho: float = 0.001) -> int:
    """With probability 1 - rho over the draws, no more of ``n_images`` certificates than this are false.

    Each is false with probability at most alpha, independently, so their number is stochastically below
    Binomial(n_images, alpha); this is its 1 - rho quantile (Cohen et al. 2019 bound the same tail by Bernstein).

    >>> false_certificates(10_000, 0.001)
    21
    """
    return int(stats.binom.ppf(1 - rho, n_images, alpha))
