"""Trainings as jobs of a real SLURM end with the weights of one that nothing disturbs."""

import lab
import pytest
import safetensors.torch
import tiny
import torch

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

JOINT = """--objective smoothadv --joint --epsilon 0.25 --draws 2 --held-out 0 --width 4 --watch.looks 1
    --energy.steps 10 --energy.batch 16 --head.steps 10 --head.batch 16""".split()  # noqa: SIM905


def test_a_job_that_is_waited_for_completes(training, trained, place):
    result = tiny.cli("train", *training, "-o", "model", *lab.SMALL, "--wait")
    assert result.status == 0, result.err
    assert "completed" in result.out
    assert "head 50/50" in result.out
    assert lab.weights(place / "model") == lab.weights(trained)


def test_a_sweep_is_an_array_whose_tasks_fail_alone(training, trained, place):
    sweep = "energy.learning_rate=0.003,3e37,0.001"
    result = tiny.cli("train", *training, "-o", "sweep", "--sweep", sweep, *lab.SMALL, "--parallel", 2, "--wait")
    assert result.status == 1
    assert "1 of 3 did not complete: sweep/energy.learning_rate=3e37 (failed)" in result.err
    assert "sweep/energy.learning_rate=3e37: ebsc.errors.InputError: the loss became nan" in result.out
    assert lab.weights(place / "sweep" / "energy.learning_rate=0.003") == lab.weights(trained)
    assert lab.weights(place / "sweep" / "energy.learning_rate=0.001") != lab.weights(trained)
    number = result.out.split("slurm job ")[1].split("_")[0]
    times = lab.shell("sacct", "--allocations", "--noheader", "--parsable2", "--format=start,end", "--jobs", number)
    starts, ends = zip(*(line.split("|") for line in times.splitlines()), strict=True)
    assert sorted(starts)[2] >= min(ends)  # two at a time


def test_two_nodes_train_as_one_process_does(place):
    one = lab.submit("train", place / "one", *JOINT)
    two = lab.submit("train", place / "two", *JOINT, "--nodes", 2)
    script = lab.submit_script("train", *JOINT, "-o", "script", nodes=2)
    for number in (one, two, script):
        lab.await_end(number)
    assert lab.weights(place / "two") == lab.weights(place / "script")
    expected = safetensors.torch.load(lab.weights(place / "one"))
    for name, value in safetensors.torch.load(lab.weights(place / "two")).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4)


def test_a_training_longer_than_its_time_limit_goes_on(training, trained, place):
    words = [*training, "--energy.steps", int(45 * lab.steps_per_second(trained))]
    unlimited = lab.submit("train", place / "unlimited", *words)
    limited = lab.submit("train", place / "limited", *words, "--time", 2, "--signal", 55)
    lab.await_lines(place / "limited" / "metrics.jsonl", 5)
    # SLURM looks at the limits every 30 s, and sends the signal up to 30 s early: it comes within the next 30 s
    lab.shell("scontrol", "update", f"jobid={limited}", "timelimit=1")
    assert int(lab.await_end(limited)["Restarts"]) >= 1
    assert "Caught signal SIGUSR2" in lab.log(place / "limited")
    lab.await_end(unlimited)
    assert lab.weights(place / "limited") == lab.weights(place / "unlimited")


def test_a_preempted_training_goes_on(training, trained, place, laboratory):
    number = lab.submit("train", place / "model", *training)
    lab.await_start(number)
    lab.signal("USR2", number)  # nothing comes of it
    lab.await_lines(place / "model" / "metrics.jsonl", 5)
    lab.preempt()
    assert lab.await_end(number)["Restarts"] == "1"
    assert lab.log(place / "model").count("Caught signal SIGUSR2") == 1
    assert lab.weights(place / "model") == lab.weights(trained)


def test_a_training_whose_nodes_die_one_after_the_other_goes_on(training, trained, place, laboratory):
    number = lab.submit("train", place / "model", *training)
    lab.await_lines(place / "model" / "metrics.jsonl", 5)
    first = lab.job(number)["NodeList"]
    lab.kill(first)
    second = lab.await_restart(number)
    lab.await_lines(place / "model" / "metrics.jsonl", 15)
    lab.declare_dead(second)
    third = lab.await_end(number)
    assert third["Restarts"] == "2"
    assert first not in (second, third["NodeList"])
    assert lab.weights(place / "model") == lab.weights(trained)


def test_a_cancelled_training_goes_on_when_it_is_started_again(training, trained, place):
    number = lab.submit("train", place / "model", *training)
    lab.await_lines(place / "model" / "metrics.jsonl", 5)
    lab.shell("scancel", number)
    lab.await_end(number, "CANCELLED")
    listed = tiny.cli("jobs", "model")
    assert listed.status == 0, listed.err
    assert "cancelled" in listed.out
    again = lab.submit("train", place / "model", *training)
    lab.await_end(again)
    assert lab.weights(place / "model") == lab.weights(trained)
