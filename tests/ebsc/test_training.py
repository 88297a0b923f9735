"""Training: that it learns, that it is reproducible, and its formulas."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from ebsc import data, model, training
from ebsc.errors import InputError
from ebsc.model import Ebsc, ModelSpec
from ebsc.noise import BLOCK, perturb
from ebsc.training import Schedule

SIGMA = 0.5


def untrained(kind: str = "residual", seed: int = 0, classifier: str = "linear") -> Ebsc:
    torch.manual_seed(seed)
    options = {"kind": kind} | ({"width": 16} if kind != "none" else {})
    spec = ModelSpec(
        sigma=SIGMA, shape=(1, 8, 8), n_classes=10, levels=16, denoiser=options, classifier={"kind": classifier}
    )
    return model.build(spec)


@cache
def energy(kind: str, steps: int, seed: int = 0) -> tuple[nn.Module, list[training.Step]]:
    denoiser, seen = untrained(kind).denoiser, []
    schedule = Schedule(steps=steps, learning_rate=1e-2, warmup=20, ema=0.98, seed=seed)
    digits = data.load("digits", "train")
    training.fit(denoiser, digits, training.denoising(denoiser, SIGMA, 16), schedule, report=seen.append)
    return denoiser, seen


def weights(module: nn.Module) -> list[np.ndarray]:
    return [value.numpy().copy() for value in module.state_dict().values()]


# -- that it learns --------------------------------------------------------------------------------------------------


def best_affine_error(test: data.Dataset) -> float:
    """E|x - xhat|^2 per pixel of the affine map that is best on the training images, in closed form."""
    x = data.load("digits", "train").images.reshape(-1, 64) / 16
    covariance = np.cov(x.T)
    gain = covariance @ np.linalg.inv(covariance + SIGMA**2 * np.eye(64))
    bias = (test.images.reshape(-1, 64) / 16 - x.mean(0)) @ (gain - np.eye(64)).T
    return float((bias**2).mean() + SIGMA**2 * (gain**2).sum() / 64)


def test_a_learned_energy_removes_more_of_the_noise_than_any_affine_map():
    denoiser, steps = energy("residual", 400)
    test = data.load("digits", "test")
    assert training.denoising_error(nn.Identity(), test, SIGMA) == pytest.approx(SIGMA**2, rel=0.05)
    assert training.denoising_error(denoiser, test, SIGMA) < best_affine_error(test) < 0.16 * SIGMA**2
    assert [step.step for step in steps] == list(range(1, 401))
    assert {step.steps for step in steps} == {400}
    assert steps[-1].images == 400 * 64
    assert not denoiser.training


@pytest.mark.parametrize("kind", ["scalar", "network"])
def test_the_other_denoisers_learn_as_well(kind):
    test = data.load("digits", "test")
    assert training.denoising_error(energy(kind, 200)[0], test, SIGMA) < 0.25 * SIGMA**2


def test_a_classifier_learns_and_is_better_on_estimates_than_on_noise():
    net, train, test = untrained(), data.load("digits", "train"), data.load("digits", "test")
    schedule = Schedule(steps=400, batch=128, learning_rate=1e-2, warmup=0, clip=1.0, ema=0.9)
    training.fit(net.classifier, train, training.classification(net.classifier, 16), schedule)
    with torch.no_grad():
        clean = net.classifier(torch.from_numpy(test.images) / 16).argmax(1).numpy() == test.labels
    assert clean.mean() > 0.85
    net.denoiser = energy("residual", 400)[0]
    plain, ebsc = (np.mean([training.accuracy(f, test, seed=seed) for seed in range(5)]) for f in (net.plain(), net))
    assert ebsc > plain + 0.02


# -- that it is reproducible ----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    energy.cache_clear()
    first = weights(energy("residual", 20)[0])
    energy.cache_clear()
    for one, other in zip(first, weights(energy("residual", 20)[0]), strict=True):
        np.testing.assert_array_equal(one, other)
    others = weights(energy("residual", 20, seed=1)[0])
    assert any((one != other).any() for one, other in zip(first, others, strict=True))


def test_every_image_is_seen_once_an_epoch():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None]
    ten = data.Dataset(name="ten", split="train", images=images, labels=np.arange(10), levels=16, n_classes=10)
    seen, module = [], nn.Linear(1, 1)

    def record(pixels, labels, generator):
        assert (pixels.flatten() == labels).all()
        seen.extend(labels.tolist())
        return module(torch.zeros(1)).sum()

    training.fit(module, ten, record, Schedule(steps=15, batch=4))
    assert len(seen) == 60
    epochs = [seen[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


# -- formulas --------------------------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_decays_to_almost_nothing():
    schedule = Schedule(steps=1000, warmup=9, learning_rate=2.0)
    rates = np.array([schedule.rate(step) for step in range(1000)])
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 10, rtol=1e-3)
    assert rates[500] == pytest.approx(1.0)
    assert (np.diff(rates[9:]) < 0).all()
    assert 0 < rates[-1] < 1e-4


def test_what_training_returns_is_the_moving_average_of_the_weights():
    module, seen = nn.Linear(3, 1), []
    digits = data.load("digits", "train")

    def loss(images, labels, generator):
        return (module(torch.randn(8, 3, generator=generator)) - 1).square().mean()

    def report(step):
        seen.append(module.weight.detach().clone())

    training.fit(module, digits, loss, Schedule(steps=30, ema=0.8, warmup=0), report=report)
    average = seen[0]
    for done, weight in enumerate(seen[1:], 1):
        decay = min(0.8, (1 + done) / (10 + done))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(module.weight, average)


def test_the_average_holds_the_counters_of_batch_normalisation():
    net = untrained("none", classifier="resnet")
    digits = data.load("digits", "train")
    schedule = Schedule(steps=3, batch=16)
    training.fit(net.classifier, digits, training.classification(net.classifier, 16), schedule)
    state = net.classifier.state_dict()
    assert {int(value) for name, value in state.items() if name.endswith("num_batches_tracked")} == {3}
    assert all(torch.isfinite(value).all() for value in state.values())


def test_the_denoising_loss_is_the_mean_square_per_pixel():
    digits = data.load("digits", "train")
    images, labels = torch.from_numpy(digits.images[:BLOCK]), torch.from_numpy(digits.labels[:BLOCK])
    z = torch.randn(images.shape, generator=torch.Generator().manual_seed(7))
    expected = (perturb(images, z, SIGMA, 16) * 0.5 - images / 16).square().mean()

    class Half(nn.Module):
        def forward(self, y):
            return 0.5 * y

    loss = training.denoising(Half(), SIGMA, 16)(images, labels, torch.Generator().manual_seed(7))
    torch.testing.assert_close(loss, expected)


def test_accuracy_is_the_share_of_single_draws_that_are_right():
    test = data.load("digits", "test")

    class Always(nn.Module):
        def forward(self, y):
            return nn.functional.one_hot(torch.full((len(y),), 3), 10).float()

    assert training.accuracy(Ebsc(nn.Identity(), Always(), SIGMA), test) == (test.labels == 3).mean()


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training(value):
    module = nn.Linear(1, 1)

    def loss(images, labels, generator):
        return module(torch.full((1, 1), value)).sum()

    with pytest.raises(InputError, match=r"the loss became (nan|inf|-inf) at step 1: lower the learning rate"):
        training.fit(module, data.load("digits", "train"), loss, Schedule(steps=5))


def test_images_off_the_lattice_are_not_trained_on():
    net = untrained()
    floats = data.load("digits", "train").off_lattice()
    with pytest.raises(InputError, match="on the lattice"):
        training.fit(net, floats, training.classification(net, 16), Schedule(steps=1))


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"clip": 0.0},
        {"warmup": -1},
        {"ema": 1.0},
        {"ema": -0.1},
    ],
)
def test_what_is_no_schedule_is_refused(options):
    with pytest.raises(InputError, match="must"):
        Schedule(**options)
