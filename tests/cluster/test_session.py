"""Which Ray a run gets, and which device its workers take."""

import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from cluster import session
from ebsc.errors import InputError, RunError


@dataclass(frozen=True)
class Assignment:
    device: str = "auto"


class RayError(Exception):
    pass


class Ray(SimpleNamespace):
    """As much of Ray as a session needs: one node of 4 CPUs and 2 GPUs, and one of 4 CPUs."""

    def __init__(self, connected):
        super().__init__(is_initialized=lambda: connected, shutdown=lambda: None, inits=[], wrong=None)
        self.exceptions = SimpleNamespace(RayError=RayError)

    def init(self, *where, **options):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does, with a handler of its own
        self.blocked = signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        if self.wrong:
            raise self.wrong
        self.inits.append((where, options))

    def cluster_resources(self):
        return {"CPU": 8.0, "GPU": 2.0}

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 4.0}}]


@contextmanager
def opened(monkeypatch, connected=True):
    ray = Ray(connected)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", ray)
        patch.setattr(
            session, "RayPool", lambda assignment, workers, **resources: (assignment.device, workers, resources)
        )
        yield ray


@pytest.mark.parametrize(
    ("device", "gpus", "found"),
    [
        ("auto", None, ("cuda", {"cpus": 1, "gpus": 1.0})),
        ("auto", 0, ("cpu", {"cpus": 1, "gpus": 0})),
        ("auto", 0.5, ("cuda", {"cpus": 1, "gpus": 0.5})),
        ("cpu", None, ("cpu", {"cpus": 1, "gpus": 0.0})),
        ("cuda", 0, ("cuda", {"cpus": 1, "gpus": 0})),
    ],
)
def test_workers_are_all_of_one_kind(monkeypatch, device, gpus, found):
    told: list[str] = []
    with (
        opened(monkeypatch),
        session.open_pool(Assignment(device), gpus=gpus, pin=told.append) as (taken, workers, resources),
    ):
        assert ((taken, resources), workers) == (found, None)
    assert told == [taken]


@pytest.mark.parametrize(
    ("cpus", "said"), [(1, ""), (4, "idle: 1 of 2 GPUs, as a worker wants {'CPU': 4, 'GPU': 1.0}")]
)
def test_gpus_that_stay_idle_are_said(monkeypatch, capsys, cpus, said):
    with opened(monkeypatch), session.open_pool(Assignment(), cpus=cpus):
        pass
    assert capsys.readouterr().err.strip() == said


def test_a_worker_that_no_single_node_has_room_for_is_refused(monkeypatch):
    asked = session.open_pool(Assignment(), cpus=5, gpus=0)
    with opened(monkeypatch), pytest.raises(InputError, match="room for 0 workers only"), asked:
        pass


def test_the_ray_that_this_process_has_comes_first(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nothing answers there
    with opened(monkeypatch) as ray, session.ray_session():
        assert ray.inits == []
    with opened(monkeypatch, connected=False), pytest.raises(RunError, match="no Ray at 127"), session.ray_session():
        pass


def test_a_ray_that_lets_nobody_in_is_one_line(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with opened(monkeypatch, connected=False) as ray:
        ray.wrong = RayError("no token\nwas found")
        with pytest.raises(RunError, match="no Ray at this machine: no token was found"), session.ray_session():
            pass


def test_signals_of_a_job_are_handled_as_before_and_do_not_end_rays_processes(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.signal(signal.SIGTERM, handler := lambda signum, frame: None)
    try:
        with opened(monkeypatch, connected=False) as ray, session.ray_session():
            assert ray.blocked
            assert signal.getsignal(signal.SIGTERM) is handler
            assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("asked", "told"), [(1, 2), (2.7, 3), (8, 8)])
def test_a_local_ray_is_told_of_the_cores_of_this_process_and_of_as_many_as_are_asked_for(monkeypatch, asked, told):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session, "cpu_count", lambda: 2)
    with opened(monkeypatch, connected=False) as ray, session.ray_session(cpus=asked):
        ((where, options),) = ray.inits
    assert (where, options["num_cpus"]) == (("local",), told)
