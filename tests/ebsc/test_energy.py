"""Energies as functions: what they are in closed form, that they are smooth, confining and take any image size."""

import numpy as np
import pytest
import torch
from weights import with_random_weights

from ebsc import energy
from ebsc.energy import TwoGaussians
from ebsc.errors import InputError

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


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0])
def test_two_gaussians_is_the_negative_log_density_of_the_mixture(s):
    sigma, mu = 0.5, torch.randn(1, 2, 3, dtype=torch.float64)
    y = 2 * torch.randn(50, 1, 2, 3, dtype=torch.float64)
    variance = s**2 + sigma**2
    exponents = torch.stack([-(y - sign * mu).flatten(1).square().sum(1) / (2 * variance) for sign in (1, -1)])
    difference = TwoGaussians(mu, s, sigma)(y) + torch.logsumexp(exponents, 0)
    torch.testing.assert_close(difference, difference[:1].expand(50), rtol=0, atol=1e-7)


def test_two_gaussians_does_not_overflow_far_away():
    phi = TwoGaussians(torch.ones(1, 1, 2), s=0.0, sigma=0.1)
    assert torch.isfinite(phi(torch.tensor([1e4, -1e4, 0.0])[:, None, None, None].expand(3, 1, 1, 2))).all()


def test_two_gaussians_moves_and_is_saved_with_its_mean():
    assert TwoGaussians(torch.ones(1, 1, 2), 0.1, 0.5).double().mu.dtype == torch.float64
    assert list(TwoGaussians(torch.ones(1, 1, 2), 0.1, 0.5).state_dict()) == ["mu"]


def test_an_unknown_energy_is_refused_with_the_known_ones_named():
    with pytest.raises(InputError, match=r"'cubic'.*residual, scalar"):
        energy.build("cubic", (1, 8, 8), 0.5)


def test_a_batch_that_is_no_batch_of_images_is_refused():
    phi = energy.build("scalar", (1, 8, 8), 0.5, width=4)
    with pytest.raises(TypeError, match="channel height width"):
        phi(torch.from_numpy(np.zeros((1, 8, 8), np.float32)))
