"""Objectives as the authors' own code has them, in plain PyTorch, one image after the other.

Every function gives the term of one image, and adds to ``row.kinds`` what this image stands for; a loss is the mean of
its terms over all images of the batch, those that a mask leaves at zero included.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax


class Row(NamedTuple):
    """An image in [0, 1], its label, its draws of noise (draw, channel, height, width) and uniform numbers (draw)."""

    f: Callable[[Tensor], Tensor]
    x: Tensor
    label: int
    noise: Tensor
    chance: Tensor
    strength: float
    sigma: float
    kinds: set[str]

    def logits(self, x: Tensor) -> Tensor:
        """At one point under all draws, or at one point for each draw."""
        return self.f(x + self.noise)

    def cross_entropies(self, logits: Tensor) -> Tensor:
        return cross_entropy(logits, torch.full((len(logits),), self.label), reduction="none")

    def direction(self, x: Tensor, tiny: float = 0.0) -> Tensor:
        """Along which -log of the mean probability of the label grows fastest."""
        x = x.clone().requires_grad_()
        value = -softmax(self.logits(x), 1).mean(0)[self.label].clamp(min=1e-20).log()
        (gradient,) = torch.autograd.grad(value, x)
        return gradient / (gradient.norm() + tiny)


def within(delta: Tensor, epsilon: float) -> Tensor:
    return delta * min(1.0, epsilon / max(float(delta.norm()), 1e-30))


def kl(target: Tensor, logits: Tensor) -> Tensor:
    """KL(target || p_i) for every draw i."""
    return torch.stack([kl_div(log_softmax(draw, 0), target, reduction="sum") for draw in logits])


def gaussian(row: Row) -> Tensor:
    return row.cross_entropies(row.logits(row.x)).mean()


def stability(row: Row, weight: float) -> Tensor:
    clean = row.f(row.x[None])
    noisy = [-(softmax(clean[0], 0) * log_softmax(draw, 0)).sum() for draw in row.logits(row.x)]
    return row.cross_entropies(clean)[0] + weight * sum(noisy) / len(noisy)


def smoothadv(row: Row, epsilon: float, steps: int, q: float = 0.0, slope: float = 0.0) -> Tensor:
    epsilon = epsilon * row.strength
    delta = torch.zeros_like(row.x)
    for _ in range(steps):
        delta = delta + 2 * epsilon / steps * row.direction(row.x + delta)
        unclamped = row.x + delta
        delta = within(unclamped.clamp(0, 1) - row.x, epsilon)
        row.kinds.add("clamped" if ((unclamped < 0) | (unclamped > 1)).any() else "free")
    logits = row.logits(row.x + delta)
    if slope:  # not theirs
        return 1 / (1 + torch.exp(slope * (softmax(logits, 1)[:, row.label].mean() - 0.5)))
    if q:  # not theirs: Zhang & Sabuncu 2018
        return ((1 - softmax(logits, 1)[:, row.label] ** q) / q).mean()
    return row.cross_entropies(logits).mean()


def consistency(row: Row, weight: float, entropy: float) -> Tensor:
    logits = row.logits(row.x)
    mean = softmax(logits, 1).mean(0)
    uncertainty = -(mean * mean.clamp(min=1e-20).log()).sum()
    return row.cross_entropies(logits).mean() + weight * kl(mean, logits).mean() + entropy * uncertainty


def macer(row: Row, weight: float, margin: float, temperature: float) -> Tensor:
    logits = row.logits(row.x)
    loss = -(softmax(logits, 1).mean(0)[row.label] + 1e-10).log()
    if row.strength < 1:
        return loss
    (first, second), (winner, _) = softmax(temperature * logits, 1).mean(0).topk(2)
    quantile = Normal(torch.zeros(()), torch.ones(())).icdf
    gap = quantile(second) - quantile(first)
    if winner != row.label:
        row.kinds.add("wrong")
    elif not gap.isfinite() or gap.abs() > margin:
        row.kinds.add("beyond the margin")
    else:
        row.kinds.add("counts")
        loss = loss + weight * row.sigma / 2 * (gap + margin)
    return loss


def smoothmix(row: Row, weight: float, steps: int, step: float, mix_step: int) -> Tensor:
    start = far = row.x
    for i in range(steps):
        if i == mix_step:
            start = far
        far = (far + step * row.direction(far, 1e-8)).clamp(0, 1)
    if mix_step:
        start = (row.x + within(start - row.x, row.strength * step * mix_step)).clamp(0, 1)
    logits = row.logits(start)
    mean = softmax(logits, 1).mean(0)
    share = row.chance[0] / 2
    mixed = row.logits((1 - share) * start + share * far)
    target = (1 - share) * mean + share / len(mean)
    row.kinds.add("right" if mean.argmax() == row.label else "wrong")
    loss = row.cross_entropies(logits).mean()
    if mean.argmax() == row.label:
        loss = loss + weight * row.strength * kl(target, mixed).mean()
    return loss


def catrs(row: Row, epsilon: float, weight: float, steps: int) -> Tensor:
    logits, draws = row.logits(row.x), len(row.noise)
    target = softmax(logits, 1).mean(0).detach()  # the authors: the votes of another network, a constant too
    hits = int((logits.argmax(1) == row.label).sum())
    kept = max(1, int((row.chance < hits / draws).sum()))
    row.kinds.update({f"{hits} hits", "certain" if kept == draws else "uncertain"})
    loss = row.cross_entropies(logits).sort().values[:kept].sum() / draws
    worst = []
    for eps in row.noise:
        moved, mean, size = eps, eps.mean(), eps.square().mean().sqrt()
        for _ in range(steps):
            moved = moved.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(kl(target, row.f((row.x + moved)[None])).sum() / draws, moved)
            moved = moved.detach() + 2 * epsilon / steps * gradient / (gradient.norm() + 1e-8)
            moved = eps + within(moved - eps, epsilon)
            moved = (moved - moved.mean()) / moved.square().mean().sqrt() * size + mean
        worst.append(kl(target, row.f((row.x + moved)[None]))[0])
    return loss + weight * (kept == draws) * torch.stack(worst).max()
