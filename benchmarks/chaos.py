"""Chaos: certifications on a real local Ray whose processes are killed at random; every table must be the same.

Each run is ``python -m jobs.certify`` in a process of its own. At random moments one of its workers, its raylet, its
GCS or the driver itself gets a SIGKILL. When the command ends without success it is started again, until the run is
complete. Then its certificates are compared, in all columns but time, with those of an undisturbed run without Ray.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import tyro

from benchmarks.measuring import machine

KINDS = {"worker": "ray::Worker", "raylet": "raylet/raylet", "gcs": "gcs_server", "driver": "jobs.certify"}


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """Run certifications and kill their processes.

    Attributes:
        model: model folder; a data set that needs no download, such as digits.
        runs: how many certifications.
        workers: Ray workers of each.
        kills: kills in each run, at most.
        every: seconds between kills, on average.
        images: images, as of `ebsc certify`.
        n: draws, at most.
        patience: seconds after which a start that has not ended is called hung.
        seed: of the kills.
        out: where the JSON goes.
    """

    model: Path
    runs: int = 50
    workers: int = 2
    kills: int = 5
    every: float = 5.0
    images: str = "::3"
    n: int = 10_000
    patience: float = 300.0
    seed: int = 0
    out: Path = Path(__file__).parent / "results" / "chaos.json"

    def run(self) -> None:
        rng, kills, rows = random.Random(self.seed), Counter[str](), []
        with tempfile.TemporaryDirectory() as folder:
            calm = Path(folder) / "calm"
            assert self._start(calm, workers=0).wait() == 0
            expected = columns(calm)
            for number in range(self.runs):
                run = Path(folder) / str(number)
                row = self._disturbed(run, rng, kills)
                same = columns(run) == expected
                rows.append(row | {"equal": same})
                print(f"run {number}: {row}, equal: {same}", flush=True)
        wrong = sum(not row["equal"] for row in rows)
        print(f"{self.runs} runs, kills {dict(kills)}, {wrong} tables differ")
        result = {"machine": machine(), "kills": kills, "runs": rows}
        self.out.write_text(json.dumps(result, indent=2) + "\n")
        sys.exit(wrong > 0)

    def _start(self, run: Path, workers: int) -> subprocess.Popen:
        words = ["-m", "jobs.certify", str(self.model), "-o", str(run), "--images", self.images, "--n", str(self.n)]
        environment = os.environ | {"EBSC_CHAOS": str(run), "OMP_NUM_THREADS": "1"}
        with (run.parent / f"{run.name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, *words, "--workers", str(workers)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _disturbed(self, run: Path, rng: random.Random, kills: Counter) -> dict:
        starts, done = 0, Counter[str]()
        while True:
            starts += 1
            process, begun = self._start(run, self.workers), time.monotonic()
            while process.poll() is None:
                due = time.monotonic() + rng.expovariate(1 / self.every)
                while process.poll() is None and time.monotonic() < due:
                    time.sleep(0.05)
                if time.monotonic() - begun > self.patience:
                    raise SystemExit(f"hung: {run}, see {run}.log")
                if process.poll() is None and sum(done.values()) < self.kills and (kind := kill(run, rng)):
                    done[kind] += 1
            sweep(run)
            if process.returncode == 0:
                kills.update(done)
                return {"starts": starts, "kills": dict(done)}


def processes(run: Path) -> dict[int, str]:
    """Processes that came from a run, with their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"EBSC_CHAOS={run}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has just ended
            continue
    return found


def kill(run: Path, rng: random.Random) -> str:
    """SIGKILL a process of a random kind; says of which, or nothing when there is none yet."""
    kind = rng.choice(list(KINDS))
    victims = [pid for pid, words in processes(run).items() if KINDS[kind] in words]
    if not victims:
        return ""
    try:
        os.kill(rng.choice(victims), signal.SIGKILL)
    except ProcessLookupError:
        return ""
    return kind


def sweep(run: Path) -> None:
    """End what a killed driver left behind."""
    for pid in processes(run):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def columns(run: Path) -> dict:
    return pq.read_table(run / "certificates.parquet").drop_columns(["seconds"]).to_pydict()


if __name__ == "__main__":
    tyro.cli(Chaos).run()
