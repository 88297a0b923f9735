"""Patience with what goes wrong: who may have a unit that failed, when a worker is replaced, when a run stops."""

from collections import Counter, defaultdict

import numpy as np

from cluster.pool import Reply
from ebsc.campaign import Unit
from ebsc.errors import RunError, one_line

__all__ = ["Faults"]

PATIENCE = 3
"""Failures of one unit that stop the run; failures in a row after which a worker is replaced; and how often all workers
may be lost with no unit counted between."""

HELD_BACK = 24.0
"""Seconds for which a unit that failed waits for a worker that counts others: what four units take."""


class Faults:
    """What went wrong so far in a run.

    Attributes:
        note: the last thing that went wrong; empty when nothing did.
    """

    def __init__(self) -> None:
        self.note = ""
        self._workers = self._crew = self._losses = 0
        self._batch: dict[int, int] = {}
        self._failed_on: defaultdict[int, list[int]] = defaultdict(list)
        self._in_a_row: Counter[int] = Counter()
        self._retired: set[int] = set()
        self._deaths: Counter[int] = Counter()

    def present(self, workers: int) -> None:
        """The number of workers now. Losses are measured by the most since a unit was counted."""
        self._workers = workers
        self._crew = max(self._crew if self._losses else 0, workers)

    def may_have(self, worker: int, unit: Unit, waited: float) -> bool:
        """Whether a worker may have a unit that waits for so many seconds to be sent again.

        One that failed is for workers that count others, while there are any.
        """
        failed_on = {*self._failed_on.get(unit.number, ())}
        able = self._batch.keys() - failed_on
        untried = worker not in failed_on or len(failed_on) >= self._workers
        return not failed_on or worker in able or (untried and not able) or waited >= HELD_BACK

    def counted(self, worker: int, batch: int) -> None:
        """A worker has counted a unit, in such micro-batches."""
        self._losses = self._in_a_row[worker] = 0
        if batch < self._batch.get(worker, batch):
            self.note = f"worker {worker} ran out of memory and goes on with batches of {batch}"
        self._batch[worker] = batch

    def lost(self, reply: Reply) -> None:
        """A worker is lost with a unit; no fault if it is one that was to be replaced.

        Raises:
            RunError: all workers were lost :data:`PATIENCE` times with no unit counted between.
        """
        self._batch.pop(reply.worker, None)
        if reply.worker in self._retired:
            return
        self._losses += reply.in_hand
        self._deaths[reply.unit.number] += reply.in_hand
        self.note = f"worker {reply.worker} was lost ({reply.lost})"
        if self._losses > PATIENCE * max(1, self._crew):
            number, times = self._deaths.most_common(1)[0]
            blame = f" ({times} of them while counting unit {number})" if times >= PATIENCE else ""
            raise RunError(f"workers are lost again and again{blame}; the last one: {one_line(reply.lost)}")

    def failed(self, reply: Reply, *, counted: bool) -> bool:
        """A unit failed, which is no fault of its own if another worker has ``counted`` it.

        Returns:
            Whether its worker is to be replaced: it failed :data:`PATIENCE` units in a row.

        Raises:
            RunError: the unit failed :data:`PATIENCE` times.
        """
        unit, worker = reply.unit, reply.worker
        self.note = f"unit {unit.number} failed on worker {worker} ({reply.error})"
        if not counted:
            self._failed_on[unit.number].append(worker)
            if len(self._failed_on[unit.number]) >= PATIENCE:
                images = np.unique(unit.spans["image"]).tolist()
                which = f"unit {unit.number} (images {images[0]} to {images[-1]})"
                raise RunError(f"{which} failed {PATIENCE} times: {one_line(reply.error)}")
        self._in_a_row[worker] += 1
        if self._in_a_row[worker] != PATIENCE:
            return False
        self.note = f"worker {worker} failed {PATIENCE} units in a row, the last by {reply.error}: it is replaced"
        self._retired.add(worker)
        return True
