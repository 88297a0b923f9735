"""Energies phi(y) = -log p(y) + const of the smoothed density p of Y = X + N(0, sigma^2 I)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ebsc.errors import InputError
from ebsc.networks import ConvNet, UNet
from ebsc.own import unknown

__all__ = ["Energy", "GaussianMixture", "ResidualEnergy", "ScalarEnergy", "build"]


class Energy(nn.Module, ABC):
    """A real function of an image under noise, once differentiable; only its gradient is ever used."""

    @abstractmethod
    def forward(self, y: Float[Tensor, "batch channel height width"]) -> Float[Tensor, " batch"]: ...


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


class GaussianMixture(Energy):
    """Exact energy when X is a mixture of isotropic Gaussians, N(m_k, s_k^2 I) with weight w_k.

    Y is then a mixture of N(m_k, v_k I) with v_k = s_k^2 + sigma^2, so that in d dimensions, up to a constant,
    phi(y) = -log sum_k exp(log w_k - d/2 log v_k - |y - m_k|^2 / (2 v_k)). With r_k(y) the posterior probability of
    component k, the Bayes estimator is xhat(y) = sum_k r_k(y) (m_k + s_k^2 / v_k (y - m_k)). Nothing in it is trained
    by gradients: it is given (:meth:`of`, :meth:`two_classes`) or fitted to images (:func:`ebsc.mixture.fit`).

    Args:
        shape: channels, height, width of an image.
        sigma: standard deviation of the noise.
        components: their number. Until it is given others, all of them are X = 0.

    Raises:
        InputError: no component.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor

    def __init__(self, shape: tuple[int, int, int], sigma: float, components: int = 100) -> None:
        super().__init__()
        if components < 1:
            raise InputError(f"components must be at least 1, not {components}")
        self.register_buffer("means", torch.zeros(components, *shape))
        self.register_buffer("variances", torch.zeros(components))
        self.register_buffer("log_weights", torch.full((components,), -log(components)))
        self.sigma = sigma

    @classmethod
    def of(
        cls,
        means: Float[Tensor, "component channel height width"],
        variances: Float[Tensor, " component"],
        weights: Float[Tensor, " component"],
        sigma: float,
    ) -> "GaussianMixture":
        """The energy of a mixture, in the precision of its means.

        Args:
            means: m_k, on the scale where clean images lie in [0, 1].
            variances: s_k^2; 0 is a point.
            weights: w_k, all positive; their sum does not matter.
            sigma: standard deviation of the noise.

        Raises:
            InputError: a negative variance, or a weight that is not positive.

        >>> energy = GaussianMixture.of(torch.eye(2).view(2, 1, 1, 2), torch.zeros(2), torch.ones(2), sigma=0.5)
        >>> energy(torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)) < energy(torch.tensor([-1.0, 0.0]).view(1, 1, 1, 2))
        tensor([True])
        """
        if not ((variances >= 0).all() and (weights > 0).all()):
            raise InputError("variances of a mixture must not be negative, and its weights positive")
        channels, height, width = means.shape[1:]
        energy = cls((channels, height, width), sigma, len(means)).to(means.dtype)
        energy.means.copy_(means)
        energy.variances.copy_(variances)
        energy.log_weights.copy_((weights / weights.sum()).log())
        return energy

    @classmethod
    def two_classes(
        cls, mu: Float[Tensor, "channel height width"], s: float, sigma: float, centre: float = 0.5
    ) -> "GaussianMixture":
        """X an equal mixture of N(centre + mu, s^2 I) and N(centre - mu, s^2 I).

        With v = s^2 + sigma^2, a = s^2 / v and y counted from the centre, xhat(y) = a y + (1 - a) mu tanh(mu.y / v).
        Everything about the EBSC of a linear classifier is then known exactly (:mod:`ebsc.theory`).

        Args:
            mu: half the difference of the class means. Unit: pixels on [0, 1].
            s: standard deviation of X around its class mean.
            sigma: standard deviation of the noise.
            centre: half-way between the classes, a grey.
        """
        return cls.of(torch.stack([centre + mu, centre - mu]), mu.new_full((2,), s**2), mu.new_ones(2), sigma)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GaussianMixture":
        """Moves to other devices, but stays in its precision when a model is cast to bfloat16."""

        def moved(buffer: Tensor) -> Tensor:
            new = fn(buffer)
            return buffer.to(new.device) if new.dtype in (torch.bfloat16, torch.float16) else new

        return super()._apply(moved, recurse)  # type: ignore[no-untyped-call]

    def forward(self, y: Float[Tensor, "batch channel height width"]) -> Float[Tensor, " batch"]:
        # in 8 bits the squares of a whole image, hundreds of v, would leave nothing of their differences
        dtype = torch.promote_types(y.dtype, torch.float32)
        with torch.autocast(y.device.type, enabled=False):
            flat, means = y.flatten(1).to(dtype), self.means.flatten(1).to(dtype)
            v = self.variances.to(dtype) + self.sigma**2
            squares = flat.square().sum(1, keepdim=True) - 2 * flat @ means.T + means.square().sum(1)
            logits = self.log_weights - flat.shape[1] / 2 * v.log() - squares / (2 * v)
            return -logits.logsumexp(1)


_KINDS: dict[str, type[ScalarEnergy] | type[ResidualEnergy] | type[GaussianMixture]] = {
    "residual": ResidualEnergy,
    "scalar": ScalarEnergy,
    "mixture": GaussianMixture,
}


def build(kind: str, shape: tuple[int, int, int], sigma: float, **options: Any) -> Energy:
    """An energy by name: ``residual``, ``scalar`` or ``mixture``, before anything is learned.

    Raises:
        InputError: unknown name.
    """
    if kind not in _KINDS:
        raise unknown("energy", kind, _KINDS)
    return _KINDS[kind](shape, sigma, **options)
