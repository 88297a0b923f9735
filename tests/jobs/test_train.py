import json

import pytest
import tiny

from ebsc import data, model, training

QUICK = ["--energy.steps", 30, "--energy.warmup", 3, "--head.steps", 100, "--head.learning-rate", 0.01, "--width", 4]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "model"
    return folder, tiny.cli("train", "--data", "digits", "--sigma", 0.25, "-o", folder, *QUICK)


def test_a_short_training_writes_a_model_that_loads_and_has_learned(trained):
    folder, result = trained
    assert result.status == 0
    net, spec = model.load(folder)
    assert (spec.sigma, spec.shape, spec.n_classes, spec.levels) == (0.25, (1, 8, 8), 10, 16)
    assert spec.denoiser == {"kind": "residual", "width": 4}
    test = data.load("digits", "test")
    assert training.accuracy(net, test) > 0.5
    assert training.denoising_error(net.denoiser, test, 0.25) < 0.25**2
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_the_model_records_how_it_came_to_be(trained):
    folder, result = trained
    _, spec = model.load(folder)
    record = spec.training
    assert record["data"] == "digits"
    assert record["checksum"] == data.load("digits", "train").checksum
    assert record["options"]["energy"] | {"steps": 30, "warmup": 3} == record["options"]["energy"]
    assert record["options"]["head"]["learning_rate"] == 0.01
    assert record["options"]["sigma"] == 0.25
    assert {"versions", "commit", "host", "device", "time"} <= set(record)
    assert record["versions"]["torch"] != "absent"
    figures = record["figures"]
    assert f"{figures['accuracy_on_xhat']:.1%}" in result.out
    assert f"{figures['denoising_error']:.5f}" in result.out


def test_the_same_options_give_the_same_weights(trained, tmp_path):
    tiny.cli("train", "--data", "digits", "--sigma", 0.25, "-o", tmp_path, *QUICK)
    assert (tmp_path / "model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("denoiser", ["scalar", "network", "none"])
def test_every_denoiser_can_be_trained_and_certified(tmp_path, denoiser):
    result = tiny.cli(
        *["train", "--denoiser", denoiser, "--sigma", 0.25, "-o", tmp_path / "m", "--width", 4],
        *["--energy.steps", 2, "--head.steps", 2],
    )
    assert result.status == 0
    result = tiny.cli(
        *["certify", tmp_path / "m", "--workers", 0, "--images", ":2", "--n", 100, "-o", tmp_path / "run"]
    )
    assert result.status == 0
    assert len(tiny.columns(tmp_path / "run")["index"]) == 2


def test_a_model_is_replaced_when_asked(tmp_path):
    tiny.write_model(tmp_path)
    before = json.loads((tmp_path / "model.json").read_text())["sha256"]
    words = ["train", "-o", tmp_path, "--denoiser", "none", "--head.steps", 1]
    assert tiny.cli(*words, "--overwrite").status == 0
    model.load(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["sha256"] != before


def test_a_loss_that_is_no_number_is_said_and_nothing_is_written(tmp_path):
    words = ["train", "-o", tmp_path / "model", "--denoiser", "none", "--head.steps", 50]
    result = tiny.cli(*words, "--head.learning-rate", 1e38, "--head.clip", 1e38)
    assert result.status == 2
    assert "lower the learning rate" in result.err.splitlines()[-1]
    assert tiny.files(tmp_path) == {}
