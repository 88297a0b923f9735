"""Killed at any moment and started again, a run ends with the certificates of an undisturbed one."""

import time
from pathlib import Path

import pytest
import tiny


def lines(run):
    return tiny.lines(run / "ledger.jsonl")


def start_and_kill(words, run, workers, after):
    words = [*words[1:], "--workers", workers]
    tiny.start_and_kill("jobs.certify", words, run, "ledger.jsonl", after, EBSC_TEST_RUN=str(run))


def left_behind(run):
    """Processes that came from a command of `start_and_kill`, without Ray's agents: those end within two minutes."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"EBSC_TEST_RUN={run}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
        except OSError:  # it has just ended
            continue
    return [name for name in found if "Agent" not in name]


def test_a_run_killed_again_and_again_ends_with_the_same_certificates(words, undisturbed, tmp_path):
    total, run = lines(undisturbed), tmp_path / "run"
    for share in (0.25, 0.65):
        start_and_kill(words, run, workers=0, after=int(share * total))
        assert share * total - 1 <= lines(run) < total
        assert not (run / "certificates.parquet").exists()
    result = tiny.cli(*words, "-o", run, "--workers", 0)
    assert result.status == 0, result.err
    assert tiny.columns(run) == tiny.columns(undisturbed)
    assert lines(run) == total


@pytest.mark.usefixtures("local_ray")
def test_a_run_on_ray_whose_driver_is_killed_ends_with_the_same_certificates(words, undisturbed, tmp_path):
    total, run = lines(undisturbed), tmp_path / "run"
    start_and_kill(words, run, workers=2, after=total // 3)
    assert 0 < lines(run) < total
    deadline = time.monotonic() + 30
    while left_behind(run) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_behind(run) == []  # its Ray is gone too
    result = tiny.cli(*words, "-o", run, "--workers", 2)
    assert result.status == 0, result.err
    assert tiny.columns(run) == tiny.columns(undisturbed)
    assert lines(run) == total
