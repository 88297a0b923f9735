"""The scripts in slurm/, submitted as they are."""

import time

import lab
import pytest
import tiny

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_the_script_of_trainings_goes_on_after_signals(training, trained, place):
    number = lab.submit_script("train", *training, "-o", "model", nodes=1)
    lab.await_start(number)
    lab.signal("USR2", number)  # nothing comes of it
    lab.await_lines(place / "model" / "metrics.jsonl", 5)
    lab.signal("TERM", number)  # as in the grace time of a preemption: to end in it would be to fail
    time.sleep(2)
    assert lab.job(number)["JobState"] == "RUNNING"
    lab.signal("USR2", number)  # as before a time limit: the job puts itself into the queue again
    assert lab.await_end(number)["Restarts"] == "1"
    assert lab.weights(place / "model") == lab.weights(trained)


def test_the_script_of_certifications_starts_ray_on_all_nodes(certification, certified, place):
    number = lab.submit_script("certify", *certification, "-o", "run", nodes=2)
    lab.await_end(number)
    assert "on 2 workers" in (place / f"ebsc-certify-{number}.log").read_text()
    assert tiny.columns(place / "run") == tiny.columns(certified)
