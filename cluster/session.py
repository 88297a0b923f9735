"""Opening a pool: in this process, on a Ray of this machine's own, or on a cluster."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from typing import Any

from joblib import cpu_count

from cluster.pool import LocalPool, Pool, RayPool, room, wants
from cluster.worker import Assignment
from ebsc.device import pick
from ebsc.errors import InputError, RunError, one_line

__all__ = ["open_pool", "ray_session"]


@contextmanager
def ray_session(address: str | None = None, cpus: float = 1) -> Iterator[None]:
    """A connection to Ray: the one that this process has, else ``address``, ``$RAY_ADDRESS``, or a new local Ray.

    Args:
        address: of a running cluster; ``auto`` finds the one of this machine.
        cpus: a local Ray is told of at least this many.

    Raises:
        RunError: the cluster does not answer.
    """
    import ray  # here, not above: it reads its authentication from the environment when it is imported

    connected = ray.is_initialized()
    if not connected:
        address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _answers(address)
    if connected:
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with _signals_kept():
            if address:
                ray.init(address=address, log_to_driver=False)
            else:
                here: dict[str, Any] = {"num_cpus": max(cpu_count(), ceil(cpus)), "include_dashboard": False}
                ray.init("local", **here, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RunError(f"no Ray at {address or 'this machine'}: {one_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """While Ray starts: it handles SIGTERM from then on, by aborting; and a job's USR2 would end its processes."""
    handler = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})  # which Ray's processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _answers(address: str) -> None:
    """Ray itself waits for minutes for a cluster that is not there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise RunError(f"no Ray at {address}: {one_line(error)}") from error


@contextmanager
def open_pool(
    assignment: Assignment,
    *,
    workers: int | None = None,
    cpus: float = 1,
    gpus: float | None = None,
    address: str | None = None,
    pin: Callable[[str], None] = lambda device: None,
) -> Iterator[Pool]:
    """A pool of workers for as long as the context lasts.

    Args:
        assignment: what the workers get.
        workers: Ray actors; 0 counts in this process without Ray; None takes as many as the cluster has room for.
        cpus: CPUs of each.
        gpus: GPUs of each, or a fraction; None is 1 where the cluster has GPUs and the device allows, else 0.
        address: see :func:`ray_session`.
        pin: told which kind of device all of them count on, ``cpu`` or ``cuda``, before one starts.

    Raises:
        InputError: the cluster has no room for them.
    """
    if workers == 0:
        pin(pick(assignment.device).type)
        yield LocalPool(assignment)
        return
    with ray_session(address, (workers or 1) * cpus):
        import ray

        have = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if gpus is None:
            gpus = 1.0 if assignment.device != "cpu" and have.get("GPU", 0) >= 1 else 0.0
        if assignment.device == "auto":
            # all must be of one kind, and Ray neither hides a GPU from them nor knows whether torch can use it
            assignment = replace(assignment, device="cuda" if gpus else "cpu")
        pin(assignment.device)
        asked = wants(cpus, gpus)
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        if (workers or 1) > (fit := room(nodes, asked)):
            have_text = ", ".join(f"{have.get(name, 0):g} {name}" for name in asked)
            alive = sum(node["Alive"] for node in nodes)
            have_text += f" on {alive} node{'s' * (alive != 1)}"
            raise InputError(f"room for {fit} workers only: each wants {asked}, the cluster has {have_text}")
        there = have.get("GPU", 0)
        if workers is None and gpus >= 1 and (idle := there - fit * gpus) >= 1:
            print(f"idle: {idle:g} of {there:g} GPUs, as a worker wants {asked}", file=sys.stderr, flush=True)
        yield RayPool(assignment, workers, cpus=cpus, gpus=gpus)
