"""Who is free: known without asking every worker."""

import random
import sys
from types import SimpleNamespace

import pytest

from cluster.pool import DEPTH, Load, RayPool, room
from ebsc.errors import InputError, RunError


def expected(busy):
    return [worker for depth in range(DEPTH) for worker in busy if busy[worker] <= depth]


def test_free_workers_come_least_busy_first_and_idle_ones_twice():
    load = Load()
    for worker in (1, 2, 3):
        load.add(worker, 0)
    load.add(2, 1)
    load.add(3, DEPTH)
    assert load.free() == [1, 1, 2]
    assert len(load) == 3


def test_the_free_ones_are_those_of_a_full_look_after_any_course_of_events():
    rng, load, busy = random.Random(0), Load(), {}
    for step in range(2000):
        event = rng.choice(["hire", "send", "answer", "lose"])
        if event == "hire":
            load.add(step, 0)
            busy[step] = 0
        elif event == "send" and (free := load.free()):
            load.add(free[0], 1)
            busy[free[0]] += 1
        elif event == "answer" and (working := [worker for worker in busy if busy[worker]]):
            worker = rng.choice(working)
            load.add(worker, -1)
            busy[worker] -= 1
        elif event == "lose" and busy:
            worker = rng.choice(list(busy))
            load.remove(worker)
            del busy[worker]
        assert sorted(load.free()) == sorted(expected(busy))
        assert len(load) == len(busy)


def node(alive=True, **resources):
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("wants", "fit"),
    [({"CPU": 1}, 6), ({"CPU": 2}, 3), ({"CPU": 3}, 1), ({"CPU": 5}, 0), ({"CPU": 1, "GPU": 0.5}, 2), ({}, 1)],
)
def test_each_worker_has_room_on_one_node(wants, fit):
    assert room([node(CPU=4.0, GPU=1.0), node(CPU=2.0), node(alive=False, CPU=64.0)], wants) == fit


@pytest.mark.parametrize(("cpus", "fit"), [(0.28, 25), (0.07, 100), (0.56, 12), (1e-6, 70_000)])
def test_room_for_fractions_of_a_resource_is_not_lost_by_rounding(cpus, fit):
    assert room([node(CPU=7.0)], {"CPU": cpus}) == fit


class Ray:
    """As much of Ray as a pool needs; its actors are lost for memory as they are told."""

    exceptions = SimpleNamespace(
        RayError=(lost := type("RayError", (Exception,), {})),
        RayTaskError=type("RayTaskError", (lost,), {}),
        OutOfMemoryError=type("OutOfMemoryError", (lost,), {}),
    )

    def __init__(self):
        self.batches, self.doomed, self.fails = [], set(), {}

    def remote(self, **resources):
        return lambda worker: SimpleNamespace(remote=self.start)

    def start(self, assignment, batch):
        self.batches.append(batch)
        return SimpleNamespace(**{name: SimpleNamespace(remote=lambda *unit: object()) for name in ("ready", "count")})

    def put(self, value):
        return value

    def wait(self, references, num_returns, timeout):
        return list(references), []

    def get(self, reference):
        if reference in self.doomed:
            raise self.exceptions.OutOfMemoryError
        if reference in self.fails:
            error = self.exceptions.RayTaskError()
            error.cause = self.fails[reference]
            raise error

    def kill(self, actor):
        pass


def test_workers_lost_for_memory_at_a_time_halve_the_micro_batch_once(monkeypatch):
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    pool = RayPool(SimpleNamespace(batch=256), 8)
    pool.wait(0.0)
    for worker in sorted(set(pool.free())):
        pool.send(worker, SimpleNamespace())
    ray.doomed = set(pool._pending)
    pool.wait(0.0)
    assert ray.batches == [256] * 8 + [128] * 8
    pool.wait(0.0)
    pool.send(8, SimpleNamespace())
    ray.doomed = set(pool._pending)
    pool.wait(0.0)
    assert ray.batches[16:] == [64]


@pytest.mark.parametrize(("cause", "kind"), [(InputError("weights"), InputError), (RuntimeError("no GPU"), RunError)])
def test_a_worker_that_cannot_start_stops_a_run_that_nobody_counts_for(monkeypatch, cause, kind):
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    pool = RayPool(SimpleNamespace(batch=256), 2)
    ray.fails = {next(iter(pool._starting)): cause}
    with pytest.raises(kind, match=f"a worker cannot start: {cause}"):
        pool.wait(0.0)


def test_a_worker_that_cannot_start_is_replaced_while_others_count(monkeypatch):
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    pool = RayPool(SimpleNamespace(batch=256), 2)
    pool.wait(0.0)
    pool.send(0, SimpleNamespace())
    ray.doomed = set(pool._pending)
    pool.wait(0.0)  # one is lost, its successor lands on the same bad GPU
    ray.fails = dict.fromkeys(pool._starting, RuntimeError("CUDA error"))
    pool.wait(0.0)
    assert len(ray.batches) == 4
    pool.wait(0.0)
    assert len(pool) == 2
