"""Random changes of training images that leave their classes as they are."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from ebsc.errors import InputError
from ebsc.training import Batch, Objective, Randomness

__all__ = ["Augmentation", "augmented"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a classifier's training images are moved, each time anew; what moves in from outside is black.

    Attributes:
        shift: largest shift along each axis, whole pixels, before all else. CIFAR-10's random crop of images padded by
            four is 4.
        rotate: largest rotation either way, degrees.
        scale: largest change of size either way, as a share: 0.1 is from 0.9 to 1.1.
        flip: mirror half of the images, left to right; not for digits.

    Raises:
        InputError: a value that is not allowed.
    """

    shift: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.shift < 0 or not 0 <= self.rotate <= 180 or not 0 <= self.scale < 1:
            raise InputError(
                "moved images: shift must be 0 or more, rotate 0 to 180 degrees, scale 0 or more and below 1,"
                f" not {self.shift}, {self.rotate:g}, {self.scale:g}"
            )

    def __bool__(self) -> bool:
        return self != Augmentation()

    def __call__(
        self, images: UInt8[Tensor, "row channel height width"], random: Randomness
    ) -> UInt8[Tensor, "row channel height width"]:
        """The images moved and back on the lattice, bilinear; shifts and mirror images alone are exact.

        >>> image = torch.tensor([[[[0, 0, 0], [0, 9, 0], [0, 0, 0]]]], dtype=torch.uint8)
        >>> Augmentation(shift=1)(image, Randomness(0, 0, 1, slice(0, 1), "cpu")).sum()
        tensor(9)
        """
        left, up, turn, size, side = random.uniform(5)
        height, width = images.shape[2:]
        angle = math.radians(self.rotate) * (2 * turn - 1)
        zoom = 1 + self.scale * (2 * size - 1)
        x, y = (((2 * self.shift + 1) * share).floor() - self.shift for share in (left, up))
        mirror = torch.where(side[:, None] < 0.5, -1, 1) if self.flip else 1
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        # where each pixel comes from, in units of half a side
        across = torch.stack([cos, -sin * height / width, 2 * x / width], 1) * mirror
        along = torch.stack([sin * width / height, cos, 2 * y / height], 1)
        with torch.autocast(images.device.type, enabled=False):  # a training's bfloat16 is too coarse for places
            grid = affine_grid(torch.stack([across, along], 1), list(images.shape), align_corners=False)
            return grid_sample(images.float(), grid, align_corners=False).round().to(torch.uint8)


def augmented(objective: Objective, augmentation: Augmentation) -> Objective:
    """An objective on images that are moved at every step; itself where they are not."""
    if not augmentation:
        return objective

    def loss(batch: Batch) -> dict[str, Tensor]:
        return objective(replace(batch, images=augmentation(batch.images, batch.random)))

    return loss
