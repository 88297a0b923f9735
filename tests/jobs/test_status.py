"""`ebsc status` says where a run stands, whether it goes on, was stopped, or is finished, and changes nothing."""

import json
import os
import platform
import re
import time
from dataclasses import asdict

import pytest
import tiny

from cluster.driver import Status
from cluster.folder import RunFolder

SEEN = Status(
    settled=3,
    images=7,
    draws=12_345,
    rate=56.7,
    seconds_left=75.0,
    workers=2,
    resent=4,
    note="worker 0 was lost (ActorDiedError: node n17)",
)


def status(run):
    before = tiny.files(run)
    result = tiny.cli("status", run)
    assert tiny.files(run) == before
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"{run}: ")
    return result.out


@pytest.fixture
def stopped(place):
    """A run that was stopped on the way."""
    (place.run / "certificates.parquet").unlink()
    (place.run / "status.json").write_text(json.dumps({**asdict(SEEN), "time": time.time()}))
    return place.run


def test_what_is_no_certification_is_said_to_be_none(tmp_path):
    (tmp_path / "config.json").write_text('{"question": {"story": "mnist", "budget": "minutes"}}')
    result = tiny.cli("status", tmp_path)
    assert (result.status, "is no certification" in result.err) == (2, True)


def test_a_finished_run(place):
    said = status(place.run)
    assert f"finished; show it with: ebsc table {place.run}" in said
    draws = sum(tiny.columns(place.run)["draws"])
    assert re.search(rf"^100%: 6/6 images settled, {draws:,} draws, [\d,]+ draws/s on 1 workers", said, re.MULTILINE)
    assert "last fault: none" in said


def test_what_was_seen_last(stopped):
    said = status(stopped)
    assert "42%: 3/7 images settled, 12,345 draws, 57 draws/s on 2 workers, 1:15 left" in said
    assert "4 units sent again; last fault: worker 0 was lost (ActorDiedError: node n17)" in said
    assert time.strftime("as of %Y-%m-%d %H:") in said


def test_before_the_rate_is_known_the_time_left_is_not(stopped):
    early = {**asdict(SEEN), "rate": 0.0, "seconds_left": float("inf"), "time": time.time()}
    (stopped / "status.json").write_text(json.dumps(early))
    assert "0 draws/s on 2 workers, ? left" in status(stopped)


def test_a_killed_run_is_stopped_until_it_is_finished(place):
    words = place.certify("--images", "::12", "--n", 600, "--batch", 64)
    run = place.folder / "killed"
    tiny.start_and_kill("jobs.certify", words[1:], run, "ledger.jsonl", after=40)
    said = status(run)
    assert "stopped; the command that started it goes on" in said
    assert re.search(r"^\d+%: \d+/30 images settled, [1-9][\d,]* draws, [1-9][\d,]* draws/s on 1 workers", said, re.M)
    assert tiny.cli(*words, "-o", run).status == 0
    said = status(run)
    assert "finished" in said
    assert "100%: 30/30 images settled" in said


def test_a_run_that_goes_on(stopped):
    config = json.loads((stopped / "config.json").read_text())
    with RunFolder(stopped, config):
        said = status(stopped)
    assert f"running, process {os.getpid()} since {time.strftime('%Y-%m-%d %H:')}" in said
    assert "42%" in said
    assert "stopped" in status(stopped)


def test_a_run_of_another_user_goes_on_too(stopped, monkeypatch):
    def not_yours(pid, number):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", not_yours)
    with RunFolder(stopped, json.loads((stopped / "config.json").read_text())):
        assert "running, process" in status(stopped)


def test_a_run_on_another_host(stopped):
    (stopped / "driver.json").write_text(json.dumps({"host": "n17", "pid": 7, "since": "2026-01-01 12:00:00"}))
    assert "running, process 7 since 2026-01-01 12:00:00 on n17" in status(stopped)


NO_PROCESS = json.dumps({"host": platform.node(), "pid": "seven", "since": "noon"})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "{}", NO_PROCESS], ids=["empty", "torn", "list", "number", "without", "no_process"]
)
def test_a_run_whose_driver_cannot_be_read_is_taken_to_be_stopped(stopped, text):
    (stopped / "driver.json").write_text(text)
    said = status(stopped)
    assert "stopped" in said
    assert "42%" in said


def test_before_the_first_count(stopped):
    (stopped / "status.json").unlink()
    assert "stopped" in status(stopped)
    assert "nothing counted yet" in status(stopped)


def test_a_finished_run_is_not_said_to_have_counted_nothing(place):
    """Such as one that `ebsc merge` wrote, or an older version."""
    (place.run / "status.json").unlink()
    said = status(place.run)
    assert "finished" in said
    assert "nothing counted" not in said


def refused(run, message):
    before = tiny.files(run)
    result = tiny.cli("status", run)
    assert result.status == 2
    assert re.fullmatch(f"ebsc: .*{message}.*\n", result.err), result.err
    assert tiny.files(run) == before


@pytest.mark.parametrize("name", ["model", "nowhere"])
def test_what_is_not_a_run_folder_is_refused(place, name):
    refused(place.folder / name, r"is not a run folder: config\.json is missing")


SPOILT = {
    "empty": b"",
    "torn": b'{"settled": 3, "ima',
    "noise": b"\x89PNG\r\n\x1a\n\x00\xff",
    "list": b"[]",
    "text": b'"three of seven"',
    "number": b"7",
    "nested_too_deeply": b"[" * 100_000,
    "without_time": json.dumps(asdict(SEEN)).encode(),
    "with_less": json.dumps({"time": 0, "settled": 3}).encode(),
    "with_more": json.dumps({**asdict(SEEN), "time": 0, "colour": "blue"}).encode(),
    "of_no_time": json.dumps({**asdict(SEEN), "time": "noon"}).encode(),
    "of_no_number": json.dumps({**asdict(SEEN), "time": 0, "settled": "three"}).encode(),
    "of_no_images": json.dumps({**asdict(SEEN), "time": 0, "settled": 0, "images": 0}).encode(),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_damaged_status_is_said_to_be_damaged(stopped, name):
    (stopped / "status.json").write_bytes(SPOILT[name])
    refused(stopped, r"status\.json cannot be read")
