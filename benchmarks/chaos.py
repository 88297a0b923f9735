"""Chaos: certifications on real Ray whose processes are killed at random; every table must be the same.

Each run is ``python -m jobs.certify`` in a process of its own: on a Ray of its own, or (``--nodes``) on one Ray over
the nodes of slurm/devcluster, each with its own network, host name and processes. At random moments a worker, a raylet,
the GCS or the driver itself gets a SIGKILL. A node that has lost its raylet comes back a little later; a head that has
lost its GCS takes the whole Ray with it. When the command ends without success it is started again, until the run is
complete. Then its certificates are compared, in all columns but time, with those of an undisturbed run without Ray, and
its ledger is searched for looks that are missing or there twice.
"""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import tyro

from benchmarks.measuring import save

KINDS = {"worker": "ray::Worker", "raylet": "raylet/raylet", "gcs": "gcs_server", "driver": "jobs.certify"}
MARK = "EBSC_CHAOS"
DEVCLUSTER = Path(os.environ.get("EBSC_SLURM", "/tmp/ebsc-slurm"))
HEAD = "10.66.0.11"
IMPATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
"""Ray waits a minute for a GCS that is gone."""


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """Run certifications and kill their processes.

    Attributes:
        model: model folder; a data set that needs no download, such as digits.
        runs: how many certifications.
        workers: Ray workers of each.
        kills: kills in each run, at most.
        every: seconds between kills, on average.
        kinds: what is killed; worker and raylet are not there before Ray has started.
        images: images, as of `ebsc certify`.
        n: draws, at most.
        nodes: 0 for a local Ray; else so many nodes of slurm/devcluster, which must be up.
        patience: seconds after which a start that has not ended is called hung.
        seed: of the kills.
        out: where the JSON goes.
    """

    model: Path
    runs: int = 50
    workers: int = 2
    kills: int = 4
    every: float = 4.0
    kinds: tuple[Literal["worker", "raylet", "gcs", "driver"], ...] = ("worker", "raylet", "gcs", "driver")
    images: str = "::3"
    n: int = 10_000
    nodes: int = 0
    patience: float = 300.0
    seed: int = 0
    out: Path = Path(__file__).parent / "results" / "chaos.json"

    def run(self) -> None:
        rng, kills, rows = random.Random(self.seed), Counter[str](), []
        with tempfile.TemporaryDirectory() as folder:
            calm = Path(folder) / "calm"
            if self._start(calm, workers=0, here=True).wait():
                raise SystemExit(calm.with_suffix(".log").read_text())
            expected, cluster = columns(calm), Cluster(self.nodes)
            try:
                for number in range(self.runs):
                    run = Path(folder) / str(number)
                    row = self._disturbed(run, rng, cluster)
                    row |= {"equal": columns(run) == expected, "draws wrong": wrong_draws(run)}
                    rows.append(row)
                    kills.update(row["kills"])
                    print(f"run {number}: {row}", flush=True)
                    save(self.out, Ray=f"{self.nodes} nodes" if self.nodes else "local", kills=kills, runs=rows)
            finally:
                cluster.stop()
        wrong = sum(not row["equal"] or row["draws wrong"] > 0 for row in rows)
        print(f"{self.runs} runs, kills {dict(kills)}, {wrong} wrong")
        sys.exit(wrong > 0)

    def _start(self, run: Path, workers: int, here: bool = False) -> subprocess.Popen:
        words = [sys.executable, "-m", "jobs.certify", self.model.resolve(), "-o", run, "--images", self.images]
        words += ["--n", self.n, "--workers", workers]
        if self.nodes and not here:
            words = [*inside("n1"), *words, "--address", f"{HEAD}:6379"]
        with run.with_suffix(".log").open("a") as log:
            return subprocess.Popen(
                [str(word) for word in words],
                env=os.environ | {MARK: str(run), "OMP_NUM_THREADS": "1"} | IMPATIENT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _disturbed(self, run: Path, rng: random.Random, cluster: "Cluster") -> dict:
        starts, done, begun = 0, Counter[str](), time.monotonic()
        while True:
            starts += 1
            cluster.repair()
            process, started = self._start(run, self.workers), time.monotonic()
            while process.poll() is None:
                due = time.monotonic() + rng.expovariate(1 / self.every)
                while process.poll() is None and time.monotonic() < due:
                    time.sleep(0.05)
                if time.monotonic() - started > self.patience:
                    raise SystemExit(f"hung: {run}\n{run.with_suffix('.log').read_text()[-3000:]}")
                cluster.repair()
                alive = process.poll() is None and sum(done.values()) < self.kills
                if alive and (killed := kill(rng, self.kinds, {str(run), cluster.mark})):
                    done[killed] += 1
            sweep(str(run))
            if process.returncode == 0:
                return {"starts": starts, "kills": dict(done), "seconds": round(time.monotonic() - begun, 1)}


class Cluster:
    """One Ray over nodes of slurm/devcluster, or none."""

    def __init__(self, nodes: int) -> None:
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.mark = f"cluster-{secrets.token_hex(4)}"
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if nodes else {}
        self.running: dict[str, subprocess.Popen] = {}

    def repair(self) -> None:
        """Start what is not running; without its head, all of it."""
        if self.nodes and self.nodes[0] in self.running and self.running[self.nodes[0]].poll() is not None:
            self.stop()
        for node in self.nodes:
            if node in self.running and self.running[node].poll() is None:
                continue
            if node != self.nodes[0]:
                self._await_head()
            where = ["--head", "--port=6379", "--include-dashboard=false"]
            if node != self.nodes[0]:
                where = [f"--address={HEAD}:6379"]
            ip = f"--node-ip-address=10.66.0.1{node[1:]}"
            ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", ip]
            self.running[node] = subprocess.Popen(
                [*inside(node), *ray, "--object-store-memory=100000000", *where],
                env=os.environ | {MARK: self.mark} | IMPATIENT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        if self.nodes:
            self._await_head()

    def _await_head(self) -> None:
        """Until the head answers, or is dead itself: then the next repair starts all again."""
        answers = [*inside(self.nodes[0]), "bash", "-c", f": < /dev/tcp/{HEAD}/6379"]
        deadline = time.monotonic() + 60
        while (
            self.running[self.nodes[0]].poll() is None and subprocess.run(answers, stderr=subprocess.DEVNULL).returncode
        ):
            if time.monotonic() > deadline:
                raise SystemExit("the head of the cluster does not answer")
            time.sleep(0.2)

    def stop(self) -> None:
        sweep(self.mark)
        for process in self.running.values():
            process.wait()
        self.running.clear()


def inside(node: str) -> list[str]:
    pid = (DEVCLUSTER / "run" / f"{node}.pid").read_text().strip()
    return ["nsenter", f"--target={pid}", "--net", "--uts", "--mount", "--pid", f"--wdns={Path.cwd()}"]


def processes(mark: str) -> dict[int, str]:
    """Processes that were started under a mark and all that these have started, with their command lines.

    A Ray worker writes its title over its environment, where the mark was: it is known by its parent.
    """
    words, parents, marked = {}, {}, set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(entry.name)
            words[pid] = (entry / "cmdline").read_text().replace("\0", " ")
            parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                marked.add(pid)
        except OSError:  # it has just ended
            continue

    def ours(pid: int) -> bool:
        return pid in marked or (pid in parents and ours(parents[pid]))

    return {pid: line for pid, line in words.items() if ours(pid)}


def kill(rng: random.Random, kinds: Sequence[str], marks: set[str]) -> str:
    """SIGKILL a process of a random kind, of those that there are; says of which, or nothing when there is none."""
    victims: dict[str, list[int]] = {}
    for mark in sorted(marks):
        for pid, words in processes(mark).items():
            for kind in kinds:
                if KINDS[kind] in words and "nsenter" not in words:
                    victims.setdefault(kind, []).append(pid)
    if not victims:
        return ""
    kind = rng.choice(sorted(victims))
    try:
        os.kill(rng.choice(victims[kind]), signal.SIGKILL)
    except ProcessLookupError:
        return ""
    return kind


def sweep(mark: str) -> None:
    """End all that was started under a mark."""
    while found := processes(mark):
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def columns(run: Path) -> dict:
    return pq.read_table(run / "certificates.parquet").drop_columns(["seconds"]).to_pydict()


def wrong_draws(run: Path) -> int:
    """Draws that the certificates and the ledger disagree on, and looks that were recorded twice."""
    votes, looks, total = {}, Counter[tuple[int, int]](), 0
    for line in (run / "ledger.jsonl").read_text().splitlines():
        record = json.loads(line)
        looks[record["image"], record["look"]] += 1
        votes[record["image"], record["look"] > 0] = sum(record["votes"].values())
    total = sum(columns(run)["draws"])
    return abs(sum(votes.values()) - total) + sum(count - 1 for count in looks.values())


if __name__ == "__main__":
    tyro.cli(Chaos).run()
