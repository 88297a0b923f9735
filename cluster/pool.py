"""Workers behind one interface: in this process, or as Ray actors."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.worker import Assignment, Tally, Worker
from ebsc.campaign import Unit
from ebsc.errors import RunError, one_line

__all__ = ["DEPTH", "LocalPool", "Pool", "RayPool", "Reply"]

DEPTH = 2
"""Units that may be with a worker at a time: one being counted, one waiting, so that it never idles."""


@dataclass(frozen=True)
class Reply:
    """What became of a unit.

    Attributes:
        unit: the unit.
        worker: the worker that had it.
        tally: its counts; absent when it failed.
        error: what went wrong in the unit itself.
        lost: what became of the worker, when it was lost; the unit is then not to blame.
    """

    unit: Unit
    worker: int
    tally: Tally | None = None
    error: str = ""
    lost: str = ""


class Pool(Protocol):
    """A changing set of workers."""

    def __len__(self) -> int:
        """Number of workers."""

    def free(self) -> list[int]:
        """Workers that can take a unit now, the least busy first; one with nothing to do stands there twice."""

    def send(self, worker: int, unit: Unit) -> None:
        """Hand a unit to a worker; returns at once."""

    def wait(self, seconds: float) -> list[Reply]:
        """Replies that have come; waits for the first at most ``seconds``."""


class LocalPool:
    """One worker in this process."""

    def __init__(self, assignment: Assignment) -> None:
        self._worker = Worker(assignment)
        self._unit: Unit | None = None

    def __len__(self) -> int:
        return 1

    def free(self) -> list[int]:
        return [0] if self._unit is None else []

    def send(self, worker: int, unit: Unit) -> None:
        self._unit = unit

    def wait(self, seconds: float) -> list[Reply]:
        if self._unit is None:
            return []
        unit, self._unit = self._unit, None
        try:
            return [Reply(unit, 0, tally=self._worker.count(unit))]
        except Exception as error:  # the driver decides what a failed unit means
            return [Reply(unit, 0, error=f"{type(error).__name__}: {one_line(error)}")]


class RayPool:
    """Ray actors. One that is lost is replaced; Ray places the new one wherever there is room.

    Args:
        assignment: put into the object store once; each node fetches it once.
        workers: how many actors.
        cpus, gpus: resources of each; a fraction of a GPU puts several actors on one.
    """

    def __init__(self, assignment: Assignment, workers: int, *, cpus: float = 1, gpus: float = 0) -> None:
        import ray

        self._ray = ray
        self._assignment = ray.put(assignment)
        self._actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Worker)
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, Unit]] = {}
        self._started = 0
        for _ in range(workers):
            self._start()

    def _start(self) -> None:
        self._actors[self._started] = self._actor.remote(self._assignment)
        self._started += 1

    def __len__(self) -> int:
        return len(self._actors)

    def free(self) -> list[int]:
        load = dict.fromkeys(self._actors, 0)
        for worker, _ in self._pending.values():
            load[worker] += 1
        return [worker for busy in range(DEPTH) for worker in load if load[worker] <= busy]

    def send(self, worker: int, unit: Unit) -> None:
        self._pending[self._actors[worker].count.remote(unit)] = (worker, unit)

    def wait(self, seconds: float) -> list[Reply]:
        if not self._pending:
            return []
        waiting = list(self._pending)
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=seconds)
        if ready and len(waiting) > 1:
            ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        replies: list[Reply] = []
        for ref in ready:
            if ref in self._pending:  # a lost worker takes all of its units along
                replies += self._reply(ref)
        return replies

    def _reply(self, ref: Any) -> Iterator[Reply]:
        worker, unit = self._pending[ref]
        try:
            tally = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            del self._pending[ref]
            yield Reply(unit, worker, error=f"{type(error.cause).__name__}: {one_line(error.cause)}")
        except self._ray.exceptions.RayActorError as error:
            if getattr(error, "actor_init_failed", False):
                raise RunError(f"a worker cannot start: {one_line(str(error).strip().splitlines()[-1])}") from None
            yield from self._lose(worker, error)
        except self._ray.exceptions.RayError as error:  # actor or node died, object lost, memory monitor
            yield from self._lose(worker, error)
        else:
            del self._pending[ref]
            yield Reply(unit, worker, tally=tally)

    def _lose(self, worker: int, error: Exception) -> Iterator[Reply]:
        """Give up a worker with all of its units, and start another in its place."""
        for other, (owner, lost) in list(self._pending.items()):
            if owner == worker:
                del self._pending[other]
                yield Reply(lost, worker, lost=f"{type(error).__name__}: {one_line(error)}")
        with contextlib.suppress(Exception):
            self._ray.kill(self._actors[worker])
        del self._actors[worker]
        self._start()
