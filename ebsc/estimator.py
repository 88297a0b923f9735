"""Denoisers: from an image under noise to an estimate of the clean one."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ebsc.energy import Energy

__all__ = ["EmpiricalBayes", "bayes_estimate"]


def bayes_estimate(
    energy: Energy, y: Float[Tensor, "batch channel height width"], sigma: float
) -> Float[Tensor, "batch channel height width"]:
    """The Bayes estimator of X given Y = y for Y = X + N(0, sigma^2 I).

    xhat(y) = y + sigma^2 grad log p(y) = y - sigma^2 grad phi(y) (Miyasawa 1961; Robbins 1956). It needs the density of
    Y alone, and minimises E|X - xhat(Y)|^2.

    Args:
        energy: phi, up to a constant the negative log density of Y.
        y: images under noise, on the scale where clean images lie in [0, 1].
        sigma: standard deviation of the noise that phi belongs to.

    >>> from ebsc.energy import GaussianMixture
    >>> energy = GaussianMixture.two_classes(torch.full((1, 1, 2), 2.0), s=0.0, sigma=0.5, centre=0.0)
    >>> bayes_estimate(energy, torch.ones(1, 1, 1, 2), 0.5)
    tensor([[[[2., 2.]]]])
    """
    # torch.func, not torch.autograd: this form compiles with fullgraph=True and can be trained through
    return y - sigma**2 * torch.func.grad(lambda v: energy(v).sum())(y)


class EmpiricalBayes(nn.Module):
    """The Bayes estimator of an energy, as a module."""

    def __init__(self, energy: Energy, sigma: float) -> None:
        super().__init__()
        self.energy = energy
        self.sigma = sigma

    def forward(self, y: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        return bayes_estimate(self.energy, y, self.sigma)
