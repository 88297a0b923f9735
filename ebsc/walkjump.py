"""Walk-jump: Langevin walks on the smoothed density, and jumps from there to estimates of clean images."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import exp, sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ebsc.errors import InputError
from ebsc.model import Ebsc

__all__ = ["Walk", "chain_votes", "check_can_walk", "split_r_hat", "walk"]

Images = Float[Tensor, "chain channel height width"]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """How to walk.

    Attributes:
        steps: Langevin steps of a chain, K: it takes K + 1 evaluations of the denoiser, and makes K + 1 jumps.
        step_size: length of a step, in units of sigma: what its noise moves a pixel by.
        friction: makes the walk underdamped: the rate at which it forgets its velocity, for each sigma of time. Absent,
            the walk is overdamped.

    Raises:
        InputError: a value that is not allowed.
    """

    steps: int = 4
    step_size: float = 0.5
    friction: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.step_size <= 1e3:
            raise InputError(
                f"a walk needs 1 step or more, of a positive length up to 1000, not {self.steps} of {self.step_size}"
            )
        if self.friction is not None and not 0 < self.friction <= 1e6:
            raise InputError(f"friction must be a positive number up to 1e6, not {self.friction}")

    @property
    def normals(self) -> int:
        """Standard normal images that a chain uses up."""
        return self.steps + (self.friction is not None)


def walk(
    denoiser: Callable[[Tensor], Tensor], y: Images, normals: Iterable[Images], sigma: float, how: Walk
) -> Iterator[tuple[Images, Images]]:
    """Langevin walk on the density of Y = X + N(0, sigma^2 I), with the jump xhat(y) from every point of it.

    -sigma^2 grad phi(y) = xhat(y) - y, so that one evaluation of the denoiser gives the jump and the next step.
    Overdamped, delta = step_size * sigma (Saremi & Hyvärinen 2019, arXiv 1903.02334):

        y <- y - (delta^2 / 2) grad phi(y) + delta N(0, I)

    Underdamped, in units of sigma for y and for time, from a velocity N(0, I): half a kick by -grad phi, half a step
    along the velocity, friction with its noise, half a step, half a kick (the splitting BAOAB of Leimkuhler & Matthews
    2013, arXiv 1203.5428). In the long run both have the smoothed density as their law, up to an error that vanishes
    with the step size.

    Args:
        denoiser: xhat.
        y: where the chains start.
        normals: ``how.normals`` batches of standard normals.
        sigma: standard deviation of the noise, on the scale where pixels lie in [0, 1].
        how: see :class:`Walk`.

    Yields:
        Points of the walk with their jumps, the start first, ``how.steps + 1`` times.

    >>> y = torch.zeros(1, 1, 1, 2)
    >>> how = Walk(steps=2, step_size=1.0)
    >>> [(float(y.sum()), float(jump.sum())) for y, jump in walk(lambda y: y + 1, y, [y] * 2, 1.0, how)]
    [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0)]
    """
    noise, h = iter(normals), how.step_size
    if how.friction is None:
        for z in noise:
            jump = denoiser(y)
            yield y, jump
            y = y + h**2 / 2 * (jump - y) + h * sigma * z
    else:
        kept, velocity, kick = exp(-how.friction * h), next(noise), h / 2
        for z in noise:
            jump = denoiser(y)
            yield y, jump
            velocity = velocity + kick * (jump - y) / sigma
            slowed = kept * velocity + sqrt(1 - kept**2) * z
            y = y + h / 2 * sigma * (velocity + slowed)
            velocity, kick = slowed, h  # the half kick that ends a step and the one that starts the next
    yield y, denoiser(y)


def chain_votes(
    model: Ebsc, y: Images, normals: Float[Tensor, "chain normal channel height width"], how: Walk
) -> Float[Tensor, "chain class"]:
    """Mean probability of each class over the jumps of a chain from y = x + eps; the largest is the chain's vote.

    A chain is a randomised function of y with randomness of its own, so that the smoothing theorem certifies the vote
    over chains as it does the vote of f(xhat(y)) (`docs/method.md`, section 6).

    Args:
        model: denoiser, classifier, sigma.
        y: images under noise.
        normals: the randomness of each chain.
        how: see :class:`Walk`.
    """
    dtype = y.dtype

    def denoiser(y: Tensor) -> Tensor:
        return model.denoiser(y.to(dtype)).float()

    points = walk(denoiser, y.float(), normals.float().unbind(1), model.sigma, how)
    return torch.stack([model.classifier(jump.to(dtype)).float().softmax(1) for _, jump in points]).mean(0)


def check_can_walk(model: Ebsc) -> None:
    """Raise :class:`InputError` unless a model has a denoiser to walk with."""
    if isinstance(model.denoiser, nn.Identity):
        raise InputError("a walk needs a denoiser, and this model has none (or --plain leaves it out)")


def split_r_hat(traces: Float[np.ndarray, "chain step what"]) -> Float[np.ndarray, " what"]:
    """Whether chains mix: the split R-hat of each quantity, near 1 where all halves of all chains have one law.

    sqrt(((n - 1) W + B) / (n W)) with W the mean variance within half-chains of length n, and B / n the variance of
    their means (Gelman et al. 2013, Bayesian Data Analysis, section 11.4). 1.01 is good, 1.1 is not, and no value
    proves that nothing was missed.

    Args:
        traces: quantities along each chain, 4 steps or more.

    >>> traces = np.random.default_rng(0).normal(size=(4, 1000, 1))
    >>> bool(split_r_hat(traces) < 1.01), bool(split_r_hat(traces + np.arange(4)[:, None, None]) > 1.4)
    (True, True)
    """
    n = traces.shape[1] // 2
    halves = np.concatenate([traces[:, :n], traces[:, -n:]])
    within, between = halves.var(1, ddof=1).mean(0), n * halves.mean(1).var(0, ddof=1)
    return np.sqrt((n - 1) / n + between / np.maximum(n * within, np.finfo(float).tiny))
