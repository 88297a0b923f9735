"""The bound of a budget under its own stopping rule: by exact enumeration, and on simulated streams of votes."""

import coins
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr

from ebsc.bounds import clopper_pearson_lower, clopper_pearson_upper
from ebsc.budgets import Budget, Fixed, Sequential, Standing
from ebsc.campaign import Campaign
from ebsc.errors import InputError
from ebsc.noise import BLOCK

SIGMA = 0.5
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
THRESHOLDS = [float(ndtr(r / SIGMA)) for r in GRID]


@given(st.integers(1, 200_000), st.floats(1.05, 4.0), st.floats(0.001, 0.5))
def test_looks_grow_to_n_and_their_shares_make_up_alpha(n, growth, alpha):
    budget = Sequential(radii=GRID, n=n, n0=1, growth=growth, alpha=alpha)
    looks, spending = budget.looks, budget.spending
    assert looks[-1] == n
    assert (np.diff(np.append(0, looks)) > 0).all()
    assert (looks[:-1] % BLOCK == 0).all()
    assert len(looks) == len(spending)
    assert (spending > 0).all()
    assert spending.sum() <= alpha * (1 + 1e-12)


def false_certificate_probability(budget: Budget, p: float) -> float:
    """P[the bound of some look is above p], exactly: a walk over the numbers of successes that have not erred so far.

    Whatever rule stops the walk can only lower it, so that this covers optional stopping.
    """
    alive, total = np.ones(1), 0
    for look, share in zip(budget.looks.tolist(), budget.spending.tolist(), strict=True):
        step = stats.binom.pmf(np.arange(look - total + 1), look - total, p)
        alive, total = np.convolve(alive, step), look
        alive[clopper_pearson_lower(np.arange(look + 1), look, share) > p] = 0
    return 1 - alive.sum()


@pytest.mark.parametrize("p", [*THRESHOLDS, 0.3, 0.51, 0.8, 0.97, 0.999])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("budget", [Fixed, Sequential])
def test_the_probability_that_any_look_errs_is_at_most_alpha(budget, alpha, p):
    options = {"radii": GRID} if budget is Sequential else {}
    for n in (100, 640, 2000):
        assert false_certificate_probability(budget(n=n, alpha=alpha, **options), p) <= alpha
    extended = budget(n=2000, alpha=alpha, extends=(300, 640), **options)
    assert {300, 640} < set(extended.looks.tolist())
    assert false_certificate_probability(extended, p) <= alpha


@pytest.mark.parametrize("p", [*THRESHOLDS, 0.6, 0.9])
@pytest.mark.parametrize(
    "budget", [Fixed(n=2000, n0=32, alpha=0.05), Sequential(radii=GRID, n=2000, n0=32, alpha=0.05)]
)
def test_a_campaign_gives_false_certificates_no_more_often_than_alpha(budget, p):
    rows = 4000
    campaign = Campaign(np.ones(rows, dtype=np.int64), 2, SIGMA, budget=budget)
    table = coins.run(campaign, coins.fresh(np.full(rows, p)))
    truth = np.where(table["predicted"] == 1, p, 1 - p)
    false = int((table["p_lower"] > truth).sum())
    assert false <= stats.binom.isf(1e-7, rows, budget.alpha)
    # and it is not sound by being useless: at a threshold, where it draws to the end, most of alpha is used
    if p in THRESHOLDS:
        assert false >= stats.binom.ppf(1e-7, rows, 0.4 * budget.alpha)


def two_sided(alpha, p, rows=4000):
    """Certificates of a two-sided budget over images that all have these probabilities of the classes."""
    budget = Sequential(radii=GRID, n=2000, n0=200, alpha=alpha, two_sided=True)
    campaign = Campaign(np.zeros(rows, dtype=np.int64), len(p), SIGMA, budget=budget)
    rng = np.random.default_rng(0)
    return coins.run(campaign, lambda unit: rng.multinomial(unit.spans["stop"] - unit.spans["start"], p))


@pytest.mark.parametrize(
    "p",
    [
        *((0.45, 0.3, 0.25), (0.6, 0.2, 0.2), (0.9, 0.1, 0.0), (0.4, 0.35, 0.25)),
        *((0.9, 0.01, 0.09), (0.46, *(0.06,) * 9), (0.25, 0.2, *(0.055,) * 10)),
    ],
)
def test_two_sided_certificates_are_false_no_more_often_than_alpha(p):
    table = two_sided(0.05, p)
    exact = np.array(
        [SIGMA / 2 * (stats.norm.ppf(p[c]) - stats.norm.ppf(max(*p[:c], *p[c + 1 :], 0))) for c in range(len(p))]
    )
    assert (table["radius"] > np.maximum(exact[table["predicted"]], 0)).sum() <= stats.binom.isf(1e-7, 4000, 0.05)


def test_the_two_sided_bound_certifies_candidates_below_one_half():
    table = two_sided(0.001, (0.45, 0.275, 0.275), rows=50)
    assert (table["radius"] > 0).all()


@pytest.mark.parametrize("n_classes", [3, 10, 1000])
def test_the_two_sided_bound_does_not_depend_on_the_number_of_other_classes(n_classes):
    counts = np.zeros((1, n_classes), dtype=np.int64)
    counts[0, :3] = 900, 60, 40
    standing = Standing.of(counts, np.array([0]), np.array([0]))
    (bound,) = Fixed(n=1000, n0=1, alpha=0.002, two_sided=True).bound(standing)
    low, high = stats.beta.ppf(0.001, 900, 101), stats.beta.ppf(0.999, 61, 940)
    assert bound == pytest.approx(stats.norm.cdf((stats.norm.ppf(low) - stats.norm.ppf(high)) / 2), abs=1e-12)


@given(st.integers(1, 2000), st.data())
def test_the_two_sided_bound_is_at_least_the_one_sided_bound_at_half_of_alpha(n, data):
    k = np.array([data.draw(st.integers(0, n))])
    rival = np.array([data.draw(st.integers(0, n - int(k[0])))])
    two = Fixed(n=n, n0=1, alpha=0.002, two_sided=True).bound(Standing(k, rival, np.array([0])))
    one = Fixed(n=n, n0=1, alpha=0.001).bound(Standing(k, rival, np.array([0])))
    assert two >= one - 1e-12


@pytest.mark.parametrize("k", [0, 500, 1000, 1040, 1064, 1500, 1990, 2000])
def test_a_fixed_budget_gives_the_exact_interval_of_the_binomial_test(k):
    campaign = Campaign(np.zeros(1, dtype=np.int64), 2, SIGMA, budget=Fixed(n=2000, n0=10, alpha=0.001))
    (selecting,) = campaign.next_units(10**6)
    campaign.merge(selecting, np.array([[10, 0]]))
    (estimating,) = campaign.next_units(10**6)
    campaign.merge(estimating, np.array([[k, 2000 - k]]))
    exact = stats.binomtest(k, 2000, alternative="greater").proportion_ci(0.999, method="exact").low
    (row,) = campaign.certificates()
    assert row["p_lower"] == pytest.approx(exact, abs=1e-12)
    assert row["radius"] == pytest.approx(max(0.0, SIGMA * stats.norm.ppf(exact)) if k else 0.0)


@pytest.mark.parametrize("radii", [(0.0,), (0.5,), GRID])
def test_a_sequential_budget_draws_on_exactly_while_a_radius_can_still_be_won(radii):
    budget = Sequential(radii=radii, n=2000)
    for look, draws in enumerate(budget.looks.tolist()):
        k = np.arange(draws + 1)
        lower = clopper_pearson_lower(k, draws, float(budget.spending[look]))
        standing = Standing(k, draws - k, np.full(len(k), look))
        undecided, onward = budget.judge(lower, standing, SIGMA)
        upper = clopper_pearson_upper(k, draws, budget.futility)
        best = clopper_pearson_lower(k + 2000 - draws, 2000, float(budget.spending[-1]))
        for i in k.tolist():
            missing = [p for p in map(ndtr, np.array(radii) / SIGMA) if lower[i] < p or lower[i] <= 0.5]
            assert undecided[i] == any(upper[i] >= p and upper[i] > 0.5 for p in missing)
            possible = any(min(upper[i], best[i]) >= p and min(upper[i], best[i]) > 0.5 for p in missing)
            assert onward[i] == (possible and draws < 2000)


def test_one_radius_costs_a_sequential_budget_far_fewer_draws():
    p = np.random.default_rng(0).uniform(0.9, 1.0, 300)
    draws = {}
    for budget in (Fixed(n=100_000), Sequential(radii=(0.0,), n=100_000), Sequential(radii=(0.5,), n=100_000)):
        campaign = Campaign(np.ones(300, dtype=np.int64), 2, SIGMA, budget=budget)
        table = coins.run(campaign, coins.fresh(p))
        assert (table["radius"] > 0).all()
        draws[budget] = int(table["draws"].sum())
    fixed, zero, half = draws.values()
    assert fixed == 300 * 100_100
    assert zero < fixed / 200
    assert half < fixed / 30


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"alpha": -0.1},
        {"alpha": float("nan")},
        {"n": 99},
        {"n": 0},
        {"n": 2**31},
        {"n0": 0},
        {"n0": -1},
        {"n": 1000, "extends": (1000,)},
        {"n": 1000, "extends": (500, 500)},
        {"n": 1000, "extends": (2000, 500)},
    ],
)
def test_what_is_no_budget_is_refused(options):
    for budget, more in ((Fixed, {}), (Sequential, {"radii": (0.5,)})):
        with pytest.raises(InputError, match="must"):
            budget(**more, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"radii": ()},
        {"radii": (-0.1,)},
        {"radii": (0.5, -0.5)},
        {"radii": (float("nan"),)},
        {"radii": (float("inf"),)},
        {"radii": (0.5,), "last_share": 0.0},
        {"radii": (0.5,), "last_share": 1.0},
        {"radii": (0.5,), "futility": 0.0},
        {"radii": (0.5,), "futility": 1.0},
        {"radii": (0.5,), "growth": 1.0},
    ],
)
def test_what_is_no_sequential_budget_is_refused(options):
    with pytest.raises(InputError, match=r"radii|last_share"):
        Sequential(**options)
