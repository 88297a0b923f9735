import json
import os
import platform
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny

from cluster.folder import read_config
from cluster.ledger import KEPT, SYNC_EVERY, Ledger, recorded
from ebsc.errors import InputError

CONFIG = {"question": {"seed": 0, "budget": {"kind": "fixed", "n": 100}}, "options": {"workers": 1}}
RECORDS = [
    {"image": 3, "look": 0, "votes": {"1": 60, "7": 40}},
    {"image": 5, "look": 0, "votes": {"2": 100}},
    {"image": 3, "look": 1, "votes": {"1": 100}, "outcome": "certified"},
]


def fill(folder, records=RECORDS):
    with Ledger(folder, CONFIG) as ledger:
        ledger.append(records, np.arange(len(records)) / 4)


def without_seconds(records):
    return [{key: value for key, value in record.items() if key not in ("seconds", "votes_of")} for record in records]


def test_a_new_folder_holds_the_config_and_no_record(tmp_path):
    with Ledger(tmp_path / "a" / "run", CONFIG) as ledger:
        assert list(ledger.read()) == []
    assert read_config(tmp_path / "a" / "run") == CONFIG


def test_what_was_appended_is_there_when_the_run_goes_on(tmp_path):
    fill(tmp_path, RECORDS[:2])
    with Ledger(tmp_path, CONFIG) as ledger:
        assert without_seconds(ledger.read()) == RECORDS[:2]
        assert [record["seconds"] for record in ledger.read()] == [0.0, 0.25]
        ledger.append(RECORDS[2:], np.zeros(1))
    with Ledger(tmp_path, CONFIG) as ledger:
        assert without_seconds(ledger.read()) == RECORDS


def test_what_is_appended_reaches_the_disk_at_once_or_within_a_second(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), fsync(fd)))
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Ledger(tmp_path, CONFIG) as ledger:
        for records, later in ((RECORDS[:1], 0.0), (RECORDS[1:], SYNC_EVERY / 2), ([], SYNC_EVERY)):
            now += later
            ledger.append(records, np.zeros(len(records)))
            lines = (tmp_path / "ledger.jsonl").read_bytes()
            on_disk = synced[-1] == len(lines)
            assert on_disk == (later != SYNC_EVERY / 2)
        assert without_seconds(map(json.loads, lines.splitlines())) == RECORDS


def test_the_device_is_settled_when_something_was_counted(tmp_path):
    with Ledger(tmp_path, CONFIG) as ledger:
        ledger.pin("cuda")  # where no worker could start, for example
    with Ledger(tmp_path, CONFIG) as ledger:
        ledger.pin("cpu")
        ledger.append(RECORDS, np.zeros(3))
    with Ledger(tmp_path, CONFIG) as ledger:
        ledger.pin("cpu")
        with pytest.raises(InputError, match="was counted on cpu so far"):
            ledger.pin("cuda")
    assert read_config(tmp_path) == CONFIG | {"device": "cpu"}


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path):
    fill(tmp_path, RECORDS[:2])
    with Ledger(tmp_path, CONFIG) as ledger:
        ledger.append(RECORDS[2:], np.array([0.5]))
    path = tmp_path / "ledger.jsonl"
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        with Ledger(tmp_path, CONFIG) as ledger:
            assert without_seconds(ledger.read()) == RECORDS[:2]
            ledger.append(RECORDS[2:], np.array([0.5]))
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"",
        b"5",
        b"[]",
        b'{"image": 3}',
        b'{"image": "3", "look": 0, "votes": {"1": 1}, "seconds": 0.5}',
        b'{"image": 3, "look": 0, "votes": [1], "seconds": 0.5}',
        b'{"image": 3, "look": 0, "votes": {"1": 1}, "seconds": NaN}',
        b'{"image": 3, "look": 0, "votes": {"1": 1}, "seconds": 1e300}',
        b"[" * 100_000,
        b'{"image": 5, "look": 0, "vo',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_line_in_the_middle_is_refused(tmp_path, line):
    fill(tmp_path)
    path = tmp_path / "ledger.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], line, lines[2], b""]))
    before = tiny.files(tmp_path)
    with Ledger(tmp_path, CONFIG) as ledger, pytest.raises(InputError, match="line 2 is not a ledger line"):
        list(ledger.read())
    assert tiny.files(tmp_path) == before


def test_the_ledger_of_another_run_is_refused_and_that_of_another_budget_is_not(tmp_path):
    fill(tmp_path)
    larger = {"question": CONFIG["question"] | {"budget": {"kind": "fixed", "n": 1000, "extends": [100]}}}
    (tmp_path / "config.json").write_text(json.dumps(larger))
    with Ledger(tmp_path, larger) as ledger:
        assert without_seconds(ledger.read()) == RECORDS
    other = {"question": CONFIG["question"] | {"model": "another"}}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with Ledger(tmp_path, other) as ledger, pytest.raises(InputError, match="line 1 is of another run than the config"):
        list(ledger.read())
    with pytest.raises(InputError, match="line 1 is of another run than the config"):
        list(recorded(tmp_path))


def test_votes_of_another_run_behind_its_own_are_refused(tmp_path):
    fill(tmp_path, RECORDS[:2])
    with Ledger(tmp_path / "other", {"question": CONFIG["question"] | {"model": "another"}}) as other:
        other.append(RECORDS[2:], np.zeros(1))
    with (tmp_path / "ledger.jsonl").open("ab") as ledger:
        ledger.write((tmp_path / "other" / "ledger.jsonl").read_bytes())
    with pytest.raises(InputError, match="line 3 is of another run than the config"):
        list(recorded(tmp_path))


@pytest.mark.parametrize("torn", [b"", b'{"image": 4, "lo'])
def test_zeros_that_a_power_failure_left_at_the_end_are_cut_off(tmp_path, torn):
    fill(tmp_path, RECORDS[:2])
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(torn + bytes(300))
    with Ledger(tmp_path, CONFIG) as ledger:
        assert without_seconds(ledger.read()) == RECORDS[:2]
        ledger.append(RECORDS[2:], np.zeros(1))
    with Ledger(tmp_path, CONFIG) as ledger:
        assert without_seconds(ledger.read()) == RECORDS


@pytest.mark.parametrize("text", [b"Dear diary,\ntoday\n", b"Dear diary, today", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, text):
    fill(tmp_path)
    (tmp_path / "ledger.jsonl").write_bytes(text)
    before = tiny.files(tmp_path)
    with pytest.raises(InputError, match="damaged or foreign"), Ledger(tmp_path, CONFIG) as ledger:
        list(ledger.read())
    assert tiny.files(tmp_path) == before


@pytest.mark.parametrize("name", ["ledger.jsonl", KEPT])
def test_a_ledger_without_its_config_is_refused(tmp_path, name):
    fill(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "ledger.jsonl").rename(tmp_path / name)
    before = tiny.files(tmp_path)
    with pytest.raises(InputError, match=r"no config\.json"):
        Ledger(tmp_path, CONFIG)
    assert tiny.files(tmp_path) == before


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"question": 5}', b'{"options": {}}', b"\xff"])
def test_a_damaged_config_is_refused(tmp_path, text):
    fill(tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    before = tiny.files(tmp_path)
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        Ledger(tmp_path, CONFIG)
    assert tiny.files(tmp_path) == before


def test_another_question_is_refused_with_the_difference_named(tmp_path):
    fill(tmp_path)
    before = tiny.files(tmp_path)
    other = {"question": {"seed": 7, "budget": {"kind": "fixed", "n": 100}, "new": "x"}}
    with pytest.raises(InputError) as error:
        Ledger(tmp_path, other)
    assert "seed is 0 there, 7 here" in str(error.value)
    assert 'new is None there, "x" here' in str(error.value)
    assert "budget" not in str(error.value)
    assert tiny.files(tmp_path) == before


def test_files_of_the_user_in_the_folder_are_left_alone(tmp_path):
    mine = {"probe": b"mine", "notes.txt": b"mine"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    fill(tmp_path)
    assert {name: content for name, content in tiny.files(tmp_path).items() if name in mine} == mine


def test_after_a_refusal_the_right_driver_can_go_on(tmp_path):
    fill(tmp_path)
    with pytest.raises(InputError):
        Ledger(tmp_path, {"question": {}})
    with Ledger(tmp_path, CONFIG) as ledger:
        assert without_seconds(ledger.read()) == RECORDS


def test_options_outside_the_question_may_change(tmp_path):
    fill(tmp_path)
    with Ledger(tmp_path, CONFIG | {"options": {"workers": 64}, "host": "elsewhere"}) as ledger:
        assert without_seconds(ledger.read()) == RECORDS


def test_a_second_driver_is_refused_with_the_holder_named(tmp_path):
    with Ledger(tmp_path, CONFIG):
        before = tiny.files(tmp_path)
        with pytest.raises(InputError, match=f"process {os.getpid()} on {platform.node()}"):
            Ledger(tmp_path, CONFIG)
        assert tiny.files(tmp_path) == before
    with Ledger(tmp_path, CONFIG):
        pass


HOLD = """
import json, sys, time
from cluster.ledger import Ledger
with Ledger(sys.argv[1], json.loads(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_driver_in_another_process_holds_the_folder_until_it_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path), json.dumps(CONFIG)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(InputError, match=f"process {holder.pid} on {platform.node()}"):
                Ledger(tmp_path, CONFIG)
        finally:
            holder.send_signal(signal.SIGKILL)
    with Ledger(tmp_path, CONFIG) as ledger:
        assert json.loads((tmp_path / "driver.json").read_bytes())["pid"] == os.getpid()
        ledger.append(RECORDS, np.zeros(3))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InputError, match="cannot write the run folder"):
        Ledger(tmp_path / "file" / "run", CONFIG)
    assert tiny.files(tmp_path) == {"file": b"mine"}
