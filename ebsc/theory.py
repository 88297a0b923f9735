"""Exact answers: the two-class linear case, where everything about an EBSC is a one-dimensional integral."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from scipy.special import ndtr, ndtri
from torch import nn

from ebsc.classifier import Linear
from ebsc.energy import GaussianMixture
from ebsc.errors import InputError
from ebsc.estimator import EmpiricalBayes
from ebsc.model import Ebsc

__all__ = [
    "exact_model",
    "exact_radius",
    "margin",
    "mean_radius",
    "plane",
    "share_lowered",
    "signed_radius",
    "win_probability",
]

Vector = Float64[np.ndarray, " dimension"]
Vectors = Float64[np.ndarray, "*points dimension"]
Numbers = Float64[np.ndarray, "*points"]

_REACH = 36.0  # standard deviations; beyond lies less than 1e-283


def win_probability(x: Vectors, w: Vector, mu: Vector, s: float, sigma: float) -> Numbers:
    """P[w . xhat(x + eps) > 0], eps ~ N(0, sigma^2 I), when X is an equal mixture of N(+mu, s^2 I) and N(-mu, s^2 I).

    With v = s^2 + sigma^2 and a = s^2 / v the Bayes estimator is xhat(y) = a y + (1 - a) mu tanh(mu.y / v), so that the
    score is w.xhat(y) = a w.y + (1 - a) (w.mu) tanh(mu.y / v): a function of two Gaussian projections of y. Given
    t = mu.y, w.y is Gaussian with the regression mean and a residual variance that does not depend on t. What is left
    is an integral over t (`docs/method.md`, section 5).

    Args:
        x: clean images, centred: 0 lies half-way between the classes. Unit: pixels on [0, 1].
        w: normal of the base classifier f(x) = sign(w.x).
        mu: half the difference of the class means.
        s: standard deviation of X around its class mean.
        sigma: standard deviation of the noise.

    Returns:
        The probability at each image, to 1e-12.

    Raises:
        InputError: mu is 0, the score is 0 everywhere (w is 0; or s is 0 and w is orthogonal to mu), or sigma or s is
            not a standard deviation.

    >>> x = np.array([1.0, 0.5])
    >>> p = win_probability(x, w=np.array([1.0, 0.0]), mu=np.array([1.0, 1.0]), s=0.0, sigma=1.0)
    >>> round(float(p), 6)  # Phi(1.5/sqrt(2))
    0.855578
    """
    if not (0 < sigma < float("inf") and 0 <= s < float("inf")):
        raise InputError(f"sigma must be a positive number and s not negative, not {sigma} and {s}")
    length, v = float(np.linalg.norm(mu)), s**2 + sigma**2
    a = s**2 / v
    along = float(w @ mu) / length if length else 0.0
    spread = a * sigma * float(np.linalg.norm(w - along * mu / length)) if length else 0.0
    mean_w, mean_t = (x @ w)[..., None], (x @ mu)[..., None]
    if not along and not spread:
        raise InputError("w, mu, and where s = 0 also w.mu, must not be 0")

    def mean_score(z: Any) -> Any:
        """E[w.xhat | mu.y = mean_t + sigma length z]: monotone in z."""
        return a * (mean_w + sigma * along * z) + (1 - a) * along * length * np.tanh((mean_t + sigma * length * z) / v)

    def crossings(scores: np.ndarray) -> np.ndarray:
        """Where the mean score takes these values, or the end of the range on that side."""
        low = np.full((*mean_w.shape[:-1], len(scores)), -_REACH)
        high = -low
        for _ in range(60):
            middle = (low + high) / 2
            before = np.sign(along) * (mean_score(middle) - scores) < 0
            low, high = np.where(before, middle, low), np.where(before, high, middle)
        return high

    if not spread:
        return np.asarray(ndtr(-np.sign(along) * crossings(np.zeros(1))[..., 0]))
    # panels on each of which the density, tanh and the conditional probability change little
    centre, width = -mean_t / (sigma * length), v / (sigma * length)
    inner = [centre + width * np.arange(-40, 41), crossings(spread * np.arange(-9, 10))]
    whole = np.broadcast_to(np.arange(-_REACH, _REACH + 1), (*centre.shape[:-1], int(2 * _REACH) + 1))
    breaks = np.sort(np.clip(np.concatenate([whole, *inner], -1), -_REACH, _REACH))
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(breaks)[..., None] / 2
    flat = (*centre.shape[:-1], -1)
    z, weights = (breaks[..., :-1, None] + half * (nodes + 1)).reshape(flat), (half * weights).reshape(flat)
    return np.asarray((weights * ndtr(mean_score(z) / spread) * np.exp(-(z**2) / 2)).sum(-1) / np.sqrt(2 * np.pi))


def signed_radius(x: Vectors, w: Vector, mu: Vector, s: float, sigma: float) -> Numbers:
    """The exact radius of class +1 where it wins the vote, minus that of class -1 elsewhere: sigma Phi^-1(p) of +1.

    As s grows it goes to w.x / |w|, the signed margin, which is what plain smoothing has. It ends at 36 sigma, far
    beyond what any number of draws could certify.

    Args:
        x: clean images, centred. See :func:`win_probability` for all arguments.
        w: normal of the base classifier; class +1 is where w.x > 0.
        mu: half the difference of the class means.
        s: standard deviation of X around its class mean.
        sigma: standard deviation of the noise.

    >>> x, w = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([1.0, 0.0])
    >>> signed_radius(x, w, mu=np.array([1.0, 1.0]), s=0.0, sigma=0.5).round(6)
    array([ 0.707107, -0.707107])
    """
    wins, loses = win_probability(x, w, mu, s, sigma), win_probability(x, -w, mu, s, sigma)
    tail = ndtri(np.minimum(wins, loses)).clip(min=-_REACH)
    return np.asarray(np.where(wins < loses, 1.0, -1.0) * sigma * tail)


def exact_radius(x: Vectors, w: Vector, mu: Vector, s: float, sigma: float) -> Numbers:
    """Radius R = sigma Phi^-1(p) of the class that wins the vote: what infinitely many draws would certify at x.

    No certificate from counts may exceed it, except with probability alpha. As s -> 0 it goes to |mu.x| / |mu|: the
    boundary turns from w to mu, and at x = mu the radius |mu| is above the margin unless w is parallel to mu.

    Args:
        x: clean images, centred. See :func:`win_probability` for all arguments.
        w: normal of the base classifier.
        mu: half the difference of the class means.
        s: standard deviation of X around its class mean.
        sigma: standard deviation of the noise.

    >>> x, w, mu = np.array([1.0, 1.0]), np.array([1.0, 0.0]), np.array([1.0, 1.0])
    >>> float(exact_radius(x, w, mu, s=0.0, sigma=0.5).round(6)), margin(x, w)
    (1.414214, 1.0)
    """
    return np.asarray(np.abs(signed_radius(x, w, mu, s, sigma)))


def margin(x: Vector, w: Vector) -> float:
    """|w.x| / |w|: distance from x to the boundary of sign(w.x), and exactly what plain smoothing certifies.

    Args:
        x: the clean image, centred. Unit: pixels on [0, 1].
        w: normal of the base classifier.

    >>> margin(np.array([3.0, 4.0]), np.array([0.0, 2.0]))
    4.0
    """
    return float(abs(w @ x) / np.linalg.norm(w))


def plane(w: Vector, mu: Vector, along: Numbers, across: Numbers) -> Vectors:
    """Points of the plane of mu and w, on which alone votes depend.

    Args:
        w: normal of the base classifier.
        mu: half the difference of the class means.
        along: coordinates of the points along mu. Unit: pixels on [0, 1].
        across: theirs along the part of w orthogonal to mu, where there is one.

    >>> plane(np.array([1.0, 1.0]), np.array([2.0, 0.0]), np.array([3.0]), np.array([4.0]))
    array([[3., 4.]])
    """
    first = mu / np.linalg.norm(mu)
    second = w - (w @ first) * first
    second /= max(float(np.linalg.norm(second)), float(np.finfo(np.float64).tiny))
    return along[..., None] * first + across[..., None] * second


def _reached(mu: Vector, s: float, sigma: float) -> float:
    """|mu|, where :func:`signed_radius` reaches the whole class."""
    length = float(np.linalg.norm(mu))
    if length + 5 * s > _REACH * sigma:
        raise InputError(f"|mu| + 5 s must be at most {_REACH:g} sigma, not {length:g} + 5 x {s:g}")
    return length


def mean_radius(w: Vector, mu: Vector, s: float, sigma: float) -> float:
    """Mean of the signed radius over class +1, X ~ N(mu, s^2 I): by Gauss-Hermite quadrature in the plane, to 1e-6.

    For plain smoothing it is w.mu / |w|, the signed margin at mu.

    Args:
        w: normal of the base classifier.
        mu: half the difference of the class means. See :func:`win_probability` for all arguments.
        s: standard deviation of X around its class mean.
        sigma: standard deviation of the noise.

    Raises:
        InputError: |mu| + 5 s is beyond the 36 sigma that the integral reaches.

    >>> w, mu = np.array([0.6, 0.8]), np.array([1.0, 0.0])
    >>> round(mean_radius(w, mu, s=0.25, sigma=0.5), 3), margin(mu, w)
    (0.995, 0.6)
    """
    length = _reached(mu, s, sigma)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    counts = weights > 1e-14  # what the others could add at 36 sigma is below 1e-10 sigma, and they are most
    along, across = np.meshgrid(length + s * nodes, s * nodes)
    radii = signed_radius(plane(w, mu, along[counts], across[counts]), w, mu, s, sigma)
    return float((weights[counts] * radii).sum())


def share_lowered(w: Vector, mu: Vector, s: float, sigma: float) -> float:
    """Share of class +1, X ~ N(mu, s^2 I), whose signed radius is lower with denoising than by plain smoothing.

    Counted over 40 x 40 equally likely points of the plane.

    Args:
        w: normal of the base classifier.
        mu: half the difference of the class means. See :func:`win_probability` for all arguments.
        s: standard deviation of X around its class mean.
        sigma: standard deviation of the noise.

    Raises:
        InputError: as of :func:`mean_radius`.

    >>> w, mu = np.array([0.6, 0.8]), np.array([1.0, 0.0])
    >>> share_lowered(w, mu, s=0.0, sigma=0.5), share_lowered(w, mu, s=0.5, sigma=0.5) > 0.05
    (0.0, True)
    """
    quantiles = ndtri((np.arange(40) + 0.5) / 40)
    points = plane(w, mu, *np.meshgrid(_reached(mu, s, sigma) + s * quantiles, s * quantiles))
    plain = points @ w / np.linalg.norm(w)
    return float((signed_radius(points, w, mu, s, sigma) < plain - 1e-9).mean())


def exact_model(w: Vector, mu: Vector, s: float, sigma: float, shape: tuple[int, int, int]) -> Ebsc:
    """The model that the answers of this module are about, as one that votes on images centred on grey, 1/2.

    Args:
        w: normal of the base classifier; class 1 of the model is class +1.
        mu: half the difference of the class means. See :func:`win_probability` for all arguments.
        s: standard deviation of X around its class mean.
        sigma: standard deviation of the noise.
        shape: channels, height, width of an image.

    >>> net = exact_model(np.array([1.0, 0.0]), np.array([0.5, 0.5]), 0.1, 0.5, shape=(1, 1, 2))
    >>> net(torch.tensor([1.0, 0.8]).view(1, 1, 1, 2)).argmax().item()
    1
    """
    classifier = Linear(shape, 2)
    nn.init.zeros_(classifier.map.weight)
    classifier.map.weight.data[1] = torch.from_numpy(w)
    classifier.map.bias.data = torch.tensor([0.0, -float(w.sum()) / 2])
    energy = GaussianMixture.two_classes(torch.from_numpy(mu).float().view(shape), s, sigma)
    return Ebsc(EmpiricalBayes(energy, sigma), classifier, sigma)
