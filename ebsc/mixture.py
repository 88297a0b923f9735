"""A mixture of isotropic Gaussians fitted to images: an energy that needs no training by gradients."""

import warnings

import numpy as np
import torch

from ebsc.data import Dataset
from ebsc.energy import GaussianMixture
from ebsc.errors import InputError

__all__ = ["check_components", "fit"]

_IMAGES = 10_000
"""So many images, chosen at random, are enough to fit a mixture to."""


def check_components(components: int, data: Dataset) -> None:
    """Raise :class:`InputError` unless so many components can be fitted to the images."""
    most = min(len(data.labels), _IMAGES)
    if most < 2:
        raise InputError("a mixture is fitted to two images or more")
    if not 1 <= components <= most:
        raise InputError(
            f"components must lie between 1 and {most}, the images that they are fitted to, not {components}"
        )


def fit(data: Dataset, components: int, sigma: float, *, seed: int = 0) -> GaussianMixture:
    """Fit weights, means and variances by expectation maximisation (Dempster, Laird & Rubin 1977), from k-means.

    The mixture is fitted to clean images, so that its energy under noise follows for every sigma. On one thread, so
    that the same seed gives the same mixture however many there are.

    Args:
        data: training images; of more than 10,000, so many at random.
        components: number of Gaussians.
        sigma: standard deviation of the noise that the energy is for.
        seed: of the choice of images and of the start.

    Raises:
        InputError: more components than images, or none.

    >>> from ebsc.data import load
    >>> fit(load("digits", "test"), 3, sigma=0.5).log_weights.exp().sum().round(decimals=5)
    tensor(1.)
    """
    from sklearn import mixture
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    check_components(components, data)
    chosen = np.random.default_rng(seed).permutation(len(data.images))[:_IMAGES]
    pixels = data.off_lattice().images[np.sort(chosen)].reshape(len(chosen), -1).astype(np.float64)
    model = mixture.GaussianMixture(components, covariance_type="spherical", random_state=seed % 2**32)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the likelihood of the last step will do
        model.fit(pixels)
    means, variances, weights = (
        torch.from_numpy(part).float() for part in (model.means_, model.covariances_, model.weights_)
    )
    return GaussianMixture.of(means.view(-1, *data.shape), variances, weights, sigma)
