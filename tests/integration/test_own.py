"""A model of a user's own networks, from the user's working folder, by the real command on a real Ray."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

SOURCE = """
from torch import nn

class Halved(nn.Module):
    def __init__(self, shape, sigma, offset=1):
        super().__init__()
        self.gain = 1 / (offset + sigma)
    def forward(self, y):
        return self.gain * y

class Net(nn.Module):
    def __init__(self, shape, n_classes, width=16):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, n_classes))
    def forward(self, x):
        return self.body(x)

if __name__ == "__main__":
    import torch
    from ebsc import model
    from ebsc.model import Ebsc, ModelSpec

    torch.manual_seed(0)
    spec = ModelSpec(
        sigma=0.25, shape=(1, 8, 8), n_classes=10, levels=16,
        denoiser={"kind": "their_nets:Halved"}, classifier={"kind": "their_nets:Net", "width": 8},
    )
    net = Ebsc(Halved(spec.shape, spec.sigma), Net(spec.shape, 10, width=8), spec.sigma)
    model.save("model", net, spec)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a module and, made by it, a model."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "their_nets.py").write_text(SOURCE)
    made = subprocess.run([sys.executable, "their_nets.py"], cwd=folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder


def test_ones_own_networks_are_certified_on_ray_attacked_put_in_a_table_and_trained(folder, monkeypatch):
    words = ["certify", "model", "--data", "digits", "--images", "::40", "--n", 300]
    allow = ["--allow", "their_nets"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [Path(sys.executable).parent / "ebsc", *words, *allow, "-o", "ray", "--workers", 1]
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    monkeypatch.chdir(folder)
    refused = tiny.cli(*words, "-o", "here", "--workers", 0)
    assert refused.status == 2
    assert refused.err.startswith("ebsc: model/model.json: 'their_nets:")
    assert refused.err.endswith("allow it with --allow their_nets\n")
    assert not Path("here").exists()

    words += allow
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert tiny.cli(*words, "-o", "here", "--workers", 0).status == 0
    assert tiny.columns(folder / "here") == tiny.columns(folder / "ray")
    assert list(json.loads(Path("ray/config.json").read_text())["question"]["code"]) == ["their_nets"]
    attack = ["attack", "ray", "--radii", "0.25", "--steps", 1, "--n", 200]
    assert "allow it with --allow" in tiny.cli(*attack).err
    assert tiny.cli(*attack, *allow).status == 0
    assert "ray" in tiny.cli("table", "here", "ray").out

    shutil.copytree("model", "another")  # of the same weights, as an option is no weight
    named = Path("another/model.json").read_text()
    Path("another/model.json").write_text(named.replace('Halved"', 'Halved", "offset": 2'))
    another = tiny.cli("certify", "another", *words[2:], "-o", "here").err
    assert "another configuration: denoiser.offset is None there, 2 here" in another
    assert "other denoiser" in tiny.cli(*attack, *allow, "--model", "another", "-o", "x").err

    quick = ["--energy.steps", 1, "--head.steps", 2, "--held-out", 9, "--watch.looks", 1]
    kinds = ["--denoiser", "their_nets:Halved", "--classifier", "their_nets:Net"]
    learn = ["train", *kinds, "--start-from", "model", "--sigma", 0.25, "--objective", "gaussian", *quick]
    assert "allow it with --allow" in tiny.cli(*learn).err
    trained = tiny.cli(*learn, *allow)
    assert trained.status == 0, trained.err
    assert "models/digits-Halved-Net-gaussian-0.25 is trained already" in tiny.cli(*learn, *allow).out

    Path("their_nets.py").write_text(SOURCE.replace("ReLU", "Tanh"))
    changed = tiny.cli(*words, "-o", "ray").err
    assert "ray holds a run of another configuration: code.their_nets is " in changed
    assert "code.their_nets is " in tiny.cli(*learn, *allow).err
    assert "other Python code" in tiny.cli(*attack, *allow, "-o", "x").err
