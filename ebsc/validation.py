"""A quick look at what a model is worth, while it is trained and at its end."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.data import Dataset
from ebsc.model import Ebsc
from ebsc.noise import perturb
from ebsc.votes import Precision, Voter, certify

__all__ = ["Quick", "accuracy", "coloured", "denoising_error", "pictures", "quick_certificates"]

_SEED = 2**62
"""Of quick certificates, which pick weights: a certification by a seed of its own has fresh draws."""


@dataclass(frozen=True)
class Quick:
    """Average certified radius, and shares certified with the right class at radius 0 and at sigma."""

    acr: float
    certified_at_0: float
    certified_at_sigma: float


def quick_certificates(
    model: Ebsc,
    data: Dataset,
    *,
    n: int = 256,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
) -> Quick:
    """Certify every image of a data set with few draws, in this process: for comparing models, not for tables.

    With n draws no radius above sigma Phi^-1(alpha^(1/n)) can be certified, 1.9 sigma for the default.

    Args:
        model: what to vote with.
        data: on the lattice.
        n: draws for each image, after 128 that select; alpha is 0.001.
        device: where to vote.
        precision: of the network.
    """
    campaign = Campaign(data.labels, data.n_classes, model.sigma, budget=Fixed(n=n, n0=128), seed=_SEED)
    voter = Voter(model, data.images, levels=data.levels, n_classes=data.n_classes, device=device, precision=precision)
    found = certify(campaign, voter)
    radius = found["radius"] * (found["predicted"] == found["label"])
    return Quick(float(radius.mean()), float((radius > 0).mean()), float((radius >= model.sigma).mean()))


def denoising_error(denoiser: nn.Module, data: Dataset, sigma: float, *, device: torch.device | str = "cpu") -> float:
    """E|x - xhat(x + sigma eps)|^2 per pixel over a data set, one draw an image. Without a denoiser it is sigma^2."""
    denoiser = denoiser.to(device).eval()
    with torch.no_grad():
        total = sum(float((denoiser(y) - x).square().sum()) for x, y, _ in _noisy_batches(data, sigma, 0, device))
    return total / data.images.size


def accuracy(model: Ebsc, data: Dataset, *, seed: int = 0, device: torch.device | str = "cpu") -> float:
    """Share of f(xhat(x + eps)) that is right, one draw an image: the accuracy of the base classifier of the vote."""
    model = model.to(device).eval()
    with torch.no_grad():
        batches = _noisy_batches(data, model.sigma, seed, device)
        return sum(int((model(y).argmax(1) == labels).sum()) for _, y, labels in batches) / len(data.labels)


def pictures(
    model: Ebsc, data: Dataset, count: int = 8, *, seed: int = 0, device: torch.device | str = "cpu"
) -> Float[Tensor, "3 image channel height width"]:
    """The first images of a data set, on the CPU: clean x, noisy y = x + sigma eps, and xhat(y).

    Of images that have no colours, the first channel.
    """
    first = data.take(np.arange(min(count, len(data.labels))))
    model.eval()
    with torch.no_grad():
        rows = [torch.stack([x, y, model.denoiser(y)]) for x, y, _ in _noisy_batches(first, model.sigma, seed, device)]
    return coloured(torch.cat(rows, 1).cpu())


def coloured(images: Float[Tensor, "*batch channel height width"]) -> Float[Tensor, "*batch colour height width"]:
    """Images that can be shown: of those that have no colours, the first channel."""
    return images if images.shape[-3] in (1, 3) else images[..., :1, :, :]


def _noisy_batches(data: Dataset, sigma: float, seed: int, device: torch.device | str) -> Iterator[tuple[Tensor, ...]]:
    """Clean images, the same under noise, and labels."""
    generator = torch.Generator(device).manual_seed(seed)
    for first in range(0, len(data.labels), 512):
        images = torch.from_numpy(data.images[first : first + 512]).to(device)
        z = torch.randn(images.shape, device=device, generator=generator)
        y = perturb(images, z, sigma, data.levels)
        yield images / data.levels, y, torch.from_numpy(data.labels[first : first + 512]).to(device)
