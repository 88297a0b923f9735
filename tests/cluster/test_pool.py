"""Who is free: known without asking every worker."""

import random

from cluster.pool import DEPTH, Load


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
