"""Projected gradient ascent in L2: the loop that attacks and adversarial objectives share."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Gradient", "ascend", "project", "unit", "within"]

Gradient = Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]
"""Points -> the gradient of what the attack wants to grow."""


def unit(direction: Float[Tensor, "*batch channel height width"]) -> Float[Tensor, "*batch channel height width"]:
    """The direction of each image at L2 length 1; zero stays zero."""
    length = direction.flatten(-3).norm(dim=-1)[..., None, None, None]
    return direction / torch.where(length > 0, length, 1)


def project(
    delta: Float[Tensor, "*batch channel height width"], epsilon: float | Float[Tensor, "*#batch 1 1 1"]
) -> Float[Tensor, "*batch channel height width"]:
    """Nearest point of the L2 ball of radius epsilon, one for all or one for each.

    >>> project(torch.tensor([[[[3.0, 4.0]]]]), 1.0)
    tensor([[[[0.6000, 0.8000]]]])
    """
    length = delta.flatten(-3).norm(dim=-1)[..., None, None, None].clamp(min=1e-12)
    return delta * (epsilon / length).clamp(max=1)


def within(
    x: Float[Tensor, "*batch channel height width"], epsilon: float | Float[Tensor, "*#batch 1 1 1"]
) -> Callable[[Tensor], Tensor]:
    """Takes points to images in [0, 1] no further than epsilon from x."""
    return lambda point: x + project(point.clamp(0, 1) - x, epsilon)


@torch.no_grad()
def ascend(
    gradient: Gradient,
    x: Float[Tensor, "*batch channel height width"],
    *,
    steps: int,
    step: float | Float[Tensor, "*#batch 1 1 1"],
    onto: Callable[[Tensor], Tensor],
) -> Float[Tensor, "*batch channel height width"]:
    """Projected gradient ascent: steps of one length along the gradient, each taken back to what is allowed.

    PGD of Madry et al. 2018 (arXiv 1706.06083), as attacks on smoothed classifiers use it (Salman et al. 2019, arXiv
    1906.04584).

    Args:
        gradient: see :data:`Gradient`.
        x: where to start.
        steps: how many.
        step: L2 length of one.
        onto: takes points to allowed ones, for example those of :func:`within`.

    >>> start = torch.zeros(1, 1, 1, 2)
    >>> ascend(torch.ones_like, start, steps=3, step=1.0, onto=lambda p: project(p, 2.0)).norm()
    tensor(2.)
    """
    point = x
    for _ in range(steps):
        point = onto(point + step * unit(gradient(point)))
    return point
