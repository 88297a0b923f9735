"""The whole pipeline, from pixels to certificates, against exact answers: two Gaussian classes and a linear classifier.

Images are centred on grey, 1/2. The exact probability is for Gaussian noise; what is run rounds it to multiples of
1/4080, less than a thousandth of sigma, with mean 0, so that probabilities differ by about 1e-7: far below what any of
these tests can see.
"""

from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from ebsc import votes
from ebsc.bounds import clopper_pearson_lower
from ebsc.budgets import Budget, Fixed, Sequential
from ebsc.campaign import Campaign
from ebsc.model import Ebsc
from ebsc.theory import exact_model, exact_radius, margin, win_probability
from ebsc.votes import Voter

SIGMA = 0.4
LEVELS = 255
ALPHA = 0.05
ROWS = 1000


class Problem(NamedTuple):
    """An image, what is asked about it, and the model that votes."""

    image: np.ndarray
    x: np.ndarray
    w: np.ndarray
    mu: np.ndarray
    s: float
    model: Ebsc

    @property
    def truth(self) -> tuple[float, ...]:
        p = float(win_probability(self.x, self.w, self.mu, self.s, SIGMA))
        return 1 - p, p

    @property
    def radius(self) -> float:
        return float(exact_radius(self.x, self.w, self.mu, self.s, SIGMA))


def problem(shape: tuple[int, int, int], s: float = 0.25) -> Problem:
    """The image at about +mu, and a classifier whose normal is some 45 degrees away from mu."""
    generator = np.random.default_rng(1)
    mu, across = generator.normal(size=(2, np.prod(shape)))
    mu *= 0.45 / np.linalg.norm(mu)
    across -= (across @ mu) / (mu @ mu) * mu
    mu = mu.astype(np.float32).astype(np.float64)
    w = (mu / np.linalg.norm(mu) + across / np.linalg.norm(across)).astype(np.float32).astype(np.float64)
    image = np.rint((mu + 0.5) * LEVELS).astype(np.uint8).reshape(shape)
    model = exact_model(w, mu, s, SIGMA, shape)
    return Problem(image, image.ravel() / LEVELS - 0.5, w, mu, s, model)


def certify(problem: Problem, budget: Budget, rows: int = 1, *, plain: bool = False) -> np.ndarray:
    """Certificates of the same image under many addresses: independent repetitions of one certification."""
    model = problem.model.plain() if plain else problem.model
    voter = Voter(model, np.stack([problem.image] * rows), levels=LEVELS, n_classes=2, batch=4096)
    campaign = Campaign(np.ones(rows, dtype=np.int64), 2, SIGMA, budget=budget)
    return votes.certify(campaign, voter)


SHAPES = [(1, 1, 2), (1, 8, 8)]


@pytest.fixture(scope="module", params=SHAPES, ids=["2 pixels", "64 pixels"])
def case(request) -> Problem:
    return problem(request.param)


@pytest.fixture(scope="module")
def fixed(case) -> np.ndarray:
    return certify(case, Fixed(n=512, n0=32, alpha=ALPHA), ROWS)


@pytest.fixture(scope="module")
def sequential(case) -> np.ndarray:
    return certify(case, Sequential(radii=(0.25, case.radius), n=1000, n0=32, alpha=ALPHA), ROWS)


def false(table: np.ndarray, case: Problem) -> np.ndarray:
    """Which certificates claim more than is true of the class that they name."""
    wins = np.array(case.truth)[table["predicted"]] > 0.5
    return table["radius"] > np.where(wins, case.radius, 0.0)


def test_votes_are_as_frequent_as_the_theory_says(case, fixed):
    votes = fixed["select"].sum(0) + fixed["counts"].sum(0)
    total, p = ROWS * (512 + 32), case.truth[1]
    assert votes.sum() == total
    assert 0.7 < p < 0.95
    assert abs(votes[1] / total - p) < 5 * np.sqrt(p * (1 - p) / total)


def test_a_fixed_budget_errs_as_often_as_its_bound_does(case, fixed):
    p, n = case.truth[1], 512
    k = np.arange(n + 1)
    rate = stats.binom.pmf(k, n, p)[clopper_pearson_lower(k, n, ALPHA) > p].sum()
    assert ALPHA / 3 < rate <= ALPHA
    right = fixed[fixed["predicted"] == 1]
    assert len(right) > 0.95 * ROWS
    errors = int(false(right, case).sum())
    assert stats.binom.ppf(1e-6, len(right), rate) <= errors <= stats.binom.isf(1e-6, len(right), rate)
    assert not false(fixed[fixed["predicted"] == 0], case).any()


def test_a_sequential_budget_errs_no_more_often_than_alpha(case, sequential):
    # the exact radius is among those asked for: nowhere is a false certificate more likely
    errors = int(false(sequential, case).sum())
    assert errors <= stats.binom.isf(1e-6, ROWS, ALPHA)
    assert errors >= stats.binom.ppf(1e-6, ROWS, 0.4 * ALPHA)
    assert (sequential["radius"] >= 0.25).mean() > 0.9


def test_with_many_draws_the_certified_radius_comes_close_to_the_exact_one(case):
    (row,) = certify(case, Fixed(n=100_000))
    assert 0.97 * case.radius < row["radius"] < case.radius


def test_the_certificate_of_an_ebsc_goes_beyond_the_margin_and_that_of_plain_smoothing_does_not():
    narrow = problem((1, 1, 2), s=0.05)
    far = margin(narrow.x, narrow.w)
    assert narrow.radius == pytest.approx(np.linalg.norm(narrow.mu), rel=0.02)
    (ebsc,), (plain,) = (certify(narrow, Fixed(n=50_000), plain=plain) for plain in (False, True))
    assert 0.95 * far < plain["radius"] < far
    assert ebsc["radius"] > 1.3 * far
