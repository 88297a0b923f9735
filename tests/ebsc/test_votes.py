"""The vote loop against a naive one, and what its counts must not depend on."""

import re

import compiling
import numpy as np
import pytest
import torch
from voting import BUDGET, SIGMA, campaign, certificates, images, model, naive, units

from ebsc import data
from ebsc.campaign import Campaign, Unit
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.votes import Voter, certify


@pytest.mark.parametrize("denoiser", ["residual", "network", "none"])
def test_counts_are_those_of_a_naive_loop(denoiser):
    net, pixels = model(denoiser), images()
    voter = Voter(net, pixels, levels=16, n_classes=10, batch=64)
    for unit in units():
        np.testing.assert_array_equal(voter.count(unit), naive(net, pixels, unit))


def test_counts_of_images_off_the_lattice_are_those_of_a_naive_loop():
    net, pixels = model(), data.load("digits", "test").off_lattice().images[:3]
    voter = Voter(net, pixels, levels=16, n_classes=10, batch=64, lattice=False)
    for unit in units():
        np.testing.assert_array_equal(voter.count(unit), naive(net, pixels, unit))


@pytest.mark.parametrize("batch", [64, 100, 256])
@pytest.mark.parametrize("size", [1, 150, 10**6])
def test_certificates_do_not_depend_on_batch_unit_or_order(batch, size):
    expected = certificates(Voter(model(), images(), levels=16, n_classes=10))
    voter = Voter(model(), images(), levels=16, n_classes=10, batch=batch)
    assert certificates(voter, size, shuffle=True) == expected


def test_another_seed_gives_other_votes():
    voter = Voter(model(), images(), levels=16, n_classes=10)
    first, second, again = (certificates(voter, seed=seed) for seed in (0, 1, 0))
    assert first == again != second


def test_the_micro_batch_can_be_changed_between_units():
    voter = Voter(model(), images(), levels=16, n_classes=10)
    expected = certificates(voter)
    voter.resize(37)
    assert certificates(voter) == expected


def test_what_is_left_in_the_batch_is_not_counted():
    voter = Voter(model(), images(), levels=16, n_classes=10, batch=256)
    expected = [voter.count(unit) for unit in units()]
    one = Unit(0, 3, units()[-1].spans[:1].copy())
    one.spans["stop"] = one.spans["start"] + 1
    votes = voter.count(one)
    assert votes.sum() == 1
    for unit, counts in zip(units(), expected, strict=True):
        assert (counts.sum(1) == unit.spans["stop"] - unit.spans["start"]).all()


def test_the_address_and_not_the_row_decides_the_noise():
    pixels = np.concatenate([images()[:1]] * 3)
    voter = Voter(model(), pixels, levels=16, n_classes=10)
    (unit,) = Campaign(np.zeros(3, np.int64), 10, SIGMA, budget=BUDGET, images=np.array([4, 5, 9])).next_units(10**6)
    unit.spans["image"][1] = 4
    one, other, different = voter.count(unit)
    assert (one == other).all()
    assert (one != different).any()


def test_plain_votes_on_the_noisy_image_itself():
    net, pixels = model(), images()
    voter = Voter(net.plain(), pixels, levels=16, n_classes=10)
    without = Ebsc(torch.nn.Identity(), net.classifier, SIGMA)
    for unit in units():
        np.testing.assert_array_equal(voter.count(unit), naive(without, pixels, unit))
        assert (voter.count(unit) != naive(net, pixels, unit)).any()


def test_bfloat16_is_a_slightly_different_classifier_under_the_same_noise():
    fine = Voter(model(), images(), levels=16, n_classes=10)
    coarse = Voter(model(), images(), levels=16, n_classes=10, precision="bfloat16")
    for unit in units():
        one, other = fine.count(unit), coarse.count(unit)
        assert (one.sum(1) == other.sum(1)).all()
        assert np.abs(one - other).sum() <= 0.1 * unit.draws
    assert {parameter.dtype for parameter in coarse.model.parameters()} == {torch.bfloat16}


def test_images_that_the_model_does_not_take_are_refused():
    for pixels in (np.zeros((2, 1, 9, 9), np.uint8), np.zeros((2, 3, 8, 8), np.uint8)):
        with pytest.raises(InputError, match="shape"):
            Voter(model(), pixels, levels=16, n_classes=10)


NOT_PIXELS = {
    "integers of another kind": (
        lambda pixels: pixels.astype(np.int64),
        {},
        "must be uint8 integers in 0..16, not int64",
    ),
    "pixels in floats": (lambda pixels: pixels.astype(np.float32), {}, "must be uint8 integers in 0..16, not float32"),
    "floats on [0, 1]": (lambda pixels: (pixels / 16).astype(np.float32), {}, "lattice=False"),
    "a list": (lambda pixels: pixels.tolist(), {}, "not int64"),
    "above white": (lambda pixels: pixels, {"levels": 4}, "off the lattice {0..4}"),
    "no levels": (lambda pixels: 0 * pixels, {"levels": 0}, "levels must be an int in 1..255"),
    "no batch": (lambda pixels: pixels[0], {}, r"of shape (N, C, H, W), not uint8 (1, 8, 8)"),
    "pixels in floats off it": (lambda pixels: pixels.astype(np.float32), {"lattice": False}, "must lie in [0, 1]"),
    "NaN": (lambda pixels: np.float32("nan") * pixels.astype(np.float32), {"lattice": False}, "NaN"),
    "doubles": (lambda pixels: pixels / 16, {"lattice": False}, "must be uint8 or float32"),
}


@pytest.mark.parametrize(("change", "words", "message"), NOT_PIXELS.values(), ids=NOT_PIXELS)
def test_images_on_which_certificates_would_be_false_are_refused_at_first_and_later(change, words, message):
    words = {"levels": 16, **words}
    with pytest.raises(InputError, match=re.escape(message)):
        Voter(model(), change(images()), n_classes=10, **words)
    voter = Voter(model(), np.zeros((1, 1, 8, 8), np.uint8), n_classes=10, **{**words, "levels": words["levels"] or 16})
    voter.levels = words["levels"]
    with pytest.raises(InputError, match=re.escape(message)):
        voter.show(change(images()))


@pytest.mark.parametrize("shape", [(3, 1, 1, 8), (3, 3, 8, 8), (3, 1, 9, 9)])
def test_images_of_another_shape_are_not_shown_later(shape):
    voter = Voter(model(), images(), levels=16, n_classes=10)
    with pytest.raises(
        InputError, match=re.escape(f"must have the shape (1, 8, 8) as the first ones, not {shape[1:]}")
    ):
        voter.show(np.zeros(shape, np.uint8))
    assert certificates(voter) == certificates(Voter(model(), images(), levels=16, n_classes=10))


@pytest.mark.parametrize(
    "other", [torch.from_numpy, lambda pixels: pixels[::-1][::-1], lambda pixels: pixels[:, :, ::-1]]
)
def test_tensors_and_any_order_in_memory_do_as_well_as_arrays(other):
    pixels = other(images().copy())
    voter = Voter(model(), pixels, levels=16, n_classes=10)
    expected = certificates(Voter(model(), np.asarray(pixels).copy(order="C"), levels=16, n_classes=10))
    pixels[:] = 0  # a voter has its own
    assert certificates(voter) == expected


OTHERS = {
    "sigma": ((3, 10, 2 * SIGMA), "the campaign is of 3 images, 10 classes and sigma {}, the voter of 3, 10 and {}"),
    "images": ((2, 10, SIGMA), "of 2 images"),
    "classes": ((3, 11, SIGMA), "11 classes"),
}


@pytest.mark.parametrize(("asked", "message"), OTHERS.values(), ids=OTHERS)
def test_a_campaign_of_something_else_is_refused(asked, message):
    rows, n_classes, sigma = asked
    campaign = Campaign(np.zeros(rows, np.int64), n_classes, sigma, budget=BUDGET)
    with pytest.raises(InputError, match=re.escape(message.format(sigma, SIGMA))):
        certify(campaign, Voter(model(), images(), levels=16, n_classes=10))


def test_a_unit_of_another_sigma_is_not_counted():
    (unit,) = Campaign(np.zeros(3, np.int64), 10, 2 * SIGMA, budget=BUDGET).next_units(10**6)
    with pytest.raises(InputError, match=re.escape("the campaign has sigma 1.0, the model 0.5")):
        Voter(model(), images(), levels=16, n_classes=10).count(unit)


def test_a_campaign_is_of_one_voter_and_its_images():
    voter, other = (Voter(model(), images(), levels=16, n_classes=10) for _ in range(2))
    done = campaign()
    assert (certify(done, voter) == certify(done, voter)).all()  # nothing is counted again
    with pytest.raises(InputError, match="counted by another voter, or on other images"):
        certify(done, other)
    voter.show(16 - images())
    with pytest.raises(InputError, match="counted by another voter, or on other images"):
        certify(done, voter)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), torch.AcceleratorError("no device")])
def test_what_a_device_lacks_is_not_blamed_on_the_images(monkeypatch, error):
    def fail(*words):
        raise error

    monkeypatch.setattr(Voter, "_scores", fail)
    with pytest.raises(type(error)):
        Voter(model(), images(), levels=16, n_classes=10)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_that_looks_at_the_whole_batch_is_refused(precision):
    normalised = torch.nn.BatchNorm2d(1, affine=False, track_running_stats=False)  # in eval() too
    net = Ebsc(model().denoiser, torch.nn.Sequential(normalised, model().classifier), SIGMA)
    with pytest.raises(InputError, match="depends on the others of its batch"):
        Voter(net, images(), levels=16, n_classes=10, precision=precision)


@pytest.mark.parametrize("offset", [0, 100, 1000])
def test_what_all_logits_have_in_common_hides_neither(offset):
    class Mixed(torch.nn.Module):
        def forward(self, x):
            mean = x.mean().expand(len(x))
            return torch.stack([-mean, mean], 1) + offset

    class Shaken(torch.nn.Module):
        def forward(self, x):
            return torch.randn(len(x), 2) + offset

    for net, message in ((Mixed(), "depends on the others of its batch"), (Shaken(), "random numbers of its own")):
        with pytest.raises(InputError, match=message):
            Voter(Ebsc(torch.nn.Identity(), net, SIGMA), images(), levels=16, n_classes=2)


UNTYPED = """
import numpy as np, torch
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.votes import Voter

class Net(torch.nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)

def voter(answer=lambda x: x.flatten(1)[:, :2], levels=16):
    net = Ebsc(torch.nn.Identity(), Net(answer), 0.5)
    return Voter(net, np.full((1, 1, 2, 2), 16, np.uint8), levels=levels, n_classes=2)

def campaign(**words):
    return Campaign([0], 2, **{"sigma": 0.5, **words}, budget=Fixed(n=100))

voter()
for levels in (np.uint8(16), torch.tensor(16, dtype=torch.uint8), 16.0, True):
    try:
        voter(levels=levels)
    except InputError as error:
        assert str(error).startswith("levels must be an int in 1..255, not"), error
    else:
        raise AssertionError(levels)
for answer in (lambda x: x.sum((1, 2, 3)), lambda x: (x.flatten(1)[:, :2], x)):
    try:
        voter(answer)
    except InputError as error:
        assert "must answer a batch with logits" in str(error), error
    else:
        raise AssertionError(answer)
try:
    campaign(seed=1.5)
except InputError as error:
    assert "seed must not be negative" in str(error), error
else:
    raise AssertionError("seed")
assert voter().count(campaign(sigma=np.float32(0.5)).next_units(1000)[0]).sum() == 100
print("equal")
"""


def test_what_only_types_would_refuse_is_refused_by_words():
    """In a process of its own, as annotations are enforced in this one: a levels of 8 bits would overflow."""
    compiling.check(UNTYPED)


@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_a_network_with_random_numbers_of_its_own_is_refused(size):
    class Shaken(torch.nn.Module):
        def forward(self, x):
            return x + size * torch.randn_like(x)

    net = Ebsc(Shaken(), model().classifier, SIGMA)
    with pytest.raises(InputError, match="draws random numbers of its own"):
        Voter(net, images(), levels=16, n_classes=10)


def test_noise_that_would_not_be_exact_is_refused_on_the_lattice_alone():
    net = Ebsc(model().denoiser, model().classifier, 700.0)
    off = data.load("digits", "test").off_lattice().images[:3]
    Voter(net, off, levels=255, n_classes=10, lattice=False)
    with pytest.raises(InputError, match="sigma 700 is too large"):
        Voter(net, images(), levels=255, n_classes=10)


def test_a_micro_batch_of_none_is_refused():
    with pytest.raises(InputError, match="micro-batch"):
        Voter(model(), images(), levels=16, n_classes=10, batch=0)


COMPILED = """
import sys
sys.path[:0] = ["tests/ebsc", "tests"]
import numpy as np
import torch
from voting import certificates, images, model, units
from ebsc.device import as_graph
from ebsc.noise import perturb
from ebsc.votes import Voter
z = torch.randn(500, 1, 8, 8)
for levels in (16, 255):
    image = torch.randint(0, levels + 1, (1, 1, 8, 8)).to(torch.uint8)
    assert torch.equal(as_graph(perturb, True)(image, z, 0.5, levels), perturb(image, z, 0.5, levels))
for precision in ("float32", "bfloat16"):
    compiled, eager = (
        Voter(model(), images(), levels=16, n_classes=10, batch=64, precision=precision, compiled=wanted)
        for wanted in (True, False)
    )
    assert certificates(compiled, 150, shuffle=True) == certificates(compiled)
    for unit in units():
        others = np.abs(compiled.count(unit) - eager.count(unit)).sum() / 2
        assert others <= 0.02 * unit.draws, (precision, others, unit.draws)
print("equal")
"""


def test_compiled_it_adds_the_same_noise_and_counts_alike_in_any_order():
    compiling.check(COMPILED)
