"""Bounds against the binomial tails that define them, and against scipy's own exact intervals."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import betainc, betaincc

from ebsc.bounds import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    false_certificates,
    floor_radius,
    radius,
    required_probability,
)

CASES = [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (51, 100), (999, 1000), (90_000, 100_000), (100_000, 100_000)]


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.001, 1e-6])
@pytest.mark.parametrize(("k", "n"), CASES)
def test_bounds_are_those_of_the_exact_binomial_test(k, n, alpha):
    def interval(side):
        return stats.binomtest(k, n, alternative=side).proportion_ci(1 - alpha, method="exact")

    assert clopper_pearson_lower(k, n, alpha) == pytest.approx(interval("greater").low, abs=1e-12)
    assert clopper_pearson_upper(k, n, alpha) == pytest.approx(interval("less").high, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize(("k", "n"), CASES)
def test_at_the_bound_the_tail_is_alpha(k, n, alpha):
    if k > 0:
        assert stats.binom.sf(k - 1, n, float(clopper_pearson_lower(k, n, alpha))) == pytest.approx(alpha, rel=1e-6)
    if k < n:
        assert stats.binom.cdf(k, n, float(clopper_pearson_upper(k, n, alpha))) == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.001, 0.0005, 1e-5, 1e-6])
@pytest.mark.parametrize("n", [10**4, 10**6, 10**8, 2 * 10**9])
def test_at_every_bound_of_many_draws_the_tail_is_alpha(n, alpha):
    few = np.arange(2000.0)  # scipy 1.17 is wrong at 999
    tail = betainc(n - few, few + 1, clopper_pearson_lower(n - few, n, alpha))
    np.testing.assert_allclose(tail, alpha, rtol=1e-6)
    tail = betaincc(few + 1, n - few, clopper_pearson_upper(few, n, alpha))
    np.testing.assert_allclose(tail, alpha, rtol=1e-6)


def test_no_level_makes_a_radius_infinite():
    assert np.isfinite(radius(clopper_pearson_lower(200, 200, 1 - 1e-16), 1.0))
    assert clopper_pearson_upper(0, 200, 1 - 1e-16) > 0


@pytest.mark.parametrize("n", [1, 7, 100])
@pytest.mark.parametrize("p", [0.01, 0.5, 0.75, 0.99])
def test_the_bounds_cover_exactly_as_often_as_they_say(n, p):
    k, alpha = np.arange(n + 1), 0.05
    mass = stats.binom.pmf(k, n, p)
    assert mass[clopper_pearson_lower(k, n, alpha) > p].sum() <= alpha
    assert mass[clopper_pearson_upper(k, n, alpha) < p].sum() <= alpha


def test_bounds_take_a_level_for_each_row():
    alpha = np.array([0.05, 0.001])
    together = clopper_pearson_lower(np.array([60, 60]), np.array([100, 100]), alpha)
    assert together.tolist() == [float(clopper_pearson_lower(60, 100, a)) for a in alpha.tolist()]


@pytest.mark.parametrize("sigma", [0.12, 0.5, 1.0])
def test_radius_and_probability_are_inverse(sigma):
    radii = np.linspace(0, 4 * sigma, 101)
    np.testing.assert_allclose(radius(required_probability(radii, sigma), sigma), radii, atol=1e-9)
    assert (radius(np.linspace(0, 0.5, 11), sigma) == 0).all()


def test_n_successes_of_n_certify_the_nth_root_of_alpha():
    # with n = 100,000 and alpha = 0.001 the largest radius that any log can hold: 3.8115 sigma
    lower = clopper_pearson_lower(np.array([100_000]), 100_000, 0.001)
    assert lower == pytest.approx(0.001**1e-5)
    assert radius(lower, 1.0) == pytest.approx(3.8115, abs=1e-4)


@given(st.floats(0, 100), st.integers(1, 6))
@example(0.4996, 3)
@example(0.29, 3)
@example(1e-7, 3)
@example(4.0, 3)
@example(0.1 + 0.2, 3)
@example(np.nextafter(0.5, 0.0), 3)
@example(99.9999999999, 3)
def test_a_printed_radius_is_never_above_the_stored_one(value, digits):
    text = floor_radius(value, digits)
    whole, _, fraction = text.partition(".")
    assert whole.isdigit()
    assert len(fraction) == digits
    assert float(text) <= value < float(text) + 1.000001 * 10.0**-digits


def test_printed_radii_of_thousands_of_values():
    values = np.concatenate([np.random.default_rng(0).uniform(0, 4, 5000), np.arange(4000) / 1000])
    printed = np.array([float(floor_radius(value)) for value in values])
    assert (printed <= values).all()
    assert (values - printed < 0.001).all()
    assert (printed[5000:] == values[5000:]).all()


def test_a_numpy_radius_prints_as_well():
    assert floor_radius(np.float64(0.4996)) == "0.499"


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("n_images", [1, 500, 10_000])
def test_more_false_certificates_than_the_bound_are_rarer_than_rho(n_images, alpha):
    for rho in (0.05, 0.001):
        bound = false_certificates(n_images, alpha, rho)
        assert stats.binom.sf(bound, n_images, alpha) <= rho
        assert bound == 0 or stats.binom.sf(bound - 1, n_images, alpha) > rho
