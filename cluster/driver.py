"""The driver: campaign -> units -> workers -> counts -> campaign, until every image is settled."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from cluster.faults import Faults
from cluster.ledger import Ledger
from cluster.pool import DEPTH, Pool, Reply
from ebsc.campaign import Campaign, Unit

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
        self._faults = Faults()
        self.resent = 0
        self._speed: dict[int, float] = {}
        self._goal, self._estimated = inf, -inf
        self._seconds = np.zeros(len(campaign.labels))

    def run(self) -> None:
        """Count until every image is settled.

        Raises:
            RunError: a unit fails, or workers are lost, again and again: :mod:`cluster.faults`. The ledger is whole.
        """
        marks, reported = deque([(self._clock(), self.campaign.draws)]), 0.0
        while not self.campaign.done:
            self._faults.present(len(self.pool))
            self._send()
            answers = [self._receive(reply) for reply in self.pool.wait(1.0, self._linger)]
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
    def _linger(self) -> float:
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
            note=self._faults.note,
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
        """The first unit to be sent again that this worker may have."""
        now = self._clock()
        for place, (since, unit) in enumerate(self._again):
            if self._faults.may_have(worker, unit, now - since):
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
        others = (flight for flight in self._out.values() if worker not in flight.workers)
        mine = (flight for flight in others if self._faults.may_have(worker, flight.unit, 0.0))
        oldest = min(mine, key=lambda flight: flight.since, default=None)
        if oldest is None:
            return None
        needed = max(oldest.unit.draws / self._speed[worker], SHORT)
        if self._clock() - oldest.since < STRAGGLER * needed:
            return None
        self.resent += 1
        slow = min(oldest.workers)
        self._faults.note = f"unit {oldest.unit.number} is slow on worker {slow}: worker {worker} counts it too"
        return oldest.unit

    def _receive(self, reply: Reply) -> tuple[Unit, np.ndarray] | None:
        """A unit and its counts, to be merged; or None, and the unit is put up to be sent again if nobody has it."""
        unit, flight = reply.unit, self._out.get(reply.unit.number)
        if reply.tally:
            self._faults.counted(reply.worker, reply.tally.batch)
            self._speed[reply.worker] = unit.draws / max(reply.tally.seconds, 1e-3)
            if flight is None:
                return None  # another worker was first with these same counts
            del self._out[unit.number]
            share = (unit.spans["stop"] - unit.spans["start"]) * (reply.tally.seconds / unit.draws)
            np.add.at(self._seconds, unit.spans["row"], share)
            return unit, reply.tally.counts
        if reply.lost:
            self._speed.pop(reply.worker, None)
            self._faults.lost(reply)
        elif self._faults.failed(reply, counted=flight is None):
            self.pool.retire(reply.worker)
        if flight:
            flight.workers.discard(reply.worker)
            if not flight.workers:
                del self._out[unit.number]
                self._again.append((self._clock(), unit))
                self.resent += 1
        return None

    def _record(self, rows: np.ndarray) -> None:
        self.ledger.append(self.campaign.records(rows), self._seconds[rows])
        self._seconds[rows] = 0.0
