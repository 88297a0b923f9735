"""The convolutional networks that energies are made of; the U-Net is a plain denoiser too."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ebsc.errors import InputError

__all__ = ["ConvNet", "UNet", "check_width"]


def check_width(width: int) -> None:
    """Raise :class:`InputError` unless a network's width is a positive number of channels."""
    if width < 1:
        raise InputError(f"width must be at least 1, not {width}")


class _Block(nn.Module):
    """Pre-activation residual block of two 3 x 3 convolutions, without normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        silu = nn.functional.silu
        return x + self.second(silu(self.first(silu(x))))


class UNet(nn.Module):
    """A small U-Net from noisy image to image, working at 1/2 and 1/4 of the resolution.

    Images are folded 2 x 2 into channels first (sides are padded to multiples of 4), so that the cost stays with wide,
    cheap layers. The output is the shrunken input y / (1 + sigma^2) plus what the network adds.
    """

    def __init__(self, shape: tuple[int, int, int], sigma: float, width: int = 32, depth: int = 1) -> None:
        super().__init__()
        check_width(width)
        if depth < 0:
            raise InputError(f"the depth must not be negative, not {depth}")
        channels, height, width_px = shape
        self.crop = (height, width_px)
        self.pad = (0, -width_px % 4, 0, -height % 4)
        self.gain = (1 + sigma**2) ** -0.5
        self.fold = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.encode = nn.Sequential(*(_Block(width) for _ in range(depth)))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.middle = nn.Sequential(*(_Block(2 * width) for _ in range(2 * depth)))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.decode = nn.Sequential(*(_Block(width) for _ in range(depth)))
        self.unfold = nn.Conv2d(width, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.unfold.weight)

    def forward(self, y: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        scaled = y * self.gain
        x = nn.functional.pixel_unshuffle(nn.functional.pad(scaled, self.pad), 2)
        fine = self.encode(self.fold(x))
        coarse = self.middle(self.down(fine))
        x = self.unfold(nn.functional.silu(self.decode(fine + self.up(coarse))))
        x = nn.functional.pixel_shuffle(x, 2)
        return scaled * self.gain + x[:, :, : self.crop[0], : self.crop[1]]


class ConvNet(nn.Module):
    """A small convolutional network from an image to one number, smooth everywhere."""

    def __init__(self, shape: tuple[int, int, int], width: int = 32) -> None:
        super().__init__()
        check_width(width)
        channels, height, width_px = shape
        self.pad = (0, -width_px % 4, 0, -height % 4)
        self.layers = nn.Sequential(
            nn.Conv2d(4 * channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 2, stride=2),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
        )
        cells = (height + self.pad[3]) // 4 * ((width_px + self.pad[1]) // 4)
        self.head = nn.Linear(2 * width * cells, 1, bias=False)  # a constant has no gradient

    def forward(self, y: Float[Tensor, "batch channel height width"]) -> Float[Tensor, " batch"]:
        x = nn.functional.pixel_unshuffle(nn.functional.pad(y, self.pad), 2)
        return self.head(torch.flatten(self.layers(x), 1)).squeeze(1)
