"""The denoise-and-vote loop: addresses of draws in, counts of votes out."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from ebsc.campaign import Unit
from ebsc.errors import InputError
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
        model: what is voted over.
        images: ``uint8`` on the lattice {0..levels}, or ``float32`` off it (see :func:`ebsc.noise.perturb`).
        levels: L, the integer of white.
        n_classes: number of classes.
        device: where the network runs.
        precision: of the network.
        batch: images of one micro-batch.
        compiled: compile the network with its weights frozen. Takes up to a minute, needs a C++ compiler on a CPU.

    Raises:
        InputError: images do not have the shape that the model takes.

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
        self.dtype = getattr(torch, precision)
        self.model = model.eval().requires_grad_(False).to(self.device, self.dtype).to(memory_format=torch.channels_last)
        self.images = torch.from_numpy(images).to(self.device)
        self.resize(batch)
        self._step = torch.compile(self._classify, fullgraph=True, dynamic=False) if compiled else self._classify
        self._compiled = compiled
        self._normals: Normals | None = None

    def resize(self, batch: int) -> None:
        """Set the micro-batch, for example to half of it when memory ran out. Counts do not depend on it."""
        self.batch = batch
        self._z = torch.empty(batch, *self.images.shape[1:], device=self.device)
        self._rows = torch.zeros(batch, dtype=torch.int64, device=self.device)

    def count(self, unit: Unit) -> Int64[np.ndarray, "span class"]:
        """Votes of each span of the unit for each class."""
        if self._normals is None or self._normals.seed != unit.seed:
            self._normals = Normals(unit.seed, tuple(self.images.shape[1:]), self.device)
        counts = torch.zeros(len(unit.spans) * self.n_classes, dtype=torch.int64, device=self.device)
        owner = np.zeros(self.batch, dtype=np.int64)
        filled = 0
        for span, piece in self._pieces(unit, self._normals):
            row = int(unit.spans["row"][span])
            while len(piece):
                part, piece = piece[: self.batch - filled], piece[self.batch - filled :]
                place = slice(filled, filled + len(part))
                self._z[place], self._rows[place], owner[place] = part, row, span
                filled += len(part)
                if filled == self.batch:
                    self._vote(counts, owner)
                    filled = 0
        if filled:
            self._vote(counts, owner[:filled])
        return counts.view(-1, self.n_classes).cpu().numpy()

    def _pieces(self, unit: Unit, normals: Normals) -> Iterator[tuple[int, Tensor]]:
        """The draws of a unit, block by block, each with the number of its span."""
        for span, (_, image, stream, start, stop) in enumerate(unit.spans.tolist()):
            for block in range(start // BLOCK, -(-stop // BLOCK)):
                first = block * BLOCK
                draws = normals.block(image, Stream(stream), block)
                yield span, draws[max(start - first, 0) : stop - first]

    def _vote(self, counts: Tensor, owner: np.ndarray) -> None:
        """Classify the full micro-batch; only the first ``len(owner)`` are counted, the rest is padding."""
        with torch.no_grad(), torch._inductor.config.patch(freezing=self._compiled):
            votes = self._step(self._z, self._rows)[: len(owner)]
        counts += torch.bincount(
            torch.from_numpy(owner).to(self.device) * self.n_classes + votes, minlength=len(counts)
        )

    def _classify(self, z: Tensor, rows: Tensor) -> Tensor:
        y = perturb(self.images[rows], z, self.model.sigma, self.levels)
        return self.model(y.to(self.dtype)).argmax(1)
