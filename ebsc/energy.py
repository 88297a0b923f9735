"""Energies phi(y) = -log p(y) + const of the smoothed density p of Y = X + N(0, sigma^2 I)."""

from math import log
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ebsc.errors import InputError
from ebsc.networks import ConvNet, UNet

__all__ = ["Energy", "ResidualEnergy", "ScalarEnergy", "TwoGaussians", "build"]


class Energy(nn.Module):
    """A real function of an image under noise, once differentiable; only its gradient is ever used."""

    def forward(self, y: Float[Tensor, "batch channel height width"]) -> Float[Tensor, " batch"]:
        raise NotImplementedError


class ScalarEnergy(Energy):
    """phi(y) = sum over the head of a convolutional network with smooth activations, plus |y|^2 / (2 c^2).

    The quadratic term keeps the energy confining (exp(-phi) integrable) far from the data and leaves the network the
    rest; c^2 = 1 + sigma^2.
    """

    def __init__(self, shape: tuple[int, int, int], sigma: float, width: int = 32) -> None:
        super().__init__()
        self.network = ConvNet(shape, width)
        self.sigma = sigma

    def forward(self, y: Float[Tensor, "batch channel height width"]) -> Float[Tensor, " batch"]:
        scale = self.sigma**2
        return self.network(y / (1 + scale) ** 0.5) / scale + 0.5 * y.flatten(1).square().sum(1) / (1 + scale)


class ResidualEnergy(Energy):
    """phi(y) = |y - h(y)|^2 / (2 sigma^2) with an image-to-image network h.

    Then xhat = h + J_h^T (y - h): at the cost of one backward pass, a denoiser whose field is a true gradient.
    """

    def __init__(self, shape: tuple[int, int, int], sigma: float, width: int = 32, depth: int = 1) -> None:
        super().__init__()
        self.network = UNet(shape, sigma, width=width, depth=depth)
        self.sigma = sigma

    def forward(self, y: Float[Tensor, "batch channel height width"]) -> Float[Tensor, " batch"]:
        return (y - self.network(y)).flatten(1).square().sum(1) / (2 * self.sigma**2)


class TwoGaussians(Energy):
    """Exact energy when X is an equal mixture of N(+mu, s^2 I) and N(-mu, s^2 I).

    With v = s^2 + sigma^2, up to a constant, phi(y) = |y|^2 / (2 v) - log cosh(mu.y / v), so that with a = s^2 / v
    the Bayes estimator is xhat(y) = a y + (1 - a) mu tanh(mu.y / v). Everything about the EBSC of a linear classifier
    is then known exactly (`docs/method.md`, section 5).

    >>> import torch
    >>> energy = TwoGaussians(torch.ones(1, 1, 2), s=0.0, sigma=1.0)
    >>> float(energy(torch.zeros(1, 1, 1, 2)))
    0.0
    """

    mu: Tensor

    def __init__(self, mu: Float[Tensor, "channel height width"], s: float, sigma: float) -> None:
        super().__init__()
        self.register_buffer("mu", mu)
        self.variance = s**2 + sigma**2

    def forward(self, y: Float[Tensor, "batch channel height width"]) -> Float[Tensor, " batch"]:
        projection = (y * self.mu).flatten(1).sum(1) / self.variance
        # log cosh t = softplus(2 t) - t - log 2, without overflow; exact to double precision from threshold 40 on
        log_cosh = nn.functional.softplus(2 * projection, threshold=40.0) - projection - log(2.0)
        return y.flatten(1).square().sum(1) / (2 * self.variance) - log_cosh


_KINDS: dict[str, type[ScalarEnergy] | type[ResidualEnergy]] = {"residual": ResidualEnergy, "scalar": ScalarEnergy}


def build(kind: str, shape: tuple[int, int, int], sigma: float, **options: Any) -> Energy:
    """An energy network by name: ``residual`` or ``scalar``.

    Raises:
        InputError: unknown name.
    """
    if kind not in _KINDS:
        raise InputError(f"unknown energy {kind!r}: choose one of {', '.join(_KINDS)}")
    return _KINDS[kind](shape, sigma, **options)
