"""The driver: campaign -> units -> workers -> counts -> campaign, until every image is settled."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from cluster.ledger import Ledger
from cluster.pool import DEPTH, Pool, Reply
from ebsc.campaign import Campaign, Unit
from ebsc.errors import RunError, one_line

__all__ = ["Driver", "Status"]

UNIT_SECONDS = 6.0
"""What a unit should take on its worker: long against a round trip, short against a run."""

FIRST_UNIT = 1024
"""Draws of a worker's first unit, before its speed is known."""

ESTIMATE_EVERY = 5.0
"""Seconds between estimates of the draws to come, which cost some tens of milliseconds."""

LONGEST_ROUND, ROUND_PER_WORKER, HASTE = 0.25, 2.5e-4, 0.4
"""Seconds in which the driver collects replies before it acts on them: at most, and for each worker; and the part of
them that is left when there is nothing to give out, so that workers wait for what the replies lead to."""

LAST_UNITS = 8
"""A unit is at most one in so many of a worker's share of all that is left: a slow one cannot hold up the rest."""

STRAGGLER, SHORT = 2.0, 1.0
"""An idle worker with nothing else to do takes over a unit that is out for this many times what it would need; units
that need less than so many seconds are taken to need them."""

HELD_BACK = 4 * UNIT_SECONDS
"""Seconds for which a unit that failed waits for a worker that counts others."""

PATIENCE = 3
"""Failures of one unit that stop the run; failures in a row after which a worker is replaced; and how often all workers
may be lost with no unit counted between."""

RATE_OVER = 60.0
"""Seconds over which the rate is measured: workers come and go, and take their time to start."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a run stands, for a progress line.

    Attributes:
        settled: images that need no more draws.
        images: all images.
        draws: draws merged, in earlier sessions of the run too.
        rate: draws per second lately (:data:`RATE_OVER`).
        seconds_left: about.
        workers: how many there are now.
        resent: units sent again because a worker was lost, failed or was slow.
        note: the last thing that went wrong; empty when nothing did.
    """

    settled: int
    images: int
    draws: int
    rate: float
    seconds_left: float
    workers: int
    resent: int
    note: str


@dataclass
class _Flight:
    """A unit that is out: since when, and with whom (with several near the end, of whom the first to answer counts)."""

    unit: Unit
    since: float
    workers: set[int]


class Driver:
    """Runs one campaign to its end.

    Args:
        campaign: what to certify; possibly restored from the ledger.
        pool: who counts.
        ledger: where finished looks are recorded.
        report: called about once a second.
        clock: seconds, for simulations.
    """

    def __init__(
        self,
        campaign: Campaign,
        pool: Pool,
        ledger: Ledger,
        report: Callable[[Status], None] = lambda status: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.campaign = campaign
        self.pool = pool
        self.ledger = ledger
        self.report = report
        self._clock = clock
        self._out: dict[int, _Flight] = {}
        self._again: deque[tuple[float, Unit]] = deque()
        self._failed_on: defaultdict[int, list[int]] = defaultdict(list)
        self._in_a_row: Counter[int] = Counter()
        self._retired: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._losses = self._crew = 0
        self.resent = 0
        self._note = ""
        self._speed: dict[int, float] = {}
        self._batch: dict[int, int] = {}
        self._goal, self._estimated = inf, -inf
        self._seconds = np.zeros(len(campaign.labels))

    def run(self) -> None:
        """Count until every image is settled.

        Raises:
            RunError: a unit failed :data:`PATIENCE` times, or workers are lost again and again. The ledger is whole.
        """
        marks, reported = deque([(self._clock(), self.campaign.draws)]), 0.0
        while not self.campaign.done:
            self._crew = max(self._crew if self._losses else 0, len(self.pool))
            self._send()
            answers = [self._receive(reply) for reply in self.pool.wait(1.0, self._settle)]
            self._record(self.campaign.merge_all([answer for answer in answers if answer]))
            now = self._clock()
            self._estimate(now)
            if now - reported >= 1.0 or self.campaign.done:
                while len(marks) > 1 and now - marks[1][0] >= RATE_OVER:
                    marks.popleft()
                since, draws = marks[0]
                self.report(self._status((self.campaign.draws - draws) / max(now - since, 1e-9)))
                marks.append((now, self.campaign.draws))
                reported = now

    @property
    def _settle(self) -> float:
        """Seconds to wait for more replies, which are merged in one vectorised call; each worker has a unit waiting."""
        workers = max(1, len(self.pool))
        plenty = min(1.0, self.campaign.queued / (workers * FIRST_UNIT))
        return min(LONGEST_ROUND, ROUND_PER_WORKER * workers) * max(HASTE, plenty)

    def _status(self, rate: float) -> Status:
        campaign = self.campaign
        left = max(self._goal - campaign.draws, 0) / rate if rate else float("inf")
        return Status(
            settled=campaign.settled,
            images=len(campaign.labels),
            draws=campaign.draws,
            rate=rate,
            seconds_left=left,
            workers=len(self.pool),
            resent=self.resent,
            note=self._note,
        )

    def _estimate(self, now: float) -> None:
        """See how many draws it will be in all; sooner than usual when there are more already."""
        campaign = self.campaign
        due = ESTIMATE_EVERY if campaign.draws < self._goal else ESTIMATE_EVERY / 5
        if now - self._estimated >= due or campaign.done:
            self._goal, self._estimated = campaign.draws + campaign.expected_draws(), now

    def _send(self) -> None:
        for worker in self.pool.free():
            if unit := self._returned(worker) or self._fresh(worker):
                self._hand(worker, unit)
            elif not self._again:
                break
        idle = {
            worker: self._speed[worker]
            for worker, times in Counter(self.pool.free()).items()
            if times == DEPTH and worker in self._speed
        }
        for worker in sorted(idle, key=idle.__getitem__, reverse=True):
            unit = self._straggler(worker)
            if unit is None:
                return  # nor is a slower one fast enough
            self._hand(worker, unit)

    def _hand(self, worker: int, unit: Unit) -> None:
        flight = self._out.setdefault(unit.number, _Flight(unit, 0.0, set()))
        flight.since = self._clock()
        flight.workers.add(worker)
        self.pool.send(worker, unit)

    def _returned(self, worker: int) -> Unit | None:
        """A unit to be sent again; one that failed is for workers that count others, while there are any."""
        for place, (since, unit) in enumerate(self._again):
            failed_on = {*self._failed_on.get(unit.number, ())}
            able = self._speed.keys() - failed_on
            untried = worker not in failed_on or len(failed_on) >= len(self.pool)
            if not failed_on or worker in able or (untried and not able) or self._clock() - since >= HELD_BACK:
                del self._again[place]
                return unit
        return None

    def _fresh(self, worker: int) -> Unit | None:
        """A new unit of about UNIT_SECONDS on this worker, or less when there is not enough work to go round."""
        left = min(self.campaign.queued, max(self._goal - self.campaign.draws, 0) / LAST_UNITS)
        share = ceil(left / max(1, len(self.pool)))
        size = int(self._speed.get(worker, FIRST_UNIT / UNIT_SECONDS) * UNIT_SECONDS)
        return next(iter(self.campaign.next_units(min(size, max(share, FIRST_UNIT)), limit=1)), None)

    def _straggler(self, worker: int) -> Unit | None:
        """The unit handed out longest ago, if that is STRAGGLER times what this idle worker would need."""
        others = [flight for flight in self._out.values() if worker not in flight.workers]
        oldest = min(others, key=lambda flight: flight.since, default=None)
        if oldest is None:
            return None
        needed = max(oldest.unit.draws / self._speed[worker], SHORT)
        if self._clock() - oldest.since < STRAGGLER * needed:
            return None
        self.resent += 1
        self._note = f"unit {oldest.unit.number} is slow on worker {min(oldest.workers)}: worker {worker} counts it too"
        return oldest.unit

    def _receive(self, reply: Reply) -> tuple[Unit, np.ndarray] | None:
        """A unit and its counts, to be merged; or None, and the unit is put up to be sent again if nobody has it."""
        unit, flight = reply.unit, self._out.get(reply.unit.number)
        if reply.tally:
            self._losses = self._in_a_row[reply.worker] = 0
            if reply.tally.batch < self._batch.setdefault(reply.worker, reply.tally.batch):
                self._note = f"worker {reply.worker} ran out of memory and goes on with batches of {reply.tally.batch}"
            self._batch[reply.worker] = reply.tally.batch
            self._speed[reply.worker] = unit.draws / max(reply.tally.seconds, 1e-3)
            if flight is None:
                return None  # another worker was first with these same counts
            del self._out[unit.number]
            share = (unit.spans["stop"] - unit.spans["start"]) * (reply.tally.seconds / unit.draws)
            np.add.at(self._seconds, unit.spans["row"], share)
            return unit, reply.tally.counts
        if reply.lost:
            self._lost(reply)
        else:
            self._failed(reply, counted=flight is None)
        if flight:
            flight.workers.discard(reply.worker)
            if not flight.workers:
                del self._out[unit.number]
                self._again.append((self._clock(), unit))
                self.resent += 1
        return None

    def _lost(self, reply: Reply) -> None:
        self._speed.pop(reply.worker, None)
        if reply.worker in self._retired:
            return
        self._losses += reply.in_hand
        self._deaths[reply.unit.number] += reply.in_hand
        self._note = f"worker {reply.worker} was lost ({reply.lost})"
        if self._losses > PATIENCE * max(1, self._crew):
            number, times = self._deaths.most_common(1)[0]
            blame = f" ({times} of them while counting unit {number})" if times >= PATIENCE else ""
            raise RunError(f"workers are lost again and again{blame}; the last one: {one_line(reply.lost)}")

    def _failed(self, reply: Reply, counted: bool) -> None:
        """A unit that failed, unless another worker has ``counted`` it, and a worker that fails, are bad in the end."""
        unit, worker = reply.unit, reply.worker
        self._note = f"unit {unit.number} failed on worker {worker} ({reply.error})"
        if not counted:
            self._failed_on[unit.number].append(worker)
            if len(self._failed_on[unit.number]) >= PATIENCE:
                images = np.unique(unit.spans["image"]).tolist()
                which = f"unit {unit.number} (images {images[0]} to {images[-1]})"
                raise RunError(f"{which} failed {PATIENCE} times: {one_line(reply.error)}")
        self._in_a_row[worker] += 1
        if self._in_a_row[worker] == PATIENCE:
            self._note = f"worker {worker} failed {PATIENCE} units in a row, the last by {reply.error}: it is replaced"
            self._retired.add(worker)
            self.pool.retire(worker)

    def _record(self, rows: np.ndarray) -> None:
        self.ledger.append(self.campaign.records(rows), self._seconds[rows])
        self._seconds[rows] = 0.0
