import json
import re
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from scipy import stats

from cluster.worker import Assignment
from ebsc import data
from jobs.entries import read_entry


def test_a_run_folder_holds_the_record_and_the_certificates(place):
    assert {"config.json", "ledger.jsonl", "certificates.parquet", "certificates.tsv"} <= set(tiny.files(place.run))
    assert "driver.json" not in tiny.files(place.run)


def test_certificates_are_of_the_images_asked_for(place):
    stored = tiny.columns(place.run)
    assert stored["index"] == list(range(0, 360, 60))
    assert stored["label"] == data.load("digits", "test").labels[::60].tolist()
    assert max(stored["radius"]) > 0
    assert [sum(votes) for votes in stored["select"]] == [100] * 6


def test_time_is_recorded_for_every_image(place):
    seconds = pq.read_table(place.run / "certificates.parquet")["seconds"].to_numpy()
    records = [json.loads(line) for line in (place.run / "ledger.jsonl").read_text().splitlines()]
    assert (seconds > 0).all()
    assert seconds.sum() == pytest.approx(sum(record["seconds"] for record in records))


def test_what_votes_are_the_weights_of_the_file_whatever_storage_is_said(place):
    head = json.loads((place.model / "model.json").read_text())
    (place.model / "model.json").write_text(json.dumps(head | {"storage": "float16"}))
    sent = []
    with patch("jobs.certify.Assignment", side_effect=lambda **words: sent.append(words) or Assignment(**words)):
        assert tiny.cli(*place.certify(out="new")).status == 0
    assert sent[0]["weights"] == (place.model / "model.safetensors").read_bytes()
    assert tiny.columns(place.folder / "new") == tiny.columns(place.run)


def test_started_again_a_finished_run_says_the_same_and_changes_nothing(place):
    before = tiny.files(place.run)
    result = tiny.cli(*place.certify(out="run"))
    assert result.status == 0
    assert tiny.files(place.run) == before
    assert "6 images" in result.out
    assert str(place.run) in result.out


@pytest.mark.parametrize("batch", [25, 64])
def test_the_micro_batch_does_not_matter(place, batch):
    assert tiny.cli(*place.certify("--batch", batch)).status == 0
    assert tiny.columns(place.folder / "new") == tiny.columns(place.run)


def test_a_micro_batch_that_no_memory_holds_is_one_line(place):
    result = tiny.cli(*place.certify("--batch", 10**11))
    assert (result.status, result.err.count("\n")) == (1, 1)
    assert re.fullmatch("ebsc: out of memory: .*; a smaller batch may help\n", result.err)


def test_a_compiler_that_is_not_there_is_one_line(place, monkeypatch):
    def fail(*words):
        raise torch._dynamo.exc.TorchDynamoException("Compiler: c++ is not found.\nSet it")

    monkeypatch.setattr("jobs.certify.Certify._certify", fail)
    result = tiny.cli(*place.certify("--compile"))
    said = "ebsc: cannot compile the network here: Compiler: c++ is not found. Set it; switch compile off\n"
    assert (result.status, result.err) == (2, said)


def test_images_keep_their_draws_in_another_selection(place):
    assert tiny.cli(*place.certify("--images", "120:301:180")).status == 0
    some, all_ = tiny.columns(place.folder / "new"), tiny.columns(place.run)
    rows = [all_["index"].index(image) for image in (120, 300)]
    assert some == {name: [values[row] for row in rows] for name, values in all_.items()}


@pytest.mark.parametrize("words", [["--seed", 1], ["--plain"], ["--budget", "fixed", "--n", 300]])
def test_another_question_has_another_answer(place, words):
    assert tiny.cli(*place.certify(*words)).status == 0
    assert tiny.columns(place.folder / "new")["counts"] != tiny.columns(place.run)["counts"]


def test_fixed_and_sequential_budgets_count_the_same_draws(place):
    assert tiny.cli(*place.certify("--budget", "fixed", "--n", 128)).status == 0
    assert tiny.cli(*place.certify("--budget", "sequential", "--n", 128, out="other")).status == 0
    fixed, sequential = tiny.columns(place.folder / "new"), tiny.columns(place.folder / "other")
    assert fixed["counts"] == sequential["counts"]
    assert fixed["radius"] == sequential["radius"]


def test_radii_that_no_votes_can_certify_are_said(place):
    reach = 0.25 * stats.norm.ppf(0.0008 ** (1 / 200))  # the last of two looks has 0.8 of alpha
    said = tiny.cli(*place.certify("--radii", "0.25,2")).out
    assert f"radii above {int(1000 * reach) / 1000} are out of reach of 200 draws" in said
    refused = tiny.cli(*place.certify("--radii", "2", out="another"))
    assert (refused.status, "no radius asked for can be certified: 200 draws" in refused.err) == (2, True)
    assert not (place.folder / "another").exists()


def test_a_fixed_budget_is_not_put_beside_itself(place):
    assert "\n1,800 draws\n" in tiny.cli(*place.certify("--budget", "fixed")).out


def test_the_run_is_named_after_what_it_is(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    words = ["certify", place.model, "--workers", 0, "--images", ":1", "--n", 100]
    assert tiny.cli(*words, "--plain", "--budget", "fixed").status == 0
    assert (place.folder / "runs" / "model-plain-digits-fixed-n100" / "certificates.tsv").exists()


def test_the_summary_agrees_with_the_table(place):
    result = tiny.cli(*place.certify(out="run"))
    row = read_entry(place.run)
    stored = tiny.columns(place.run)
    assert f"{int((row.radius > 0).sum())} of 6" in result.out
    assert f"{sum(stored['draws']):,} draws; a fixed budget takes 1,800, " in result.out
    assert str(np.floor(row.acr * 1000) / 1000) in result.out
