"""Real actors on a real local Ray count what this process counts, also when they are killed."""

import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import tiny

from cluster.driver import Driver
from cluster.ledger import Ledger
from cluster.pool import LocalPool, RayPool
from cluster.worker import Assignment
from ebsc import data, model
from ebsc.budgets import Fixed, Sequential
from ebsc.campaign import Campaign
from ebsc.errors import InputError
from ebsc.walkjump import Walk

DIGITS = data.load("digits", "test").take(np.arange(40))


@pytest.fixture(scope="module")
def assignment():
    spec, weights = model.pack(*tiny.nearest_mean())
    return Assignment(spec=spec, weights=weights, images=DIGITS.images, levels=16, device="cpu", batch=64, threads=1)


@contextmanager
def actors(ray, assignment, workers):
    """A pool whose actors are gone afterwards."""
    pool = RayPool(assignment, workers)
    try:
        yield pool
    finally:
        for actor in pool._actors.values():
            ray.kill(actor)


def campaign(budget):
    return Campaign(DIGITS.labels, 10, 0.25, budget=budget)


def run(folder, pool, report=lambda status: None):
    """Certificates of a small run."""
    work = campaign(Sequential(radii=(0.0, 0.25, 0.5), n=2000))
    with Ledger(folder, {"question": {}}) as ledger:
        Driver(work, pool, ledger, report).run()
    return work.certificates()


def counts(pool, units):
    """The counts of units, by their numbers."""
    found, waiting = {}, list(units)
    while len(found) < len(units):  # in a Ray that has just started, workers are not there at once
        for worker in pool.free():
            if waiting:
                pool.send(worker, waiting.pop())
        for reply in pool.wait(10):
            assert reply.tally, reply
            found[reply.unit.number] = reply.tally.counts
    return found


def test_an_actor_counts_what_this_process_counts_and_says_why_it_cannot(local_ray, assignment):
    units = campaign(Fixed(n=300)).next_units(700)
    bad, *_ = campaign(Fixed(n=300)).next_units(500)
    bad.spans["stream"] = 7  # there is no such stream
    here = counts(LocalPool(assignment), units)
    with actors(local_ray, assignment, 1) as pool:
        while not pool.free():
            pool.wait(60)
        pool.send(0, bad)
        (reply,) = pool.wait(60)
        assert reply.error == "ValueError: 7 is not a valid Stream"
        assert (reply.lost, reply.tally, len(pool)) == ("", None, 1)
        there = counts(pool, units)  # the actor lives
        pool.retire(0)
        pool.send(0, bad)
        (reply,) = pool.wait(60)
        assert reply.lost
        assert reply.in_hand
        while not pool.free():
            pool.wait(60)
        assert set(pool.free()) == {1}
    assert len(units) > 3
    assert all((here[number] == there[number]).all() for number in here)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_does_not_change_a_certificate(local_ray, words, undisturbed, tmp_path, workers):
    result = tiny.cli(*words, "-o", tmp_path / "run", "--workers", workers)
    assert result.status == 0, result.err
    assert tiny.columns(tmp_path / "run") == tiny.columns(undisturbed)
    assert len(set(tiny.columns(undisturbed)["outcome"])) > 1


@pytest.mark.timeout(150)
def test_an_actor_that_cannot_start_stops_the_run_with_the_cause(local_ray, assignment, tmp_path):
    spoilt = replace(assignment, weights=assignment.weights[:-1])
    with actors(local_ray, spoilt, 1) as pool, pytest.raises(InputError, match="truncated or altered"):
        run(tmp_path, pool)


@pytest.mark.timeout(60)
def test_more_workers_than_there_is_room_for_do_not_hang_a_run(local_ray, words, undisturbed, tmp_path):
    """Of two workers only one has room on these 4 CPUs; its run ends, or it is refused with the reason."""
    result = tiny.cli(*words, "-o", tmp_path / "run", "--workers", 2, "--cpus-per-worker", 3)
    if result.status == 0:
        assert tiny.columns(tmp_path / "run") == tiny.columns(undisturbed)
    else:
        assert result.status == 2
        assert "room" in result.err


@pytest.mark.parametrize("walk", [None, Walk(steps=1)], ids=["one step", "walk-jump"])
def test_an_actor_killed_while_counting_is_replaced_and_the_certificates_are_the_same(
    local_ray, assignment, tmp_path, walk
):
    assignment = replace(assignment, walk=walk)
    expected = run(tmp_path / "here", LocalPool(assignment))
    reports = []
    with actors(local_ray, assignment, 2) as pool:
        pids = local_ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in pool._actors.values()])
        send = pool.send

        def kill_the_first_that_counts(worker, unit):
            send(worker, unit)
            if pids and worker == 0:
                os.kill(pids[0], signal.SIGKILL)
                pids.clear()

        with patch.object(pool, "send", kill_the_first_that_counts):
            found = run(tmp_path / "there", pool, reports.append)
        assert not pids
        assert len(pool._actors) == 2
        assert 0 not in pool._actors
    assert tiny.equal(found, expected)
    assert reports[-1].resent >= 1
    assert any("worker 0 was lost" in report.note for report in reports)


def test_a_worker_killed_for_memory_is_replaced_by_one_with_half_the_micro_batch(local_ray, assignment):
    unit, *_ = campaign(Fixed(n=300)).next_units(500)
    here = LocalPool(assignment)
    here.send(0, unit)
    (expected,) = here.wait(0)
    with actors(local_ray, assignment, 1) as pool:
        while not pool.free():
            pool.wait(60)
        pool.send(0, unit)
        with patch.object(local_ray, "get", side_effect=local_ray.exceptions.OutOfMemoryError("too much")):
            (reply,) = pool.wait(60)
        assert (reply.unit, reply.tally, reply.in_hand) == (unit, None, True)
        assert "new workers take batches of 32" in reply.lost
        while not pool.free():
            pool.wait(60)
        pool.send(*pool.free()[:1], unit)
        (reply,) = pool.wait(60)
    assert reply.tally.batch == 32
    assert (reply.tally.counts == expected.tally.counts).all()
