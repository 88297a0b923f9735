"""A small vote on three digits, and the same in the words of the definition."""

import numpy as np
import torch
from nets import small

from ebsc import data
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign, Unit
from ebsc.model import Ebsc
from ebsc.noise import BLOCK, Normals, Stream, perturb
from ebsc.votes import Voter
from ebsc.walkjump import Walk, walk

SIGMA = 0.5
ADDRESSES = np.array([5, 900, 2])
BUDGET = Fixed(n=200, n0=40)


def model(denoiser: str = "residual") -> Ebsc:
    return small(denoiser, std=0.2).eval()


def images() -> np.ndarray:
    return data.load("digits", "test").images[:3]


def campaign(seed: int = 0) -> Campaign:
    return Campaign(np.zeros(3, dtype=np.int64), 10, SIGMA, budget=BUDGET, images=ADDRESSES, seed=seed)


def certificates(voter: Voter, size: int = 10**6, *, shuffle: bool = False, seed: int = 0) -> bytes:
    run = campaign(seed)
    while units := run.next_units(size):
        for unit in reversed(units) if shuffle else units:
            run.merge(unit, voter.count(unit))
    return run.certificates().tobytes()


@torch.no_grad()
def naive(net: Ebsc, pixels: np.ndarray, unit: Unit, how: Walk | None = None) -> np.ndarray:
    """One draw or one chain at a time, in the words of the definition."""
    counts = np.zeros((len(unit.spans), 10), dtype=np.int64)
    noise = Normals(unit.seed, (1, 8, 8), "cpu")
    steps = [(), *((step,) for step in range(1, 1 + how.normals))] if how else [()]
    for line, span in enumerate(unit.spans):
        for draw in range(span["start"], span["stop"]):
            where = int(span["image"]), Stream(span["stream"]), draw // BLOCK
            z, *later = [noise.block(*where, *step)[draw % BLOCK][None] for step in steps]
            y = perturb(torch.from_numpy(pixels[span["row"]])[None], z, SIGMA, 16)
            if how:
                jumps = torch.cat([jump for _, jump in walk(net.denoiser, y, later, SIGMA, how)])
                scores = net.classifier(jumps).softmax(1).mean(0, keepdim=True)
            else:
                scores = net(y)
            counts[line, scores.argmax(1)] += 1
    return counts


def units() -> list[Unit]:
    """Units of both streams that are cut within an image."""
    run = campaign(seed=3)
    first = run.next_units(128)
    for unit in first:
        run.merge(unit, np.eye(1, 10, dtype=np.int64).repeat(len(unit.spans), 0) * 40)
    return [*first, *run.next_units(300, limit=1)]
