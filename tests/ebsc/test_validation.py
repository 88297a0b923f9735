"""A quick look against closed forms, and against what the parts of a certification say."""

import copy

import numpy as np
import pytest
import torch
from nets import small
from scipy import stats
from torch import nn

from ebsc import data, validation
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.noise import perturb
from ebsc.validation import Quick, accuracy, pictures, quick_certificates
from ebsc.votes import Voter

SIGMA = 0.5
TEST = data.load("digits", "test").take(np.arange(30))


class Always(nn.Module):
    def forward(self, y):
        return nn.functional.one_hot(torch.full((len(y),), 3), 10).float()


class Coin(nn.Module):
    """Class 3 where the noise on a pixel that is always black is below a height, else class 5."""

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height = height

    def forward(self, y):
        heads = y[:, 0, 0, 0] < self.height
        return nn.functional.one_hot(torch.where(heads, 3, 5), 10).float()


def clopper_pearson(successes: int, n: int) -> float:
    return stats.beta.ppf(0.001, successes, n - successes + 1)


@pytest.mark.parametrize("n", [128, 256])
def test_where_every_vote_is_the_same_all_is_known(n):
    right = float((TEST.labels == 3).mean())
    radius = SIGMA * stats.norm.ppf(0.001 ** (1 / n))
    quick = quick_certificates(Ebsc(nn.Identity(), Always(), SIGMA), TEST, n=n)
    assert 0 < right < 1
    assert quick.acr == pytest.approx(right * radius, rel=1e-6)
    assert quick.certified_at_0 == right
    assert quick.certified_at_sigma == right


def test_the_default_certifies_at_most_two_sigma_nearly():
    quick = quick_certificates(Ebsc(nn.Identity(), Always(), SIGMA), TEST.take(np.flatnonzero(TEST.labels == 3)))
    assert quick.acr == pytest.approx(1.9 * SIGMA, rel=0.02)


def test_a_coin_is_certified_nowhere():
    quick = quick_certificates(Ebsc(nn.Identity(), Coin(0.0), SIGMA), TEST)
    assert quick == Quick(0.0, 0.0, 0.0)


def test_a_loaded_coin_is_certified_where_its_side_is_the_label():
    assert (TEST.images[:, 0, 0, 0] == 0).all()
    quick = quick_certificates(Ebsc(nn.Identity(), Coin(0.5 * SIGMA), SIGMA), TEST)
    p, right = stats.norm.cdf(0.5), float((TEST.labels == 3).mean())
    assert quick.certified_at_0 == right
    assert quick.certified_at_sigma == 0  # its radius is half of sigma
    low, high = (
        SIGMA * stats.norm.ppf(clopper_pearson(int(stats.binom.ppf(q, 256, p)), 256)) for q in (1e-5, 1 - 1e-5)
    )
    assert right * low <= quick.acr <= right * high


def test_accuracy_is_the_share_of_single_draws_that_are_right():
    assert accuracy(Ebsc(nn.Identity(), Always(), SIGMA), TEST) == (TEST.labels == 3).mean()


def test_it_is_the_same_each_time_and_leaves_the_model_as_it_was():
    net = small("residual").train()
    before = copy.deepcopy(net.state_dict())
    first, again = (quick_certificates(net, TEST, n=128) for _ in range(2))
    assert first == again
    assert net.training
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, before[name])
    assert all(weight.requires_grad for weight in net.parameters())


def test_no_certification_has_its_draws_unless_it_asks_for_them(monkeypatch):
    seeds = []
    count = Voter.count
    monkeypatch.setattr(Voter, "count", lambda voter, unit: seeds.append(unit.seed) or count(voter, unit))
    quick_certificates(small("residual"), TEST, n=128)
    assert Campaign(TEST.labels, 10, SIGMA, budget=Fixed(n=128, n0=128)).seed not in seeds
    assert {*seeds} == {validation._SEED}


def test_fewer_draws_than_those_that_select_are_refused():
    with pytest.raises(InputError, match="n must be at least n0 = 128"):
        quick_certificates(small("residual"), TEST, n=127)


def test_pictures_are_clean_noisy_and_estimated():
    net = small("residual")
    seen = pictures(net, TEST, 5, seed=7)
    assert seen.shape == (3, 5, 1, 8, 8)
    assert not seen.requires_grad
    images = torch.from_numpy(TEST.images[:5])
    z = torch.randn(images.shape, generator=torch.Generator().manual_seed(7))
    assert torch.equal(seen[0], images / 16)
    assert torch.equal(seen[1], perturb(images, z, SIGMA, 16))
    torch.testing.assert_close(seen[2], net.denoiser(seen[1]).detach())
    assert pictures(net, TEST, 100).shape[1] == len(TEST.labels)
