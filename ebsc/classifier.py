"""Base classifiers f: from an image on the clean scale [0, 1] to logits."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ebsc.errors import InputError
from ebsc.networks import check_width

__all__ = ["LeNet", "Linear", "ResNet", "build"]


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


class ResNet(nn.Module):
    """A small residual network with batch normalisation: three stages of ``width``, 2 and 4 times ``width``."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int, width: int = 32) -> None:
        super().__init__()
        check_width(width)
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
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
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.skip = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.body(x) + self.skip(x))


_KINDS: dict[str, type[Linear] | type[LeNet] | type[ResNet]] = {"linear": Linear, "lenet": LeNet, "resnet": ResNet}


def build(kind: str, shape: tuple[int, int, int], n_classes: int, **options: Any) -> nn.Module:
    """A classifier by name: ``linear``, ``lenet`` or ``resnet``.

    Raises:
        InputError: unknown name, or images too small for it.
    """
    if kind not in _KINDS:
        raise InputError(
            f"unknown classifier {kind!r}: choose one of {', '.join(_KINDS)}, or name your own as module:factory"
        )
    return _KINDS[kind](shape, n_classes, **options)
