"""Networks of one's own are trained as they are made: what is frozen, shared, made anew or without weights."""

import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch

from ebsc import data
from ebsc.training import Schedule, Trainer

SOURCE = '''
import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self, shape, n_classes):
        super().__init__()
        self.head = nn.Linear(64, n_classes)
    def forward(self, x):
        return self.head(x.flatten(1))

class Scaled(Linear):
    """With a buffer that is no part of its weights, and two names for one layer."""
    def __init__(self, shape, n_classes):
        super().__init__(shape, n_classes)
        self.same = self.head
        self.register_buffer("scale", torch.full((64,), 2.0), persistent=False)
    def forward(self, x):
        return self.head(self.scale * x.flatten(1))

class Frozen(Linear):
    """On a body that is not to be trained."""
    def __init__(self, shape, n_classes):
        super().__init__(shape, n_classes)
        self.body = nn.Linear(64, 64).requires_grad_(False)
    def forward(self, x):
        return self.head(self.body(x.flatten(1)))

class Spare(Linear):
    """With weights that it does not use."""
    def __init__(self, shape, n_classes):
        super().__init__(shape, n_classes)
        self.spare = nn.Linear(64, n_classes)

class Wide(Linear):
    def __init__(self, shape, n_classes):
        super().__init__(shape, 1000)

class Mean(nn.Module):
    """Without weights."""
    def __init__(self, shape, n_classes):
        super().__init__()
    def forward(self, x):
        return x.flatten(1)[:, :10]

class Blur(nn.Module):
    def __init__(self, shape, sigma):
        super().__init__()
    def forward(self, y):
        return nn.functional.avg_pool2d(y, 3, 1, 1)

class Normed(nn.Module):
    def __init__(self, shape, sigma):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 1, 1))
    def forward(self, y):
        return self.layers(y)
'''

WORDS = ["train", "--data", "digits", "--allow", "mynets"]
WORDS += ["--energy.steps", 3, "--energy.batch", 16, "--head.batch", 16]


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    monkeypatch.delitem(sys.modules, "mynets", raising=False)


def train(*words, out="model"):
    """With two looks, so that a state is saved on the way."""
    return tiny.cli(*WORDS, "-o", out, "--head.steps", 4, "--watch.looks", 2, *words)


def interrupted(words, after):
    """The same, by Ctrl-C after so many steps."""
    advance, steps = Trainer.advance, iter(range(after))

    def one_of_them(self):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return advance(self)

    with patch.object(Trainer, "advance", one_of_them):
        return train(*words, out="again")


def weights(folder):
    return safetensors.torch.load_file(f"{folder}/model.safetensors")


ADVERSARY = ["--objective", "smoothadv", "--epsilon", 0.25, "--hyper", "steps", 2]


@pytest.mark.parametrize("net", ["Scaled", "Spare"])
def test_a_training_goes_on_from_what_was_saved_on_the_way(net):
    """With shared weights and a buffer that is made anew; with weights that no loss uses."""
    words = ["--denoiser", "none", "--classifier", f"mynets:{net}", "--objective", "gaussian"]
    assert train(*words).status == 0
    assert interrupted(words, after=2).status == 130
    result = train(*words, out="again")
    assert result.status == 0, result.err
    assert all((value == weights("again")[name]).all() for name, value in weights("model").items())


def test_a_state_from_the_middle_of_a_step_leaves_out_what_is_made_anew():
    import mynets

    images = data.load("digits", "train").take(np.arange(32))
    saved = []

    def loss(batch):
        saved.append(trainer.state())
        return {"loss": net(batch.images.float() / 16).square().mean()}

    net = mynets.Scaled((1, 8, 8), 10)
    trainer = Trainer(net, images, loss, Schedule(steps=2, batch=16))
    trainer.advance()
    trainer.advance()
    restored = Trainer(net, images, loss, Schedule(steps=2, batch=16))
    restored.restore(saved[-1])
    assert restored.step == 1
    assert not any("scale" in name for name in saved[-1])


def test_what_a_factory_has_frozen_stays_so():
    assert train("--denoiser", "none", "--classifier", "mynets:Frozen", "--storage", "float32").status == 0
    import mynets

    torch.manual_seed(0)  # as the training makes it
    made = mynets.Frozen((1, 8, 8), 10)
    assert (weights("model")["classifier.body.weight"] == made.body.weight).all()
    assert (weights("model")["classifier.head.weight"] != made.head.weight).any()


def test_a_denoiser_that_is_not_trained_on_keeps_its_statistics():
    assert train("--denoiser", "mynets:Normed", "--head.steps", 1).status == 0
    words = ["--denoiser", "mynets:Normed", "--start-from", "model"]
    result = train(*words, *ADVERSARY, out="learned")
    assert result.status == 0, result.err
    before, after = weights("model"), weights("learned")
    names = [name for name in before if name.startswith("denoiser")]
    assert any("running_var" in name for name in names)
    assert all((before[name] == after[name]).all() for name in names)


def test_a_denoiser_without_weights_needs_no_training():
    assert train("--denoiser", "mynets:Blur", *ADVERSARY).status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classifier", "mynets:Wide"], "the classifier makes (1, 1000) of (1, 1, 8, 8), not (1, 10)"),
        (["--classifier", "mynets:Mean"], "the classifier mynets:Mean has no weights to train"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is(words, message):
    tiny.write_model(Path("model"))
    before = tiny.files(Path("model"))
    result = train("--denoiser", "none", "--overwrite", *words)
    assert result.status == 2
    assert tiny.files(Path("model")) == before
    assert result.err.rstrip().endswith(message)
    assert result.out == ""
