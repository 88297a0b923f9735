"""The driver on made-up pools: whatever is lost or fails, the certificates are those of an undisturbed run."""

import random
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.driver import UNIT_SECONDS, Driver
from cluster.faults import PATIENCE
from cluster.ledger import Ledger
from cluster.pool import DEPTH, Reply
from cluster.worker import Tally
from ebsc.budgets import Fixed, Sequential
from ebsc.campaign import Campaign
from ebsc.errors import RunError
from ebsc.noise import BLOCK

SHARES = [1.0, 0.999, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.4, 0.1]
"""How often class 1 of three is voted for, image by image."""

BUDGET = Sequential(radii=(0.0, 0.25, 0.5), n=2000)


def campaign(budget=BUDGET, images=12):
    return Campaign(np.ones(images, dtype=np.int64), 3, 0.5, budget=budget)


def votes(unit):
    """Votes that depend on the addresses of the draws alone."""
    counts = np.zeros((len(unit.spans), 3), dtype=np.int64)
    for span, (_, image, stream, start, stop) in enumerate(unit.spans.tolist()):
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        draws = np.concatenate([np.random.default_rng((image, stream, block)).random(BLOCK) for block in blocks])
        draws = draws[start % BLOCK :][: stop - start]
        share = SHARES[image % len(SHARES)]
        counts[span] = np.bincount(np.where(draws < share, 1, 2 * (draws < (1 + share) / 2)), minlength=3)
    return counts


class Pool:
    """Workers that count in no time, in no particular order, and fail as they are told.

    `fate` maps a worker and its unit to `count`, `fail` or `lose`; `speed` maps a worker to its draws per second.
    """

    def __init__(self, workers=2, fate=lambda worker, unit: "count", speed=lambda worker: 64.0, seed=0):
        self.busy = {worker: [] for worker in range(workers)}
        self.fate, self.speed = fate, speed
        self.random = random.Random(seed)
        self.sent, self.retired, self.deepest, self.failed, self.seconds = [], [], 0, 0, 0.0

    def __len__(self):
        return len(self.busy)

    def free(self):
        return [worker for depth in range(DEPTH) for worker, units in self.busy.items() if len(units) <= depth]

    def send(self, worker, unit):
        self.busy[worker].append(unit)
        self.sent.append((worker, unit))
        self.deepest = max(self.deepest, len(self.busy[worker]))

    def wait(self, seconds, linger=0.0):
        ready = [worker for worker, units in self.busy.items() if units]
        return [reply for worker in ready if self.random.random() < 0.7 for reply in self.reply(worker)]

    def retire(self, worker):
        self.retired.append(worker)

    def reply(self, worker):
        units = self.busy[worker]
        unit = units.pop(self.random.randrange(len(units)))
        fate = "lose" if worker in self.retired else self.fate(worker, unit)
        self.failed += fate != "count"
        if fate == "lose":
            self.failed += len(units)
            del self.busy[worker]
            self.busy[max([worker, *self.busy]) + 1] = []
            lost = "ActorDiedError: the node died"
            return [Reply(each, worker, lost=lost, in_hand=each is unit) for each in [unit, *units]]
        if fate == "fail":
            return [Reply(unit, worker, error="ValueError: bad\n  data")]
        self.seconds += unit.draws / self.speed(worker)
        return [Reply(unit, worker, tally=Tally(votes(unit), unit.draws / self.speed(worker), 256))]


def certify(folder, pool, budget=BUDGET, images=12):
    """One session of a run; returns the certificates and the status reports."""
    reports = []
    work = campaign(budget, images)
    with Ledger(folder, {"question": {}}) as ledger:
        work.restore(ledger.read())
        Driver(work, pool, ledger, reports.append).run()
    return work.certificates(), reports


@cache
def undisturbed():
    with TemporaryDirectory() as folder:
        return certify(folder, Pool(workers=1))[0]


def faults(*script):
    """A fate for each reply, in order; after them all is well."""
    fates = iter(script)
    return lambda worker, unit: next(fates, "count")


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_certificates_do_not_depend_on_who_counts_and_in_which_order(tmp_path, workers):
    table, _ = certify(tmp_path, Pool(workers, seed=workers))
    assert tiny.equal(table, undisturbed())
    assert set(table["outcome"]) == {1, 2, 3}  # the made-up votes lead to every outcome


@pytest.mark.parametrize(
    "script",
    [
        ["lose"],
        ["fail"],
        ["count", "lose"],
        ["lose", "lose", "count", "lose"],
        ["fail", "lose"],
        ["lose", "count"] * 20,
    ],
)
def test_units_that_were_lost_or_failed_are_counted_again(tmp_path, script):
    pool = Pool(fate=faults(*script))
    table, reports = certify(tmp_path, pool)
    assert tiny.equal(table, undisturbed())
    assert reports[-1].resent == pool.failed >= script.count("lose") + script.count("fail")


def test_no_worker_has_more_units_than_allowed(tmp_path):
    pool = Pool(3, fate=faults("count", "lose", "count", "fail", "lose"))
    certify(tmp_path, pool)
    assert pool.deepest == DEPTH


def test_a_unit_that_fails_again_and_again_stops_the_run_and_the_ledger_is_whole(tmp_path):
    pool = Pool(fate=lambda worker, unit: "fail" if unit.number == 5 else "count")
    with pytest.raises(RunError, match=r"^unit 5 .*ValueError: bad data$"):
        certify(tmp_path, pool)
    assert [unit.number for _, unit in pool.sent].count(5) == PATIENCE
    assert tiny.equal(certify(tmp_path, Pool())[0], undisturbed())


@pytest.mark.timeout(30)
@pytest.mark.parametrize("deadly", [lambda unit: True, lambda unit: unit.number == 1], ids=["every unit", "one unit"])
def test_workers_that_are_lost_for_ever_stop_the_run_and_the_ledger_is_whole(tmp_path, deadly):
    with pytest.raises(RunError, match="the node died"):
        certify(tmp_path, Pool(3, fate=lambda worker, unit: "lose" if deadly(unit) else "count"))
    assert tiny.equal(certify(tmp_path, Pool())[0], undisturbed())


@pytest.mark.parametrize("left", [0, 1, 5])
def test_the_loss_of_a_node_with_most_of_the_workers_stops_nothing(tmp_path, left):
    class Node(Pool):
        """All but the first so many workers are lost at once, with all of their units, before one has counted."""

        def wait(self, seconds, linger=0.0):
            node = [worker for worker, units in self.busy.items() if left <= worker < 9 and units]
            return [reply for worker in node for reply in self.reply(worker)] or super().wait(seconds, linger)

    pool = Node(9, fate=lambda worker, unit: "lose" if left <= worker < 9 else "count")
    table, _ = certify(tmp_path / "node", pool, Fixed(n=4_000), images=200)
    assert pool.failed > 9 - left
    assert tiny.equal(table, certify(tmp_path / "whole", Pool(), Fixed(n=4_000), images=200)[0])


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_a_worker_that_fails_whatever_it_gets_is_replaced_and_stops_nothing(tmp_path, workers):
    """Nor do the next two in its place, which fail as it does."""
    sick = {0, workers, workers + 1}
    pool = Pool(workers, fate=lambda worker, unit: "fail" if worker in sick else "count")
    table, reports = certify(tmp_path, pool)
    assert tiny.equal(table, undisturbed())
    assert {0} <= set(pool.retired) <= sick
    assert any("in a row, the last by ValueError: bad" in status.note for status in reports)


def test_a_run_that_was_finished_before_sends_nothing(tmp_path):
    certify(tmp_path, Pool())
    pool = Pool()
    table, reports = certify(tmp_path, pool)
    assert tiny.equal(table, undisturbed())
    assert (pool.sent, reports) == ([], [])


@pytest.mark.timeout(100)
@settings(max_examples=25, deadline=None)
@given(
    script=st.lists(st.sampled_from(["count", "fail", "lose"]), max_size=60),
    workers=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_any_course_of_faults_and_restarts_ends_with_the_same_certificates(script, workers, seed):
    fate = faults(*script)
    with TemporaryDirectory() as folder:
        for _ in range(1 + len(script) // PATIENCE):  # it takes that many faults to stop a run
            with suppress(RunError):
                table, _ = certify(folder, Pool(workers, fate, seed=seed))
                assert tiny.equal(table, undisturbed())
                return
    pytest.fail("the run did not end")


def test_units_take_about_as_long_on_slow_and_on_fast_workers(tmp_path):
    pool = Pool(2, speed=lambda worker: [20_000.0, 2_000.0][worker])
    certify(tmp_path, pool, Fixed(n=10_000), images=400)
    for worker, seconds in ((0, 20_000), (1, 2_000)):
        largest = max(unit.draws for who, unit in pool.sent if who == worker)
        assert 0.9 * UNIT_SECONDS * seconds < largest <= UNIT_SECONDS * seconds


def test_little_work_goes_round(tmp_path):
    pool = Pool(4, speed=lambda worker: 1e9)
    certify(tmp_path, pool, Fixed(n=8_000), images=8)
    estimating = Counter(dict.fromkeys(range(4), 0))
    for worker, unit in pool.sent:
        estimating[worker] += unit.draws
    assert min(estimating.values()) > 0
    assert max(unit.draws for _, unit in pool.sent) <= 8 * 8_000 / 4


def test_status_says_where_the_run_stands(tmp_path):
    pool = Pool(3, fate=faults("count", "fail", "count", "lose"))
    table, reports = certify(tmp_path, pool)
    first, last = reports[0], reports[-1]
    assert first.settled <= last.settled == last.images == len(SHARES)
    assert last.draws == table["draws"].sum()
    assert last.workers == 3
    assert last.resent == pool.failed
    assert last.seconds_left == 0
    assert last.rate > 0
    assert "worker" in last.note
    assert "the node died" in last.note


def test_status_of_an_undisturbed_run_has_no_note(tmp_path):
    _, reports = certify(tmp_path, Pool())
    assert {(status.note, status.resent) for status in reports} == {("", 0)}


def test_a_resumed_run_counts_the_draws_of_earlier_sessions(tmp_path):
    with pytest.raises(RunError):
        certify(tmp_path, Pool(fate=lambda worker, unit: "fail" if unit.number == 5 else "count"))
    table, reports = certify(tmp_path, Pool())
    assert reports[-1].draws == table["draws"].sum() == undisturbed()["draws"].sum()


def test_the_ledger_accounts_for_all_worker_time(tmp_path):
    pool = Pool(fate=faults("count", "lose", "count", "fail"))
    certify(tmp_path, pool)
    with Ledger(tmp_path, {"question": {}}) as ledger:
        assert sum(record["seconds"] for record in ledger.read()) == pytest.approx(pool.seconds, rel=1e-4)


def test_finished_looks_are_on_disk_while_the_run_goes_on(tmp_path: Path):
    seen = []

    class Watching(Pool):
        def wait(self, seconds, linger=0.0):
            path = tmp_path / "ledger.jsonl"
            seen.append(path.read_bytes().count(b"\n") if path.exists() else 0)
            return super().wait(seconds, linger)

    certify(tmp_path, Watching(1))
    assert sorted(set(seen)) == list(dict.fromkeys(seen))  # it only grows
    assert len(set(seen)) > 5


# -- stragglers ------------------------------------------------------------------------------------------------------


class Clocked(Pool):
    """Workers in simulated time. Unit by unit, `pace` says how many seconds it takes a worker."""

    def __init__(self, workers, pace):
        super().__init__(workers)
        self.pace, self.now, self.due = pace, 0.0, []

    def send(self, worker, unit):
        super().send(worker, unit)
        begin = max([self.now, *(end for end, who, _ in self.due if who == worker)])
        self.due.append((begin + self.pace(worker, unit), worker, unit))

    def wait(self, seconds, linger=0.0):
        end, worker, unit = min(self.due, key=lambda entry: entry[0])
        if end > self.now + seconds:
            self.now += seconds
            return []
        self.now = max(self.now, end)
        self.due.remove((end, worker, unit))
        self.busy[worker].remove(unit)
        return [Reply(unit, worker, tally=Tally(votes(unit), self.pace(worker, unit), 256))]


def clocked(folder, pool):
    work, reports = campaign(), []
    with Ledger(folder, {"question": {}}) as ledger:
        Driver(work, pool, ledger, reports.append, clock=lambda: pool.now).run()
    return work.certificates(), reports[-1]


def test_a_unit_that_is_stuck_is_taken_over_by_an_idle_worker_and_counted_once(tmp_path):
    """Unit 3 never comes back from whoever has it first."""
    first = []

    def pace(worker, unit):
        if unit.number == 3 and (not first or first == [worker]):
            first[:] = [worker]
            return 1e9
        return 0.5

    pool = Clocked(3, pace)
    table, last = clocked(tmp_path, pool)
    assert tiny.equal(table, undisturbed())
    assert [unit.number for _, unit in pool.sent].count(3) == 2
    assert last.resent >= 1
    assert "is slow on worker" in last.note
    assert pool.now < 1000


@pytest.mark.timeout(30)
def test_workers_that_hang_one_after_the_other_stop_nothing(tmp_path):
    """Whoever of the first two is given unit 3 keeps it for ever, so that it is handed out a third time."""
    pool = Clocked(3, lambda worker, unit: 1e9 if unit.number == 3 and stuck(worker) else 0.5)
    hung = []

    def stuck(worker):
        if worker not in hung and len(hung) < 2:
            hung.append(worker)
        return worker in hung

    table, _ = clocked(tmp_path, pool)
    assert tiny.equal(table, undisturbed())
    assert [unit.number for _, unit in pool.sent].count(3) == 3
    assert pool.now < 1000


@pytest.mark.parametrize("speeds", [[1000.0, 64.0, 64.0], [1.0, 1000.0, 64.0], [64.0, 64.0, 1000.0]])
def test_a_unit_is_taken_over_by_the_fastest_of_the_idle_workers(tmp_path, speeds):
    work = campaign(images=1)
    (unit,) = work.next_units(10_000, limit=1)
    pool = Clocked(4, lambda worker, unit: 1.0)
    with Ledger(tmp_path, {"question": {}}) as ledger:
        driver = Driver(work, pool, ledger, clock=lambda: pool.now)
        driver._hand(3, unit)
        driver._speed = dict(enumerate(speeds))
        pool.now = 1000.0
        driver._send()
    assert [worker for worker, _ in pool.sent] == [3, speeds.index(1000.0)]


def test_a_unit_is_not_taken_over_by_a_worker_that_it_failed_on(tmp_path):
    work = campaign(images=1)
    (unit,) = work.next_units(10_000, limit=1)
    pool = Clocked(2, lambda worker, unit: 1.0)
    with Ledger(tmp_path, {"question": {}}) as ledger:
        driver = Driver(work, pool, ledger, clock=lambda: pool.now)
        driver._faults.counted(0, 256)
        driver._hand(0, unit)
        driver._hand(1, unit)
        driver._receive(Reply(unit, 1, error="ValueError: a bad GPU"))
        pool.busy[1].clear()
        driver._speed, pool.now = {0: 1.0, 1: 1000.0}, 1000.0
        driver._send()
    assert [worker for worker, _ in pool.sent] == [0, 1]


def test_the_second_answer_to_a_unit_is_dropped(tmp_path):
    work = campaign(images=1)
    (unit,) = work.next_units(10_000, limit=1)
    with Ledger(tmp_path, {"question": {}}) as ledger:
        driver = Driver(work, Clocked(2, lambda worker, unit: 1.0), ledger)
        driver._hand(0, unit)
        driver._hand(1, unit)
        first, second = (Reply(unit, worker, tally=Tally(votes(unit), 1.0, 8)) for worker in (1, 0))
        taken, counts = driver._receive(first)
        assert (taken, counts.tolist()) == (unit, votes(unit).tolist())
        assert driver._receive(second) is None


def test_nothing_is_counted_twice_when_nobody_is_slow(tmp_path):
    pool = Clocked(4, lambda worker, unit: 1.0)
    table, last = clocked(tmp_path, pool)
    assert tiny.equal(table, undisturbed())
    assert last.resent == 0
    numbers = [unit.number for _, unit in pool.sent]
    assert len(numbers) == len(set(numbers))


def test_the_rate_is_that_of_the_last_minute(tmp_path):
    """A worker that takes a hundred times longer at first, as one that compiles."""
    reports = []
    pool = Clocked(1, lambda worker, unit: unit.draws / (10 if pool.now < 1000 else 1000))
    with Ledger(tmp_path, {"question": {}}) as ledger:
        Driver(campaign(Fixed(n=10_000), 30), pool, ledger, reports.append, clock=lambda: pool.now).run()
    assert reports[-1].rate == pytest.approx(1000, rel=0.2)
