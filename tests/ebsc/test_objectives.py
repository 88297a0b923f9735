"""Objectives against the authors' formulas under the same noise, and what must hold of every one of them."""

import copy
import inspect

import compiling
import numpy as np
import published
import pytest
import torch
from nets import float64, small
from torch import nn

from ebsc import data, objectives
from ebsc.ascent import ascend
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.objectives import OBJECTIVES, Network, NoisyNetwork, hyperparameters, learned
from ebsc.training import Batch, Randomness, Schedule, Trainer

SIGMA = 0.5
ROWS = 6
DIGITS = data.load("digits", "train").take(np.arange(64))


@pytest.fixture
def _float64():
    with float64():
        yield


def randomness(step: int = 0) -> Randomness:
    return Randomness(3, step, ROWS, slice(0, ROWS), "cpu")


def batch(net: Ebsc, step: int = 0, draws: int = 2) -> Batch:
    """Digits; half of their labels are what the network says under the noise of this step."""
    images, labels = torch.from_numpy(DIGITS.images[:ROWS]), torch.from_numpy(DIGITS.labels[:ROWS])
    with torch.no_grad():
        y = images / 16 + SIGMA * randomness(step).normal(draws, 1, 8, 8)
        said = net(y.flatten(0, 1)).softmax(1).view(draws, ROWS, 10).mean(0).argmax(1)
    return Batch(images, torch.where(torch.arange(ROWS) % 2 == 0, said, labels), step, randomness(step))


def gradients(loss: torch.Tensor, net: Ebsc) -> dict[str, torch.Tensor]:
    names, weights = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


# -- the formulas ----------------------------------------------------------------------------------------------------

# objective, draws, ramp, its hyperparameters, and what kinds of images there must be in the batch
CASES = {
    "gaussian, one draw": ("gaussian", 1, 0, {}, set()),
    "gaussian": ("gaussian", 3, 0, {}, set()),
    "stability": ("stability", 3, 0, {"weight": 0.7}, set()),
    "smoothadv": ("smoothadv", 3, 0, {"epsilon": 0.6, "steps": 4}, {"clamped"}),
    "smoothadv, warming up": ("smoothadv", 2, 3, {"epsilon": 1.5, "steps": 5}, {"clamped"}),
    "smoothadv, bounded": ("smoothadv", 3, 0, {"epsilon": 0.6, "steps": 4, "q": 0.7}, {"clamped"}),
    "smoothadv, absolute error": ("smoothadv", 2, 3, {"epsilon": 1.5, "steps": 2, "q": 1.0}, {"clamped"}),
    "smoothadv, lost votes": ("smoothadv", 4, 0, {"epsilon": 0.6, "steps": 2, "slope": 6.0}, {"clamped"}),
    "smoothadv, one draw": ("smoothadv", 1, 0, {"epsilon": 1.0, "steps": 3}, {"clamped"}),
    "consistency": ("consistency", 2, 0, {"weight": 5.0, "entropy": 0.5}, set()),
    "consistency, more draws": ("consistency", 4, 3, {"weight": 0.6, "entropy": 2.0}, set()),
    "macer": (
        "macer",
        4,
        0,
        {"weight": 16.0, "margin": 1.0, "temperature": 16.0},
        {"wrong", "counts", "beyond the margin"},
    ),
    "macer, deferred": ("macer", 4, 3, {"weight": 16.0, "margin": 8.0, "temperature": 2.0}, set()),
    "smoothmix": ("smoothmix", 3, 0, {"weight": 5.0, "steps": 3, "step": 1.0, "mix_step": 0}, {"right", "wrong"}),
    "smoothmix, warming up": (
        "smoothmix",
        3,
        3,
        {"weight": 5.0, "steps": 2, "step": 1.0, "mix_step": 0},
        {"right", "wrong"},
    ),
    "smoothmix from the first step": (
        "smoothmix",
        2,
        0,
        {"weight": 2.0, "steps": 3, "step": 0.2, "mix_step": 1},
        {"right", "wrong"},
    ),
    "smoothmix from the first step, warming up": (
        "smoothmix",
        2,
        3,
        {"weight": 2.0, "steps": 3, "step": 0.2, "mix_step": 1},
        {"right", "wrong"},
    ),
    "smoothmix from the second step, warming up": (
        "smoothmix",
        2,
        3,
        {"weight": 2.0, "steps": 3, "step": 0.2, "mix_step": 2},
        {"right", "wrong"},
    ),
    "catrs": (
        "catrs",
        3,
        0,
        {"epsilon": 1.0, "weight": 0.8, "steps": 3},
        {"certain", "uncertain", "0 hits", "3 hits"},
    ),
    "catrs, small attack": (
        "catrs",
        2,
        3,
        {"epsilon": 0.3, "weight": 1.0, "steps": 2},
        {"certain", "uncertain", "0 hits", "1 hits", "2 hits"},
    ),
}


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("denoiser", ["none", "residual"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_the_authors_formula(case, denoiser):
    name, draws, ramp, options, kinds = CASES[case]
    net, step = small(denoiser, std=0.2), 1
    given = batch(net, step, draws)
    loss = learned(net, name, levels=16, draws=draws, ramp=ramp, **options)(given)["loss"]

    random = randomness(step)
    noise = SIGMA * random.normal(draws, 1, 8, 8)
    chance = random.uniform(draws if name == "catrs" else 1)
    seen, terms = set(), []
    for i, label in enumerate(given.labels.tolist()):
        strength = min(1.0, (step + 1) / (ramp + 1))
        row = published.Row(net, given.images[i] / 16, label, noise[:, i], chance[:, i], strength, SIGMA, seen)
        terms.append(getattr(published, name)(row, **options))
    expected = sum(terms) / ROWS

    assert kinds <= seen
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)
    ours, theirs = gradients(loss, net), gradients(expected, net)
    for weight in theirs:
        torch.testing.assert_close(ours[weight], theirs[weight], rtol=1e-5, atol=1e-7, msg=f"{case}: {weight}")
    assert all(theirs[weight].abs().max() > 1e-4 for weight in theirs)


def test_the_defaults_are_those_of_the_published_logs_at_sigma_one_half():
    defaults = {
        name: {
            key: parameter.default
            for key, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        for name, function in OBJECTIVES.items()
    }
    assert defaults == {
        "gaussian": {},
        "stability": {"weight": 2.0},
        "smoothadv": {"epsilon": pytest.approx(255 / 256, rel=0.005), "steps": 10, "q": 0.0, "slope": 0.0},
        "consistency": {"weight": 5.0, "entropy": 0.5},
        "macer": {"weight": 16.0, "margin": 8.0, "temperature": 16.0},
        "smoothmix": {"weight": 5.0, "steps": 4, "step": 1.0, "mix_step": 0},
        "catrs": {"epsilon": 1.0, "weight": 1.0, "steps": 4},  # the weight at this sigma was never published
    }


def test_the_bounded_loss_of_smoothadv_goes_to_the_cross_entropy_and_never_beyond_one_over_q():
    net = small("none", std=0.2)
    for weight in net.classifier.parameters():
        weight.data *= 50
    images, labels = torch.from_numpy(DIGITS.images[:ROWS]), torch.from_numpy(DIGITS.labels[:ROWS])

    def loss(q: float) -> float:
        given = Batch(images, labels, 0, randomness())
        return float(learned(net, "smoothadv", levels=16, draws=2, epsilon=0.5, steps=1, q=q)(given)["loss"].detach())

    assert loss(1e-7) == pytest.approx(loss(0.0), rel=1e-4)
    assert loss(0.0) > 10
    assert 0 < loss(1.0) <= 1
    assert 0 < loss(0.5) <= 2


def test_the_loss_by_slope_is_a_smooth_count_of_lost_votes():
    net = small("none", std=0.2)
    for weight in net.classifier.parameters():
        weight.data *= 50
    images = torch.from_numpy(DIGITS.images[:ROWS])
    noise = SIGMA * randomness().normal(3, *images.shape[1:])
    p = torch.softmax(net((images / 16 + noise).flatten(0, 1)), 1).unflatten(0, (3, ROWS)).mean(0).detach()
    labels = torch.where(torch.arange(ROWS) < 2, p.argmin(1), p.argmax(1))
    lost = float((p[range(ROWS), labels] < 0.5).float().mean())
    assert 2 / ROWS <= lost < 1
    loss = learned(net, "smoothadv", levels=16, draws=3, epsilon=1e-9, steps=1, slope=1e6)
    assert float(loss(Batch(images, labels, 0, randomness()))["loss"].detach()) == pytest.approx(lost)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_denoising_term_is_the_squared_error_of_the_first_draw_in_units_of_sigma(name):
    net = small("residual", std=0.2)
    given = batch(net)
    alone = learned(net, name, levels=16, draws=2)(given)
    both = learned(net, name, levels=16, draws=2, denoising=0.3)(Batch(given.images, given.labels, 0, randomness()))
    x = given.images / 16
    error = (net.denoiser(x + SIGMA * randomness().normal(2, 1, 8, 8)[0]) - x).square().mean()
    torch.testing.assert_close(both["denoising_error"], error)
    torch.testing.assert_close(both["loss"], alone["loss"] + 0.3 * error / SIGMA**2)
    assert set(alone) == {"loss", "accuracy"}


def test_accuracy_is_that_of_the_mean_output_over_draws():
    net = small("none", std=0.2)
    given = batch(net, draws=5)
    outputs = net((given.images / 16 + SIGMA * randomness().normal(5, 1, 8, 8)).flatten(0, 1)).softmax(1)
    expected = (outputs.view(5, ROWS, 10).mean(0).argmax(1) == given.labels).float().mean()
    found = learned(net, "gaussian", levels=16, draws=5)(given)["accuracy"]
    assert 0 < expected < 1
    torch.testing.assert_close(found, expected)


# -- noise -----------------------------------------------------------------------------------------------------------


class Counting(Randomness):
    """Keeps account of what is drawn."""

    def __init__(self) -> None:
        super().__init__(3, 0, ROWS, slice(0, ROWS), "cpu")
        self.drawn = []

    def normal(self, draws, *shape):
        self.drawn.append(("normal", draws))
        return super().normal(draws, *shape)

    def uniform(self, draws):
        self.drawn.append(("uniform", draws))
        return super().uniform(draws)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_attack_and_loss_share_the_draws_of_the_step(name):
    net, random = small("residual", std=0.2), Counting()
    given = batch(net)
    learned(net, name, levels=16, draws=3, denoising=0.1)(Batch(given.images, given.labels, 0, random))
    more = {"smoothmix": [("uniform", 1)], "catrs": [("uniform", 3)]}
    assert random.drawn == [("normal", 3), *more.get(name, [])]


def test_noise_is_not_clamped():
    net, lowest = small("none", std=0.2), []
    net.classifier.register_forward_pre_hook(lambda module, inputs: lowest.append(float(inputs[0].min())))
    learned(net, "gaussian", levels=16, draws=2)(batch(net))
    assert lowest[-1] < -SIGMA


# -- the attack ------------------------------------------------------------------------------------------------------


@pytest.fixture
def attacks(monkeypatch):
    """Where attacks start and end."""
    seen = []

    def watched(gradient, x, **options):
        seen.append((x, ascend(gradient, x, **options)))
        return seen[-1][1]

    monkeypatch.setattr(objectives, "ascend", watched)
    return seen


def lengths(delta: torch.Tensor) -> torch.Tensor:
    return delta.flatten(-3).norm(dim=-1)


@pytest.mark.parametrize("denoiser", ["none", "residual"])
@pytest.mark.parametrize("epsilon", [0.25, 2.0])
def test_the_points_of_smoothadv_lie_in_the_ball_and_the_cube_and_reach_as_far_as_they_may(attacks, denoiser, epsilon):
    net = small(denoiser, std=0.2)
    given = batch(net)
    learned(net, "smoothadv", levels=16, draws=2, epsilon=epsilon, steps=4)(given)
    ((start, end),) = attacks
    assert torch.equal(start, given.images / 16)
    assert 0 <= end.min() <= end.max() <= 1
    assert (lengths(end - start) <= epsilon * (1 + 1e-6)).all()
    assert (lengths(end - start) > 0.5 * epsilon).all()
    assert not end.requires_grad


def test_the_attack_of_smoothadv_grows_with_the_ramp(attacks):
    net = small("none", std=0.2)
    grey = torch.full((ROWS, 1, 8, 8), 8, dtype=torch.uint8)  # the cube is far
    objective = learned(net, "smoothadv", levels=16, draws=2, ramp=3, epsilon=0.4, steps=4)
    for step in range(6):
        objective(Batch(grey, torch.zeros(ROWS, dtype=torch.int64), step, randomness(step)))
    reached = torch.stack([lengths(end - start).max() for start, end in attacks])
    torch.testing.assert_close(reached, 0.4 * torch.tensor([0.25, 0.5, 0.75, 1.0, 1.0, 1.0]))


def test_the_points_of_smoothmix_lie_in_the_cube_and_go_far_beyond_one_step(attacks):
    net = small("none", std=0.2)
    learned(net, "smoothmix", levels=16, draws=2, steps=5, mix_step=1)(batch(net))
    (start, near), (again, far) = attacks
    assert torch.equal(near, again)
    for points in (near, far):
        assert 0 <= points.min() <= points.max() <= 1
    assert (lengths(near - start) <= 1 + 1e-6).all()
    assert (lengths(far - start) > 2).all()


def test_the_draws_of_catrs_keep_their_means_and_stay_close(attacks):
    net = small("residual", std=0.2)
    given = batch(net)
    learned(net, "catrs", levels=16, draws=3)(given)
    ((start, end),) = attacks
    x = given.images / 16
    noise = SIGMA * randomness().normal(3, 1, 8, 8)
    torch.testing.assert_close(start, x + noise)
    torch.testing.assert_close((end - x).mean((2, 3, 4)), noise.mean((2, 3, 4)), rtol=0, atol=1e-6)
    sizes = (end - x).square().mean((2, 3, 4)).sqrt() / noise.square().mean((2, 3, 4)).sqrt()
    assert (sizes - 1).abs().max() < 0.02
    assert (lengths(end - start) < 1.05).all()
    assert (lengths(end - start) > 0.3).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_attack_leaves_batch_normalisation_alone(name):
    net = small("none", "resnet")
    given = batch(net.eval())
    trained = copy.deepcopy(net.train())
    passes = 1 + (name in {"stability", "smoothmix", "catrs"})  # on clean images, mixed images, worst-case draws
    learned(trained, name, levels=16, draws=2)(given)
    counts = {int(value) for key, value in trained.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counts == {passes}
    assert all(module.training for module in trained.classifier.modules())


def test_an_attack_sees_the_network_in_evaluation_mode_and_the_loss_does_not():
    net, modes = small("none", std=0.2), []
    net.classifier.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    learned(net.train(), "smoothadv", levels=16, draws=2, steps=3)(
        Batch(torch.from_numpy(DIGITS.images[:ROWS]), torch.from_numpy(DIGITS.labels[:ROWS]), 0, randomness())
    )
    assert modes == [False, False, False, True]


# -- extremes --------------------------------------------------------------------------------------------------------


class Saturated(nn.Module):
    """Sure of a class to the last bit of float32: the first pixel says of which."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([300.0, -300.0, 0.0]))

    def forward(self, y):
        return self.scale * (y.flatten(1)[:, :1] + 2).clamp(min=1)


@pytest.mark.parametrize("labels", [0, 1])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_finite_where_float32_saturates(name, labels):
    net = Ebsc(nn.Identity(), Saturated(), SIGMA)
    images = torch.from_numpy(DIGITS.images[:ROWS])
    given = Batch(images, torch.full((ROWS,), labels), 0, randomness())
    loss = learned(net, name, levels=16, draws=2)(given)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(net.classifier.scale.grad).all()


class Pixels(nn.Module):
    """The pixels, times a weight, are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, y):
        return self.scale * y.flatten(1)


@pytest.mark.parametrize("gap", [10.0, 40.0])
def test_smoothadv_takes_full_steps_however_small_the_gradient_as_the_authors_do(attacks, gap):
    net = Ebsc(nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), SIGMA)
    net.classifier[1].weight.data = gap / 4 * torch.tensor([[1.0] * 4, [-1.0] * 4])
    nn.init.zeros_(net.classifier[1].bias)
    x, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    row = published.Row(net, x[0], 0, torch.zeros(1, 1, 2, 2), torch.zeros(1), 1.0, SIGMA, set())
    theirs = published.smoothadv(row, epsilon=0.9, steps=4)
    ours, _ = objectives.smoothadv(
        NoisyNetwork(Network(net), torch.zeros(1, 1, 1, 2, 2), randomness()), x, labels, epsilon=0.9, steps=4
    )
    ((start, end),) = attacks
    torch.testing.assert_close(lengths(end - start), torch.tensor([0.9]))
    torch.testing.assert_close(ours, theirs)


def test_macer_drops_saturated_rows_and_divides_by_all_of_them():
    net = Ebsc(nn.Identity(), Pixels(), SIGMA)
    x = torch.tensor([[40.0, 0.0, 0.0], [0.3, 0.1, 0.0], [0.0, 0.4, 0.1]])[:, None, None]  # sure; right; wrong
    labels = torch.zeros(3, dtype=torch.int64)
    f = NoisyNetwork(Network(net), torch.zeros(1, 3, 1, 1, 3), randomness())
    loss, _ = objectives.macer(f, x, labels, weight=2.0, margin=8.0, temperature=3.0)
    (slope,) = torch.autograd.grad(loss, net.classifier.scale)

    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    logits = scale * x.double().flatten(1)
    first, second = torch.softmax(3 * logits[1], 0)[:2]
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1)
    hinge = 8 - normal.icdf(first) + normal.icdf(second)
    expected = (nn.functional.cross_entropy(logits, labels, reduction="sum") + 2 * SIGMA / 2 * hinge) / 3
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(slope.double(), torch.autograd.grad(expected, scale)[0], rtol=1e-4, atol=0)


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_few_steps_lower_the_loss_on_digits(name):
    net = small("residual", seed=1)
    fewer = {"smoothadv": {"steps": 2}, "smoothmix": {"steps": 2}, "catrs": {"steps": 2}, "macer": {"weight": 0.1}}
    objective = learned(net, name, levels=16, draws=2, denoising=0.1, **fewer.get(name, {}))

    def now() -> dict[str, float]:
        labels = torch.from_numpy(DIGITS.labels)
        given = Batch(torch.from_numpy(DIGITS.images), labels, 0, Randomness(9, 0, 64, slice(0, 64), "cpu"))
        return {key: float(value.detach()) for key, value in objective(given).items()}

    before = now()
    schedule = Schedule(steps=15, batch=32, learning_rate=1e-2, warmup=0, clip=10.0, ema=0.0)
    trainer = Trainer(net, DIGITS, objective, schedule)
    while not trainer.done:
        trainer.advance()
    after = now()
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > before["accuracy"]


def test_the_attack_goes_through_an_energy_that_is_not_trained():
    net = small("residual", std=0.2)
    net.denoiser.requires_grad_(False)
    loss = learned(net, "smoothadv", levels=16, draws=2, steps=2)(batch(net))["loss"]
    loss.backward()
    assert all(weight.grad is None for weight in net.denoiser.parameters())
    assert all(weight.grad.abs().max() > 0 for weight in net.classifier.parameters())


# in a process of its own: the checks of shapes that the tests install are not traced by the compiler
COMPILED = """
import torch
from functools import partial
torch.set_num_threads(1)
torch.compile = partial(torch.compile, backend="aot_eager")
from ebsc import data, model
from ebsc.model import ModelSpec
from ebsc.objectives import learned
from ebsc.training import Schedule, Trainer
digits = data.load("digits", "train")
def gradients(name, compiled):
    torch.manual_seed(0)
    residual = {"kind": "residual", "width": 4}
    net = model.build(ModelSpec(sigma=0.5, shape=(1, 8, 8), n_classes=10, levels=16, denoiser=residual))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    objective = learned(net, name, levels=16, draws=2, denoising=0.5, compiled=compiled)
    trainer = Trainer(net, digits, objective, Schedule(steps=1, batch=4, clip=1e9, compile=compiled))
    loss = trainer.advance().loss
    return torch.tensor(loss), [parameter.grad for parameter in net.parameters()]
for eager, compiled in zip(gradients("smoothadv", False), gradients("smoothadv", True)):
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)
print("equal")
"""


def test_compiled_networks_give_the_same_loss_and_gradients():
    compiling.check(COMPILED)


# -- what is refused -------------------------------------------------------------------------------------------------


def test_hyperparameters_come_as_the_objective_wants_them():
    found = hyperparameters("smoothmix", {"steps": 8.0, "step": 1, "mix_step": 1.0})
    assert found == {"steps": 8, "step": 1.0, "mix_step": 1}
    assert [type(value) for value in found.values()] == [int, float, int]
    assert hyperparameters("gaussian", {}) == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("trades", {}, "unknown objective 'trades': choose one of gaussian, stability, smoothadv, consistency, macer"),
        ("smoothadv", {"eps": 1.0}, "objective smoothadv has no 'eps': it has epsilon, steps, q, slope"),
        ("gaussian", {"weight": 1.0}, "objective gaussian has no 'weight': it has no hyperparameters"),
        ("macer", {"sigma": 1.0}, "objective macer has no 'sigma': it has weight, margin, temperature"),
        ("smoothadv", {"x": 1.0}, "has no 'x'"),
        ("smoothadv", {"steps": 2.5}, r"steps of objective smoothadv must be a whole number of 1 or more, not 2.5"),
        ("smoothadv", {"q": 1.0, "slope": 6.0}, "objective smoothadv takes q or slope, not both: 1 and 6"),
        ("smoothmix", {"steps": 2, "mix_step": 2}, "mix_step of objective smoothmix must be below its steps, 2"),
        ("catrs", {"epsilon": -0.5}, r"epsilon of objective catrs must be a finite number above 0, not -0.5"),
    ],
)
def test_what_an_objective_does_not_have_or_take_is_refused_with_what_it_has(name, options, message):
    with pytest.raises(InputError, match=message):
        hyperparameters(name, options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gaussian", {"draws": 0}),
        ("gaussian", {"ramp": -1}),
        ("gaussian", {"denoising": -0.1}),
        ("smoothadv", {"eps": 1.0}),
        ("trades", {}),
        ("smoothadv", {"steps": 0}),
        ("smoothadv", {"steps": float("nan")}),
        ("smoothadv", {"steps": float("inf")}),
        ("smoothadv", {"epsilon": float("nan")}),
        ("smoothadv", {"q": -0.1}),
        ("smoothadv", {"q": 1.1}),
        ("smoothadv", {"slope": -1.0}),
        ("smoothmix", {"steps": 2, "mix_step": 3}),
    ],
)
def test_what_cannot_be_trained_by_is_refused(name, options):
    with pytest.raises(InputError):
        learned(small("none", std=0.2), name, levels=16, **options)
