"""Base classifiers f: from an image on the clean scale [0, 1] to logits."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ebsc.errors import InputError
from ebsc.networks import check_width
from ebsc.own import unknown

__all__ = ["CNN", "LeNet", "Linear", "ResNet", "build"]


class Linear(nn.Module):
    """One affine map of the pixels. For two classes, plain smoothing certifies exactly its margin."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.map = nn.Linear(channels * height * width, n_classes)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        return self.map(x.flatten(1))


class LeNet(nn.Module):
    """The LeNet of the published MNIST logs: conv 20, conv 50, fully connected 500 (Zhai et al. 2020)."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < 16:
            raise InputError(f"a LeNet needs images of 16 x 16 or more, not {height} x {width}")
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        cells = ((height - 4) // 2 - 4) // 2 * (((width - 4) // 2 - 4) // 2)
        self.fc1 = nn.Linear(50 * cells, 500)
        self.fc2 = nn.Linear(500, n_classes)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        pool, relu = nn.functional.max_pool2d, nn.functional.relu
        x = pool(relu(self.conv1(x)), 2)
        x = pool(relu(self.conv2(x)), 2)
        return self.fc2(relu(self.fc1(torch.flatten(x, 1))))


class CNN(nn.Module):
    """Four convolutions and a hidden layer with batch normalisation, for votes by the million.

    Images are folded 2 x 2 into channels first (odd sides are padded), where noise hides what is finer anyway; half-way
    the resolution is halved again. On MNIST 5.5 million multiplications (LeNet 2.3, ResNet 37) and 0.9 million weights.
    """

    def __init__(self, shape: tuple[int, int, int], n_classes: int, width: int = 32, hidden: int = 256) -> None:
        super().__init__()
        check_width(width)
        check_width(hidden)
        channels, height, width_px = shape
        self.pad = (0, width_px % 2, 0, height % 2)
        cells = -(-height // 4) * -(-width_px // 4)
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            *_convolution(4 * channels, width, 1),
            *_convolution(width, width, 1),
            *_convolution(width, 2 * width, 2),
            *_convolution(2 * width, 2 * width, 1),
            nn.Flatten(),
            nn.Linear(2 * width * cells, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
        )
        self.head = nn.Linear(hidden, n_classes)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        return self.head(self.layers(nn.functional.pad(x, self.pad)))


class ResNet(nn.Module):
    """A small residual network with batch normalisation: three stages of ``width``, 2 and 4 times ``width``."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int, width: int = 32) -> None:
        super().__init__()
        check_width(width)
        self.stem = nn.Sequential(*_convolution(shape[0], width, 1))
        self.stages = nn.Sequential(
            _ResidualBlock(width, width, 1),
            _ResidualBlock(width, 2 * width, 2),
            _ResidualBlock(2 * width, 4 * width, 2),
        )
        self.head = nn.Linear(4 * width, n_classes)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(channels, width, stride),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.skip: nn.Module = nn.Identity()
        self.stride = stride
        if stride > 1 or channels != width:
            self.skip = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        # by slices: the gradient of a 1 x 1 convolution with a stride spoils the heap where channels are no multiple of
        # 8 and last, on a CPU with AVX2 and no AVX-512 (torch 2.14.1, oneDNN 3.12.0)
        taken = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.relu(self.body(x) + self.skip(taken))


def _convolution(channels: int, width: int, stride: int) -> tuple[nn.Module, ...]:
    """3 x 3, with batch normalisation and ReLU."""
    return nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()


_KINDS: dict[str, type[Linear] | type[LeNet] | type[CNN] | type[ResNet]] = {
    "linear": Linear,
    "lenet": LeNet,
    "cnn": CNN,
    "resnet": ResNet,
}


def build(kind: str, shape: tuple[int, int, int], n_classes: int, **options: Any) -> nn.Module:
    """A classifier by name: ``linear``, ``lenet``, ``cnn`` or ``resnet``.

    Raises:
        InputError: unknown name, or images too small for it.
    """
    if kind not in _KINDS:
        raise unknown("classifier", kind, _KINDS)
    return _KINDS[kind](shape, n_classes, **options)
