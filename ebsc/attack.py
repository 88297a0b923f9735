"""L2 attacks on the smoothed classifier: images of the lattice on which its vote may be another."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from ebsc.ascent import ascend, unit, within
from ebsc.device import compiling
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.objectives import Labels, Logits, Network, expected_cross_entropy

__all__ = ["Attacker", "Pgd", "distances", "onto_lattice"]

Pixels = UInt8[np.ndarray, "row channel height width"]
Radii = Float64[np.ndarray, " row"]


MARGIN = 10.0
"""Logits of an image are divided so that the label's are about so far from the others on average, where it is more."""


@dataclass(frozen=True, kw_only=True)
class Pgd:
    """How hard to attack.

    Attributes:
        steps: gradient steps of a run, each of length 2.5 radius / steps.
        draws: draws of noise of every gradient; new ones in every step (expectation over transformation).
        restarts: runs; the first starts at the image, the others at random points of the ball. The best end counts.

    Raises:
        InputError: a number below 1.
    """

    steps: int = 20
    draws: int = 16
    restarts: int = 1

    def __post_init__(self) -> None:
        if min(self.steps, self.draws, self.restarts) < 1:
            raise InputError("steps, draws and restarts of an attack must be at least 1")


class Attacker:
    """PGD on the smoothed classifier, by gradients of -log E[softmax f(xhat(x + eps))] through xhat.

    Salman et al. 2019 (arXiv 1906.04584), section 2.2, with new noise in every step. Where a classifier is so sure of
    itself that the gradient would vanish, its logits are divided by a number first (:data:`MARGIN`). What it ends with
    is taken to the pixel lattice within the ball, so that the vote on it can be counted soundly.

    Args:
        model: denoiser, classifier, sigma; it is moved to the device, in evaluation mode. Of a walk-jump vote, the
            gradients are those of its one-step vote.
        levels: L, the integer of white.
        how: see :class:`Pgd`.
        device: where the network runs.
        bfloat16: run it in bfloat16, by autocast.
        compiled: compile the gradient.
    """

    def __init__(
        self,
        model: Ebsc,
        *,
        levels: int,
        how: Pgd,
        device: torch.device | str = "cpu",
        bfloat16: bool = False,
        compiled: bool = False,
    ) -> None:
        self._device = torch.device(device)
        self._network = Network(model.to(self._device).eval(), compiled=compiled)
        self._levels = levels
        self._how = how
        self._bfloat16 = bfloat16

    def attack(self, images: Pixels, labels: Int64[np.ndarray, " row"], radii: Radii, seed: int) -> Pixels:
        """Images of the lattice within the L2 balls of these radii (pixels on [0, 1]), away from their labels.

        ``seed`` is that of the noise that the attack sees, and of its restarts.
        """
        generator = torch.Generator(self._device).manual_seed(seed)
        targets = torch.from_numpy(labels).to(self._device)
        ball = torch.from_numpy(radii).float().to(self._device)[:, None, None, None]
        x = torch.from_numpy(images).to(self._device).float() / self._levels
        best, highest = images.copy(), np.full(len(images), -np.inf)
        judging = self._noise(x, 4 * self._how.draws, generator)  # the same for all restarts
        temperature = (_margins(self._logits(x, judging), targets).abs().mean(0) / MARGIN).clamp(min=1)
        for restart in range(self._how.restarts):
            start = x
            if restart:
                way = unit(torch.randn(x.shape, generator=generator, device=self._device))
                start = x + ball * torch.rand(ball.shape, generator=generator, device=self._device) * way
            point = self._pgd(x, start, ball, targets, temperature, generator)
            found = onto_lattice(images, (point - x).double().cpu().numpy(), radii, self._levels)
            logits = self._logits(torch.from_numpy(found).to(self._device) / self._levels, judging)
            p = (logits / temperature[:, None]).softmax(2).mean(0).gather(1, targets[:, None])[:, 0]
            losses = -p.log().cpu().numpy()
            better = losses > highest
            best[better], highest[better] = found[better], losses[better]
        return best

    def _pgd(
        self, x: Tensor, start: Tensor, ball: Tensor, targets: Tensor, temperature: Tensor, generator: torch.Generator
    ) -> Tensor:
        def gradient(point: Tensor) -> Tensor:
            noise = self._noise(x, self._how.draws, generator)
            return self._network.gradient(_tempered_cross_entropy, noise, targets, temperature)(point)

        with self._precision(), compiling():
            return ascend(
                gradient,
                start,
                steps=self._how.steps,
                step=2.5 * ball / self._how.steps,
                onto=within(x, ball),
            )

    def _logits(self, x: Tensor, noise: Tensor) -> Logits:
        with torch.no_grad(), self._precision():
            return torch.stack([self._network.model(x + eps).float() for eps in noise])

    def _noise(self, x: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        return self._network.model.sigma * torch.randn((draws, *x.shape), generator=generator, device=self._device)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16)


def _margins(logits: Logits, labels: Labels) -> Float[Tensor, "draw row"]:
    """How far the label's logit is above the largest other one."""
    chosen = torch.nn.functional.one_hot(labels, logits.shape[2]).bool()
    return logits[:, chosen] - logits.masked_fill(chosen, -torch.inf).amax(2)


def _tempered_cross_entropy(logits: Logits, labels: Labels, temperature: Float[Tensor, " row"]) -> Tensor:
    return expected_cross_entropy(logits / temperature[:, None], labels)


def distances(images: Pixels, others: Pixels, levels: int) -> Radii:
    """L2 distances (pixels on [0, 1]) between images of the lattice, exact but for one square root and one division.

    >>> distances(np.array([[[[0, 255]]]], np.uint8), np.array([[[[51, 255]]]], np.uint8), 255)
    array([0.2])
    """
    squares = (images.astype(np.int64) - others.astype(np.int64)) ** 2
    return np.sqrt(squares.sum((1, 2, 3))) / levels


def onto_lattice(
    images: Pixels, delta: Float64[np.ndarray, "row channel height width"], radii: Radii, levels: int
) -> Pixels:
    """The images moved by about delta, rounded to the lattice, and never further than their radii.

    Rounding lengthens: delta is shortened by steps of 2% until the rounded one is short enough.

    >>> image, delta = np.zeros((1, 1, 1, 2), np.uint8), np.array([[[[0.4, 0.3]]]])
    >>> onto_lattice(image, delta, np.array([0.5]), 10)
    array([[[[4, 3]]]], dtype=uint8)
    """
    moved, left = images.copy(), np.arange(len(images))
    for factor in np.arange(1, 0, -0.02):
        tried = np.rint(images[left] + levels * factor * delta[left]).clip(0, levels).astype(np.uint8)
        within = distances(images[left], tried, levels) <= radii[left]
        moved[left[within]] = tried[within]
        left = left[~within]
    return moved
