"""The denoise-and-vote loop: addresses of draws in, counts of votes out."""

import copy
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import ArrayLike
from torch import Tensor

from ebsc.budgets import Sequential
from ebsc.campaign import Campaign, Unit
from ebsc.device import as_graph, compiling, out_of_memory
from ebsc.errors import InputError, RunError, one_line
from ebsc.model import Ebsc
from ebsc.noise import BLOCK, Normals, Stream, check_exact, check_images, perturb
from ebsc.walkjump import Walk, chain_votes, check_can_walk

__all__ = ["Precision", "Voter", "certify", "predict"]

Precision = Literal["float32", "bfloat16"]


class Voter:
    """Counts the votes of units.

    The network always sees one micro-batch shape (the last one is padded), so that what a draw votes does not depend on
    which others it travels with, and a compiled network is compiled once. Noise is drawn and added in float32; only
    then is the image cast, so that ``bfloat16`` makes a coarser base classifier, never coarser noise.

    Args:
        model: what is voted over; it is copied.
        images: (row, channel, height, width), ``uint8`` integers on the lattice {0..levels}; an array or a tensor.
        levels: L, the integer of white, an ``int``.
        n_classes: number of classes.
        device: where the network runs.
        precision: of the network.
        batch: images of one micro-batch.
        compiled: compile network and noise: faster, and another rounding of the last bit. Takes up to a minute at the
            first unit, needs a C++ compiler on a CPU.
        walk: a draw votes by a chain that starts at its noisy image, with addressed randomness too
            (:mod:`ebsc.walkjump`); absent, by f(xhat(y)).
        lattice: refuse images off the lattice. Without it they may be ``float32`` in [0, 1]; their noise is then one of
            floats too, and certificates are not sound in floats.

    Raises:
        InputError: images are not as stated, or not of the shape that the model takes, it does not have that many
            classes, or it has no denoiser to walk with.

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
        images: ArrayLike,
        *,
        levels: int,
        n_classes: int,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        batch: int = 256,
        compiled: bool = False,
        walk: Walk | None = None,
        lattice: bool = True,
    ) -> None:
        if batch < 1:
            raise InputError(f"the micro-batch must be at least 1, not {batch}")
        if walk:
            check_can_walk(model)
        self.device = torch.device(device)
        self.lattice = lattice
        self.n_classes = n_classes
        self.levels = levels
        self.compiled = compiled
        self.walk = walk
        dtype = getattr(torch, precision)
        model = copy.deepcopy(model).eval().requires_grad_(False)
        self.model = model.to(self.device, dtype).to(memory_format=torch.channels_last)
        self._shape = tuple(np.shape(images)[1:])
        self.show(images)
        shape = (1 + walk.normals, *self._shape) if walk else self._shape
        self._batch = torch.zeros(batch, *shape, device=self.device, dtype=dtype)
        self._normals: Normals | None = None
        self._perturb, self._classify = as_graph(perturb, compiled), as_graph(self._argmax, compiled)
        self._check()

    @property
    def batch(self) -> int:
        """Images of one micro-batch."""
        return len(self._batch)

    def resize(self, batch: int) -> None:
        """Set the micro-batch, for example to half of it when memory ran out."""
        self._batch = self._batch.new_zeros(batch, *self._batch.shape[1:])

    def show(self, images: ArrayLike) -> None:
        """Vote on a copy of other images of the same shape from now on; nothing is compiled again.

        Raises:
            InputError: images are not as stated for the voter, or of another shape.
        """
        images = np.asarray(images).copy(order="C")
        if self.lattice and images.dtype != np.uint8:
            raise InputError(
                f"images must be uint8 integers in 0..{self.levels}, not {images.dtype}: certificates of images off the"
                " lattice are not sound in floating point (lattice=False takes float32 all the same)"
            )
        check_images(images, self.levels)
        if images.shape[1:] != self._shape:
            raise InputError(f"images must have the shape {self._shape} as the first ones, not {images.shape[1:]}")
        if images.dtype == np.uint8:
            check_exact(self.model.sigma, self.levels)
        self.images = torch.from_numpy(images).to(self.device)
        self.shown = object()

    def count(self, unit: Unit) -> Int64[np.ndarray, "span class"]:
        """Votes of each span of the unit for each class.

        Raises:
            InputError: the unit is of a campaign with another sigma.
            RunError: the network's outputs are not finite.
        """
        if unit.sigma not in (None, self.model.sigma):
            raise InputError(f"the campaign has sigma {unit.sigma}, the model {self.model.sigma}")
        with torch.no_grad(), compiling():
            votes = torch.cat([self._classify(batch) for batch in self._batches(unit)])
        spans = np.repeat(np.arange(len(unit.spans)), unit.spans["stop"] - unit.spans["start"])
        classes = votes.cpu().numpy()[: len(spans)]
        if (classes == self.n_classes).any():
            raise RunError("the network's outputs are NaN or infinite" + " (a smaller step may help)" * bool(self.walk))
        cells = spans * self.n_classes + classes
        return np.bincount(cells, minlength=len(unit.spans) * self.n_classes).reshape(-1, self.n_classes)

    def _batches(self, unit: Unit) -> Iterator[Tensor]:
        """The noisy images of a unit in order, in micro-batches; what pads the last one is left over from before."""
        filled = 0
        for images in self._images(unit):
            while len(images):
                part, images = images[: self.batch - filled], images[self.batch - filled :]
                self._batch[filled : filled + len(part)] = part
                filled += len(part)
                if filled == self.batch:
                    yield self._batch
                    filled = 0
        if filled:
            yield self._batch

    def _images(self, unit: Unit) -> Iterator[Float[Tensor, "draw *walk channel height width"]]:
        """The noisy images of a unit in order, a block of draws at a time; of a walk, each with its normals."""
        if self._normals is None or self._normals.seed != unit.seed:
            self._normals = Normals(unit.seed, tuple(self.images.shape[1:]), self.device, compiled=self.compiled)
        for row, image, stream, start, stop in unit.spans.tolist():
            for block in range(start // BLOCK, -(-stop // BLOCK)):
                z = self._normals.block(image, Stream(stream), block)
                noisy = self._perturb(self.images[row : row + 1], z, self.model.sigma, self.levels)
                if self.walk:
                    later = range(1, 1 + self.walk.normals)
                    normals = [self._normals.block(image, Stream(stream), block, step) for step in later]
                    noisy = torch.stack([noisy, *normals], 1)
                yield noisy[max(start - block * BLOCK, 0) : stop - block * BLOCK]

    def _argmax(self, batch: Float[Tensor, "batch *walk channel height width"]) -> Int64[Tensor, " batch"]:
        scores = self._scores(batch)  # the argmax of NaN would be a class too, the same for every draw
        return torch.where(scores.isfinite().all(1), scores.argmax(1), self.n_classes)

    def _scores(self, batch: Float[Tensor, "batch *walk channel height width"]) -> Float[Tensor, "batch class"]:
        return chain_votes(self.model, batch[:, 0], batch[:, 1:], self.walk) if self.walk else self.model(batch)

    def _check(self) -> None:
        try:
            with torch.no_grad():
                logits = self._scores(self._batch[:1])
        except RuntimeError as error:
            if out_of_memory(error) or isinstance(error, torch.AcceleratorError):
                raise
            raise InputError(f"the model does not take images of shape {self._shape}: {one_line(error)}") from error
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise InputError("the model must answer a batch with logits, a tensor of shape (image, class)")
        if logits.shape[1] != self.n_classes:
            raise InputError(f"the model has {logits.shape[1]} classes, the data {self.n_classes}")
        self._check_independent()

    def _check_independent(self) -> None:
        """A vote must not depend on the other draws of its micro-batch, as it does by batch statistics."""
        some = torch.linspace(-1, 2, 8 * self._batch[0].numel(), device=self.device, dtype=self._batch.dtype)
        batch = some[torch.randperm(len(some), generator=torch.Generator().manual_seed(0))].view(
            8, *self._batch.shape[1:]
        )
        with torch.no_grad():
            scores = [
                self._scores(torch.cat([batch[:1], others])) for others in (batch[1:], batch[1:], 0.1 * batch[1:])
            ]
        alone, again, among = (some - some.mean(1, keepdim=True) for some in scores)  # what is common decides nothing
        same = 1e-6 if self.device.type == "cpu" else 0.01  # some kernels of GPUs add up in any order
        if (alone - again).abs().max() > same * alone.abs().max():
            raise InputError("the model draws random numbers of its own: its votes cannot be counted again")
        if (alone[0] - among[0]).abs().max() > 0.01 * alone[0].abs().max():
            raise InputError(
                "the model's answer to an image depends on the others of its batch: its votes prove nothing"
            )


def certify(campaign: Campaign, voter: Voter) -> np.ndarray:
    """Count all that a campaign needs, in this process; see :meth:`ebsc.campaign.Campaign.certificates`.

    Raises:
        InputError: the campaign is not one of the voter's images, classes and sigma, or was counted by another voter or
            on other images before.
        RunError: the network's outputs are not finite.
    """
    asked = len(campaign.labels), campaign.n_classes, campaign.sigma
    given = len(voter.images), voter.n_classes, voter.model.sigma
    if asked != given:
        raise InputError(
            "the campaign is of {} images, {} classes and sigma {}".format(*asked)
            + ", the voter of {}, {} and {}".format(*given)
        )
    if campaign.counter not in (None, voter.shown):
        raise InputError("the campaign was counted by another voter, or on other images: each takes one of its own")
    campaign.counter = voter.shown
    while units := campaign.next_units(16_384):
        for unit in units:
            campaign.merge(unit, voter.count(unit))
    return campaign.certificates()


def predict(
    voter: Voter,
    images: ArrayLike,
    addresses: ArrayLike | None = None,
    *,
    n: int = 10_000,
    alpha: float = 0.001,
    seed: int = 0,
) -> tuple[Int64[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """What the smoothed classifier says on images, each wrong with probability at most alpha, or that it abstains.

    Cohen et al.'s PREDICT, by the bounds of certification: the class that n0 = 100 draws select, certain where a bound
    says that it has more than half of all votes; as many draws, up to n, as that takes.

    Args:
        voter: counts the votes; it votes on these images from now on.
        images: such as the voter takes.
        addresses: (row,), integers: what addresses the draws of each; 0, 1, 2, ... when absent.
        n: draws for an image, at most.
        alpha: probability of an error, for each image.
        seed: of the draws.

    Returns:
        The class selected, and whether it is certain; where it is not, the smoothed classifier abstains.

    Raises:
        InputError: the voter does not take such images.
        RunError: the network's outputs are not finite.
    """
    voter.show(images)
    campaign = Campaign(
        np.zeros(len(voter.images), np.int64),
        voter.n_classes,
        voter.model.sigma,
        budget=Sequential(radii=(0.0,), n=n, alpha=alpha),
        images=addresses,
        seed=seed,
    )
    said = certify(campaign, voter)
    return said["predicted"], said["p_lower"] > 0.5
