"""Networks of your own: kept as any model, imported only where allowed, refused in one line where they do not fit."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from ebsc import model, own
from ebsc.energy import GaussianMixture
from ebsc.errors import InputError
from ebsc.estimator import EmpiricalBayes
from ebsc.model import Ebsc, ModelSpec

SHAPE = (1, 8, 8)

SOURCE = """
from os import system
from pathlib import Path
import torch
from torch import nn
from ebsc.energy import GaussianMixture

Path(__file__).with_name("imported").touch()

class Net(nn.Module):
    def __init__(self, shape, n_classes, width=4, slope=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.LeakyReLU(slope), nn.Linear(width, n_classes))
    def forward(self, x):
        return self.body(x)

class Tied(nn.Module):
    def __init__(self, shape, n_classes):
        super().__init__()
        self.one = self.other = nn.Linear(64, n_classes)
    def forward(self, x):
        return self.one(x.flatten(1)) + self.other(x.flatten(1))

class Halved(nn.Module):
    def __init__(self, shape, sigma):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1 / (1 + sigma)))
    def forward(self, y):
        return self.gain * y

class Flat(nn.Module):
    def __init__(self, shape, part):
        super().__init__()
    def forward(self, y):
        return y.flatten(1)

class Pair(Flat):
    def forward(self, y):
        return y, y

class Chatty(Flat):
    def forward(self, y):
        raise KeyError("more\\nthan one line")

def energy(shape, sigma):
    return GaussianMixture(shape, sigma, 3)

def words(shape, n_classes):
    return "a network"

def broken(shape, n_classes):
    raise RuntimeError("no weights at hand")

def leaves(shape, n_classes):
    raise SystemExit(0)
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A module of a user's, on the path, that leaves a trace when it is imported."""
    (tmp_path / "my_nets.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_nets", None)


def spec(classifier="linear", denoiser="none", **options) -> ModelSpec:
    parts = {"classifier": {"kind": classifier, **options}, "denoiser": {"kind": denoiser}}
    return ModelSpec(sigma=0.5, shape=SHAPE, n_classes=10, levels=16, **parts)


@pytest.mark.parametrize(
    "the_spec",
    [
        spec("my_nets:Net"),
        spec("my_nets:Net", width=7),
        spec("my_nets:Tied"),
        spec(denoiser="my_nets:Halved"),
        spec("my_nets:Net", "my_nets:Halved"),
        spec("my_nets:Net", "my_nets:energy"),
    ],
    ids=str,
)
def test_networks_of_ones_own_are_read_back_bit_for_bit(nets, tmp_path, the_spec):
    net = model.build(the_spec, allow=["my_nets"])
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    model.save(tmp_path / "model", net.train(), the_spec)
    assert net.training
    again, its_spec = model.load(tmp_path / "model", allow=["my_nets"])
    assert its_spec.classifier == the_spec.classifier
    y = torch.randn(2, *SHAPE)
    assert torch.equal(net.eval()(y), again(y))


def test_an_energy_of_ones_own_becomes_its_bayes_estimator(nets):
    net = model.build(spec(denoiser="my_nets:energy"), allow=["my_nets"])
    assert isinstance(net.denoiser, EmpiricalBayes)
    assert isinstance(net.denoiser.energy, GaussianMixture)


@pytest.fixture
def folder(nets, tmp_path):
    """A folder that names that module, which has not been imported since."""
    the_spec = spec("my_nets:Net", "my_nets:Halved")
    model.save(tmp_path / "model", model.build(the_spec, allow=["my_nets"]), the_spec)
    (nets / "imported").unlink()
    del sys.modules["my_nets"]
    return tmp_path / "model"


@pytest.mark.parametrize("allow", [[], ["my"], ["my_net"], ["my_nets2"], ["my_nets.more"], ["torch"], [""], ["."]])
def test_nothing_is_imported_that_is_not_allowed(folder, nets, allow):
    with pytest.raises(InputError, match=r"model\.json: .* allow it with --allow my_nets$"):
        model.load(folder, allow=allow)
    assert not (nets / "imported").exists()
    assert "my_nets" not in sys.modules
    model.load(folder, allow=["my_nets"])
    assert (nets / "imported").exists()


def test_what_an_allowed_module_merely_imports_is_out_of_reach(nets):
    for kind in ("my_nets:system", "my_nets:torch", "my_nets:Path", "my_nets:GaussianMixture", "my_nets:SOURCE"):
        with pytest.raises(InputError, match="defines no such function or class"):
            own.make(kind, ["my_nets"], SHAPE, 10)


@pytest.mark.parametrize(
    "kind", ["my_nets:", ":Net", "my_nets:Net:1", "my_nets:Net.forward", "../my_nets:Net", ".my_nets:Net", "a b:c"]
)
def test_what_is_no_module_and_factory_is_refused(kind):
    with pytest.raises(InputError, match="is named as module:factory, not "):
        model.build(spec(kind), allow=["my_nets", "", "a b"])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"classifier": {"kind": "my_net:Net"}}, r"cannot import my_net: No module named 'my_net' \(it is looked for "),
        ({"classifier": {"kind": "my_nets:Nets"}}, r"my_nets.py defines no such function or class"),
        ({"classifier": {"kind": "my_nets:words"}}, "makes a str, not a torch.nn.Module"),
        ({"classifier": {"kind": "my_nets:broken"}}, r"failed: RuntimeError\('no weights at hand'\)"),
        ({"classifier": {"kind": "my_nets:leaves"}}, r"failed: SystemExit\(0\)"),
        ({"classifier": {"kind": "my_nets:Net", "depth": 3}}, "failed: TypeError.*depth"),
        ({"classifier": {"kind": "my_nets:Net", "width": 5}}, r"model.safetensors does not fit model.json"),
        (
            {"classifier": {"kind": "vgg"}},
            "choose one of linear, lenet, cnn, resnet, or name your own as module:factory",
        ),
        (
            {"denoiser": {"kind": "cubic"}},
            "choose one of residual, scalar, mixture, or name your own as module:factory",
        ),
        ({"shape": [1, 9, 9]}, r"model: the classifier does not take images of shape \(1, 9, 9\): RuntimeError"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_that_names_the_folder(folder, parts, message):
    head = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(head | parts))
    with pytest.raises(InputError, match=message) as error:
        model.load(folder, allow=["my_nets", "my_net"])
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("the_spec", "message"),
    [
        (spec("my_nets:Flat"), r"the classifier makes \(1, 64\) of \(1, 1, 8, 8\), not \(1, 10\)"),
        (spec("my_nets:Pair"), r"the classifier makes tuple of \(1, 1, 8, 8\)"),
        (spec(denoiser="my_nets:Flat"), r"the denoiser makes \(1, 64\) of \(1, 1, 8, 8\), not \(1, 1, 8, 8\)"),
        (spec(denoiser="my_nets:Chatty"), r"the denoiser does not take images of shape \(1, 8, 8\): KeyError"),
    ],
)
def test_a_network_of_other_shapes_is_not_saved(nets, tmp_path, the_spec, message):
    with pytest.raises(InputError, match=message) as error:
        model.save(tmp_path / "model", model.build(the_spec, allow=["my_nets"]), the_spec)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()


def test_a_specification_of_another_function_with_the_same_weights_is_not_saved(nets, tmp_path):
    net = model.build(spec("my_nets:Net", slope=0.9), allow=["my_nets"])
    with pytest.raises(InputError, match="that of another model: its outputs differ by up to"):
        model.save(tmp_path / "model", net, spec("my_nets:Net"))
    other = Ebsc(nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 0.5)
    with pytest.raises(InputError, match="does not fit"):
        model.save(tmp_path / "model", other, spec("my_nets:Net"))
    assert not (tmp_path / "model").exists()


def test_a_package_may_define_a_factory_elsewhere_than_where_it_is_named(nets, tmp_path):
    package = nets / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("from their_package.deep import Own\n")
    (package / "deep.py").write_text("from torch.nn import Identity\nclass Own(Identity): ...\n")
    the_spec = spec(denoiser="their_package:Own")
    model.save(tmp_path / "model", model.build(the_spec, allow=["their_package"]), the_spec)
    model.load(tmp_path / "model", allow=["their_package"])
    with pytest.raises(InputError, match="allow it with --allow their_package"):
        model.load(tmp_path / "model", allow=["their_package.deep"])
    for name in ("their_package", "their_package.deep"):
        del sys.modules[name]


def test_the_checksum_is_of_the_file_or_of_all_of_the_package(nets):
    package = nets / "my_package"
    package.mkdir()
    for name in ("__init__", "nets", "blocks"):
        (package / f"{name}.py").write_text(f"# {name}\nfrom torch.nn import Identity\nclass Own(Identity): ...\n")
    the_spec = spec("my_nets:Net", "my_package.nets:Own")
    model.build(the_spec, allow=["my_nets", "my_package"])
    before = model.code(the_spec)
    assert list(before) == ["my_nets", "my_package.nets"]
    (package / "blocks.py").write_text("# another\n")
    after = model.code(the_spec)
    assert after["my_nets"] == before["my_nets"]
    assert after["my_package.nets"] != before["my_package.nets"]
    (nets / "my_nets.py").write_text(SOURCE + "\n")
    assert model.code(the_spec)["my_nets"] != before["my_nets"]
    for name in ("my_package", "my_package.nets"):
        del sys.modules[name]


def test_a_model_of_ones_own_is_stored_in_float16(nets, tmp_path):
    the_spec = replace(spec("my_nets:Net"), storage="float16")
    model.save(tmp_path / "model", model.build(the_spec, allow=["my_nets"]), the_spec)
    again, _ = model.load(tmp_path / "model", allow=["my_nets"])
    assert all(torch.equal(value, value.half().float()) for value in again.state_dict().values())
