"""`ebsc certify --vote walk-jump`: another vote, so another run, and reproducible like every other."""

import json
import re

import pytest
import tiny

from jobs.entries import read_entry


def certify(place, *words, out="new"):
    return tiny.cli(*place.certify("--vote", "walk-jump", *words, out=out))


def test_the_configuration_and_the_table_say_how_draws_vote(place):
    assert certify(place, "--steps", 2, "--friction", 1).status == 0
    question = json.loads((place.folder / "new" / "config.json").read_text())["question"]
    assert question["walk"] == {"steps": 2, "step_size": 0.5, "friction": 1.0}
    assert "walk" not in json.loads((place.run / "config.json").read_text())["question"]
    assert (read_entry(place.folder / "new").steps, read_entry(place.run).steps) == (2, 0)
    table = tiny.cli("table", place.folder / "new", place.run).out
    assert re.findall(r"^(\w+) votes by walk-jump: a draw is a chain of 2 steps", table, re.MULTILINE) == ["new"]


def test_one_vote_does_not_go_on_as_the_other(place):
    before = tiny.files(place.folder)
    done = certify(place, out="run")
    assert done.status == 2
    assert "walk.steps is None there, 4 here" in done.err
    assert tiny.files(place.folder) == before
    assert certify(place, "--steps", 1).status == 0
    done = certify(place, "--steps", 2)
    assert done.status == 2
    assert done.err.endswith("another configuration: walk.steps is 1 there, 2 here (-o names another folder)\n")


def test_runs_of_different_votes_are_not_merged(place):
    halves = []
    for images, words in (("::120", ()), ("60::120", ("--vote", "walk-jump", "--steps", 1))):
        halves.append(place.folder / f"half{len(halves)}")
        assert tiny.cli(*place.certify("--images", images, *words, out=halves[-1])).status == 0
    done = tiny.cli("merge", *halves, "--into", place.folder / "all")
    assert done.status == 2
    assert "not runs of one configuration: walk.step_size is null and 0.5; walk.steps is null and 1\n" in done.err


@pytest.mark.parametrize("words", [("--batch", 16), ("--workers", 0, "--batch", 100)])
def test_the_certificates_do_not_depend_on_the_micro_batch(place, words):
    assert certify(place, "--steps", 1).status == 0
    assert certify(place, "--steps", 1, *words, out="other").status == 0
    assert tiny.columns(place.folder / "other") == tiny.columns(place.folder / "new")
    assert tiny.columns(place.folder / "new")["counts"] != tiny.columns(place.run)["counts"]


def test_the_default_folder_names_the_vote(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    words = [str(word) for word in place.certify("--vote", "walk-jump", "--steps", 1)]
    del words[words.index("-o") : words.index("-o") + 2]
    assert tiny.cli(*words).status == 0
    assert (place.folder / "runs" / "model-walk1-digits-sequential-n200").is_dir()


def test_a_walk_that_diverges_certifies_nothing(place):
    done = certify(place, "--step-size", 1e3, "--steps", 12)
    assert done.status == 1
    assert "outputs are NaN or infinite (a smaller step may help)" in done.err
    assert not (place.folder / "new" / "certificates.parquet").exists()


def test_options_of_a_walk_need_one(place):
    done = tiny.cli(*place.certify("--steps", 9))
    assert (done.status, "need --vote walk-jump" in done.err) == (2, True)
