"""A table known to a tolerance: as well as was asked for, with fewer draws, and the same however its work is done."""

from functools import cache

import coins
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ebsc import waves
from ebsc.bounds import required_probability
from ebsc.budgets import Sequential, Tolerance
from ebsc.campaign import Campaign, Outcome
from ebsc.errors import InputError

SIGMA, ROWS = 0.5, 100
RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
P = np.random.default_rng(1).beta(8, 1, ROWS)
LABELS = np.where(np.arange(ROWS) % 10 == 3, 0, 1)
EVERY = Sequential(radii=RADII, n=2000, n0=50)


def budget(accuracy=0.05, acr=None, **options):
    return Sequential(radii=RADII, n=2000, n0=50, tolerance=Tolerance(accuracy=accuracy, acr=acr), **options)


def campaign(budget):
    return Campaign(LABELS, 2, SIGMA, budget=budget)


@cache
def run(budget):
    return coins.run(campaign(budget), coins.addressed(P))


@cache
def recorded(budget):
    return coins.recorded(campaign(budget), coins.addressed(P), 3000)


def radii(table):
    return np.where(table["predicted"] == table["label"], table["radius"], 0.0)


@pytest.fixture(autouse=True, scope="module")
def small_waves():
    """Several waves for each look, although there are few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waves, "FEWEST", 8)
        yield


@pytest.mark.parametrize("accuracy", [0.01, 0.05, 0.2])
def test_no_accuracy_is_further_than_the_tolerance_below_that_of_deciding_every_image(accuracy):
    every, table = radii(run(EVERY)), radii(run(budget(accuracy)))
    for radius in RADII:
        lost = (every >= max(radius, 1e-9)).mean() - (table >= max(radius, 1e-9)).mean()
        # and futility: now and then a radius is given up that more draws would have certified
        assert 0 <= lost <= accuracy + 0.01


@pytest.mark.parametrize("acr", [0.02, 0.1])
def test_the_average_radius_is_no_further_than_its_tolerance_below_that_of_all_draws(acr):
    most, table = run(budget(None, 1e-9)), run(budget(None, acr))
    assert (most["draws"][radii(most) > 0] == 2050).all()
    assert 0 <= radii(most).mean() - radii(table).mean() <= acr


def test_a_larger_tolerance_takes_fewer_draws():
    draws = [int(run(asked)["draws"].sum()) for asked in (EVERY, budget(0.01), budget(0.05), budget(0.2))]
    assert draws == sorted(draws, reverse=True)
    assert draws[2] < 0.9 * draws[0]
    both = int(run(budget(0.05, 0.02))["draws"].sum())
    assert both > draws[2]


def test_images_whose_candidate_is_wrong_are_not_drawn_on_for():
    table = run(budget())
    wrong = table["predicted"] != table["label"]
    assert wrong.sum() > 5
    assert (table["draws"][wrong] == 50).all()
    assert (table["outcome"][wrong] == Outcome.STOPPED).all()


def test_images_that_are_left_open_are_those_that_need_most_draws():
    table = run(budget(0.1))
    right = table["predicted"] == table["label"]
    far = np.abs(P[:, None] - required_probability(np.array(RADII), SIGMA)).min(1)
    left = right & (table["outcome"] == Outcome.STOPPED)
    assert left.any()
    assert np.median(far[left]) < np.median(far[right & ~left])


@pytest.mark.parametrize(
    "asked", [budget(), budget(0.05, 0.05), budget(two_sided=True)], ids=["accuracy", "both", "two"]
)
@given(size=st.integers(1, 20_000), workers=st.integers(1, 20), seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_certificates_depend_neither_on_the_size_of_units_nor_on_the_order_of_arrival(asked, size, workers, seed):
    shuffled = coins.run_shuffled(campaign(asked), coins.addressed(P), size, workers, seed)
    assert shuffled.tobytes() == run(asked).tobytes()


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_it_goes_on_from_any_prefix_of_its_records(data):
    asked = budget(0.05, 0.05)
    table, records = recorded(asked)
    resumed = campaign(asked)
    resumed.restore(iter(records[: data.draw(st.integers(0, len(records)))]))
    before = resumed.draws
    assert coins.run(resumed, coins.addressed(P)).tobytes() == table.tobytes()
    assert before <= resumed.draws == table["draws"].sum()


def test_stopping_by_the_table_gives_false_certificates_no_more_often_than_alpha():
    rows, p = 20_000, float(required_probability(0.5, SIGMA))
    asked = Sequential(radii=RADII, n=2000, n0=32, alpha=0.02, tolerance=Tolerance(accuracy=0.3))
    work = Campaign(np.ones(rows, dtype=np.int64), 2, SIGMA, budget=asked)
    table = coins.run(work, coins.fresh(np.full(rows, p)))
    assert (table["outcome"] == Outcome.STOPPED).sum() > 1000
    assert (table["p_lower"] > p).sum() <= stats.binom.isf(1e-7, rows, 0.02)


@pytest.mark.parametrize("options", [{}, {"accuracy": 0.0}, {"acr": -1.0}, {"accuracy": float("nan")}])
def test_what_is_no_tolerance_is_refused(options):
    with pytest.raises(InputError, match="tolerance"):
        Tolerance(**options)
