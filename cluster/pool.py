"""Workers behind one interface: in this process, or as Ray actors."""

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.worker import Assignment, Tally, Worker
from ebsc.campaign import Unit
from ebsc.errors import InputError, RunError, one_line

__all__ = ["DEPTH", "Load", "LocalPool", "Pool", "RayPool", "Reply", "room", "wants"]

DEPTH = 2
"""Units that may be with a worker at a time: one being counted, one waiting, so that it never idles."""

RESIZE_EVERY = 10.0
"""Seconds between questions how much room the cluster has, when the number of workers follows it."""

_PARTS = 10_000
"""Ray counts a resource in ten-thousandths."""

STILLBORN = 3
"""Times all workers may die before one is ready."""


@dataclass(frozen=True)
class Reply:
    """What became of a unit.

    Attributes:
        unit: the unit.
        worker: the worker that had it.
        tally: its counts; absent when it failed.
        error: what went wrong in the unit itself.
        lost: what became of the worker, when it was lost.
        in_hand: whether a lost worker was counting this unit; the others only waited there.
    """

    unit: Unit
    worker: int
    tally: Tally | None = None
    error: str = ""
    lost: str = ""
    in_hand: bool = False


class Pool(Protocol):
    """A changing set of workers."""

    def __len__(self) -> int:
        """Number of workers."""

    def free(self) -> list[int]:
        """Workers that can take a unit now, the least busy first; one with nothing to do stands there twice."""

    def send(self, worker: int, unit: Unit) -> None:
        """Hand a unit to a worker; returns at once."""

    def wait(self, seconds: float, linger: float = 0.0) -> list[Reply]:
        """Replies that have come; waits for the first at most ``seconds``, and ``linger`` for more."""

    def retire(self, worker: int) -> None:
        """Lose a worker that fails unit after unit, and have another one in its place where that is possible."""


class Load:
    """How many units each worker has; knows the free ones without asking all."""

    def __init__(self) -> None:
        self._levels: list[dict[int, None]] = [{} for _ in range(DEPTH + 1)]
        self._busy: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._busy)

    def add(self, worker: int, units: int) -> None:
        """A worker has so many more units, or less; one that is new has none."""
        before = self._busy.get(worker, 0)
        self._levels[before].pop(worker, None)
        self._busy[worker] = before + units
        self._levels[before + units][worker] = None

    def remove(self, worker: int) -> None:
        """Forget a worker."""
        self._levels[self._busy.pop(worker)].pop(worker)

    def free(self) -> list[int]:
        """See :meth:`Pool.free`."""
        return [worker for busy in range(DEPTH) for level in self._levels[: busy + 1] for worker in level]


class LocalPool:
    """One worker in this process."""

    def __init__(self, assignment: Assignment) -> None:
        self._worker = Worker(assignment)
        self._worker.ready()
        self._unit: Unit | None = None

    def __len__(self) -> int:
        return 1

    def free(self) -> list[int]:
        return [0] if self._unit is None else []

    def send(self, worker: int, unit: Unit) -> None:
        self._unit = unit

    def wait(self, seconds: float, linger: float = 0.0) -> list[Reply]:
        if self._unit is None:
            return []
        unit, self._unit = self._unit, None
        try:
            return [Reply(unit, 0, tally=self._worker.count(unit))]
        except Exception as error:  # the driver decides what a failed unit means
            return [Reply(unit, 0, error=f"{type(error).__name__}: {one_line(error)}")]

    def retire(self, worker: int) -> None:
        """There is no other."""


def wants(cpus: float, gpus: float) -> dict[str, float]:
    """What a worker asks Ray for."""
    return {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}


def room(nodes: Iterable[Mapping[str, Any]], wants: Mapping[str, float]) -> int:
    """Workers that fit into an empty cluster, given its nodes as Ray describes them: each worker is on one of them."""
    have = [node["Resources"] for node in nodes if node["Alive"]]
    if not wants:
        return 1
    return sum(
        min(round(there.get(name, 0) * _PARTS) // max(1, round(amount * _PARTS)) for name, amount in wants.items())
        for there in have
    )


class RayPool:
    """Ray actors. One that is lost is replaced, wherever Ray finds room; until it is ready it is not counted on.

    Args:
        assignment: put into the object store once; each node fetches it once.
        workers: how many actors; None follows the cluster, as many as it has room for at any time.
        cpus, gpus: resources of each; a fraction of a GPU puts several actors on one.
    """

    def __init__(self, assignment: Assignment, workers: int | None, *, cpus: float = 1, gpus: float = 0) -> None:
        import ray

        self._ray = ray
        self._assignment = ray.put(assignment)
        self._batch = assignment.batch
        self._batches: dict[int, int] = {}
        self._actor: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Worker)
        self._wants = wants(cpus, gpus)
        self._workers = workers
        self._actors: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}
        self._load = Load()
        self._pending: dict[Any, tuple[int, Unit]] = {}
        self._started = self._stillborn = 0
        self._looked = float("-inf")
        self._fill()

    def _fill(self) -> None:
        """Start actors until there are as many as there should be."""
        self._looked = time.monotonic()
        target = self._workers
        if target is None:
            target = room(self._ray.nodes(), self._wants)  # type: ignore[no-untyped-call]
        for _ in range(target - len(self._actors)):
            self._batches[self._started] = self._batch
            actor = self._actors[self._started] = self._actor.remote(self._assignment, self._batch)
            self._starting[actor.ready.remote()] = self._started
            self._started += 1

    def __len__(self) -> int:
        return len(self._load)

    def free(self) -> list[int]:
        return self._load.free()

    def send(self, worker: int, unit: Unit) -> None:
        self._load.add(worker, 1)
        self._pending[self._actors[worker].count.remote(unit)] = (worker, unit)

    def wait(self, seconds: float, linger: float = 0.0) -> list[Reply]:
        if self._workers is None and time.monotonic() - self._looked >= RESIZE_EVERY:
            self._fill()
        waiting = [*self._pending, *self._starting]
        if not waiting:
            time.sleep(seconds)
            self._fill()
            return []
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=seconds)
        if ready and len(waiting) > 1:
            time.sleep(linger)
            ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        replies: list[Reply] = []
        for ref in ready:
            if ref in self._starting:
                self._greet(ref)
            elif ref in self._pending:  # a lost worker takes all of its units along
                replies += self._reply(ref)
        return replies

    def _greet(self, ref: Any) -> None:
        """A worker is ready, or will never be."""
        worker = self._starting.pop(ref)
        try:
            self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)  # what the worker itself raised
            if isinstance(cause, InputError):
                raise InputError(f"a worker cannot start: {one_line(cause)}") from None
            if cause and not len(self):  # while others count, it may be this worker's GPU
                raise RunError(f"a worker cannot start: {one_line(cause)}") from None
            self._stillborn += 1
            if self._stillborn > STILLBORN * max(1, len(self._actors)):
                raise RunError(f"workers die before they are ready; the last one: {one_line(error)}") from None
            self._drop(worker)
        else:
            self._stillborn = 0
            self._load.add(worker, 0)

    def retire(self, worker: int) -> None:
        if worker in self._actors:
            self._ray.kill(self._actors[worker])

    def _reply(self, ref: Any) -> list[Reply]:
        worker, unit = self._pending[ref]
        try:
            reply = Reply(unit, worker, tally=self._ray.get(ref))
        except self._ray.exceptions.RayTaskError as error:
            reply = Reply(unit, worker, error=f"{type(error.cause).__name__}: {one_line(error.cause)}")
        except self._ray.exceptions.RayError as error:  # actor or node died, object lost, memory monitor
            return self._lose(worker, error)
        del self._pending[ref]
        self._load.add(worker, -1)
        return [reply]

    def _lose(self, worker: int, error: Exception) -> list[Reply]:
        """Give up a worker with all of its units, the one in hand first, and start another in its place."""
        cause = f"{type(error).__name__}: {one_line(error)}"
        if isinstance(error, self._ray.exceptions.OutOfMemoryError):
            self._batch = min(self._batch, max(1, self._batches[worker] // 2))  # several may run out of it at once
            cause += f"; new workers take batches of {self._batch}"
        self._load.remove(worker)
        self._drop(worker)
        refs = [ref for ref, (owner, _) in self._pending.items() if owner == worker]
        return [Reply(self._pending.pop(ref)[1], worker, lost=cause, in_hand=ref is refs[0]) for ref in refs]

    def _drop(self, worker: int) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(self._actors[worker])
        del self._actors[worker], self._batches[worker]
        self._fill()
