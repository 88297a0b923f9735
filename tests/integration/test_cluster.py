"""A running Ray cluster with token authentication: jobs that are submitted to it, and nodes that come and go."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
MEMORY = "--object-store-memory=80000000"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """A head of one CPU, and nodes that join it."""

    def __init__(self, folder):
        self.port, self.dashboard = free_ports(2)
        self.address = f"127.0.0.1:{self.port}"
        self.environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.log = folder / "ray.log"
        head = ["--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}", "--node-ip-address=127.0.0.1"]
        self.nodes = []
        self.start(*head, f"--temp-dir={folder}")

    def start(self, *words):
        with self.log.open("a") as log:
            # its default is taken by the agent of any other Ray on this machine, and then no job can be submitted
            agent = f"--dashboard-agent-listen-port={free_ports(1)[0]}"
            command = [RAY, "start", "--block", "--num-cpus=1", MEMORY, agent, *words]
            node = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(node)
        return node

    def join(self):
        return self.start(f"--address={self.address}")

    def stop(self):
        for node in self.nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()


@contextmanager
def started():
    folder = Path(tempfile.mkdtemp(prefix="ebsc"))  # a short path: Ray puts sockets there
    made = Cluster(folder)
    try:
        tiny.until(lambda: answers(made.dashboard), "the dashboard answers")
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster():
    with started() as made:
        yield made


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_certification_is_submitted_as_a_job(cluster, words, undisturbed, tmp_path):
    command = [
        sys.executable,
        "-m",
        "jobs.certify",
        *map(str, words[1:]),
        "--run",
        str(tmp_path / "run"),
        "--workers",
        "1",
    ]
    where = ["--address", f"http://127.0.0.1:{cluster.dashboard}", "--working-dir", "."]
    submit = [RAY, "job", "submit", *where, "--", *command]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(submit, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=200)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:  # it starts a little later
            break
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert tiny.columns(tmp_path / "run") == tiny.columns(undisturbed)


def certifying(cluster, words, run):
    """A certification on the cluster, by a process of its own that writes beside the run."""
    command = [sys.executable, "-m", "jobs.certify", *map(str, words[1:]), "-o", str(run)]
    slowly = ["--batch", "1", "--address", cluster.address]  # a count does not depend on it
    with run.with_suffix(".log").open("w") as log:
        return subprocess.Popen([*command, *slowly], env=cluster.environment, stdout=log, stderr=log)


def workers(run):
    try:
        return json.loads((run / "status.json").read_text())["workers"]
    except FileNotFoundError:
        return 0


def goes_on_elsewhere(words, run, undisturbed):
    result = tiny.cli(*words, "-o", run, "--workers", 0)
    assert result.status == 0, result.err
    assert tiny.columns(run) == tiny.columns(undisturbed)


def test_nodes_that_join_are_used_and_nodes_that_leave_are_forgotten(cluster, words, undisturbed, tmp_path):
    run = tmp_path / "run"
    process = certifying(cluster, words, run)
    tiny.until(lambda: workers(run) == 1, "one worker")
    node = cluster.join()
    tiny.until(lambda: workers(run) == 2, "the new node's worker counts")
    os.killpg(node.pid, signal.SIGKILL)
    tiny.until(lambda: workers(run) == 1, "it is forgotten")
    assert process.poll() is None, run.with_suffix(".log").read_text()
    process.kill()
    process.wait()
    goes_on_elsewhere(words, run, undisturbed)


def test_when_the_head_is_lost_the_command_ends_and_goes_on_elsewhere(words, undisturbed, tmp_path):
    run = tmp_path / "run"
    with started() as lone:
        lone.environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # a minute otherwise
        process = certifying(lone, words, run)
        tiny.until(lambda: workers(run) == 1, "one worker")
        os.killpg(lone.nodes[0].pid, signal.SIGKILL)
        assert process.wait(120), "it ends, and says so"
    assert not (run / "certificates.parquet").exists()
    goes_on_elsewhere(words, run, undisturbed)
