"""The exact answers against closed forms of their special cases, and against the definition by Monte Carlo."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from ebsc.energy import GaussianMixture
from ebsc.errors import InputError
from ebsc.estimator import bayes_estimate
from ebsc.theory import (
    exact_model,
    exact_radius,
    margin,
    mean_radius,
    plane,
    share_lowered,
    signed_radius,
    win_probability,
)


def vectors(dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(seed).normal(size=(3, dimension)) / dimension**0.5)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("dimension", [2, 64])
def test_without_spread_the_boundary_is_that_of_the_density(dimension, sigma):
    x, w, mu = vectors(dimension)
    expected = ndtr(np.sign(w @ mu) * (mu @ x) / np.linalg.norm(mu) / sigma)
    assert win_probability(x, w, mu, 0.0, sigma) == pytest.approx(expected, abs=1e-12)
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
        assert win_probability(x, scale * mu + 1e-9, mu, s, 0.5) == pytest.approx(
            win_probability(x, scale * mu, mu, s, 0.5), abs=1e-7
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
    assert win_probability(x, w, mu, s, sigma) == pytest.approx(expected, abs=1e-10 if s >= 0.1 else 1e-5)


@pytest.mark.parametrize("s", [0.0, 0.1, 0.5])
def test_it_is_the_share_of_estimates_on_the_right_side(s):
    x, w, mu = vectors(16, seed=3)
    draws, sigma = 200_000, 0.5
    y = torch.from_numpy(x + sigma * np.random.default_rng(0).normal(size=(draws, 16))).view(draws, 1, 4, 4)
    energy = GaussianMixture.two_classes(torch.from_numpy(mu).view(1, 4, 4), s, sigma, centre=0.0)
    share = (bayes_estimate(energy, y, sigma).flatten(1).numpy() @ w > 0).mean()
    exact = win_probability(x, w, mu, s, sigma)
    assert abs(share - exact) < 5 * np.sqrt(exact * (1 - exact) / draws)


def test_a_score_that_is_zero_everywhere_is_refused():
    x, zero, mu = np.ones(2), np.zeros(2), np.array([1.0, 0.0])
    for w, mean, s in ((zero, mu, 1.0), (x, zero, 1.0), (np.array([0.0, 1.0]), mu, 0.0)):
        with pytest.raises(InputError, match="must not be 0"):
            win_probability(x, w, mean, s, 0.5)


@pytest.mark.parametrize(
    ("s", "sigma"), [(-0.1, 0.5), (0.1, 0.0), (0.1, -1.0), (float("nan"), 0.5), (0.1, float("inf"))]
)
def test_what_is_no_standard_deviation_is_refused(s, sigma):
    with pytest.raises(InputError, match="sigma"):
        win_probability(np.ones(2), np.ones(2), np.ones(2), s, sigma)


@pytest.mark.parametrize("s", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("scale", [None, 2.0])
def test_many_points_at_once_have_the_values_of_each(s, scale):
    _, w, mu = vectors(8)
    w = w if scale is None else scale * mu
    x = np.random.default_rng(4).normal(size=(3, 5, 8))
    for function in (win_probability, signed_radius, exact_radius):
        together = function(x, w, mu, s, 0.5)
        assert together.shape == (3, 5)
        one_by_one = [[float(function(point, w, mu, s, 0.5)) for point in row] for row in x]
        np.testing.assert_allclose(together, one_by_one, rtol=0, atol=1e-10)


@pytest.mark.parametrize("s", [0.0, 0.2, 1.0])
def test_the_signed_radius_is_positive_where_class_plus_one_wins_and_odd(s):
    _, w, mu = vectors(8)
    x = np.random.default_rng(4).normal(size=(50, 8))
    signed = signed_radius(x, w, mu, s, 0.5)
    assert ((signed > 0) == (win_probability(x, w, mu, s, 0.5) > 0.5)).all()
    assert 5 < (signed > 0).sum() < 45
    np.testing.assert_allclose(np.abs(signed), exact_radius(x, w, mu, s, 0.5), rtol=0, atol=0)
    np.testing.assert_allclose(signed_radius(-x, w, mu, s, 0.5), -signed, rtol=0, atol=1e-9)
    np.testing.assert_allclose(signed_radius(x, -w, mu, s, 0.5), -signed, rtol=0, atol=1e-9)


def test_far_from_the_boundary_it_is_still_a_number():
    w, mu = np.array([1.0, 0.5]), np.array([1.0, 0.0])
    assert signed_radius(30 * mu, w, mu, 0.0, 1.0) == pytest.approx(30.0, rel=1e-6)
    assert signed_radius(30 * mu, w, mu, 1e4, 1.0) == pytest.approx(30 / 1.25**0.5, rel=1e-4)
    assert signed_radius(-1e6 * mu, w, mu, 0.1, 1.0) == -36.0


@pytest.mark.parametrize(("s", "degrees"), [(0.1, 30), (0.5, 60), (1.0, 75)])
def test_mean_and_share_over_the_class_are_those_of_a_sample(s, degrees):
    w, mu = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0.0]), np.array([1.0, 0.0, 0.0])
    x = mu + s * np.random.default_rng(0).normal(size=(5000, 3))
    ebsc = np.concatenate([signed_radius(part, w, mu, s, 0.5) for part in np.split(x, 5)])
    error = ebsc.std() / 5000**0.5
    assert abs(mean_radius(2 * w, mu, s, 0.5) - ebsc.mean()) < 4 * error + 1e-6
    lowered = (ebsc < x @ w - 1e-9).mean()
    assert abs(share_lowered(2 * w, mu, s, 0.5) - lowered) < 4 * np.sqrt((lowered + 0.001) / 5000) + 0.01


@pytest.mark.parametrize("of_class", [mean_radius, share_lowered])
def test_a_class_beyond_the_reach_of_the_integral_is_refused(of_class):
    at = np.array([1.0, 0.0])
    with pytest.raises(InputError, match="at most 36 sigma"):
        of_class(at, at, s=0.0, sigma=0.02)


def test_the_mean_over_the_class_in_its_limits():
    _, w, mu = vectors(8)
    w = np.sign(w @ mu) * w
    assert mean_radius(w, mu, 3.0, 0.5) == pytest.approx(margin(mu, w), rel=0.05)
    assert mean_radius(mu, mu, 0.5, 0.5) == pytest.approx(np.linalg.norm(mu), abs=1e-6)
    assert mean_radius(w, mu, 0.0, 0.5) == pytest.approx(np.linalg.norm(mu), abs=1e-9)


def test_a_mean_over_radii_that_are_out_of_reach_is_refused():
    w, mu = np.array([1.0, 0.5]), np.array([1.0, 0.0])
    assert mean_radius(w, mu, 0.5, 0.1) > margin(mu, w)
    with pytest.raises(InputError, match="at most 36 sigma"):
        mean_radius(w, mu, 0.6, 0.1)


def test_denoising_helps_at_the_mean_and_hurts_elsewhere():
    w, mu = np.array([0.5, 0.75**0.5]), np.array([1.0, 0.0])
    helped, hurt = plane(w, mu, np.array([1.0, 0.2]), np.array([0.0, 1.5]))
    assert signed_radius(helped, w, mu, 0.5, 0.5) > margin(helped, w) + 0.3
    assert 0.3 < signed_radius(hurt, w, mu, 0.5, 0.5) < margin(hurt, w) - 0.3


def test_the_plane_has_the_coordinates_of_its_points():
    _, w, mu = vectors(16)
    along, across = np.random.default_rng(1).normal(size=(2, 4, 5))
    points = plane(w, mu, along, across)
    np.testing.assert_allclose(points @ mu / np.linalg.norm(mu), along, atol=1e-12)
    away = w - (w @ mu) / (mu @ mu) * mu
    np.testing.assert_allclose(points @ away / np.linalg.norm(away), across, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), np.hypot(along, across), atol=1e-12)


@pytest.mark.parametrize("s", [0.0, 0.3])
def test_the_exact_model_has_the_score_of_the_theory(s):
    _, w, mu = vectors(16)
    y = np.random.default_rng(5).normal(size=(40, 16))
    a, v = s**2 / (s**2 + 0.25), s**2 + 0.25
    score = a * (y @ w) + (1 - a) * (w @ mu) * np.tanh(y @ mu / v)
    logits = exact_model(w, mu, s, 0.5, (1, 4, 4))(torch.from_numpy(y + 0.5).float().view(40, 1, 4, 4))
    np.testing.assert_allclose((logits[:, 1] - logits[:, 0]).detach().numpy(), score, rtol=0, atol=1e-4)
