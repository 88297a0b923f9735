import json
import re
import shutil

import numpy as np
import pytest
import tiny
import torch

from cluster.folder import RunFolder, read_config
from ebsc import data, model, validation
from ebsc.errors import RunError
from ebsc.validation import Quick
from jobs.entries import read_entry
from jobs.train import Train

QUICK = ["--energy.steps", 30, "--energy.warmup", 3, "--head.steps", 100, "--head.learning-rate", 0.01, "--width", 4]
SHORT = [
    *["--sigma", 0.25, "--width", 4, "--energy.steps", 4, "--energy.warmup", 1, "--head.steps", 4],
    *["--draws", 2, "--energy.batch", 8, "--head.batch", 8],
]
LEARNED = [*SHORT, "--objective", "smoothadv", "--hyper", "steps", 2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "model"
    return folder, tiny.cli("train", "--data", "digits", "--sigma", 0.25, "-o", folder, *QUICK)


def again(folder, *words):
    """The words of that training; later ones win."""
    return ["train", "--data", "digits", "--sigma", 0.25, "-o", folder, *QUICK, *words]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_a_short_training_writes_a_model_that_loads_and_has_learned(trained):
    folder, result = trained
    assert result.status == 0
    net, spec = model.load(folder)
    assert (spec.sigma, spec.shape, spec.n_classes, spec.levels) == (0.25, (1, 8, 8), 10, 16)
    assert spec.denoiser == {"kind": "residual", "width": 4}
    test = data.load("digits", "test")
    assert validation.accuracy(net, test) > 0.5
    assert validation.denoising_error(net.denoiser, test, 0.25) < 0.25**2
    made = ["checkpoint", "config.json", "lock", "metrics.jsonl", "model.json", "model.safetensors", "tensorboard"]
    assert sorted(path.name for path in folder.iterdir()) == made
    assert sorted(path.name for path in (folder / "checkpoint").iterdir()) == ["energy.safetensors", "head.safetensors"]


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


def test_the_config_holds_all_that_decides_the_weights_and_nothing_else(trained):
    question = read_config(trained[0])["question"]
    assert {"data", "checksum", "sigma", "denoiser", "width", "classifier", "objective", "looks"} <= set(question)
    assert question["energy"]["steps"] == 30
    assert not {"out", "overwrite", "device", "cluster", "slurm", "watch", "sweep"} & set(question)


def test_the_metrics_have_a_line_for_each_log_step_and_each_look(trained):
    expected = [("energy", step) for step in sorted({*range(3, 31, 3)})]  # 8 looks of 30 steps: every third
    expected += [("head", step) for step in sorted({*range(12, 100, 12), 50, 100})]
    found = tiny.metrics(trained[0])
    assert [(line["part"], line["step"]) for line in found] == expected
    assert {line["steps"] for line in found if line["part"] == "head"} == {100}
    assert all(np.isfinite([line["loss"], line["learning_rate"]]).all() for line in found)
    assert found[-1]["loss"] < found[-10]["loss"]
    assert found[-1]["accuracy"] > 0.5


def test_tensorboard_shows_the_same_and_denoised_pictures(trained):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (path,) = (trained[0] / "tensorboard" / "energy").iterdir()
    points, pictures = [], set()
    for event in loader.EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.tag == "loss":
                points.append((event.step, pytest.approx(value.tensor.float_val[0])))
            elif value.tensor.string_val:
                assert value.tensor.string_val[2].startswith(b"\x89PNG")
                pictures.add(event.step)
    assert points == [(line["step"], line["loss"]) for line in tiny.metrics(trained[0]) if line["part"] == "energy"]
    assert pictures == {*range(3, 31, 3)}


def test_the_same_options_give_the_same_weights(trained, tmp_path):
    tiny.cli("train", "--data", "digits", "--sigma", 0.25, "-o", tmp_path, *QUICK)
    assert weights(tmp_path) == weights(trained[0])


@pytest.mark.parametrize("words", [[], ["--watch.log", 7, "--watch.save", 0, "--device", "cpu"]])
def test_a_finished_training_started_again_says_so_and_changes_nothing(trained, words):
    folder, _ = trained
    before = tiny.files(folder)
    result = tiny.cli(*again(folder, *words))
    assert result == (0, f"{folder} is trained already; --overwrite trains it again\n", "")
    assert tiny.files(folder) == before


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--energy.seed", 1], "energy.seed is 0 there, 1 here"),
        (["--head.steps", 7, "--width", 3], "head.steps is 100 there, 7 here; width is 4 there, 3 here"),
        (["--watch.looks", 3], "looks is 8 there, 3 here"),
        (["--classifier", "resnet"], 'classifier is "linear" there, "resnet" here'),
        (
            ["--objective", "smoothadv", "--hyper", "steps", 2],
            'hyper.steps is None there, 2.0 here; objective is "clean" there, "smoothadv" here',
        ),
    ],
)
def test_another_configuration_is_refused_with_the_difference_named(trained, words, difference):
    folder, _ = trained
    before = tiny.files(folder)
    result = tiny.cli(*again(folder, *words))
    assert result == (
        2,
        "",
        f"ebsc: {folder} holds a run of another configuration: {difference} (-o names another folder)\n",
    )
    assert tiny.files(folder) == before


def test_an_unfinished_training_of_another_configuration_is_refused_too(tmp_path):
    with tiny.after(10), pytest.raises(tiny.Stopped):
        tiny.cli(*again(tmp_path))
    before = tiny.files(tmp_path)
    result = tiny.cli(*again(tmp_path, "--energy.clip", 0.2))
    assert (result.status, result.out) == (2, "")
    said = "energy.clip is 0.1 there, 0.2 here (-o names another folder)"
    assert result.err == f"ebsc: {tmp_path} holds a run of another configuration: {said}\n"
    assert tiny.files(tmp_path) == before


def test_overwrite_trains_anew_and_leaves_other_files_alone(trained, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert tiny.cli(*again(tmp_path, "--energy.seed", 1)).status == 0
    assert weights(tmp_path) != weights(trained[0])
    result = tiny.cli(*again(tmp_path, "--overwrite"))
    assert result.status == 0
    assert "training the" in result.err
    assert weights(tmp_path) == weights(trained[0])
    assert read_config(tmp_path)["question"]["energy"]["seed"] == 0
    assert len(tiny.metrics(tmp_path)) == len(tiny.metrics(trained[0]))
    assert len(list((tmp_path / "tensorboard" / "head").iterdir())) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwrite_leaves_a_certification_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"question": {"budget": {}}, "options": {}}))
    before = tiny.files(tmp_path)
    assert "something else than a training" in tiny.cli(*again(tmp_path, "--overwrite")).err
    assert tiny.files(tmp_path) == before


def test_a_model_without_a_record_is_replaced_when_asked(tmp_path):
    tiny.write_model(tmp_path)
    before = json.loads((tmp_path / "model.json").read_text())["sha256"]
    words = ["train", "-o", tmp_path, "--denoiser", "none", "--head.steps", 1]
    assert tiny.cli(*words, "--overwrite").status == 0
    model.load(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["sha256"] != before


@pytest.mark.parametrize("words", [[], ["--overwrite"]])
def test_a_second_training_in_the_same_folder_is_refused(trained, words):
    folder, _ = trained
    with RunFolder(folder, read_config(folder), "model.json"):
        before = tiny.files(folder)
        result = tiny.cli(*again(folder, *words))
        assert tiny.files(folder) == before
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"ebsc: {folder} is in use by another process (process ")


@pytest.mark.parametrize(
    "words", [["--data", "nowhere.npz"], ["--classifier", "lenet"], ["--held-out", 9999], ["--classes", 3, 10]]
)
def test_what_cannot_be_trained_is_no_reason_to_remove_the_old_model(trained, tmp_path, words):
    folder = shutil.copytree(trained[0], tmp_path / "model")
    before = tiny.files(folder)
    assert tiny.cli(*again(folder, *words, "--overwrite")).status == 2
    assert tiny.files(folder) == before


@pytest.mark.parametrize("denoiser", ["scalar", "network", "none"])
def test_every_denoiser_can_be_trained_and_certified(tmp_path, denoiser):
    result = tiny.cli(
        *["train", "--denoiser", denoiser, "--sigma", 0.25, "-o", tmp_path / "m", "--width", 4],
        *["--energy.steps", 2, "--head.steps", 2],
    )
    assert result.status == 0
    assert {line["part"] for line in tiny.metrics(tmp_path / "m")} == (
        {"head"} if denoiser == "none" else {"energy", "head"}
    )
    result = tiny.cli(
        *["certify", tmp_path / "m", "--workers", 0, "--images", ":2", "--n", 100, "-o", tmp_path / "run"]
    )
    assert result.status == 0
    assert len(tiny.columns(tmp_path / "run")["index"]) == 2


def test_images_that_have_no_colours_are_trained_on_too(tmp_path):
    images, labels = np.zeros((20, 5, 8, 8), np.uint8), np.arange(20) % 3
    np.savez(tmp_path / "five.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    words = ["--data", tmp_path / "five.npz", "--energy.batch", 5, "--head.batch", 5, "--energy.steps", 2]
    result = tiny.cli("train", "-o", tmp_path / "model", *words, "--head.steps", 1, "--width", 4)
    assert result.status == 0, result.err


MIXTURE = [
    "--denoiser",
    "mixture",
    "--components",
    40,
    "--sigma",
    0.25,
    "--head.steps",
    300,
    "--head.learning-rate",
    0.01,
]


def test_a_mixture_is_fitted_and_certifies_better_than_plain_smoothing(tmp_path):
    result = tiny.cli("train", *MIXTURE, "-o", tmp_path / "m")
    assert result.status == 0, result.err
    assert re.match(r"mixture of 40 Gaussians fitted in \d+\.\d s\n", result.out)
    net, spec = model.load(tmp_path / "m")
    assert spec.denoiser == {"kind": "mixture", "components": 40}
    assert {line["part"] for line in tiny.metrics(tmp_path / "m")} == {"head"}
    assert validation.denoising_error(net.denoiser, data.load("digits", "test"), 0.25) < 0.4 * 0.25**2
    certify = ["certify", tmp_path / "m", "--workers", 0, "--images", "::12", "--n", 400, "--budget", "fixed"]
    for words in (["-o", tmp_path / "ebsc"], ["-o", tmp_path / "plain", "--plain"]):
        assert tiny.cli(*certify, *words).status == 0
    ebsc, plain = (read_entry(tmp_path / name) for name in ("ebsc", "plain"))
    assert ebsc.acr > 1.1 * plain.acr > 0.1


def test_a_mixture_is_fitted_again_when_interrupted_and_serves_what_starts_from_it(tmp_path):
    with tiny.after(100), pytest.raises(tiny.Stopped):
        tiny.cli("train", *MIXTURE, "--watch.save", 0, "-o", tmp_path / "m")
    assert tiny.cli("train", *MIXTURE, "-o", tmp_path / "m").status == 0
    assert tiny.cli("train", *MIXTURE, "-o", tmp_path / "undisturbed").status == 0
    assert weights(tmp_path / "m") == weights(tmp_path / "undisturbed")
    words = ["--objective", "gaussian", "--draws", 2, "--start-from", tmp_path / "m", "--head.steps", 4]
    result = tiny.cli("train", *MIXTURE, *words, "-o", tmp_path / "learned")
    assert result.status == 0, result.err
    assert "Gaussians fitted" not in result.out
    given, learned = (model.load(tmp_path / name)[0] for name in ("m", "learned"))
    for one, other in zip(given.denoiser.buffers(), learned.denoiser.buffers(), strict=True):
        assert torch.equal(one, other)
    assert not same(given.classifier, learned.classifier)


def test_only_where_they_are_asked_for_are_classes_and_moved_images_part_of_the_configuration(trained):
    assert not {"classes", "augment"} & read_config(trained[0])["question"].keys()


def test_only_of_a_mixture_is_the_number_of_components_part_of_the_configuration(trained):
    assert "components" not in read_config(trained[0])["question"]
    assert Train(denoiser="mixture", components=7)._question(data.load("digits", "train"), None, {})["components"] == 7


def test_a_loss_that_is_no_number_is_said_and_no_model_is_written(tmp_path):
    words = ["train", "-o", tmp_path / "model", "--denoiser", "none", "--head.steps", 50]
    result = tiny.cli(*words, "--head.learning-rate", 3e37, "--head.clip", 1e38)
    assert result.status == 2
    assert "lower the learning rate" in result.err.splitlines()[-1]
    assert not {"model/model.json", "model/model.safetensors"} & set(tiny.files(tmp_path))
    assert tiny.cli(*words, "--overwrite").status == 0
    model.load(tmp_path / "model")


# -- objectives -----------------------------------------------------------------------------------------------------


@pytest.fixture
def given(monkeypatch):
    """What a training would be started with: a function of the words of the command line."""

    def look(*words):
        seen = {}

        def stop(**arguments):
            seen.update(arguments)
            raise RunError("seen")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("jobs.train.Fitting", stop)
            assert tiny.cli("train", *words).status == 1
        return seen

    return look


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--objective", "gaussian"], 200),
        (["--objective", "gaussian", "--held-out", 20], 20),
        (["--held-out", 20], 20),
        ([], 0),
        (["--objective", "gaussian", "--held-out", 0], 0),
    ],
)
def test_the_held_out_images_are_trained_on_by_nobody(tmp_path, given, words, count):
    whole = data.load("digits", "train")
    seen = given("-o", tmp_path / "a", "--sigma", 0.25, *words)
    train, held = seen["train"], seen["held"]
    if not count:
        assert held is None
        assert (train.images == whole.images).all()
        return
    assert len(held.labels) == count
    parts = [part.images.reshape(len(part.labels), -1) for part in (train, held, whole)]
    assert sorted(map(bytes, np.concatenate(parts[:2]))) == sorted(map(bytes, parts[2]))
    other = given("-o", tmp_path / "b", "--sigma", 1, "--energy.seed", 5, *words)
    assert (other["held"].images == held.images).all()  # so that trainings can be compared


@pytest.mark.parametrize("held_out", [0, 100])
def test_a_classifier_learns_the_classes_it_is_told_to_and_the_energy_all(tmp_path, monkeypatch, held_out):
    seen = {}

    def part(fitting, name, *_, **__):
        seen[name] = [set(images.labels.tolist()) for images in (fitting.train, fitting.held) if images]

    monkeypatch.setattr("jobs.train.Fitting.part", part)
    words = ["-o", tmp_path, *LEARNED, "--classes", 1, 7, 3, "--held-out", held_out]
    assert tiny.cli("train", *words).status == 0
    parts = 2 if held_out else 1
    assert seen == {"energy": [set(range(10))] * parts, "head": [{1, 3, 7}] * parts}
    assert read_config(tmp_path)["question"]["classes"] == [1, 3, 7]


@pytest.mark.parametrize("objective", [[], ["--objective", "gaussian", "--draws", 1]])
def test_the_classifier_sees_moved_images_and_the_energy_does_not(tmp_path, objective):
    words = ["--width", 4, "--energy.steps", 2, "--head.steps", 3, *objective]
    assert tiny.cli("train", "-o", tmp_path / "still", *words).status == 0
    words += ["--augment.shift", 1, "--augment.rotate", 5]
    assert tiny.cli("train", "-o", tmp_path / "moved", *words).status == 0
    still, moved = (model.load(tmp_path / name)[0] for name in ("still", "moved"))
    assert same(still.denoiser, moved.denoiser)
    assert not same(still.classifier, moved.classifier)
    asked = read_config(tmp_path / "moved")["question"]["augment"]
    assert asked == {"shift": 1, "rotate": 5.0, "scale": 0.0, "flip": False}


def test_the_options_of_an_objective_reach_it(tmp_path, monkeypatch):
    seen = {}

    def stop(net, name, **arguments):
        seen.update(arguments, name=name)
        raise RunError("seen")

    monkeypatch.setattr("jobs.train.learned", stop)
    words = ["--objective", "catrs", "--epsilon", 0.5, "--hyper", "weight", 2, "steps", 3, "--draws", 6]
    words += ["--ramp", 9, "--denoising", 0.25, "--joint", "--energy.steps", 1, "--width", 4]
    assert tiny.cli("train", "-o", tmp_path, *words).status == 1
    assert seen == {
        "name": "catrs",
        "levels": 16,
        "draws": 6,
        "ramp": 9,
        "denoising": 0.25,
        "compiled": False,
        "epsilon": 0.5,
        "weight": 2.0,
        "steps": 3.0,
    }


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A model trained by an attack, without held-out images."""
    folder = tmp_path_factory.mktemp("learned") / "model"
    result = tiny.cli("train", "-o", folder, *LEARNED, "--held-out", 0)
    assert result.status == 0, result.err
    return folder


def same(one, other):
    """Whether two modules have the same weights."""
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("joint", [False, True])
def test_a_training_can_start_from_the_denoiser_of_another(learned, tmp_path, joint):
    net, _ = model.load(learned)
    words = [*SHORT, "--objective", "gaussian", "--held-out", 0, "--start-from", learned]
    result = tiny.cli("train", "-o", tmp_path, *words, *["--joint"] * joint)
    assert result.status == 0, result.err
    new, _ = model.load(tmp_path)
    assert same(new.denoiser, net.denoiser) != joint
    assert not same(new.classifier, net.classifier)
    assert {line["part"] for line in tiny.metrics(tmp_path)} == {"head"}
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["head.safetensors"]


@pytest.mark.parametrize("rate", [0.003, 1e-12])
def test_a_training_can_start_from_a_model_of_another_sigma_whose_energy_is_trained_on(learned, tmp_path, rate):
    net, _ = model.load(learned)
    words = [*SHORT, "--objective", "gaussian", "--held-out", 0, "--start-from", learned, "--sigma", 0.5]
    result = tiny.cli("train", "-o", tmp_path, *words, "--energy.learning-rate", rate)
    assert result.status == 0, result.err
    new, spec = model.load(tmp_path)
    assert (new.sigma, spec.sigma, new.denoiser.sigma, new.denoiser.energy.sigma) == (0.5,) * 4
    assert {line["part"] for line in tiny.metrics(tmp_path)} == {"energy", "head"}
    pairs = zip(new.denoiser.parameters(), net.denoiser.parameters(), strict=True)
    far = max(float((a - b).detach().abs().max()) for a, b in pairs)
    assert (far < 1e-6) == (rate < 1e-6)


def test_a_mixture_fits_every_sigma(tmp_path):
    words = ["train", "--denoiser", "mixture", "--components", 12, "--head.steps", 2]
    assert tiny.cli(*words, "-o", tmp_path / "one", "--sigma", 0.25).status == 0
    result = tiny.cli(*words, "-o", tmp_path / "other", "--sigma", 0.5, "--start-from", tmp_path / "one")
    assert result.status == 0, result.err
    assert "fitted" not in result.out
    one, other = (model.load(tmp_path / name)[0].denoiser for name in ("one", "other"))
    assert torch.equal(one.energy.means, other.energy.means)
    assert (one.energy.sigma, other.energy.sigma) == (0.25, 0.5)


def test_what_a_training_started_from_is_part_of_its_configuration(learned, trained, tmp_path):
    words = ["train", "-o", tmp_path, "--sigma", 0.25, "--width", 4, "--head.steps", 2]
    assert tiny.cli(*words, "--start-from", learned).status == 0
    result = tiny.cli(*words, "--start-from", trained[0])
    assert result.status == 2
    assert f'start_from is "{model.load(learned)[1].sha256}" there' in result.err
    moved = learned.rename(learned.with_name("elsewhere"))
    assert "is trained already" in tiny.cli(*words, "--start-from", moved).out
    moved.rename(learned)


def test_the_weights_that_certify_the_held_out_images_best_are_kept(tmp_path, monkeypatch):
    values, seen = [0.1, 0.5, 0.2, 0.5], []

    def look(net, held, **options):
        assert len(held.labels) == 20
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        return Quick(values[len(seen) - 1], 0.75, 0.25)

    monkeypatch.setattr("jobs.fitting.quick_certificates", look)
    result = tiny.cli("train", "-o", tmp_path, *LEARNED, "--held-out", 20, "--watch.looks", 4)
    assert result.status == 0, result.err
    found = model.load(tmp_path)[0].state_dict()
    equal = [all(torch.equal(found[name], value) for name, value in state.items()) for state in seen]
    assert equal == [False, True, False, False]
    head = [line for line in tiny.metrics(tmp_path) if line["part"] == "head"]
    assert [line["acr"] for line in head] == values
    assert (head[0]["certified_at_0"], head[0]["certified_at_sigma"]) == (0.75, 0.25)
    energy = [line["held_out_denoising_error"] for line in tiny.metrics(tmp_path) if line["part"] == "energy"]
    assert len(energy) == 4
    assert all(0 < error < 0.25 for error in energy)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "digits-residual-linear-0.5"),
        ({"data": "/a/mine.npz", "sigma": 1.0, "denoiser": "none", "classifier": "resnet"}, "mine-none-resnet-1"),
        ({"objective": "smoothadv", "joint": True}, "digits-residual-linear-smoothadv-joint-0.5"),
    ],
)
def test_a_model_folder_is_named_after_what_it_is(options, name):
    assert str(Train(**options).folder) == f"models/{name}"
