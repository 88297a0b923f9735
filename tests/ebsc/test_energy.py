"""Energies as functions: what they are in closed form, that they are smooth, confining and take any image size."""

import numpy as np
import pytest
import torch
from scipy import stats
from weights import with_random_weights

from ebsc import energy
from ebsc.energy import GaussianMixture
from ebsc.errors import InputError
from ebsc.estimator import bayes_estimate

SHAPES = [(1, 8, 8), (3, 9, 11), (1, 1, 2), (2, 5, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["residual", "scalar"])
def test_an_energy_is_one_number_an_image_and_independent_of_its_neighbours(kind, shape):
    phi = with_random_weights(energy.build(kind, shape, 0.5, width=4))
    y = torch.randn(3, *shape, dtype=torch.float64)
    together = phi(y)
    assert together.shape == (3,)
    torch.testing.assert_close(together, torch.cat([phi(image[None]) for image in y]))


@pytest.mark.parametrize("kind", ["residual", "scalar"])
def test_an_energy_has_a_gradient_and_second_derivatives(kind):
    phi = with_random_weights(energy.build(kind, (1, 4, 4), 0.5, width=4))
    y = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(phi, y)
    assert torch.autograd.gradgradcheck(phi, y)


@pytest.mark.parametrize("kind", ["residual", "scalar"])
def test_an_untrained_energy_confines(kind):
    phi = energy.build(kind, (1, 8, 8), 0.5, width=8)
    direction = torch.randn(20, 1, 8, 8)
    near, far, farther = (phi(scale * direction) for scale in (1.0, 30.0, 100.0))
    assert (near < far).all()
    assert (far < farther).all()


MEANS = np.random.default_rng(0).normal(size=(3, 6))
VARIANCES = np.array([0.0, 0.3, 1.5])
WEIGHTS = np.array([0.5, 0.2, 0.3])
SIGMA = 0.5


def mixture(dtype=torch.float64):
    means, variances, weights = (torch.from_numpy(part).to(dtype) for part in (MEANS, VARIANCES, WEIGHTS))
    return GaussianMixture.of(means.view(3, 1, 2, 3), variances, 7 * weights, SIGMA)


def densities(y):
    """Weighted density of each component of Y, by scipy."""
    spreads = VARIANCES + SIGMA**2
    return np.stack(
        [w * stats.multivariate_normal(m, v).pdf(y) for w, m, v in zip(WEIGHTS, MEANS, spreads, strict=True)], -1
    )


def test_a_mixture_is_the_negative_log_density_that_scipy_has():
    y = 2 * np.random.default_rng(1).normal(size=(50, 6))
    constant = 3 * np.log(2 * np.pi)
    found = mixture()(torch.from_numpy(y).view(50, 1, 2, 3)).numpy()
    np.testing.assert_allclose(found, -np.log(densities(y).sum(-1)) - constant, rtol=0, atol=1e-12)


def test_a_mixture_estimates_the_posterior_mean():
    y = np.random.default_rng(1).normal(size=(50, 6))
    posterior = densities(y) / densities(y).sum(-1, keepdims=True)
    shrink = (VARIANCES / (VARIANCES + SIGMA**2))[:, None]
    expected = (posterior[..., None] * (MEANS + shrink * (y[:, None] - MEANS))).sum(1)
    found = bayes_estimate(mixture(), torch.from_numpy(y).view(50, 1, 2, 3), SIGMA).view(50, 6).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert (posterior.max(-1) < 0.9).any()


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_two_classes_are_a_log_cosh(s, centre):
    mu, v = torch.randn(1, 2, 3, dtype=torch.float64), s**2 + SIGMA**2
    y = torch.randn(50, 1, 2, 3, dtype=torch.float64)
    expected = y.flatten(1).square().sum(1) / (2 * v) - torch.log(torch.cosh((y * mu).flatten(1).sum(1) / v))
    difference = GaussianMixture.two_classes(mu, s, SIGMA, centre)(y + centre) - expected
    torch.testing.assert_close(difference, difference[:1].expand(50), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixture_does_not_overflow_far_away(dtype):
    phi = GaussianMixture.two_classes(torch.ones(1, 1, 2), s=0.0, sigma=0.1, centre=0.0).to(dtype)
    y = torch.tensor([1e4, -1e4, 0.0], dtype=dtype)[:, None, None, None].expand(3, 1, 1, 2)
    assert torch.isfinite(phi(y)).all()
    estimate = bayes_estimate(phi, y, 0.1)
    assert torch.isfinite(estimate).all()
    if dtype == torch.float32:
        torch.testing.assert_close(estimate[:, 0, 0, 0], torch.tensor([1.0, -1.0, 0.0]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("lower", ["module", "autocast"])
def test_a_mixture_in_8_bits_still_tells_its_components_apart(lower):
    """Of 784 pixels, |y - m|^2 / (2 v) is about 400: rounded to 8 bits, its differences would be noise."""
    means = 0.5 + 0.05 * torch.randn(2, 1, 28, 28).sign()
    phi = GaussianMixture.of(means, torch.zeros(2), torch.ones(2), SIGMA)
    y = means[torch.tensor([0, 1] * 20)] + SIGMA * torch.randn(40, 1, 28, 28)
    exact = bayes_estimate(phi, y, SIGMA)
    if lower == "module":
        found = bayes_estimate(phi.to(torch.bfloat16), y.to(torch.bfloat16), SIGMA).float()
    else:
        with torch.autocast("cpu", torch.bfloat16):
            found = bayes_estimate(phi, y, SIGMA)
    assert (found - exact).abs().max() < 0.02
    assert exact.std(0).max() > 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_estimate_under_a_mixture_does_not_depend_on_its_neighbours(dtype):
    """Bit for bit, as certificates that are the same on any number of workers need it."""
    means = torch.rand(100, 1, 28, 28)
    phi = GaussianMixture.of(means, 0.04 * torch.rand(100), torch.ones(100), SIGMA).to(dtype)
    y = (means + SIGMA * torch.randn(100, 1, 28, 28)).to(dtype)
    estimate = bayes_estimate(phi, y, SIGMA)
    assert torch.equal(bayes_estimate(phi, y.roll(17, 0), SIGMA), estimate.roll(17, 0))
    assert torch.equal(bayes_estimate(phi, y[:64], SIGMA), estimate[:64])


def test_a_mixture_moves_and_is_saved_with_all_that_it_is():
    phi = mixture(torch.float32).double()
    assert {name: value.dtype for name, value in phi.state_dict().items()} == dict.fromkeys(
        ["means", "variances", "log_weights"], torch.float64
    )
    other = energy.build("mixture", (1, 2, 3), SIGMA, components=3).double()
    y = torch.randn(4, 1, 2, 3, dtype=torch.float64)
    assert not torch.equal(other(y), phi(y))
    other.load_state_dict(phi.state_dict())
    assert torch.equal(other(y), phi(y))
    assert not list(phi.parameters())


@pytest.mark.parametrize(("variances", "weights"), [([0.1, -0.1], [1.0, 1.0]), ([0.1, 0.1], [1.0, 0.0])])
def test_what_is_no_mixture_is_refused(variances, weights):
    with pytest.raises(InputError, match=r"variances .* weights positive"):
        GaussianMixture.of(torch.zeros(2, 1, 1, 2), torch.tensor(variances), torch.tensor(weights), SIGMA)
    with pytest.raises(InputError, match="components must be at least 1"):
        energy.build("mixture", (1, 1, 2), SIGMA, components=0)


def test_an_unknown_energy_is_refused_with_the_known_ones_named():
    with pytest.raises(InputError, match=r"'cubic'.*residual, scalar, mixture"):
        energy.build("cubic", (1, 8, 8), 0.5)


def test_a_batch_that_is_no_batch_of_images_is_refused():
    phi = energy.build("scalar", (1, 8, 8), 0.5, width=4)
    with pytest.raises(TypeError, match="channel height width"):
        phi(torch.from_numpy(np.zeros((1, 8, 8), np.float32)))
