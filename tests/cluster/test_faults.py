"""The rules of patience, without a pool: each told what became of its units by replies alone."""

import numpy as np
import pytest

from cluster.driver import UNIT_SECONDS
from cluster.faults import HELD_BACK, PATIENCE, Faults
from cluster.pool import Reply
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.errors import RunError

UNITS = Campaign(np.ones(90, dtype=np.int64), 3, 0.5, budget=Fixed(n=1000)).next_units(1500)
UNIT = UNITS[1]


def begun(workers, *counted):
    """A run with so many workers, of which some have counted."""
    faults = Faults()
    faults.present(workers)
    for worker in counted:
        faults.counted(worker, 256)
    return faults


def fail(faults, worker, unit=UNIT, *, counted=False):
    return faults.failed(Reply(unit, worker, error="ValueError: bad\n  data"), counted=counted)


def lose(faults, times, unit=UNIT, *, worker=0, in_hand=True):
    for _ in range(times):
        faults.lost(Reply(unit, worker, lost="OSError: the node\n died", in_hand=in_hand))


# -- units that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [[0, 1, 2], [0, 0, 0]])
def test_a_unit_that_fails_again_and_again_stops_the_run_whoever_counts_others_between(workers):
    faults = begun(9)
    *before, last = workers
    for worker in before:
        assert not fail(faults, worker)
        faults.counted(worker, 256)
    images = UNIT.spans["image"]
    where = rf"^unit {UNIT.number} \(images {images.min()} to {images.max()}\)"
    assert images.min() < images.max()
    with pytest.raises(RunError, match=where + " failed 3 times: ValueError: bad data$"):
        fail(faults, last)


def test_failures_of_several_units_or_of_one_that_another_worker_has_counted_stop_nothing():
    faults = begun(9)
    for worker in range(2 * PATIENCE):
        fail(faults, worker, UNITS[worker])
        fail(faults, worker + 9, counted=True)


@pytest.mark.parametrize(
    ("workers", "counted", "failed_on", "may"),
    [
        (4, [], [], {0, 1, 2, 3}),
        (4, [0], [], {0, 1, 2, 3}),
        (4, [0, 1], [0], {1}),  # who counts others; nobody else while there is one
        (4, [0, 1, 2], [0, 1], {2}),
        (4, [0], [0], {1, 2, 3}),  # nobody has shown that he can: who has not tried it
        (4, [], [0, 1], {2, 3}),
        (2, [0, 1], [0, 1], {0, 1}),  # all have tried it
        (1, [0], [0], {0}),
        (2, [], [0, 0], {1}),
    ],
)
def test_a_unit_that_failed_is_for_workers_that_count_others_while_there_are_any(workers, counted, failed_on, may):
    faults = begun(workers, *counted)
    for worker in failed_on:
        fail(faults, worker)
    assert {worker for worker in range(workers) if faults.may_have(worker, UNIT, 0.99 * HELD_BACK)} == may
    assert all(faults.may_have(worker, UNIT, HELD_BACK) for worker in range(workers))
    assert all(faults.may_have(worker, UNITS[0], 0.0) for worker in range(workers))


def test_a_worker_that_counted_others_but_is_lost_is_not_waited_for():
    faults = begun(3, 1)
    fail(faults, 0)
    assert not faults.may_have(2, UNIT, 0.0)
    lose(faults, 1, worker=1)
    assert faults.may_have(2, UNIT, 0.0)


def test_a_unit_that_failed_waits_for_some_units_of_others():
    assert HELD_BACK == 4 * UNIT_SECONDS


# -- workers that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counted", [False, True])
def test_a_worker_that_fails_unit_after_unit_is_replaced_once(counted):
    faults = begun(2)
    assert [fail(faults, 0, unit, counted=counted) for unit in UNITS[: PATIENCE + 1]] == [False, False, True, False]


def test_a_worker_that_counts_between_its_failures_or_fails_along_with_others_stays():
    faults = begun(PATIENCE)
    for unit in UNITS[:4]:
        assert not fail(faults, 0, unit)
        faults.counted(0, 256)
    faults = begun(PATIENCE)
    assert not any(fail(faults, worker, UNITS[worker]) for worker in range(PATIENCE))


def test_the_loss_of_a_worker_that_is_replaced_is_no_fault():
    faults = begun(1)
    for unit in UNITS[:PATIENCE]:
        fail(faults, 0, unit)
    note = faults.note
    faults.counted(0, 256)  # of what was with it still
    lose(faults, 9)
    assert faults.note == note
    lose(faults, PATIENCE, worker=1)


# -- workers that are lost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 5])
def test_workers_that_are_lost_again_and_again_stop_the_run_unless_a_unit_is_counted_between(workers):
    faults = begun(workers)
    enough = PATIENCE * max(1, workers)
    for _ in range(2):
        lose(faults, enough)
        faults.counted(7, 256)
    lose(faults, 9, in_hand=False)  # units that only waited there
    lose(faults, enough)
    with pytest.raises(RunError, match=r"workers are lost again and again.*; the last one: OSError: the node died$"):
        lose(faults, 1)


def test_losses_are_measured_by_the_most_workers_since_a_unit_was_counted():
    faults = begun(9)
    lose(faults, 1)
    faults.present(1)
    lose(faults, 9 * PATIENCE - 1)
    faults.counted(0, 256)
    faults.present(1)
    lose(faults, PATIENCE)
    faults.present(2)
    lose(faults, PATIENCE)
    with pytest.raises(RunError):
        lose(faults, 1)


def test_a_unit_with_which_many_workers_are_lost_is_blamed():
    faults = begun(1)
    lose(faults, PATIENCE - 1)
    lose(faults, 1, UNITS[0])
    faults.counted(0, 256)  # losses are forgotten, not what was being counted
    lose(faults, PATIENCE - 1, UNITS[2])
    lose(faults, 9, UNITS[3], in_hand=False)
    lose(faults, 1)
    with pytest.raises(RunError, match=rf"again \(3 of them while counting unit {UNIT.number}\); the last"):
        lose(faults, 1, UNITS[4])


def test_no_unit_is_blamed_for_less():
    faults = begun(1)
    lose(faults, PATIENCE - 1)
    lose(faults, 1, UNITS[0])
    with pytest.raises(RunError, match="again; the last"):
        lose(faults, 1, UNITS[0])


# -- what is said ----------------------------------------------------------------------------------------------------


def test_the_note_is_the_last_thing_that_went_wrong():
    faults = begun(2, 0, 1)
    assert faults.note == ""
    lose(faults, 1)
    assert faults.note == "worker 0 was lost (OSError: the node\n died)"
    fail(faults, 1)
    assert faults.note == f"unit {UNIT.number} failed on worker 1 (ValueError: bad\n  data)"
    fail(faults, 1, UNITS[2])
    fail(faults, 1, UNITS[3])
    assert faults.note == "worker 1 failed 3 units in a row, the last by ValueError: bad\n  data: it is replaced"


def test_a_halved_micro_batch_is_said():
    faults = begun(2, 0)
    faults.counted(1, 128)  # a new worker, after memory losses
    faults.counted(1, 128)
    assert faults.note == ""
    faults.counted(0, 64)
    assert faults.note == "worker 0 ran out of memory and goes on with batches of 64"
