"""The denoise-and-vote loop: addresses of draws in, counts of votes out."""

import copy
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from ebsc.campaign import Unit
from ebsc.errors import InputError, one_line
from ebsc.model import Ebsc
from ebsc.noise import BLOCK, Normals, Stream, perturb

__all__ = ["Precision", "Voter"]

Precision = Literal["float32", "bfloat16"]


class Voter:
    """Counts the votes of units.

    The network always sees one micro-batch shape (the last one is padded), so that what a draw votes does not depend on
    which others it travels with, and a compiled network is compiled once. Noise is drawn and added in float32; only then
    is the image cast, so that ``bfloat16`` makes a coarser base classifier, never coarser noise.

    Args:
        model: what is voted over; it is copied.
        images: ``uint8`` on the lattice {0..levels}, or ``float32`` off it (see :func:`ebsc.noise.perturb`).
        levels: L, the integer of white.
        n_classes: number of classes.
        device: where the network runs.
        precision: of the network.
        batch: images of one micro-batch.
        compiled: compile network and noise: faster, and another rounding of the last bit. Takes up to a minute at the
            first unit, needs a C++ compiler on a CPU.

    Raises:
        InputError: images do not have the shape that the model takes, or it does not have that many classes.

    >>> from ebsc.model import ModelSpec, build
    >>> from ebsc.campaign import Campaign
    >>> from ebsc.budgets import Fixed
    >>> model = build(ModelSpec(sigma=0.5, shape=(1, 8, 8), n_classes=10, levels=16))
    >>> voter = Voter(model, np.zeros((1, 1, 8, 8), np.uint8), levels=16, n_classes=10)
    >>> unit = Campaign(np.array([0]), 10, 0.5, budget=Fixed(n=200)).next_units(1000)[0]
    >>> int(voter.count(unit).sum()) == unit.draws
    True
    """

    def __init__(
        self,
        model: Ebsc,
        images: Shaped[np.ndarray, "row channel height width"],
        *,
        levels: int,
        n_classes: int,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        batch: int = 256,
        compiled: bool = False,
    ) -> None:
        if batch < 1:
            raise InputError(f"the micro-batch must be at least 1, not {batch}")
        self.device = torch.device(device)
        self.n_classes = n_classes
        self.levels = levels
        self.compiled = compiled
        dtype = getattr(torch, precision)
        model = copy.deepcopy(model).eval().requires_grad_(False)
        self.model = model.to(self.device, dtype).to(memory_format=torch.channels_last)
        self.images = torch.from_numpy(images).to(self.device)
        self._batch = torch.zeros(batch, *images.shape[1:], device=self.device, dtype=dtype)
        self._normals: Normals | None = None
        self._perturb, self._classify = perturb, self._argmax
        if compiled:
            self._perturb = torch.compile(perturb, fullgraph=True, dynamic=False)
            self._classify = torch.compile(self._argmax, fullgraph=True, dynamic=False)
        self._check()
