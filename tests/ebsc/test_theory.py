"""The exact answers against closed forms of their special cases, and against the definition by Monte Carlo."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from ebsc.energy import TwoGaussians
from ebsc.errors import InputError
from ebsc.estimator import bayes_estimate
from ebsc.theory import exact_radius, margin, probability


def vectors(dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(seed).normal(size=(3, dimension)) / dimension**0.5)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("dimension", [2, 64])
def test_without_spread_the_boundary_is_that_of_the_density(dimension, sigma):
    x, w, mu = vectors(dimension)
    expected = ndtr(np.sign(w @ mu) * (mu @ x) / np.linalg.norm(mu) / sigma)
    assert probability(x, w, mu, 0.0, sigma) == pytest.approx(expected, abs=1e-12)
    assert exact_radius(x, w, mu, 0.0, sigma) == pytest.approx(abs(mu @ x) / np.linalg.norm(mu), abs=1e-9)


@pytest.mark.parametrize("s", [0.01, 1.0, 100.0])
def test_with_w_orthogonal_to_mu_nothing_is_learned_from_the_density(s):
    x, w, mu = vectors(8)
    w = w - (w @ mu) / (mu @ mu) * mu
    assert exact_radius(x, w, mu, s, 0.5) == pytest.approx(margin(x, w), abs=1e-9)


@pytest.mark.parametrize("scale", [3.0, -0.2])
def test_with_w_parallel_to_mu_the_radius_is_the_margin(scale):
    # score(t) = a t + (1 - a) |mu|^2 tanh(t / v) is odd and monotone in t = mu.y
    x, _, mu = vectors(8)
    for s in (0.0, 0.1, 1.0):
        assert exact_radius(x, scale * mu, mu, s, 0.5) == pytest.approx(margin(x, mu), abs=1e-9)
        assert probability(x, scale * mu + 1e-9, mu, s, 0.5) == pytest.approx(
            probability(x, scale * mu, mu, s, 0.5), abs=1e-7
        )


def test_with_a_wide_density_the_denoiser_does_nothing():
    x, w, mu = vectors(8)
    assert exact_radius(x, w, mu, 1e5, 0.5) == pytest.approx(margin(x, w), rel=1e-6)


def test_as_the_density_narrows_the_boundary_turns_from_w_to_mu_and_the_radius_rises_above_the_margin():
    mu, w = np.array([1.0, 0.6]), np.array([1.0, -0.5])
    radii = [exact_radius(mu, w, mu, s, 0.5) for s in (1.0, 0.3, 0.1, 0.03, 1e-4)]
    assert radii == sorted(radii)
    assert radii[-1] == pytest.approx(np.linalg.norm(mu), abs=1e-6)
    assert radii[-1] > margin(mu, w) + 0.3


@pytest.mark.parametrize("s", [0.0, 1e-6, 1e-3, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_a_brute_force_integral(s, seed):
    x, w, mu = vectors(2 + 20 * seed, seed)
    sigma, v = 0.5, s**2 + 0.25
    length, along = np.linalg.norm(mu), w @ mu / np.linalg.norm(mu)
    z = (np.arange(2_000_000) + 0.5) / 2_000_000 * 20 - 10
    mean = s**2 / v * (w @ x + sigma * along * z) + 0.25 / v * (w @ mu) * np.tanh((mu @ x + sigma * length * z) / v)
    residual = s**2 / v * sigma * np.sqrt(w @ w - along**2)
    conditional = ndtr(mean / residual) if s else mean > 0
    expected = (conditional * np.exp(-(z**2) / 2)).sum() * 1e-5 / np.sqrt(2 * np.pi)
    assert probability(x, w, mu, s, sigma) == pytest.approx(expected, abs=1e-10 if s >= 0.1 else 1e-5)


@pytest.mark.parametrize("s", [0.0, 0.1, 0.5])
def test_it_is_the_share_of_estimates_on_the_right_side(s):
    x, w, mu = vectors(16, seed=3)
    draws, sigma = 200_000, 0.5
    y = torch.from_numpy(x + sigma * np.random.default_rng(0).normal(size=(draws, 16))).view(draws, 1, 4, 4)
    energy = TwoGaussians(torch.from_numpy(mu).view(1, 4, 4), s, sigma)
    share = (bayes_estimate(energy, y, sigma).flatten(1).numpy() @ w > 0).mean()
    exact = probability(x, w, mu, s, sigma)
    assert abs(share - exact) < 5 * np.sqrt(exact * (1 - exact) / draws)


def test_a_score_that_is_zero_everywhere_is_refused():
    x, zero, mu = np.ones(2), np.zeros(2), np.array([1.0, 0.0])
    for w, mean, s in ((zero, mu, 1.0), (x, zero, 1.0), (np.array([0.0, 1.0]), mu, 0.0)):
        with pytest.raises(InputError, match="0 everywhere"):
            probability(x, w, mean, s, 0.5)


@pytest.mark.parametrize(
    ("s", "sigma"), [(-0.1, 0.5), (0.1, 0.0), (0.1, -1.0), (float("nan"), 0.5), (0.1, float("inf"))]
)
def test_what_is_no_standard_deviation_is_refused(s, sigma):
    with pytest.raises(InputError, match="sigma"):
        probability(np.ones(2), np.ones(2), np.ones(2), s, sigma)
