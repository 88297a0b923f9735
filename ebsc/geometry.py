"""Where smoothing must fail: shells of noise, distances between classes, and what a Bayes classifier makes of y.

A diagnostic. Only :func:`most_certified` is a proof; all else is an estimate that says where to look.
"""

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.special import ndtr, poch
from scipy.stats import chi2, ncx2
from torch import Tensor

from ebsc.data import Dataset
from ebsc.errors import InputError
from ebsc.model import check_sigma
from ebsc.noise import BLOCK, Normals, Stream, check_seed

__all__ = ["kernel_margins", "most_certified", "nearest", "overlap", "predicted_radius", "shell", "shell_overlap"]

_ROWS, _COLUMNS = 512, 4096  # of a block of distances: 17 MB


def shell(sigma: float, dimension: int) -> tuple[float, float]:
    """Radius and thickness of the shell that N(0, sigma^2 I) concentrates on: mean and standard deviation of |eps|.

    E|eps| = sigma sqrt(2) Gamma((d + 1) / 2) / Gamma(d / 2), a little less than sigma sqrt(d), and the variance is
    sigma^2 d - (E|eps|)^2: in high dimension the thickness is sigma / sqrt(2), whatever d is.

    Args:
        sigma: standard deviation of the noise. Unit: pixels on [0, 1].
        dimension: d, pixels times channels.

    Raises:
        InputError: sigma is not a positive number.

    >>> [round(value, 3) for value in shell(0.5, 784)]
    [13.996, 0.353]
    """
    check_sigma(sigma)
    mean = 2**0.5 * float(poch(dimension / 2, 0.5))
    return sigma * mean, sigma * (dimension - mean**2) ** 0.5


def overlap(distance: Float64[np.ndarray, "*shape"], sigma: float) -> Float64[np.ndarray, "*shape"]:
    """Mass that N(x, sigma^2 I) and N(x', sigma^2 I) share: integral of the smaller density, 2 Phi(-D / (2 sigma)).

    Whoever has to tell from y alone which of the two equally likely images it came from errs with half of it at least.

    Args:
        distance: D = |x - x'|. Unit: pixels on [0, 1].
        sigma: standard deviation of the noise.

    >>> overlap(np.array([0.0, 1.0, 4.0]), sigma=0.5).round(4).tolist()
    [1.0, 0.3173, 0.0001]
    """
    return np.asarray(2 * ndtr(-np.asarray(distance) / (2 * sigma)))


def shell_overlap(distance: float, sigma: float, dimension: int) -> float:
    """Mass that the laws of |y - x| share when y comes from x and when it comes from an x' at distance D.

    What is left to tell the two apart if only the shell is looked at, the distance of y to x: |y - x|^2 / sigma^2 is
    chi-squared with d degrees of freedom, and noncentral with D^2 / sigma^2. Shells part at a D that grows like
    sigma (2 d)^(1/4), where the Gaussians themselves part at a few sigma whatever d is.

    Args:
        distance: D. Unit: pixels on [0, 1].
        sigma: standard deviation of the noise.
        dimension: d, pixels times channels.

    >>> [round(shell_overlap(distance, 0.5, 784), 2) for distance in (0.0, 4.0, 8.0)]
    [1.0, 0.44, 0.0]
    """
    moved = (distance / sigma) ** 2
    ends = dimension - 8 * (2 * dimension) ** 0.5, dimension + moved + 8 * (2 * dimension + 4 * moved) ** 0.5
    at = np.linspace(max(ends[0], 0.0), ends[1], 1000)
    # the likelihood ratio is monotone, so the shared mass is that of the best threshold
    return float((ncx2.cdf(at, dimension, moved) + chi2.sf(at, dimension)).min())


def nearest(images: Dataset, references: Dataset, *, other: bool) -> Float64[np.ndarray, " image"]:
    """L2 distance from each image to the nearest reference of another class, or of its own.

    Exact up to the last square root for images on the lattice: squared distances are integers below 2^53.

    Args:
        images: the images asked about.
        references: where the nearest is looked for; should not hold the images themselves.
        other: of another class (True) or of the same.

    Returns:
        Distances, unit: pixels on [0, 1]; infinite where there is no such reference.

    Raises:
        InputError: the two are not images of one shape on one lattice.

    >>> from ebsc.data import load
    >>> train, test = load("digits", "train"), load("digits", "test")
    >>> [round(float(np.median(nearest(test, train, other=other))), 2) for other in (True, False)]
    [1.89, 1.12]
    """
    _check_alike(images, references)
    best = torch.full((len(images.labels),), torch.inf, dtype=torch.float64)
    labels, theirs = torch.from_numpy(images.labels), torch.from_numpy(references.labels)
    for rows in _blocks(len(labels), _ROWS):
        for columns in _blocks(len(theirs), _COLUMNS):
            squared = _squared_distances(images, rows, references, columns)
            squared[(labels[rows, None] == theirs[columns]) == other] = torch.inf
            best[rows] = torch.minimum(best[rows], squared.amin(1))
    return best.sqrt().numpy() / _unit(images)


def most_certified(images: Dataset, radii: tuple[float, ...]) -> Int64[np.ndarray, " radius"]:
    """At most so many of the images can be certified at r for their own classes, by any classifier whatever.

    If x has radius R and x' radius R' for different classes, then R + R' <= D = |x - x'|: else some point of the
    segment between them lies in both open balls and would have two classes. So of two images of different classes with
    D < 2r at most one is certified at r, and those that are not certified cover all such pairs. A cover has at least
    half as many members as there are edges in the largest matching of the bipartite graph in which every image stands
    on both sides (the cover, taken on both sides, covers that graph), and that matching is found exactly.

    Args:
        images: the images that a certified accuracy is about.
        radii: r. Unit: pixels on [0, 1].

    Returns:
        For each radius a number of images: a bound on (certified accuracy at r) x (number of images).

    >>> pixels = np.array([0, 51, 255], dtype=np.uint8).reshape(3, 1, 1, 1)
    >>> three = Dataset(
    ...     name="three", split="test", images=pixels, labels=np.array([0, 1, 0]), levels=255, n_classes=2
    ... )
    >>> most_certified(three, (0.05, 0.15, 0.45)).tolist()  # D = 0.2 and 0.8; the images of class 0 do not conflict
    [3, 2, 2]
    """
    size, labels = len(images.labels), torch.from_numpy(images.labels)
    reach = (2 * max(radii) * _unit(images)) ** 2
    found: list[tuple[np.ndarray, ...]] = []
    for rows in _blocks(size, _ROWS):
        for columns in _blocks(size, _COLUMNS):
            squared = _squared_distances(images, rows, images, columns)
            at = torch.nonzero((squared < reach) & (labels[rows, None] != labels[columns]), as_tuple=True)
            found.append((at[0].numpy() + rows.start, at[1].numpy() + columns.start, squared[at].numpy()))
    row, column, squares = (np.concatenate(part) for part in zip(*found, strict=True))

    def most(radius: float) -> int:
        # rounding, also that of squares of floats, must not make a conflict of D = 2r
        conflict = squares < (2 * radius * _unit(images)) ** 2 * (1 - 1e-9) - 1e-9
        where = row[conflict], column[conflict]
        graph = coo_array((np.ones(len(where[0]), dtype=bool), where), shape=(size, size)).tocsr()
        return size - -(-int((maximum_bipartite_matching(graph) >= 0).sum()) // 2)

    return np.array([most(radius) for radius in radii])


@torch.no_grad()
def kernel_margins(
    images: Dataset,
    references: Dataset,
    sigmas: tuple[float, ...],
    *,
    indices: Int64[np.ndarray, " image"],
    draws: int = 16,
    seed: int = 0,
) -> Float64[np.ndarray, "sigma image draw"]:
    """Log odds, at draws of y = x + sigma eps, of the right class against the best other for a Bayes classifier.

    The references are taken as the density of X: the posterior of class c given y is proportional to the sum of
    exp(-|y - x_i|^2 / (2 sigma^2)) over the references x_i of class c (Parzen 1962), and the classifier is right where
    the log odds are positive. No classifier of y errs less if X is one of the references with equal probability; for
    images that are none of them it is an estimate, and a network that generalises better may do better. The noise is
    in floats: an estimate needs no lattice.

    Args:
        images: the images asked about.
        references: the density, the training images as a rule; should not hold the images themselves.
        sigmas: standard deviations of the noise. Unit: pixels on [0, 1].
        indices: addresses of the draws, the images' indices in the data set: the draws are the first ones that a
            certification with this seed estimates with, the same for each sigma.
        draws: draws of noise for each image, 2 to 128.
        seed: seed of all draws.

    Raises:
        InputError: draws, sigmas or seed are out of range; images and references do not fit together; the references
            are of one class.

    >>> from ebsc.data import load
    >>> train, test = load("digits", "train"), load("digits", "test")
    >>> margins = kernel_margins(test, train, (0.25, 1.0), indices=np.arange(360), draws=4)
    >>> (margins > 0).mean((1, 2)).round(1).tolist()
    [0.9, 0.4]
    """
    for sigma in sigmas:
        check_sigma(sigma)
    _check_alike(images, references)
    if not 2 <= draws <= BLOCK:
        raise InputError(f"draws must lie in 2..{BLOCK}, not {draws}")
    check_seed(seed)
    if len(np.unique(references.labels)) < 2:
        raise InputError(f"{references.name}: references of two classes are needed")
    clean, points, labels = _floats(images), _floats(references), torch.from_numpy(images.labels)
    by_class = [points[torch.from_numpy(references.labels == c)] for c in range(images.n_classes)]
    normals = Normals(seed, images.shape, "cpu")
    margins = torch.empty(len(sigmas), len(clean), draws, dtype=torch.float64)
    for rows in _blocks(len(clean), max(1, _ROWS // draws)):
        z = torch.stack([normals.block(i, Stream.ESTIMATE, 0)[:draws].flatten(1) for i in indices[rows].tolist()])
        log_odds = torch.full((len(sigmas), len(z), draws, len(by_class)), -torch.inf, dtype=torch.float64)
        for c, members in enumerate(by_class):
            if not len(members):
                continue
            # y.x_i = x.x_i + sigma eps.x_i: one product for all sigmas; |y|^2 is common to all references
            still, noise = (clean[rows] @ members.T - members.square().sum(1) / 2)[:, None], z @ members.T
            for number, sigma in enumerate(sigmas):
                log_odds[number, ..., c] = _log_sum_exp(torch.add(still / sigma**2, noise, alpha=1 / sigma))
        own = labels[rows, None, None].expand(len(sigmas), -1, draws, 1)
        margins[:, rows] = log_odds.gather(3, own).squeeze(3) - log_odds.scatter(3, own, -torch.inf).amax(3)
    return margins.numpy()


def predicted_radius(margins: Float64[np.ndarray, "image draw"], sigma: float) -> Float64[np.ndarray, " image"]:
    """Radius that very many draws would certify, were the log odds Gaussian: sigma Phi^-1(p), p = Phi(mean / sd).

    They are for two references: the mean is D^2 / (2 sigma^2) and the standard deviation D / sigma, so that the radius
    is D / 2. Else it is extrapolated from the draws seen to the tail that decides: an estimate, never a certificate.

    Args:
        margins: log odds of the right class, of :func:`kernel_margins`.
        sigma: standard deviation of the noise.

    Returns:
        Radii, unit: pixels on [0, 1]; 0 where the right class is not the likelier one.

    >>> predicted_radius(np.array([[1.0, 3.0], [-1.0, 0.5]]), 0.5).round(3).tolist()
    [0.707, 0.0]
    """
    with np.errstate(invalid="ignore"):  # minus infinity where no reference is of the right class
        ratio = margins.mean(1) / margins.std(1, ddof=1)
    return np.where(margins.mean(1) > 0, sigma * ratio, 0.0)


def _log_sum_exp(scores: Float32[Tensor, "image draw reference"]) -> Float32[Tensor, "image draw"]:
    """Over the references; overwrites the scores. What is below e^-80 of the largest is no part of a float32 sum."""
    top = scores.amax(2, keepdim=True)
    # exponentials that are denormal numbers would take most of the time
    return scores.sub_(top).clamp_(min=-80).exp_().sum(2).log_().add_(top.squeeze(2))


def _floats(images: Dataset) -> Float32[Tensor, "image pixel"]:
    return torch.from_numpy(images.off_lattice().images).flatten(1)


def _check_alike(images: Dataset, references: Dataset) -> None:
    if (images.shape, images.levels, images.on_lattice) != (references.shape, references.levels, references.on_lattice):
        raise InputError(f"{images.name}: images and references are not of one shape on one lattice")


def _unit(images: Dataset) -> int:
    """What the distance of stored images is to be divided by."""
    return images.levels if images.on_lattice else 1


def _blocks(size: int, block: int) -> list[slice]:
    return [slice(start, min(start + block, size)) for start in range(0, size, block)]


def _squared_distances(one: Dataset, rows: slice, other: Dataset, columns: slice) -> Tensor:
    """|x - x'|^2 of stored images in float64."""
    x, y = (torch.from_numpy(data.images[part]).flatten(1).double() for data, part in ((one, rows), (other, columns)))
    squared = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
    return squared.clamp_(min=0)
