"""Exact answers: the two-class linear case, where everything about an EBSC is a one-dimensional integral."""

from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from ebsc.errors import InputError

__all__ = ["exact_radius", "margin", "probability"]

Vector = Float64[np.ndarray, " dimension"]

_REACH = 12.0  # standard deviations; beyond lies less than 1e-32


def probability(x: Vector, w: Vector, mu: Vector, s: float, sigma: float) -> float:
    """P[w . xhat(x + eps) > 0], eps ~ N(0, sigma^2 I), when X is an equal mixture of N(+mu, s^2 I) and N(-mu, s^2 I).

    With v = s^2 + sigma^2 and a = s^2 / v the Bayes estimator is xhat(y) = a y + (1 - a) mu tanh(mu.y / v), so that the
    score is w.xhat(y) = a w.y + (1 - a) (w.mu) tanh(mu.y / v): a function of two Gaussian projections of y. Given
    t = mu.y, w.y is Gaussian with the regression mean and a residual variance that does not depend on t. What is left
    is an integral over t (`docs/method.md`, section 5).

    Args:
        x: the clean image, centred: 0 lies half-way between the classes. Unit: pixels on [0, 1].
        w: normal of the base classifier f(x) = sign(w.x).
        mu: half the difference of the class means.
        s: standard deviation of X around its class mean.
        sigma: standard deviation of the noise.

    Returns:
        The probability, to 1e-12.

    Raises:
        InputError: the score is 0 everywhere (w or mu is 0; or s is 0 and w is orthogonal to mu), or sigma or s is not
            a standard deviation.

    >>> x = np.array([1.0, 0.5])
    >>> round(probability(x, w=np.array([1.0, 0.0]), mu=np.array([1.0, 1.0]), s=0.0, sigma=1.0), 6)  # Phi(1.5/sqrt(2))
    0.855578
    """
    if not (0 < sigma < float("inf") and 0 <= s < float("inf")):
        raise InputError(f"sigma must be a positive number and s not negative, not {sigma} and {s}")
    length, v = float(np.linalg.norm(mu)), s**2 + sigma**2
    a = s**2 / v
    along = float(w @ mu) / length if length else 0.0
    spread = a * sigma * float(np.linalg.norm(w - along * mu / length)) if length else 0.0
    mean_w, mean_t = float(w @ x), float(mu @ x)
    if not along and not spread:
        raise InputError("w.xhat is 0 everywhere: w, mu, and where s = 0 also w.mu, must not be 0")

    def mean_score(z: Any) -> Any:
        """E[w.xhat | mu.y = mean_t + sigma length z]: monotone in z."""
        return a * (mean_w + sigma * along * z) + (1 - a) * along * length * np.tanh((mean_t + sigma * length * z) / v)

    def crossing(score: float) -> float:
        """Where the mean score takes a value, or the end of the range on that side."""
        ends = mean_score(-_REACH) - score, mean_score(_REACH) - score
        if ends[0] * ends[1] >= 0:
            return _REACH if (ends[0] < 0) == (along > 0) else -_REACH
        return brentq(lambda z: mean_score(z) - score, -_REACH, _REACH, xtol=1e-15)

    if not spread:
        return float(ndtr(-np.sign(along) * crossing(0.0)))
    # panels on each of which the density, tanh and the conditional probability change little
    centre, width = -mean_t / (sigma * length), v / (sigma * length)
    inner = [*(centre + width * np.arange(-40, 41)), *(crossing(spread * k) for k in range(-9, 10) if along)]
    breaks = np.union1d(np.arange(-_REACH, _REACH + 1), np.clip(inner, -_REACH, _REACH))
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(breaks)[:, None] / 2
    z = breaks[:-1, None] + half * (nodes + 1)
    return float((half * weights * ndtr(mean_score(z) / spread) * np.exp(-(z**2) / 2)).sum() / np.sqrt(2 * np.pi))


def exact_radius(x: Vector, w: Vector, mu: Vector, s: float, sigma: float) -> float:
    """Radius R = sigma Phi^-1(p) of the class that wins the vote: what infinitely many draws would certify at x.

    No certificate from counts may exceed it, except with probability alpha. As s -> 0 it goes to |mu.x| / |mu|: the
    boundary turns from w to mu, and at x = mu the radius |mu| is above the margin unless w is parallel to mu.

    Args:
        x: the clean image, centred. See :func:`probability` for all arguments.
        w: normal of the base classifier.
        mu: half the difference of the class means.
        s: standard deviation of X around its class mean.
        sigma: standard deviation of the noise.

    >>> x, w, mu = np.array([1.0, 1.0]), np.array([1.0, 0.0]), np.array([1.0, 1.0])
    >>> round(exact_radius(x, w, mu, s=0.0, sigma=0.5), 6), margin(x, w)
    (1.414214, 1.0)
    """
    loses = min(probability(x, w, mu, s, sigma), probability(x, -w, mu, s, sigma))
    return float(-sigma * ndtri(loses))


def margin(x: Vector, w: Vector) -> float:
    """|w.x| / |w|: distance from x to the boundary of sign(w.x), and exactly what plain smoothing certifies.

    Args:
        x: the clean image, centred. Unit: pixels on [0, 1].
        w: normal of the base classifier.

    >>> margin(np.array([3.0, 4.0]), np.array([0.0, 2.0]))
    4.0
    """
    return float(abs(w @ x) / np.linalg.norm(w))
