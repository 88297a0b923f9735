"""Attacks against closed forms: steps, balls, and the linear classifier, where the worst point is known."""

import pytest
import torch

from ebsc.ascent import ascend, project, unit
from ebsc.classifier import Linear
from ebsc.model import Ebsc
from ebsc.objectives import Network
from ebsc.theory import margin

SHAPES = [(4, 1, 2, 3), (2, 3, 3, 2, 2), (1, 3, 5, 4)]


def lengths(delta: torch.Tensor) -> torch.Tensor:
    return delta.flatten(-3).norm(dim=-1)


# -- steps and balls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_unit_points_where_the_direction_does_and_has_length_one(shape):
    direction = torch.randn(shape, dtype=torch.float64) * torch.logspace(-6, 6, shape[0]).view(
        -1, *[1] * len(shape[1:])
    )
    found = unit(direction)
    torch.testing.assert_close(lengths(found), torch.ones(shape[:-3], dtype=torch.float64))
    inner = (found * direction).flatten(-3).sum(-1)
    torch.testing.assert_close(inner, lengths(direction))


def test_where_there_is_no_direction_there_is_no_step():
    direction = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    assert torch.equal(unit(direction), direction / 2)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_projection_is_the_nearest_point_of_the_ball(shape, epsilon):
    delta = 2 * torch.rand(*shape[:-3], 1, 1, 1, dtype=torch.float64) * unit(torch.randn(shape, dtype=torch.float64))
    found = project(delta, epsilon)
    assert (lengths(found) <= epsilon + 1e-12).all()
    inside = lengths(delta) <= epsilon
    assert torch.equal(found[inside], delta[inside])
    torch.testing.assert_close(lengths(found - delta), (lengths(delta) - epsilon).clamp(min=0))


def test_nothing_projects_to_nothing():
    assert torch.equal(project(torch.zeros(2, 1, 1, 2), 0.0), torch.zeros(2, 1, 1, 2))


# -- the loop --------------------------------------------------------------------------------------------------------


def test_every_step_is_taken_along_the_gradient_and_then_back_to_what_is_allowed():
    x, calls = torch.zeros(1, 1, 1, 1), []

    def gradient(point):
        calls.append(("gradient", float(point)))
        return torch.full_like(point, -7.0)

    def onto(point):
        calls.append(("onto", float(point)))
        return point.clamp(min=-1.25)

    assert ascend(gradient, x, steps=3, step=0.5, onto=onto) == -1.25
    assert calls == [
        ("gradient", 0.0),
        ("onto", -0.5),
        ("gradient", -0.5),
        ("onto", -1.0),
        ("gradient", -1.0),
        ("onto", -1.5),
    ]
    assert x == 0


def test_no_steps_lead_nowhere():
    x = torch.randn(2, 1, 3, 3)
    assert torch.equal(ascend(torch.ones_like, x, steps=0, step=1.0, onto=torch.zeros_like), x)


def test_it_keeps_no_graph():
    x = torch.zeros(1, 1, 1, 2, requires_grad=True)
    weight = torch.ones(1, 1, 1, 2, requires_grad=True)
    point = ascend(lambda point: weight * (point + 1), x, steps=2, step=0.1, onto=lambda point: point)
    assert not point.requires_grad


def test_it_climbs_a_concave_hill_to_the_best_point_of_the_ball():
    x, top = torch.zeros(5, 1, 2, 2, dtype=torch.float64), torch.randn(5, 1, 2, 2, dtype=torch.float64)
    top *= torch.tensor([0.5, 0.9, 2.0, 3.0, 9.0]).view(-1, 1, 1, 1) / lengths(top).view(-1, 1, 1, 1)
    for step in (0.3, 0.03, 0.003):
        x = ascend(lambda point: top - point, x, steps=60, step=step, onto=lambda point: project(point, 1.0))
    torch.testing.assert_close(x, project(top, 1.0), rtol=0, atol=3e-3)


# -- the linear classifier -------------------------------------------------------------------------------------------


def smoothed(draws: int) -> tuple[Ebsc, torch.Tensor, torch.Tensor]:
    """Two classes on the two sides of a plane, an image, and draws of noise."""
    net = Ebsc(torch.nn.Identity(), Linear((1, 3, 3), 2), 0.5).double()
    return net, 0.3 + 0.4 * torch.rand(1, 1, 3, 3, dtype=torch.float64), 0.5 * torch.randn(draws, 1, 1, 3, 3).double()


def loss(logits, labels):
    return torch.nn.functional.nll_loss(logits.softmax(2).mean(0).log(), labels, reduction="sum")


@pytest.mark.parametrize("draws", [1, 7])
def test_against_a_linear_classifier_it_goes_straight_to_the_plane_whatever_the_noise(draws):
    net, x, noise = smoothed(draws)
    weight, bias = net.classifier.map.weight.detach(), net.classifier.map.bias.detach()
    w = weight[1] - weight[0]
    score = float(w @ x.flatten() + bias[1] - bias[0])
    labels = torch.tensor([int(score > 0)])
    distance = abs(score) / float(w.norm())
    centre = x.flatten() + (bias[1] - bias[0]) * w / w.square().sum()
    assert distance == pytest.approx(margin(centre.numpy(), w.numpy()))

    gradient = Network(net).gradient(loss, noise, labels)
    for epsilon in (0.9 * distance, 1.1 * distance):
        point = ascend(gradient, x, steps=4, step=epsilon / 2, onto=lambda point, e=epsilon: x + project(point - x, e))
        expected = x.flatten() - epsilon * torch.sign(torch.tensor(score)) * w / w.norm()
        torch.testing.assert_close(point.flatten(), expected, rtol=0, atol=1e-6)
        assert (net(point).argmax(1) == labels).item() == (epsilon < distance)


def test_the_gradient_is_that_of_autograd_under_all_draws_and_leaves_the_weights_alone():
    net, x, noise = smoothed(3)
    labels = torch.tensor([1])
    at = Network(net.double()).gradient(loss, noise, labels)
    point = x.clone().requires_grad_()
    logits = torch.stack([net(point + eps) for eps in noise])
    (expected,) = torch.autograd.grad(loss(logits, labels), point)
    torch.testing.assert_close(at(x), expected, rtol=1e-5, atol=1e-8)
    assert all(weight.grad is None for weight in net.parameters())
    assert net.training
