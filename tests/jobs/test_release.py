"""Released models: found by name everywhere, made whole from a model and its runs, or refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from cluster.folder import read_config
from ebsc import model
from jobs.options import command_line, recall
from jobs.provenance import options_of
from jobs.release import LARGEST
from jobs.runs import model_of_run
from jobs.train import Train

NAME = "ebsc-digits-0.25"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Where released models live, empty."""
    folder = tmp_path / "released"
    monkeypatch.setattr(model, "RELEASED", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def release(place, shelf, *words, run=None):
    return tiny.cli("release", place.model, "--run", run or place.run, "--name", NAME, "--into", shelf, *words)


@pytest.fixture
def released(place, shelf):
    (place.model / "checkpoint").mkdir()
    (place.model / "metrics.jsonl").write_text("{}")
    done = release(place, shelf)
    assert done.status == 0, done.err
    return shelf / NAME


def test_it_is_the_model_the_run_and_a_card_and_nothing_else(place, released):
    runs = {f"runs/{NAME}/{name}" for name in ("config.json", "certificates.parquet", "ledger.jsonl.xz")}
    assert set(tiny.files(released)) == {"model.json", "model.safetensors", "README.md"} | runs
    for name in ("model.json", "model.safetensors"):
        assert (released / name).read_bytes() == (place.model / name).read_bytes()
    assert [path.name for path in released.parent.iterdir()] == [NAME]


def test_every_command_takes_its_name(place, released):
    run = place.folder / "new"
    words = ["--workers", 0, "--images", "::60", "--n", 200]
    assert tiny.cli("certify", NAME, *words, "-o", run).status == 0
    assert tiny.columns(run) == tiny.columns(place.run)
    assert tiny.cli("attack", run, "--steps", 1, "--draws", 2, "--n", 100, "--images", ":1").status == 0
    assert tiny.cli("attack", place.run, "--model", NAME, "--steps", 1, "--draws", 2, "--n", 100, "-o", "a").status == 0
    walk = ["--steps", 12, "--chains", 2, "--columns", 3]
    assert tiny.cli("sample", NAME, *walk).status == 0
    assert (released.parents[1] / "samples" / NAME / "walks.png").exists()
    train = ["--sigma", 0.25, "--width", 8, "--start-from", NAME, "--head.steps", 2, "-o", "trained"]
    assert tiny.cli("train", *train).status == 0
    _, spec = model.load("trained")
    assert spec.training["started_from"]["sha256"] == model.load(NAME)[1].sha256


def test_the_default_run_folder_is_named_like_it(released):
    assert tiny.cli("certify", NAME, "--workers", 0, "--images", ":1", "--n", 100).status == 0
    assert (released.parents[1] / "runs" / f"{NAME}-digits-sequential-n100" / "certificates.tsv").exists()


def test_a_folder_of_the_same_name_comes_first(place, released):
    shutil.copytree(place.model, NAME)
    net = json.loads((place.model / "model.json").read_text()) | {"sigma": 0.3}
    (released.parents[1] / NAME / "model.json").write_text(json.dumps(net))
    assert model.load(NAME)[1].sigma == 0.3


@pytest.mark.parametrize(
    "words", [["certify", "nope"], ["sample", "nope"], ["train", "--start-from", "nope", "--head.steps", 1]]
)
def test_an_unknown_name_is_answered_with_the_list(released, words):
    done = tiny.cli(*words)
    assert done.status == 2
    assert done.err == f"ebsc: nope is not a model folder, nor a released model: released are {NAME}\n"


def test_where_nothing_is_released_that_is_said(shelf):
    assert tiny.cli("certify", "nope").err.endswith("released are none yet\n")
    assert tiny.cli("models").out == "no model is released yet\n"


def test_an_installed_program_is_not_written_into(place, shelf, monkeypatch):
    monkeypatch.setattr("jobs.release.RELEASED", shelf / "site-packages" / "ebsc" / "released")
    done = tiny.cli("release", place.model, "--run", place.run, "--name", NAME)
    assert done.status == 2
    assert done.err == "ebsc: name the folder that the model is to stand in with --into\n"


def test_they_are_listed(released):
    out = tiny.cli("models").out.splitlines()
    row = re.split(r" {2,}", out[2].strip())
    assert row[:3] == [NAME, "digits", "0.25"]
    assert row[5:9] == ["6", "200", "10", "one-sided"]


def test_the_list_has_only_what_a_run_decided(place, shelf):
    def listed(name):
        (row,) = [line for line in tiny.cli("models").out.splitlines() if line.startswith(name)]
        row = re.split(r" {2,}", row.strip())
        return row[7], row[8], len(row[9:])

    budgets = {
        "one": (["--radii", 0], 1),
        "two": (["--radii", "0,0.25,0.5", "--n", 1000, "--two-sided"], 2),
        "all": (["--budget", "fixed"], 7),
    }
    for name, (words, columns) in budgets.items():
        done = tiny.cli(*place.certify(*words, out=name))
        assert done.status == 0, done.err
        words = ["--run", place.folder / name, "--name", name, "--into", shelf]
        assert tiny.cli("release", place.model, *words).status == 0
        assert listed(name) == ("10", "with p_B" if name == "two" else "one-sided", columns)


def test_the_card_says_what_one_must_know(place, released):
    text = (released / "README.md").read_text()
    _, spec = model.load(NAME)
    assert spec.sha256 in text
    assert f"| {NAME} |" in text
    assert "on 6 images" in text
    for said in (
        "digits, training split",
        "sigma 0.25",
        "| 200 ",
        "0.001",
        "by the network with `--precision float32`",
        "What is a guarantee",
        "Intended use and limits",
    ):
        assert said in text


def test_the_commands_of_the_card_rebuild_its_table(released, monkeypatch):
    text = (released / "README.md").read_text()
    monkeypatch.chdir(released)
    verify, table = (re.search(rf"^ebsc {name} runs/\*(.*)$", text, re.MULTILINE) for name in ("verify", "table"))
    assert tiny.cli("verify", f"runs/{NAME}", *verify[1].split()).status == 0
    again = tiny.cli("table", f"runs/{NAME}", *table[1].split(), "--format", "markdown").out
    assert again in text


def test_the_card_of_a_model_that_ebsc_did_not_train_says_so(place, shelf):
    net, spec = model.load(place.model)
    model.save(place.folder / "other", net, replace(spec, training={"data": "digits", "options": {"lr": 0.1}}))
    run = place.folder / "new"
    words = ["--workers", 0, "--images", "::60", "--n", 200, "-o", run]
    assert tiny.cli("certify", place.folder / "other", *words).status == 0
    done = tiny.cli("release", place.folder / "other", "--run", run, "--name", "o", "--into", shelf)
    assert done.status == 0, done.err
    assert "# how it was trained is not recorded" in (shelf / "o" / "README.md").read_text()


def test_the_card_of_a_trained_model_says_recipe_seed_and_cost(place, shelf):
    folder = place.folder / "trained"
    words = ["--recipe", "gaussian", "--data", "digits", "--classifier", "linear", "--head.steps", 2, "--head.seed", 3]
    words += ["--classes", 3, 1]
    assert tiny.cli("train", *words, "--head.batch", 8, "-o", folder).status == 0
    run = place.folder / "new"
    assert tiny.cli("certify", folder, "--workers", 0, "--images", "::60", "--n", 200, "-o", run).status == 0
    done = tiny.cli("release", folder, "--run", run, "--name", "g", "--into", shelf)
    assert done.status == 0, done.err
    text = (shelf / "g" / "README.md").read_text()
    command = (
        "ebsc train --recipe gaussian --sigma 0.5 --data digits --classifier linear --classes 3 1 --head.steps 2"
        " --head.batch 8 --head.seed 3"
    )
    assert command.replace(" --sigma 0.5", "") in text
    assert re.search(r"^\| recipe +\| gaussian ", text, re.MULTILINE)
    assert re.search(r"^\| seed +\| 0, 3 ", text, re.MULTILINE)
    assert re.search(r"^\| classes +\| 3, 1 alone: ", text, re.MULTILINE)
    assert " 2 of 10 " in tiny.cli("models").out
    assert re.search(r"^\| training +\| \d+ s on ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--no-lattice"], "is not sound in floating point"),
        (["--images", "::60"], None),
    ],
)
def test_only_sound_runs_are_released(place, shelf, words, message):
    assert tiny.cli(*place.certify(*words)).status == 0
    done = release(place, shelf, run=place.folder / "new")
    assert (done.status == 0) == (message is None)
    assert message is None or (message in done.err and not (shelf / NAME).exists())


def test_a_run_of_other_weights_is_refused(place, shelf):
    place.reconfigure(lambda config: config["question"].update(model="0" * 64))
    done = release(place, shelf)
    assert done.err == f"ebsc: {place.run} is not a run of {place.model}: other weights\n"
    assert done.status == 2


def test_networks_of_ones_own_are_refused(place, shelf):
    head = json.loads((place.model / "model.json").read_text())
    (place.model / "model.json").write_text(json.dumps(head | {"classifier": {"kind": "mine:net"}}))
    done = release(place, shelf)
    assert (done.status, "has networks of your own" in done.err) == (2, True)


def test_a_run_that_does_not_verify_is_refused(place, shelf):
    ledger = place.run / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-1]))
    done = release(place, shelf)
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert not shelf.exists() or not list(shelf.iterdir())


def test_too_large_a_model_is_refused(place, shelf, monkeypatch):
    size = (place.model / "model.safetensors").stat().st_size
    assert size < LARGEST == 3_000_000
    monkeypatch.setattr("jobs.release.LARGEST", 1000)
    assert release(place, shelf).err == (
        f"ebsc: {place.model} has {size:,} bytes of weights, a released model at most 1,000; train it with --storage"
        " float16, or a smaller --width\n"
    )


def test_a_name_is_taken_once(place, released):
    before = tiny.files(released)
    done = release(place, released.parent)
    assert done.err == f"ebsc: {released} is there already; --overwrite replaces it\n"
    assert release(place, released.parent, "--overwrite").status == 0
    assert tiny.files(released) == before


def test_what_a_killed_release_has_left_is_in_no_other(place, shelf):
    (shelf / f".{NAME}.part" / "runs" / "stale").mkdir(parents=True)
    assert release(place, shelf).status == 0
    assert [path.name for path in (shelf / NAME / "runs").iterdir()] == [NAME]
    assert {path.name for path in shelf.iterdir()} == {NAME, f".{NAME}.part"}


def test_what_is_no_folder_is_not_replaced(place, shelf):
    shelf.mkdir()
    (shelf / NAME).symlink_to(place.model)
    done = release(place, shelf, "--overwrite")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert (place.model / "model.json").exists()


def test_an_empty_folder_is_replaced(place, shelf):
    (shelf / NAME).mkdir(parents=True)
    assert release(place, shelf, "--overwrite").status == 0
    assert (shelf / NAME / "model.json").exists()


def test_what_is_no_released_model_is_not_replaced(place, released):
    (released / "notes.txt").write_text("mine")
    before = tiny.files(released)
    done = release(place, released.parent, "--overwrite")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "holds something else than a released model" in done.err
    assert tiny.files(released) == before


def test_a_released_run_finds_its_model_beside_it(released):
    run = released / "runs" / NAME
    config = read_config(run)
    config["options"]["model"] = "where/it/was/trained"
    assert model_of_run(run, config)[1].sha256 == config["question"]["model"]


def test_the_old_one_stays_where_the_new_one_cannot_take_its_place(place, released, monkeypatch):
    before, rename = tiny.files(released), Path.rename

    def interrupted(path, target):
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    assert release(place, released.parent, "--overwrite").status == 130
    assert tiny.files(released) == before
    assert [path.name for path in released.parent.iterdir()] == [released.name]


def test_names_are_plain(place, shelf):
    done = tiny.cli("release", place.model, "--run", place.run, "--name", "../x", "--into", shelf)
    assert done.err == "ebsc: name '../x': give small letters, digits, points and hyphens\n"


def test_half_precision_is_exact_for_what_is_certified(place):
    net, spec = model.load(place.model)
    model.save(place.folder / "half", net, replace(spec, storage="float16"))
    stored, half = model.load(place.folder / "half")
    assert half.sha256 != spec.sha256
    assert model.pack(stored, half)[0].sha256 == half.sha256  # what workers get is what is on disk
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (place.folder / "half", place.model)]
    assert sizes[0] < 0.7 * sizes[1]
    command, _, *words = place.certify()
    assert tiny.cli(command, place.folder / "half", *words).status == 0
    assert read_config(place.folder / "new")["question"]["model"] == half.sha256


def test_options_are_recalled_from_their_record():
    train = Train.by("ebsc-full", 0.75, classifier="resnet")
    again = recall(Train, options_of(train) | {"of_a_later_version": 1})
    assert again == train
    assert command_line(again) == command_line(train)


def test_a_run_without_the_denoiser_is_no_headline(place, shelf):
    tiny.cli(*place.certify("--plain", out="plain"))
    done = tiny.cli("release", place.model, "--run", place.folder / "plain", "--name", "nice", "--into", shelf)
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "without the model's denoiser" in done.err
