"""Training: that it learns, that it is reproducible, and its formulas."""

from functools import cache

import numpy as np
import pytest
import safetensors.torch
import torch
from nets import small
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ebsc import data, training, validation
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.noise import BLOCK, perturb
from ebsc.objectives import learned
from ebsc.training import Batch, Randomness, Schedule, Trainer

SIGMA = 0.5


def fit(module, digits, objective, schedule: Schedule, report=lambda step: None) -> None:
    trainer = Trainer(module, digits, objective, schedule)
    while not trainer.done:
        report(trainer.advance())
    trainer.finish()


@cache
def energy(kind: str, steps: int, seed: int = 0) -> tuple[nn.Module, list[training.Step]]:
    net, seen = small(kind, width=16), []
    schedule = Schedule(steps=steps, learning_rate=1e-2, warmup=20, ema=0.98, seed=seed)
    digits = data.load("digits", "train")
    fit(net.denoiser, digits, training.denoising(net, 16), schedule, report=seen.append)
    return net.denoiser, seen


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
    assert validation.denoising_error(nn.Identity(), test, SIGMA) == pytest.approx(SIGMA**2, rel=0.05)
    assert validation.denoising_error(denoiser, test, SIGMA) < best_affine_error(test) < 0.16 * SIGMA**2
    assert [step.step for step in steps] == list(range(1, 401))
    assert {step.steps for step in steps} == {400}
    assert not denoiser.training


@pytest.mark.parametrize("kind", ["scalar", "network"])
def test_the_other_denoisers_learn_as_well(kind):
    test = data.load("digits", "test")
    assert validation.denoising_error(energy(kind, 200)[0], test, SIGMA) < 0.25 * SIGMA**2


def test_a_classifier_learns_and_is_better_on_estimates_than_on_noise():
    net, train, test = small("residual"), data.load("digits", "train"), data.load("digits", "test")
    schedule = Schedule(steps=400, batch=128, learning_rate=1e-2, warmup=0, clip=1.0, ema=0.9)
    fit(net.classifier, train, training.classification(net.classifier, 16), schedule)
    with torch.no_grad():
        clean = net.classifier(torch.from_numpy(test.images) / 16).argmax(1).numpy() == test.labels
    assert clean.mean() > 0.85
    net.denoiser = energy("residual", 400)[0]
    plain, ebsc = (np.mean([validation.accuracy(f, test, seed=seed) for seed in range(5)]) for f in (net.plain(), net))
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

    def record(batch):
        assert (batch.images.flatten() == batch.labels).all()
        seen.extend(batch.labels.tolist())
        return {"loss": module(torch.zeros(1)).sum()}

    fit(module, ten, record, Schedule(steps=15, batch=4))
    assert len(seen) == 60
    epochs = [seen[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_the_order_of_images_follows_from_the_seed():
    def order(seed: int) -> list[int]:
        seen, module = [], nn.Linear(1, 1)

        def record(batch):
            seen.extend(batch.images.flatten(1).double().mul(torch.arange(64)).sum(1).tolist())
            return {"loss": module(torch.zeros(1)).sum()}

        fit(module, FORTY, record, Schedule(steps=6, batch=16, seed=seed))
        return seen

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)[:40]) == sorted(order(1)[:40])


def drawn(seed: int = 0, step: int = 7, rows: slice = slice(0, 12)) -> list[torch.Tensor]:
    """One after the other, as an objective would."""
    random = Randomness(seed, step, 12, rows, "cpu")
    return [random.normal(3, 1, 2, 2), random.uniform(2), random.normal(1, 5), random.uniform(1)]


@pytest.mark.parametrize("world", [2, 3, 4, 12])
def test_random_numbers_are_the_same_however_a_batch_is_shared(world):
    share = 12 // world
    parts = [drawn(rows=slice(rank * share, (rank + 1) * share)) for rank in range(world)]
    for whole, *pieces in zip(drawn(), *parts, strict=True):
        assert torch.equal(torch.cat(pieces, 1), whole)


def test_random_numbers_follow_from_the_seed_and_the_step_and_are_new_at_every_call():
    first, again, *others = drawn(), drawn(), drawn(seed=1), drawn(step=8)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    for other in others:
        assert all((one != two).all() for one, two in zip(first, other, strict=True))
    assert (first[0][0] != first[0][1]).all()
    assert (first[1][0] != first[3][0]).all()


def test_random_numbers_are_normal_and_uniform():
    random = Randomness(0, 0, 1000, slice(0, 1000), "cpu")
    z, u = random.normal(20, 1), random.uniform(20)
    assert abs(z.mean()) < 0.03
    assert z.std() == pytest.approx(1, abs=0.02)
    assert 0 <= u.min() <= u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=0.01)


# -- that it can be left and gone on with ----------------------------------------------------------------------------

FORTY = data.load("digits", "train").take(np.arange(40))
SIX = Schedule(steps=6, batch=16, learning_rate=1e-2, warmup=2, ema=0.9)  # two and a half epochs


def joint(seed: int) -> Trainer:
    net = small("residual", seed=seed)
    attack = learned(net, "smoothadv", levels=16, draws=2, ramp=3, denoising=0.1, steps=2)
    return Trainer(net, FORTY, attack, SIX)


def normalised(seed: int) -> Trainer:
    net = small("none", "resnet", seed=seed)
    return Trainer(net, FORTY, learned(net, "smoothmix", levels=16, draws=2, ramp=3, steps=2), SIX)


def with_dropout(seed: int) -> Trainer:
    """As a network of somebody's own may have."""
    net = small("none", seed=seed)
    net.classifier = torch.nn.Sequential(torch.nn.Dropout(0.3), net.classifier)
    return Trainer(net, FORTY, learned(net, "gaussian", levels=16, draws=1), SIX)


def on_a_fixed_energy(seed: int) -> Trainer:
    net = small("residual")
    torch.manual_seed(seed)
    net.classifier.map.reset_parameters()
    net.denoiser.requires_grad_(False)
    return Trainer(net, FORTY, learned(net, "catrs", levels=16, draws=2, steps=2), SIX)


def energy_alone(seed: int) -> Trainer:
    """One of whose weights, the last bias of the scalar energy, gets no gradient."""
    net = small("scalar", seed=seed)
    net.classifier.requires_grad_(False)
    return Trainer(net, FORTY, training.denoising(net, 16), SIX)


def advanced(trainer: Trainer, steps: int) -> list[training.Step]:
    return [trainer.advance() for _ in range(steps)]


def copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state shares memory with the training that it is of."""
    return {name: value.clone() for name, value in state.items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("make", [joint, normalised, with_dropout, on_a_fixed_energy, energy_alone])
def test_left_after_any_step_it_ends_with_the_weights_of_an_undisturbed_training(make):
    undisturbed = make(seed=0)
    steps = advanced(undisturbed, 6)
    assert undisturbed.done
    end = copied(undisturbed.state())
    undisturbed.finish()
    for stop in (0, 1, 4):
        left = make(seed=0)
        advanced(left, stop)
        file = safetensors.torch.save(left.state())
        advanced(left, 6 - stop)  # what goes on must not reach into what was saved
        resumed = make(seed=5)
        resumed.restore(safetensors.torch.load(file))
        assert resumed.step == stop
        rest = advanced(resumed, 6 - stop)
        assert [step.loss for step in rest] == [step.loss for step in steps[stop:]]
        assert_equal(resumed.state(), end)
        resumed.finish()
        assert_equal(resumed.module.state_dict(), undisturbed.module.state_dict())


def test_a_state_holds_weights_average_optimiser_and_step_and_nothing_of_it_stands_still():
    trainer = joint(seed=0)
    advanced(trainer, 2)
    state = copied(trainer.state())
    assert {name.split(".")[0] for name in state} == {"step", "module", "average", "optimizer"}
    advanced(trainer, 1)
    assert [name for name, value in trainer.state().items() if torch.equal(value, state[name])] == []


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (normalised, joint),
        (energy_alone, joint),
        (joint, normalised),
        (joint, on_a_fixed_energy),
        (on_a_fixed_energy, joint),
    ],
)
def test_the_state_of_another_training_is_refused(theirs, ours):
    other, trainer = theirs(seed=0), ours(seed=0)
    advanced(other, 1)
    with pytest.raises(InputError, match="this is the state of another training"):
        trainer.restore(other.state())


@pytest.mark.parametrize(
    "lost",
    [
        "step",
        "module.classifier.map.bias",
        "average.module.classifier.map.bias",
        "average.n_averaged",
        "optimizer.0.exp_avg",
    ],
)
def test_a_state_that_lacks_something_is_refused(lost):
    trainer = joint(seed=0)
    advanced(trainer, 1)
    state = trainer.state()
    del state[lost]
    with pytest.raises(InputError, match="this is the state of another training"):
        joint(seed=0).restore(state)


def test_while_the_weights_are_changed_the_step_is_not_whole():
    trainer, seen = joint(seed=0), []
    average = trainer.average.update_parameters
    trainer.average.update_parameters = lambda module: (seen.append(("average", trainer.whole)), average(module))
    hooks = [
        register_optimizer_step_pre_hook(lambda *_: seen.append(("before", trainer.whole))),
        register_optimizer_step_post_hook(lambda *_: seen.append(("after", trainer.whole))),
    ]
    try:
        assert trainer.whole
        advanced(trainer, 1)
        assert trainer.whole
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == [("before", False), ("after", False), ("average", False)]


@pytest.mark.parametrize(
    "make",
    [
        joint,
        normalised,
    ],
)
def test_what_is_saved_at_any_moment_of_a_whole_step_is_the_state_before_it(make):
    trainer = make(seed=0)
    advanced(trainer, 1)
    before, during = copied(trainer.state()), []

    def save(*_):
        if trainer.whole:
            during.append(copied(trainer.state()))

    for weight in trainer.module.parameters():
        weight.register_hook(save)  # called in the middle of the backward pass
    advanced(trainer, 1)
    for state in during:
        assert_equal(state, before)


# -- formulas --------------------------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_decays_to_almost_nothing():
    schedule = Schedule(steps=1000, warmup=9, learning_rate=2.0)
    rates = np.array([schedule.rate(step) for step in range(1000)])
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 10, rtol=1e-3)
    assert rates[500] == pytest.approx(1.0)
    assert (np.diff(rates[9:]) < 0).all()
    assert 0 < rates[-1] < 1e-4


def test_the_stepped_rate_falls_to_a_tenth_after_each_third():
    schedule = Schedule(steps=90, decay="step", warmup=0, learning_rate=2.0)
    rates = [schedule.rate(step) for step in range(90)]
    np.testing.assert_allclose(rates, np.repeat([2.0, 0.2, 0.02], 30))


def test_what_training_returns_is_the_moving_average_of_the_weights():
    module, seen = nn.Linear(3, 1), []
    digits = data.load("digits", "train")

    def loss(batch):
        return {"loss": (module(batch.random.normal(1, 3)[0]) - 1).square().mean()}

    def report(step):
        seen.append(module.weight.detach().clone())

    fit(module, digits, loss, Schedule(steps=30, ema=0.8, warmup=0), report=report)
    average = seen[0]
    for done, weight in enumerate(seen[1:], 1):
        decay = min(0.8, (1 + done) / (10 + done))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(module.weight, average)


def test_the_average_holds_the_counters_of_batch_normalisation():
    net = small("none", "resnet")
    digits = data.load("digits", "train")
    schedule = Schedule(steps=3, batch=16)
    fit(net.classifier, digits, training.classification(net.classifier, 16), schedule)
    state = net.classifier.state_dict()
    assert {int(value) for name, value in state.items() if name.endswith("num_batches_tracked")} == {3}
    assert all(torch.isfinite(value).all() for value in state.values())


def test_the_denoising_loss_is_the_mean_square_per_pixel():
    digits = data.load("digits", "train")
    images, labels = torch.from_numpy(digits.images[:BLOCK]), torch.from_numpy(digits.labels[:BLOCK])
    first, second = (Randomness(7, 0, BLOCK, slice(0, BLOCK), "cpu") for _ in range(2))
    z = first.normal(1, 1, 8, 8)[0]
    expected = (perturb(images, z, SIGMA, 16) * 0.5 - images / 16).square().mean()

    class Half(nn.Module):
        def forward(self, y):
            return 0.5 * y

    scalars = training.denoising(Ebsc(Half(), nn.Identity(), SIGMA), 16)(Batch(images, labels, 0, second))
    assert scalars.keys() == {"loss"}
    torch.testing.assert_close(scalars["loss"], expected)


def test_classification_is_cross_entropy_on_clean_images():
    net, digits = small("none"), data.load("digits", "train")
    images, labels = torch.from_numpy(digits.images[:50]), torch.from_numpy(digits.labels[:50])
    batch = Batch(images, labels, 0, Randomness(0, 0, 50, slice(0, 50), "cpu"))
    scalars = training.classification(net.classifier, 16)(batch)
    outputs = net.classifier(images / 16).softmax(1)
    torch.testing.assert_close(scalars["loss"], -outputs[torch.arange(50), labels].log().mean())
    assert float(scalars["accuracy"]) == pytest.approx(float((outputs.argmax(1) == labels).double().mean()))


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training(value):
    module = nn.Linear(1, 1)

    def loss(batch):
        return {"loss": module(torch.full((1, 1), value)).sum()}

    trainer = Trainer(module, data.load("digits", "train"), loss, Schedule(steps=5))
    before = copied(trainer.state())
    with pytest.raises(InputError, match=r"the loss became (nan|inf|-inf) at step 1: lower the learning rate"):
        trainer.advance()
    assert_equal(trainer.state(), before)


def test_images_off_the_lattice_are_not_trained_on():
    net = small("residual")
    floats = data.load("digits", "train").off_lattice()
    with pytest.raises(InputError, match="on the lattice"):
        fit(net, floats, training.classification(net, 16), Schedule(steps=1))


def test_a_batch_that_processes_cannot_share_equally_is_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    with pytest.raises(InputError, match="a batch of 16 images cannot be shared equally by 3 processes"):
        joint(seed=0)


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
