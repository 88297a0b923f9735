"""A quick look at what a model is worth, while it is trained."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.data import Dataset
from ebsc.model import Ebsc
from ebsc.training import noisy_batches
from ebsc.votes import Precision, Voter, certify

__all__ = ["Quick", "pictures", "quick_certificates"]


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
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
) -> Quick:
    """Certify every image of a data set with few draws, in this process: for comparing models, not for tables.

    With n draws no radius above sigma Phi^-1(alpha^(1/n)) can be certified, 1.9 sigma for the default.

    Args:
        model: what to vote with.
        data: on the lattice.
        n: draws for each image, after 128 that select; alpha is 0.001.
        seed: of the draws.
        device: where to vote.
        precision: of the network.
    """
    campaign = Campaign(data.labels, data.n_classes, model.sigma, budget=Fixed(n=n, n0=128), seed=seed)
    voter = Voter(model, data.images, levels=data.levels, n_classes=data.n_classes, device=device, precision=precision)
    found = certify(campaign, voter)
    radius = found["radius"] * (found["predicted"] == found["label"])
    return Quick(float(radius.mean()), float((radius > 0).mean()), float((radius >= model.sigma).mean()))


def pictures(
    model: Ebsc, data: Dataset, count: int = 8, *, seed: int = 0, device: torch.device | str = "cpu"
) -> Float[Tensor, "3 image channel height width"]:
    """The first images of a data set, on the CPU: clean x, noisy y = x + sigma eps, and xhat(y)."""
    first = data.take(np.arange(min(count, len(data.labels))))
    model.eval()
    with torch.no_grad():
        rows = [torch.stack([x, y, model.denoiser(y)]) for x, y, _ in noisy_batches(first, model.sigma, seed, device)]
        return torch.cat(rows, 1).cpu()
