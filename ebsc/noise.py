"""Gaussian draws that are addressed, and that live on the pixel lattice.

Two properties make a certificate hold for what is run, not only for what is meant:

*Addressed.* Draw ``j`` of image ``i`` in a stream under a seed is the same numbers whatever the batch, shard, worker,
order or restart. Draws come in blocks of :data:`BLOCK`; each block has its own generator, keyed by ``(seed, image,
stream, block)``.

*On the lattice.* A pixel integer u of {0..L} under noise is fed to the network as ``y = k / (L M)`` with the integer
``k = M u + round(L M sigma z)``. Because rounding to the lattice commutes with shifts by lattice points, this samples
"f after rounding to the lattice" under exact Gaussian noise at every image, so that the smoothing theorem applies and
no information about x can hide in the low bits of ``x + eps`` (Voráček & Hein 2023, arXiv 2207.07209).
"""

import math
from enum import IntEnum
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Shaped
from torch import Tensor

from ebsc.device import as_graph
from ebsc.errors import InputError

__all__ = [
    "BLOCK",
    "REFINEMENT",
    "Normals",
    "Stream",
    "box_muller",
    "check_exact",
    "check_images",
    "check_seed",
    "perturb",
]

BLOCK = 128
"""Draws per generator."""

REFINEMENT = 16
"""M: lattice points per pixel level; a power of two."""


def check_seed(seed: int) -> None:
    """Raise :class:`InputError` unless seed is an integer and 0 <= seed < 2**63."""
    if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise InputError(f"seed must not be negative, and below 2^63, but is {seed}")


class Stream(IntEnum):
    """Which question a draw answers. Streams never share randomness."""

    SELECT = 0
    ESTIMATE = 1


class Normals:
    """Standard normal blocks by address, on one device.

    On a CPU the bits are those of NumPy's SFC64 (seeded with all the 128 bits that ``SeedSequence`` gives; torch's CPU
    generator uses 32 bits of its seed, so that among the millions of blocks of a run some would repeat), and
    :func:`box_muller` makes them normal. On any other device it is torch's generator of that device. Values are
    therefore equal on equal kinds of device, not across kinds, and ``compiled`` may change their last bit.

    Args:
        seed: the run's seed.
        shape: shape of one draw.
        device: where the blocks live.
        compiled: compile the transform. Needs a C++ compiler.

    >>> normals = Normals(0, (2, 2), "cpu")
    >>> block = normals.block(7, Stream.ESTIMATE, 3)
    >>> block.shape, bool((block == Normals(0, (2, 2), "cpu").block(7, Stream.ESTIMATE, 3)).all())
    (torch.Size([128, 2, 2]), True)
    """

    def __init__(
        self, seed: int, shape: tuple[int, ...], device: torch.device | str, *, compiled: bool = False
    ) -> None:
        self.seed = seed
        self.shape = (BLOCK, *shape)
        self.device = torch.device(device)
        self._transform = as_graph(box_muller, compiled)

    def block(self, image: int, stream: Stream, block: int, *step: int) -> Float32[Tensor, "..."]:
        """The draws ``block * BLOCK`` to ``(block + 1) * BLOCK - 1`` of an image; with a ``step``, their later ones."""
        key = np.random.SeedSequence(entropy=self.seed, spawn_key=(image, stream, block, *step))
        if self.device.type != "cpu":
            generator = torch.Generator(self.device).manual_seed(int(key.generate_state(1, np.uint64)[0]))
            return torch.randn(self.shape, generator=generator, device=self.device)
        # transformed a whole block at a time: its values cannot depend on what else is in a batch
        bits = np.random.SFC64(key).random_raw(math.prod(self.shape) // 2)
        return self._transform(torch.from_numpy(bits.view(np.int32)).view(2, -1)).view(self.shape)


def box_muller(bits: Int32[Tensor, "2 half"]) -> Float32[Tensor, " twice_half"]:
    """Standard normals r cos t, r sin t: r = sqrt(-2 log u), t uniform on the circle (Box & Muller 1958).

    31 random bits make u = (k + 1/2) / 2^31, so that the normals reach 6.6. NumPy's own float32 normals take three
    times as long, a quarter of the time of a compiled LeNet.

    >>> box_muller(torch.tensor([[0], [0]], dtype=torch.int32))
    tensor([6.6604, 0.0000])
    """
    u = (bits[0] & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31)
    t = bits[1].float().mul_(math.pi * 2.0**-31)
    r = u.log_().mul_(-2).sqrt_()
    return torch.cat([r * t.cos(), r * t.sin()])


def check_exact(sigma: float, levels: int) -> None:
    """Raise :class:`InputError` where noise on the lattice would not be exact in float32: no normal here reaches 7."""
    if levels * REFINEMENT * (1 + 7 * sigma) >= 2**24:
        raise InputError(f"sigma {sigma:g} is too large for certificates on the lattice of {levels} levels")


def check_images(images: np.ndarray, levels: int) -> None:
    """Raise :class:`InputError` unless images are what :func:`perturb` takes.

    >>> check_images(np.zeros((1, 28, 28, 1), np.int64), 255)
    Traceback (most recent call last):
    ebsc.errors.InputError: images must be uint8 or float32 of shape (N, C, H, W), not int64 (1, 28, 28, 1)
    """
    if type(levels) is not int or not 1 <= levels <= 255:  # arithmetic of a shorter integer would overflow
        raise InputError(f"levels must be an int in 1..255, not {levels!r}")
    if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
        raise InputError(f"images must be uint8 or float32 of shape (N, C, H, W), not {images.dtype} {images.shape}")
    if not images.size:
        return
    if images.dtype == np.uint8:
        if images.max() > levels:
            raise InputError(f"pixel {images.max()} is off the lattice {{0..{levels}}}: state the true levels")
    elif not np.isfinite(images).all():
        raise InputError("images contain NaN or infinity")
    elif not 0 <= images.min() <= images.max() <= 1:
        raise InputError("images in floats must lie in [0, 1]")


def perturb(
    images: Shaped[Tensor, "#batch *shape"], z: Float32[Tensor, "batch *shape"], sigma: float, levels: int
) -> Float[Tensor, "batch *shape"]:
    """Images under Gaussian noise of standard deviation ``sigma`` (unit: the clean image's range is 1).

    Args:
        images: ``uint8`` integers in {0..levels}: noise on the lattice; or ``float32`` in [0, 1]: ordinary float noise,
            whose certificates are not sound in floats. One for each draw, or one for all.
        z: standard normal draws.
        sigma: standard deviation of the noise.
        levels: L, the integer of white.

    >>> y = perturb(torch.tensor([[3]], dtype=torch.uint8), torch.tensor([[0.1]]), sigma=0.5, levels=255)
    >>> (y * 255 * 16).item()
    252.0
    """
    if images.dtype != torch.uint8:
        return images + sigma * z
    scale = levels * REFINEMENT
    # Every term is an integer below 2**24 (:func:`check_exact`), so exact in float32. The divisor is a tensor because a
    # Python number would be turned into a multiplication by its rounded reciprocal on some devices.
    k = REFINEMENT * images.float() + torch.round((scale * sigma) * z)
    return k / torch.tensor(float(scale), device=z.device)
