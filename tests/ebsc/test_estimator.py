"""The Bayes estimator against its closed form, against autograd, and as part of a network that is trained."""

import compiling
import pytest
import torch
from weights import with_random_weights

from ebsc import energy
from ebsc.energy import GaussianMixture
from ebsc.estimator import EmpiricalBayes, bayes_estimate

SIGMA = 0.5


@pytest.mark.parametrize("s", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 8, 8), (3, 9, 11)])
def test_it_is_the_closed_form_for_two_gaussians(shape, s):
    mu, y = torch.randn(shape, dtype=torch.float64), torch.randn(20, *shape, dtype=torch.float64)
    a, v = s**2 / (s**2 + SIGMA**2), s**2 + SIGMA**2
    t = (y * mu).flatten(1).sum(1)
    expected = a * y + (1 - a) * mu * torch.tanh(t / v)[:, None, None, None]
    phi = GaussianMixture.two_classes(mu, s, SIGMA, centre=0.0)
    torch.testing.assert_close(bayes_estimate(phi, y, SIGMA), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 11)])
@pytest.mark.parametrize("kind", ["residual", "scalar"])
def test_it_is_what_autograd_says(kind, shape):
    phi = with_random_weights(energy.build(kind, shape, SIGMA, width=4))
    y = torch.randn(5, *shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(phi(y).sum(), y)
    estimate = EmpiricalBayes(phi, SIGMA)(y.detach())
    torch.testing.assert_close(estimate, y.detach() - SIGMA**2 * gradient, rtol=0, atol=1e-12)


def test_the_residual_energy_gives_h_plus_the_transposed_jacobian_of_h_on_the_residual():
    phi = with_random_weights(energy.build("residual", (1, 4, 4), SIGMA, width=4))
    y = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    h, back = torch.func.vjp(phi.network, y)
    torch.testing.assert_close(bayes_estimate(phi, y, SIGMA), h + back(y - h)[0])


@pytest.mark.parametrize("kind", ["residual", "scalar"])
def test_its_jacobian_is_symmetric(kind):
    phi = with_random_weights(energy.build(kind, (1, 4, 5), SIGMA, width=4))
    y = torch.randn(1, 1, 4, 5, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda y: bayes_estimate(phi, y, SIGMA))(y).view(20, 20)
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-12)
    assert (jacobian - torch.diag(jacobian.diag())).abs().max() > 1e-5


def test_the_jacobian_of_the_plain_network_is_not_symmetric():
    network = with_random_weights(energy.build("residual", (1, 4, 5), SIGMA, width=4)).network
    jacobian = torch.func.jacrev(network)(torch.randn(1, 1, 4, 5, dtype=torch.float64)).view(20, 20)
    assert (jacobian - jacobian.T).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["residual", "scalar"])
def test_it_is_trained_through(kind):
    phi = with_random_weights(energy.build(kind, (1, 8, 8), SIGMA, width=4))
    x, y = torch.randn(2, 3, 1, 8, 8, dtype=torch.float64)
    parameters = dict(phi.named_parameters())
    unused = {"allow_unused": True, "materialize_grads": True}  # the last bias of the scalar energy: a constant of phi
    ours = torch.autograd.grad((x - EmpiricalBayes(phi, SIGMA)(y)).square().sum(), list(parameters.values()), **unused)

    y.requires_grad_()
    (gradient,) = torch.autograd.grad(phi(y).sum(), y, create_graph=True)
    loss = (x - (y - SIGMA**2 * gradient)).square().sum()
    double = torch.autograd.grad(loss, list(parameters.values()), **unused)
    for name, mine, theirs in zip(parameters, ours, double, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9, msg=name)
    assert sum(float(gradient.abs().sum()) for gradient in ours) > 1


def test_it_works_where_no_gradient_is_wanted():
    phi = energy.build("scalar", (1, 8, 8), SIGMA, width=4)
    y = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert not EmpiricalBayes(phi, SIGMA)(y).requires_grad


# in a process of its own: the checks of shapes that the tests install are not traced by the compiler
COMPILED = """
import torch
from ebsc import energy
from ebsc.estimator import EmpiricalBayes
for kind in ("residual", "scalar"):
    torch.manual_seed(0)
    denoiser = EmpiricalBayes(energy.build(kind, (1, 8, 8), 0.5, width=4), 0.5)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    y = torch.randn(4, 1, 8, 8)
    compiled = torch.compile(denoiser, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(y), denoiser(y))
    loss = compiled(y).square().sum()
    expected = torch.autograd.grad(denoiser(y).square().sum(), denoiser.energy.network.parameters(), allow_unused=True)
    gradients = torch.autograd.grad(loss, denoiser.energy.network.parameters(), allow_unused=True)
    for one, other in zip(gradients, expected):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
mu = torch.randn(1, 8, 8)
mixture = EmpiricalBayes(energy.GaussianMixture.two_classes(mu, 0.3, 0.5), 0.5)
compiled = torch.compile(mixture, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(y), mixture(y))
inputs = y.requires_grad_()
one, other = (torch.autograd.grad(net(inputs).square().sum(), inputs)[0] for net in (compiled, mixture))
torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
print("equal")
"""


def test_it_compiles_as_one_graph():
    compiling.check(COMPILED)
