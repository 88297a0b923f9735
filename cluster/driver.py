"""The driver: campaign -> units -> workers -> counts -> campaign, until every image is settled."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cluster.ledger import Ledger
from cluster.pool import DEPTH, Pool, Reply
from ebsc.campaign import Campaign, Unit
from ebsc.errors import RunError, one_line

__all__ = ["Driver", "Status"]

UNIT_SECONDS = 2.0
"""What a unit should take on its worker: long against a round trip, short against a run."""

FIRST_UNIT = 1024
"""Draws of a worker's first unit, before its speed is known."""

ESTIMATE_EVERY = 5.0
"""Seconds between estimates of the draws to come, which cost some tens of milliseconds."""

PATIENCE = 3
"""Failures of one unit, or worker losses without a unit counted between them, that stop the run."""


@dataclass(frozen=True)
class Status:
    """Where a run stands, for a progress line.

    Attributes:
        settled: images that need no more draws.
        images: all images.
        draws: draws merged, in earlier sessions of the run too.
        rate: draws per second in this session.
        seconds_left: about.
        workers: how many there are now.
        resent: units sent again because a worker was lost or failed.
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


class Driver:
    """Runs one campaign to its end.

    Args:
        campaign: what to certify; possibly restored from the ledger.
        pool: who counts.
        ledger: where finished looks are recorded.
        report: called about once a second.
    """

    def __init__(
        self, campaign: Campaign, pool: Pool, ledger: Ledger, report: Callable[[Status], None] = lambda status: None
    ) -> None:
        self.campaign = campaign
        self.pool = pool
        self.ledger = ledger
        self.report = report
        self._again: deque[Unit] = deque()
        self._failures: Counter[int] = Counter()
        self._losses = 0
        self._resent = 0
        self._note = ""
        self._speed: dict[int, float] = {}
        self._batch: dict[int, int] = {}
        self._goal, self._estimated = 0, float("-inf")
        self._seconds = np.zeros(len(campaign.labels))

    def run(self) -> None:
        """Count until every image is settled.

        Raises:
            RunError: a unit failed on several workers, or workers are lost again and again. The ledger is whole.
        """
        begun, drawn, reported = time.monotonic(), self.campaign.draws, 0.0
        while not self.campaign.done:
            self._send()
            finished = [self._receive(reply) for reply in self.pool.wait(1.0)]
            self._record(np.concatenate([np.zeros(0, dtype=np.int64), *finished]))
            now = time.monotonic()
            if now - reported >= 1.0 or self.campaign.done:
                self.report(self._status((self.campaign.draws - drawn) / max(now - begun, 1e-9)))
                reported = now

    def _status(self, rate: float) -> Status:
        campaign = self.campaign
        now = time.monotonic()
        if now - self._estimated >= ESTIMATE_EVERY or campaign.done:
            self._goal, self._estimated = campaign.draws + campaign.expected_draws(), now
        left = max(self._goal - campaign.draws, 0) / rate if rate else float("inf")
        return Status(
            campaign.settled, len(campaign.labels), campaign.draws, rate, left, len(self.pool), self._resent, self._note
        )

    def _send(self) -> None:
        for worker in self.pool.free():
            unit = self._again.popleft() if self._again else self._fresh(worker)
            if unit is None:
                return
            self.pool.send(worker, unit)

    def _fresh(self, worker: int) -> Unit | None:
        """A new unit of about UNIT_SECONDS on this worker, or less when there is not enough work to go round."""
        share = -(-self.campaign.queued // (DEPTH * len(self.pool)))
        size = int(self._speed.get(worker, FIRST_UNIT / UNIT_SECONDS) * UNIT_SECONDS)
        return next(iter(self.campaign.next_units(min(size, max(share, FIRST_UNIT)), limit=1)), None)

    def _receive(self, reply: Reply) -> np.ndarray:
        """Merge the counts of a unit, or put it up to be sent again; returns the rows that finished a look."""
        unit = reply.unit
        if reply.tally:
            self._losses = 0
            if reply.tally.batch < self._batch.setdefault(reply.worker, reply.tally.batch):
                self._note = f"worker {reply.worker} ran out of memory and goes on with batches of {reply.tally.batch}"
            self._batch[reply.worker] = reply.tally.batch
            self._speed[reply.worker] = unit.draws / max(reply.tally.seconds, 1e-3)
            share = (unit.spans["stop"] - unit.spans["start"]) * (reply.tally.seconds / unit.draws)
            np.add.at(self._seconds, unit.spans["row"], share)
            return self.campaign.merge(unit, reply.tally.counts)
        self._again.append(unit)
        self._resent += 1
        if reply.lost:
            self._losses += 1
            self._note = f"worker {reply.worker} was lost ({reply.lost})"
            if self._losses > PATIENCE * DEPTH * len(self.pool):
                raise RunError(f"workers are lost again and again; the last one: {one_line(reply.lost)}")
        else:
            self._failures[unit.number] += 1
            self._note = f"unit {unit.number} failed on worker {reply.worker} ({reply.error})"
            if self._failures[unit.number] >= PATIENCE:
                images = np.unique(unit.spans["image"]).tolist()
                which = f"unit {unit.number} (images {images[0]} to {images[-1]})"
                raise RunError(f"{which} failed {PATIENCE} times: {one_line(reply.error)}")
        return np.zeros(0, dtype=np.int64)

    def _record(self, rows: np.ndarray) -> None:
        self.ledger.append(self.campaign.records(rows), self._seconds[rows])
        self._seconds[rows] = 0.0
