"""Ray over the nodes of a SLURM allocation: each task of a step with one task a node calls :func:`ray_across`."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.session import ray_session
from ebsc.errors import RunError
from ebsc.files import parse_json, write_whole

__all__ = ["Allocation", "ray_across"]

START_SECONDS = 300.0
"""How long the head may take to come up, and the other nodes to join it."""

_LONGEST = 40
"""Characters of a folder for Ray: below it lie sockets, whose names may have 107."""

_OBJECT_STORE = 0.3
"""Share of the memory for Ray's object store, as Ray has it by default."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What SLURM gave this task: Ray would see the whole host otherwise.

    Attributes:
        job: id of the job, and how often it was requeued: names what the nodes share.
        node: number of this node; 0 is the head.
        nodes: how many.
        cpus: of this node.
        gpus: of this node.
        memory: of this node in MB; 0 when SLURM does not say.
    """

    job: str
    node: int
    nodes: int
    cpus: int
    gpus: int
    memory: int

    @classmethod
    def here(cls) -> "Allocation":
        """Read from the environment of a SLURM step.

        Raises:
            RunError: this is no step with one task a node.
        """
        get = os.environ.get
        # of the step: SLURM_NTASKS of a script or a shell is that of steps to come
        if "SLURM_PROCID" not in os.environ or get("SLURM_STEP_NUM_TASKS", "1") != get("SLURM_JOB_NUM_NODES"):
            raise RunError("not in a SLURM step with one task on each node: use srun --ntasks-per-node=1")
        gpus = get("CUDA_VISIBLE_DEVICES") or get("SLURM_STEP_GPUS") or get("SLURM_JOB_GPUS") or ""
        cpus = int(get("SLURM_CPUS_PER_TASK") or get("SLURM_CPUS_ON_NODE") or 1)
        return cls(
            job=f"{os.environ['SLURM_JOB_ID']}-{get('SLURM_RESTART_COUNT', '0')}",
            node=int(os.environ["SLURM_NODEID"]),
            nodes=int(os.environ["SLURM_JOB_NUM_NODES"]),
            cpus=cpus,
            gpus=len([gpu for gpu in gpus.split(",") if gpu not in ("", "NoDevFiles")]),
            memory=int(get("SLURM_MEM_PER_NODE") or 0) or cpus * int(get("SLURM_MEM_PER_CPU") or 0),
        )


@contextmanager
def ray_across(allocation: Allocation, shared: Path) -> Iterator[str | None]:
    """Start Ray on this node, as its head or joining it, for as long as the context lasts.

    Ports are free ones; address and token of the head reach the other nodes through a file in ``shared`` that only its
    owner can read. Ray's own files lie in a folder of the node: below ``$TMPDIR``, or ``/tmp`` where the names of
    sockets would be too long.

    Args:
        allocation: of this task.
        shared: a folder that all nodes see.

    Yields:
        The cluster's address on the head, when all nodes have joined. None on the others, once the head is done.

    Raises:
        RunError: the head did not come up, or a node did not join.
    """
    meeting = shared / f"ray-{allocation.job}.json"
    scratch = _scratch(f"ebsc-{allocation.job}")
    any_start = f"{allocation.job.partition('-')[0]}-*"
    for left in scratch.parent.glob(f"ebsc-{any_start}"):
        if left != scratch:  # by a start of this job that was killed
            shutil.rmtree(left, ignore_errors=True)
    if allocation.node:
        where = _await(meeting)
        _prepare(where["token"])
        words = [f"--address={where['ip']}:{where['port']}", *_node_options(allocation, scratch, _towards(where["ip"]))]
        with _started(scratch, *words) as process:
            while meeting.exists() and process.poll() is None:
                time.sleep(0.5)
            yield None
        return
    port, token = _free_port(), secrets.token_hex(32)
    _prepare(token)
    ip = _address(allocation.nodes)
    head = ["--head", f"--port={port}", f"--ray-client-server-port={_free_port()}", "--include-dashboard=false"]
    with _started(scratch, *head, *_node_options(allocation, scratch, ip)) as process:
        _listening(ip, port, process)
        shared.mkdir(parents=True, exist_ok=True)
        for left in shared.glob(f"ray-{any_start}.json"):
            left.unlink()
        write_whole(meeting, json.dumps({"ip": ip, "port": port, "token": token}).encode(), mode=0o600)
        try:
            with ray_session(f"{ip}:{port}"):
                _joined(allocation.nodes)
                yield f"{ip}:{port}"
        finally:
            meeting.unlink(missing_ok=True)


def _scratch(name: str) -> Path:
    """A folder of this node for Ray's files."""
    folder = Path(tempfile.gettempdir()) / name
    return folder if len(str(folder)) <= _LONGEST else Path("/tmp") / name


def _prepare(token: str) -> None:
    """Set Ray's authentication."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # when told to end, nothing is under way any more


def _address(nodes: int) -> str:
    """The address of this node, by which the other ones reach it."""
    import ray  # not before: it reads its authentication when it is imported

    found = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if nodes > 1 and found.startswith("127."):  # no way out of this network
        name = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        with suppress(OSError):
            found = socket.gethostbyname(name)
        if found.startswith("127."):
            raise RunError(
                f"the head of Ray is at {found} only: {name} must resolve to an address that all nodes can reach"
            )
    return found


def _towards(head: str) -> str:
    """The address of this node in the network of the head."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((head, 9))  # sends nothing
        return str(way.getsockname()[0])


def _node_options(allocation: Allocation, scratch: Path, ip: str) -> list[str]:
    """What ``ray start`` is told of this node. Ports are free ones: another user's Ray may be here."""
    words = [f"--node-ip-address={ip}", f"--num-cpus={allocation.cpus}", f"--num-gpus={allocation.gpus}"]
    words += [f"--temp-dir={scratch}", f"--dashboard-agent-listen-port={_free_port()}"]
    if allocation.memory:
        store = int(allocation.memory * _OBJECT_STORE)
        words += [f"--object-store-memory={store << 20}", f"--memory={(allocation.memory - store) << 20}"]
    return words


@contextmanager
def _started(scratch: Path, *words: str) -> Iterator[subprocess.Popen]:
    """``ray start`` with these words, for as long as the context lasts; its files go with it."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *words]
    # SLURM's warning is for the driver, but with some settings it reaches all processes of the step
    process = subprocess.Popen(["sh", "-c", 'trap "" USR2; exec "$@"', "sh", *command], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        shutil.rmtree(scratch, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _await(meeting: Path) -> dict:
    """What the head wrote for this start of the job."""
    for _ in _attempts():
        with suppress(OSError, ValueError):
            found: dict = parse_json(meeting.read_bytes())
            return found
    raise RunError(f"Ray's head did not write {meeting} within {START_SECONDS:g} s: do all nodes see that folder?")


def _listening(ip: str, port: int, process: subprocess.Popen) -> None:
    for _ in _attempts():
        if process.poll() is not None:
            break
        with suppress(OSError), socket.create_connection((ip, port), timeout=1):
            return
    raise RunError(f"Ray's head did not come up on {ip}:{port}; its words are above")


def _joined(nodes: int) -> None:
    import ray

    alive = 0
    for _ in _attempts():
        alive = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
        if alive == nodes:
            return
    raise RunError(f"only {alive} of {nodes} nodes joined Ray within {START_SECONDS:g} s")


def _attempts() -> Iterator[None]:
    """Five times a second, for as long as Ray may take to come up."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(0.2)
