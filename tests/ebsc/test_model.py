"""A model folder: what is written is read back, and nothing damaged is ever taken for a model."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ebsc import model
from ebsc.energy import GaussianMixture
from ebsc.errors import InputError
from ebsc.estimator import EmpiricalBayes
from ebsc.model import Ebsc, ModelSpec

SHAPE = (1, 8, 8)


def spec(**changes) -> ModelSpec:
    options = {
        "sigma": 0.5,
        "shape": SHAPE,
        "n_classes": 10,
        "levels": 16,
        "denoiser": {"kind": "residual", "width": 4},
        "training": {"data": "digits", "loss": 0.1},
    }
    return ModelSpec(**options | changes)


def written(folder: Path, **changes) -> tuple[Ebsc, ModelSpec]:
    the_spec = spec(**changes)
    net = model.build(the_spec)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    model.save(folder, net, the_spec)
    return net, the_spec


@pytest.mark.parametrize("classifier", ["linear", "resnet"])
@pytest.mark.parametrize("denoiser", ["none", "network", "residual", "scalar"])
def test_a_model_is_read_back_bit_for_bit(tmp_path, denoiser, classifier):
    options = {"kind": denoiser} | ({"width": 4} if denoiser != "none" else {})
    net, the_spec = written(tmp_path / "a" / "b", denoiser=options, classifier={"kind": classifier})
    again, its_spec = model.load(tmp_path / "a" / "b")
    assert not again.training
    assert again.sigma == 0.5
    assert its_spec == model.pack(net, the_spec)[0]
    assert net.state_dict().keys() == again.state_dict().keys()
    for one, other in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    y = torch.randn(2, *SHAPE)
    assert torch.equal(net.eval()(y), again(y))
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["model.json", "model.safetensors"]


def test_a_mixture_is_read_back_with_its_numbers(tmp_path):
    the_spec = spec(denoiser={"kind": "mixture", "components": 3})
    net = model.build(the_spec)
    mixture = GaussianMixture.of(torch.rand(3, *SHAPE), torch.rand(3), torch.rand(3) + 0.1, the_spec.sigma)
    net.denoiser = EmpiricalBayes(mixture, the_spec.sigma)
    model.save(tmp_path, net, the_spec)
    again, its_spec = model.load(tmp_path)
    assert its_spec.denoiser == {"kind": "mixture", "components": 3}
    y = torch.randn(2, *SHAPE)
    assert torch.equal(again(y), net.eval()(y))
    assert not torch.equal(again(y), model.build(the_spec)(y))


def test_a_model_is_replaced_by_another(tmp_path):
    written(tmp_path)
    net, _ = written(tmp_path, denoiser={"kind": "none"})
    again, its_spec = model.load(tmp_path)
    assert its_spec.denoiser == {"kind": "none"}
    assert torch.equal(again.classifier.map.weight, net.classifier.map.weight)


def test_packing_and_unpacking_are_inverse(tmp_path):
    net, the_spec = written(tmp_path)
    packed, weights = model.pack(net, the_spec)
    assert weights == (tmp_path / "model.safetensors").read_bytes()
    y = torch.randn(2, *SHAPE)
    assert torch.equal(model.unpack(packed, weights)(y), net.eval()(y))


def test_plain_shares_the_classifier_and_leaves_out_the_denoiser():
    net = model.build(spec())
    y = torch.randn(2, *SHAPE)
    assert torch.equal(net.plain()(y), net.classifier(y))
    assert net.plain().sigma == net.sigma


# -- damage: each of these makes one line that names the file --------------------------------------------------------


def change_head(**changes):
    def damage(folder):
        head = json.loads((folder / "model.json").read_bytes())
        (folder / "model.json").write_text(json.dumps(head | changes))

    return damage


def change_text(text):
    return lambda folder: (folder / "model.json").write_text(text)


def without(name):
    return lambda folder: (folder / name).unlink()


def drop(key):
    def damage(folder):
        head = json.loads((folder / "model.json").read_bytes())
        del head[key]
        (folder / "model.json").write_text(json.dumps(head))

    return damage


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def alter_one_byte(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)


def replace_weights(folder, data: bytes):
    (folder / "model.safetensors").write_bytes(data)
    change_head(sha256=hashlib.sha256(data).hexdigest())(folder)


def weights_that_are_no_safetensors(folder):
    replace_weights(folder, b"PK\x03\x04 a pickle, say")


def weights_with(value):
    def damage(folder):
        state = safetensors.torch.load_file(folder / "model.safetensors")
        next(iter(state.values())).view(-1)[0] = value
        replace_weights(folder, safetensors.torch.save(state))

    return damage


def weights_of_another_model(folder):
    other = model.build(spec(denoiser={"kind": "scalar", "width": 4}))
    replace_weights(folder, model.pack(other, spec())[1])


DAMAGES = {
    "no head": (without("model.json"), "model.json is missing"),
    "no weights": (without("model.safetensors"), "model.safetensors is missing"),
    "empty head": (change_text(""), "model.json"),
    "not JSON": (change_text("sigma: 0.5"), "model.json"),
    "not an object": (change_text("[1, 2]"), "model.json"),
    "not text": (lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\x00"), "model.json"),
    "another format": (change_head(format=2), "model.json.*format"),
    "no format": (drop("format"), "model.json"),
    "no sigma": (drop("sigma"), "model.json.*sigma"),
    "sigma 0": (change_head(sigma=0.0), "model.json.*sigma must be a positive number"),
    "sigma a word": (change_head(sigma="big"), "model.json.*sigma"),
    "sigma NaN": (change_head(sigma=float("nan")), "model.json.*sigma must be a positive number"),
    "a flat shape": (change_head(shape=[64]), "model.json.*shape"),
    "a side of 0": (change_head(shape=[1, 8, 0]), "model.json.*channels, height, width"),
    "no shape": (change_head(shape=8), "model.json"),
    "classes a word": (change_head(n_classes="ten"), "model.json.*n_classes"),
    "no classes": (change_head(n_classes=0), "model.json.*n_classes"),
    "classes below 0": (change_head(n_classes=-1), "model.json.*n_classes"),
    "levels a word": (change_head(levels="many"), "model.json.*levels"),
    "no levels": (change_head(levels=0), "model.json.*levels"),
    "unknown field": (change_head(depth=3), "model.json.*depth"),
    "unknown energy": (change_head(denoiser={"kind": "cubic"}), "model.json.*unknown energy 'cubic'"),
    "unknown classifier": (change_head(classifier={"kind": "vgg"}), "model.json.*unknown classifier 'vgg'"),
    "unknown option": (change_head(classifier={"kind": "linear", "depth": 3}), "model.json.*depth"),
    "no kind": (change_head(denoiser={"width": 4}), "model.json.*kind"),
    "a denoiser in a word": (change_head(denoiser="residual"), "model.json.*denoiser"),
    "truncated weights": (truncate, "model.safetensors is truncated or altered"),
    "altered weights": (alter_one_byte, "model.safetensors is truncated or altered"),
    "no safetensors": (weights_that_are_no_safetensors, "model.safetensors does not fit"),
    "weights of another model": (weights_of_another_model, "model.safetensors does not fit"),
    "NaN": (weights_with(float("nan")), "model.safetensors.*NaN"),
    "infinity": (weights_with(float("inf")), "model.safetensors.*infinity"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_refused_in_one_line_that_names_the_file(tmp_path, damage, message):
    written(tmp_path)
    damage(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=message) as error:
        model.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_not_there_is_no_model(tmp_path):
    with pytest.raises(InputError, match=r"nowhere is not a model folder: model.json is missing"):
        model.load(tmp_path / "nowhere")


# -- writing ---------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot write the model"):
        written(tmp_path / "file" / "model")
    with pytest.raises(InputError, match="cannot write the model"):
        written(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_write_that_fails_leaves_the_old_model_and_no_part_of_the_new(tmp_path, monkeypatch):
    written(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def disk_full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# -- specifications --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, -0.5, float("nan"), float("inf")])
def test_a_sigma_that_is_no_standard_deviation_is_refused(sigma):
    with pytest.raises(InputError, match="sigma must be a positive number"):
        model.check_sigma(sigma)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (1, 8, 0)},
        {"n_classes": 0},
        {"levels": -1},
        {"denoiser": {}},
        {"classifier": {"width": 4}},
    ],
)
def test_what_is_no_specification_is_refused(changes):
    with pytest.raises(InputError, match=r"shape|kind|n_classes|levels"):
        spec(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoiser": {"kind": "residual", "breadth": 4}}, "breadth"),
        ({"classifier": {"kind": "linear", "width": 4}}, "width"),
        ({"classifier": {"kind": "lenet"}}, "16 x 16"),
        ({"classifier": {"kind": "vgg"}}, "vgg"),
        ({"denoiser": {"kind": "cubic"}}, "cubic"),
        ({"denoiser": {"kind": "mixture", "components": 0}}, "components must be at least 1, not 0"),
        ({"denoiser": {"kind": "mixture", "components": "many"}}, "not a model specification"),
        ({"classifier": {"kind": "cnn", "width": 2.5}}, "not a model specification"),
        ({"classifier": {"kind": "linear"}, "shape": (1, 10**9, 10**9)}, "not a model specification"),
        ({"denoiser": {"kind": "mixture", "width": 4}}, "width"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        model.build(spec(**changes))
