"""The counterexample of Voráček & Hein (2023, arXiv 2207.07209): it fools noise added in floats, and not ours.

In float32, 1 + eps is always a multiple of 2^-24, whatever eps is; 0 + eps most often is not: floats are finer near 0.
So a classifier of the low bits of y = x + eps is certain of the image whose pixels are all 1, with a radius that covers
the one whose pixels are all 0, and there it says the other class. All seeds are fixed.
"""

from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from ebsc import votes
from ebsc.bounds import clopper_pearson_lower, radius
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.model import Ebsc
from ebsc.noise import REFINEMENT
from ebsc.votes import Voter

SIGMA = 0.5  # a power of two: sigma z has the low bits of z
LEVELS = 255
POINTS = LEVELS * REFINEMENT
PIXELS = 2
FAR = sqrt(PIXELS)  # L2 distance between all 0 and all 1
N = 100_000


class Coarse(nn.Module):
    """Class 1 where every pixel is a multiple of 2^-24."""

    def forward(self, y):
        hits = (y * 2**24).frac().eq(0).flatten(1).all(1)  # times a power of two: exact
        return torch.stack([~hits, hits], 1).float()


class Offset(nn.Module):
    """Class 1 where the first pixel is the lattice point 3/16 of a level above a level."""

    def forward(self, y):
        hits = (y[:, 0, 0, 0] * POINTS).round().remainder(REFINEMENT).eq(3)
        return torch.stack([~hits, hits], 1).float()


def grey(levels, dtype=np.uint8) -> np.ndarray:
    """Images of one grey each: uint8 is the lattice, float32 is not."""
    images = np.asarray(levels, dtype=np.uint8)[:, None, None, None].repeat(PIXELS, axis=3)
    return images if dtype == np.uint8 else images.astype(np.float32) / np.float32(LEVELS)


def certify(images: np.ndarray, classifier: nn.Module, n: int = N, addresses=None) -> np.ndarray:
    """What the real pipeline certifies."""
    voter = Voter(Ebsc(nn.Identity(), classifier, SIGMA), images, levels=LEVELS, n_classes=2, batch=4096, lattice=False)
    campaign = Campaign(np.zeros(len(images), dtype=np.int64), 2, SIGMA, budget=Fixed(n=n), images=addresses)
    return votes.certify(campaign, voter)


def excess(levels, predicted, radii) -> float:
    """How far the certificates of two images with different classes overlap, at most; sound ones never do."""
    where = np.asarray(levels) / LEVELS
    apart = FAR * abs(where[:, None] - where)
    claimed = np.where(np.asarray(radii) > 0, radii, -np.inf)
    differ = predicted[:, None] != predicted
    return float(np.where(differ, claimed[:, None] + claimed - apart, -np.inf).max())


def share_at_zero() -> float:
    """P[every pixel of 0 + sigma z is a multiple of 2^-24], z an exact normal rounded to a float of 24 bits.

    Floats of [2^-j-1, 2^-j) are multiples of 2^-j-24, one in 2^j of them is one of 2^-24; from 1/2 on all are.
    """
    within = norm.cdf(2.0 ** -np.arange(1, 60) / SIGMA) - 0.5
    one = 2 * (0.5 - within[0]) + sum(2 * (a - b) / 2**j for j, (a, b) in enumerate(pairwise(within), 1))
    return float(one) ** PIXELS


def test_the_field_s_loop_is_fooled():
    torch.manual_seed(0)
    hits = []
    for x in torch.from_numpy(grey([0, LEVELS], np.float32)):
        batch = x.repeat(N, 1, 1, 1)
        hits.append(int(Coarse()(batch + torch.randn_like(batch) * SIGMA).argmax(1).sum()))
    at_zero, at_one = hits
    assert at_one == N
    certified = float(radius(clopper_pearson_lower(at_one, N, 0.001), SIGMA))
    assert certified > 1.9 > FAR  # "no image within 1.9 is of another class"
    assert share_at_zero() == pytest.approx(0.281, abs=0.0005)
    assert abs(at_zero / N - share_at_zero()) < 0.01
    assert clopper_pearson_lower(N - at_zero, N, 0.001) > 0.7  # yet the image at 1.41 is, as surely


def test_so_is_our_pipeline_with_no_lattice():
    table = certify(grey([0, LEVELS], np.float32), Coarse())
    assert table["predicted"].tolist() == [0, 1]
    assert table["radius"][1] > 1.9 > FAR
    assert table["p_lower"][0] > 0.7
    assert excess([0, LEVELS], table["predicted"], table["radius"]) > 0.5


def test_on_the_lattice_it_is_not():
    table = certify(grey([0, LEVELS]), Coarse())
    assert table["predicted"].tolist() == [0, 1]
    assert (table["p_lower"] > 0.7).all()  # both images are certified, as what they are
    assert table["radius"].sum() < FAR
    assert table["radius"][1] < 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.float32], ids=["lattice", "floats"])
def test_no_certified_image_lies_within_the_radius_of_one_of_another_class(dtype):
    levels = [*range(0, LEVELS, 16), LEVELS]
    table = certify(grey(levels, dtype), Coarse(), n=10_000)
    assert len(set(table["predicted"][table["radius"] > 0])) == 2
    assert (excess(levels, table["predicted"], table["radius"]) <= 0) == (dtype == np.uint8)


def probabilities(classifier: nn.Module) -> np.ndarray:
    """Exact P[class 1] at each of the 256 greys, for a single pixel.

    On the lattice y = (M u + j) / (L M), where j is the integer next to L M sigma z: its law is the Gaussian's over
    cells of width 1, and the same for every u.
    """
    reach = 8 * POINTS
    j = np.arange(-reach, reach + 1)
    edges = (np.append(j, reach + 1) - 0.5) / (POINTS * SIGMA)
    law = np.diff(norm.cdf(edges))
    k = torch.arange(-reach, reach + POINTS + 1)
    y = (k.float() / torch.tensor(float(POINTS))).view(-1, 1, 1, 1)
    votes = classifier(y).argmax(1).double().numpy()
    return np.array([law @ votes[REFINEMENT * u : REFINEMENT * u + len(law)] for u in range(LEVELS + 1)])


def test_the_exact_radii_on_the_lattice_are_sound_and_those_in_floats_are_not():
    levels = np.arange(LEVELS + 1)
    p = probabilities(Coarse()) ** PIXELS
    predicted, radii = (p > 0.5).astype(int), radius(np.maximum(p, 1 - p), SIGMA)
    assert 0.1 < predicted.mean() < 0.9
    assert excess(levels, predicted, radii) <= 0
    in_floats = np.array([share_at_zero(), 1 - 1e-9])
    assert excess([0, LEVELS], np.array([0, 1]), radius(np.maximum(in_floats, 1 - in_floats), SIGMA)) > 0


def test_what_the_pipeline_counts_is_what_the_exact_law_says():
    levels = [0, 64, 128, 192, LEVELS]
    table = certify(grey(levels), Coarse(), n=50_000)
    shares = table["counts"][:, 1] / 50_000
    exact = probabilities(Coarse())[levels] ** PIXELS
    assert abs(shares - exact).max() < 5 * 0.5 / sqrt(50_000)


def test_the_low_bits_of_the_lattice_say_nothing_about_the_image():
    """The point within a level, k mod 16, is as likely at every image, and for the same draws the same."""
    exact = probabilities(Offset())
    np.testing.assert_allclose(exact, 1 / REFINEMENT, rtol=0, atol=1e-12)
    levels = [0, 1, 17, 128, LEVELS]
    counts = [certify(grey([u]), Offset(), 5_000, np.array([7]))["counts"].tolist() for u in levels]
    assert counts == counts[:1] * len(levels)
    assert abs(counts[0][0][1] / 5_000 - 1 / REFINEMENT) < 5 * sqrt(1 / REFINEMENT / 5_000)
