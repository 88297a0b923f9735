"""The attack against the two-class linear case, where the worst point is known, and what it must never do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ebsc.attack import Attacker, Pgd, distances, onto_lattice
from ebsc.classifier import Linear
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.votes import Voter, predict

SIGMA, LEVELS, SHAPE = 0.25, 255, (1, 4, 4)
HOW = Pgd(steps=10, draws=8, restarts=2)


def linear() -> Ebsc:
    """Two classes on the two sides of a plane through grey."""
    classifier = Linear(SHAPE, 2)
    w = torch.randn(16, generator=torch.Generator().manual_seed(1))
    nn.init.zeros_(classifier.map.weight)
    classifier.map.weight.data[1] = w / w.norm()
    classifier.map.bias.data = torch.tensor([0.0, -float((w / w.norm()).sum()) / 2])
    return Ebsc(nn.Identity(), classifier, SIGMA)


class Scale(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.by * logits


def images(rows: int = 6) -> np.ndarray:
    """On both sides of the plane, 0.2 and more away from it."""
    rng = np.random.default_rng(0)
    w = linear().classifier.map.weight[1].detach().numpy().reshape(SHAPE)
    noise = rng.normal(size=(rows, *SHAPE))
    noise -= (noise * w).sum((1, 2, 3), keepdims=True) * w
    away = rng.choice([-1, 1], rows) * rng.uniform(0.2, 0.6, rows)
    return np.rint(LEVELS * (0.5 + 0.05 * noise + away[:, None, None, None] * w)).clip(0, LEVELS).astype(np.uint8)


def scores(net: Ebsc, pixels: np.ndarray) -> np.ndarray:
    """Signed distances to the plane."""
    logits = net.classifier(torch.from_numpy(pixels).float() / LEVELS).detach().numpy()
    return (logits[:, 1] - logits[:, 0]).astype(np.float64)


@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["soft", "sure"])
@pytest.mark.parametrize(("share", "falls"), [(0.9, False), (1.2, True)])
def test_against_a_linear_classifier_it_succeeds_beyond_the_margin_and_never_before(share, falls, scale):
    """However large its logits are: the vote is the same, and the gradient must not vanish."""
    net, pixels = linear(), images()
    margins, labels = np.abs(scores(net, pixels)), (scores(net, pixels) > 0).astype(np.int64)
    sure = Ebsc(nn.Identity(), nn.Sequential(net.classifier, Scale(scale)), SIGMA)
    found = Attacker(sure, levels=LEVELS, how=HOW).attack(pixels, labels, share * margins, seed=0)
    assert (distances(pixels, found, LEVELS) <= share * margins).all()
    assert (((scores(net, found) > 0) != labels) == falls).all()
    # straight towards the plane: nearly all of the way that is allowed
    gone = np.abs(scores(net, found) - scores(net, pixels))
    assert (gone > 0.9 * share * margins).all()


def test_it_is_the_same_for_the_same_seed_and_another_for_another():
    net, pixels = linear(), images()
    attacker = Attacker(net, levels=LEVELS, how=Pgd(steps=2, draws=1, restarts=2))
    one, same, other = (attacker.attack(pixels, np.zeros(6, np.int64), np.full(6, 0.3), seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_restarts_keep_the_best_end():
    pixels, radii = images(64), np.full(64, 0.1)
    torch.manual_seed(0)
    net = Ebsc(nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2)), SIGMA)
    labels = net(torch.from_numpy(pixels).float() / LEVELS).argmax(1).numpy()
    loss = []
    for restarts in (1, 5):
        how = Pgd(steps=1, draws=64, restarts=restarts)
        found = torch.from_numpy(Attacker(net, levels=LEVELS, how=how).attack(pixels, labels, radii, seed=0)) / LEVELS
        noise = SIGMA * torch.randn(2000, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            mean = torch.stack([net(found + eps).softmax(1) for eps in noise]).mean(0)
        loss.append(-mean.gather(1, torch.from_numpy(labels)[:, None]).log().mean())
    assert loss[1] > loss[0]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 16, 255]), st.floats(0.0, 3.0))
def test_what_it_ends_with_lies_on_the_lattice_and_in_the_ball(seed, levels, size):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, levels + 1, size=(3, 2, 3, 3)).astype(np.uint8)
    delta = size * rng.normal(size=pixels.shape) / 18**0.5
    radii = size * rng.random(3)
    found = onto_lattice(pixels, delta, radii, levels)
    assert found.dtype == np.uint8
    assert found.max() <= levels
    exact = ((found.astype(object) - pixels.astype(object)) ** 2).sum((1, 2, 3))
    assert all(square / levels**2 <= radius**2 * (1 + 1e-12) for square, radius in zip(exact, radii, strict=True))


def test_rounding_costs_little_of_a_long_way():
    pixels = np.full((1, 1, 28, 28), 128, np.uint8)
    delta = np.random.default_rng(0).normal(size=pixels.shape)
    delta /= np.linalg.norm(delta)
    assert distances(pixels, onto_lattice(pixels, delta, np.array([1.0]), 255), 255) > 0.97


# -- predictions ------------------------------------------------------------------------------------------------------


def voter(net: Ebsc, pixels: np.ndarray) -> Voter:
    return Voter(net, pixels, levels=LEVELS, n_classes=2)


def test_predictions_are_certain_away_from_the_plane_and_abstain_on_it():
    net, pixels = linear(), images(40)
    away, rows = np.abs(scores(net, pixels)) > 0.5 * SIGMA, np.arange(40)
    predicted, certain = predict(voter(net, pixels), pixels, rows, n=5000, alpha=0.001, seed=0)
    assert certain[away].all()
    assert (predicted == (scores(net, pixels) > 0))[certain].all()
    # Phi(0.001) of the votes cannot be told from a half by 5,000 draws
    blind = Ebsc(nn.Identity(), linear().classifier, SIGMA)
    blind.classifier.map.bias.data[1] -= torch.tensor(scores(net, pixels[:1])[0])
    near = np.repeat(pixels[:1], 40, 0)
    _, certain = predict(voter(blind, near), near, rows, n=5000, alpha=0.001, seed=0)
    assert certain.sum() <= 1


def test_other_images_can_be_shown_to_the_same_voter():
    net, pixels = linear(), images()
    shown = voter(net, pixels)
    other = 255 - pixels
    rows = np.arange(len(pixels))
    found = predict(shown, other, rows, n=1000, alpha=0.001, seed=0)
    expected = predict(voter(net, other), other, rows, n=1000, alpha=0.001, seed=0)
    for one, another in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize("name", ["steps", "draws", "restarts"])
def test_an_attack_without_any_is_refused(name):
    with pytest.raises(InputError, match="at least 1"):
        Pgd(**{name: 0})
