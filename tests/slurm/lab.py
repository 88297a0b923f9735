"""What the tests on a real SLURM share: jobs, waits that end, and disturbances."""

import getpass
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import tiny

from ebsc.training import Schedule

ROOT = Path(__file__).parents[2]
DEVCLUSTER = ROOT / "slurm" / "devcluster"

OWN = "EBSC_SLURM" not in os.environ
"""Whether this is somebody's own cluster, and not that of slurm/devcluster."""

SCRATCH = {} if OWN else {"TMPDIR": "/tmp/ray"}
"""The nodes of slurm/devcluster share /tmp, but for this folder; Ray needs one of each node's own."""

SMALL = ["--cluster", "slurm", "--time", 5, "--memory", 1.5]
"""A job that has room beside others."""

PATIENCE = 240.0
"""Seconds that anything may take: these machines are busy."""


def shell(*words: object, **environment: str) -> str:
    """What a command says; it must succeed, and soon."""
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=os.environ | environment)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def until(condition: Callable[[], object], what: str) -> None:
    tiny.until(condition, what, PATIENCE)


def submit(command: str, folder: Path, *words: object) -> str:
    """`ebsc train` or `ebsc certify` as a job; its number."""
    setup = ["--setup", *(f"export {name}={value}" for name, value in SCRATCH.items())]
    result = tiny.cli(command, *setup, "-o", folder, *SMALL, *words)
    assert result.status == 0, result.err
    return json.loads((folder / "job.json").read_text())["job"]


def submit_script(name: str, *words: object, nodes: int) -> str:
    """A script of slurm/ as it is; its number. It looks for the virtual environment where it was submitted."""
    if not Path(".venv").exists():
        Path(".venv").symlink_to(ROOT / ".venv")
    asked = ["--time=5", "--mem=1500M", "--cpus-per-task=1", f"--nodes={nodes}"]
    return shell("sbatch", "--parsable", *asked, ROOT / "slurm" / f"{name}.sbatch", *words, **SCRATCH)


def job(number: str) -> dict[str, str]:
    """What SLURM knows of a job: JobState, Restarts, NodeList, ..."""
    return dict(word.split("=", 1) for word in shell("scontrol", "show", "job", "-o", number).split() if "=" in word)


def await_end(number: str, state: str = "COMPLETED") -> dict[str, str]:
    """What SLURM knows of a job when it is over, whatever happens to it before."""
    ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    until(lambda: job(number)["JobState"] in ends, f"job {number} is over")
    found = job(number)
    assert found["JobState"] == state, found
    return found


def await_start(number: str) -> None:
    """Until a job has started Python, which does not listen to signals for some seconds."""
    step = f"{number}.0"
    until(lambda: shell("squeue", "--noheader", "--steps", step, "--format=%i") == step, f"step {step} runs")
    time.sleep(0.5)


def await_restart(number: str) -> str:
    """The nodes of a job when it has been queued again, and runs."""
    until(lambda: job(number)["Restarts"] != "0" and job(number)["JobState"] == "RUNNING", f"job {number} runs again")
    return job(number)["NodeList"]


def await_lines(path: Path, count: int) -> None:
    """Until a training has written so many lines of its metrics.jsonl, or a certification of its ledger.jsonl."""
    until(lambda: tiny.lines(path) >= count, f"{count} lines in {path}")


def steps_per_second(folder: Path) -> float:
    """How fast the energy was trained."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return max(line["images_per_second"] for line in lines if line["part"] == "energy") / Schedule().batch


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def log(folder: Path) -> str:
    """What the processes of a job said of faults, and of their progress."""
    return "".join(path.read_text() for path in sorted((folder / "logs").glob("*/*_log.err")))


def signal(name: str, number: str) -> None:
    """To the processes of a job, and not to its script."""
    shell("scancel", f"--signal={name}", f"{number}.0")


def preempt() -> None:
    """Take all nodes for a moment."""
    shell("sbatch", "--partition=high", "--nodes=3", "--exclusive", "--time=1", "--output=/dev/null", "--wrap=sleep 1")


def declare_dead(node: str) -> None:
    """Its jobs are lost at once. It answers, and would be back at once, too, if it were not also drained."""
    for state in ("drain", "down"):
        shell("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")


def kill(node: str) -> None:
    """As if the power were cut."""
    os.kill(int(Path(os.environ["EBSC_SLURM"], "run", f"{node}.pid").read_text()), 9)


def cancel(folder: Path) -> None:
    """End all jobs that were submitted from this folder."""

    def left() -> list[str]:
        queue = shell("squeue", "--noheader", "--user", getpass.getuser(), "--format=%A|%Z").splitlines()
        return sorted({number for number, where in (line.split("|") for line in queue) if Path(where) == folder})

    if left():
        shell("scancel", *left())
        until(lambda: not left(), f"the queue is empty of jobs from {folder}")
