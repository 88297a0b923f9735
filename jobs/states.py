"""Where jobs and runs stand: from their folders, and from SLURM where it has them."""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from tabulate import tabulate

from cluster import certificates
from cluster.folder import alive, holder
from ebsc.errors import InputError, RunError, one_line
from ebsc.files import parse_json
from jobs.record import read_lines

__all__ = ["Jobs", "State", "ask", "states", "table", "wait"]

_ACTIVE = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "CONFIGURING", "SUSPENDED", "STAGE_OUT", "RESIZING")
"""States of SLURM that are not the end; any other than COMPLETED is a failure."""

_ENDS = ("model.json", "certificates.parquet", "certificates.tsv", "attack.md", "story.md")
"""What work of each kind leaves at its end; a kept run has no certificates.tsv, an imported log nothing else."""

POLL = 5.0
"""Seconds between questions to SLURM while waiting."""


@dataclass(frozen=True)
class State:
    """Where one piece of work stands.

    Attributes:
        folder: where it writes.
        state: SLURM's word for it, or RUNNING, COMPLETED, STOPPED.
        progress: how far, for people.
        figures: what it measured last.
        job: the job's id, empty when it has none.
        where: nodes, or why it waits.
        log: the file to look into.
    """

    folder: Path
    state: str
    progress: str
    figures: str
    job: str
    where: str
    log: str

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in _ACTIVE

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return not self.active and self.state != "UNKNOWN"


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """List trainings and certifications: state, progress, last figures, where the logs are.

    Example: ebsc jobs models runs
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("models"), Path("runs"))
    """Folders to look through."""

    def run(self) -> None:
        """Show the table."""
        found = sorted(
            {
                path.parent
                for folder in self.folders
                for name in ("job.json", "config.json")
                for path in folder.rglob(name)
                if path.parent.parent.name != "earlier"  # what a run was before it was extended
            }
        )
        if not found:
            raise InputError(f"no job or run below {', '.join(map(str, self.folders))}")
        print(table(states(found)))


def states(folders: Sequence[Path]) -> list[State]:
    """Where the work in each folder stands; one question to SLURM for all of them."""
    tickets = {folder: _ticket(folder) for folder in folders}
    known = _slurm([ticket["job"] for ticket in tickets.values() if ticket.get("cluster") == "slurm"])
    return [_state(folder, ticket, known) for folder, ticket in tickets.items()]


def table(found: Sequence[State]) -> str:
    """A table for people; below it, what failed jobs said last."""
    rows = [[s.folder, s.state.lower(), s.progress, s.figures, s.job, s.where, s.log] for s in found]
    text = tabulate(rows, ["run", "state", "done", "last figures", "job", "where", "log"], disable_numparse=True)
    for state in found:
        if state.over and state.state != "COMPLETED" and state.log and (said := _last_words(Path(state.log))):
            text += f"\n{state.folder}: {said}"
    return text


def wait(folders: Sequence[Path]) -> None:
    """Stay until all work is over; says what changes, shows the table at the end.

    Raises:
        RunError: some of it failed.
    """
    before: dict[Path, str] = {}
    over = 0
    while over < 2:  # a job on its way back to the queue looks failed for a moment
        # SLURM may not answer; and without accounts, it forgets a job some minutes after its end
        found = [
            replace(state, state=before.get(state.folder, state.state)) if state.state == "UNKNOWN" else state
            for state in states(folders)
        ]
        for state in found:
            if before.get(state.folder) != state.state:
                before[state.folder] = state.state
                print(f"{time.strftime('%H:%M:%S')} {state.folder}: {state.state.lower()} {state.where}", flush=True)
        completed = all(state.state == "COMPLETED" for state in found)
        over = 2 if completed else over + 1 if all(state.over for state in found) else 0
        if over < 2:
            time.sleep(POLL)
    print(table(found))
    failed = [state for state in found if state.state != "COMPLETED"]
    if failed:
        names = ", ".join(f"{state.folder} ({state.state.lower()})" for state in failed)
        raise RunError(f"{len(failed)} of {len(found)} did not complete: {names}")


def _state(folder: Path, ticket: dict, known: dict[str, tuple[str, str]]) -> State:
    here = str(holder(folder).get("host", ""))
    on_slurm = ticket.get("cluster") == "slurm"
    state, where = known.get(ticket["job"], ("", "")) if on_slurm else ("", "")
    if state not in _ACTIVE and _done(folder, ticket):
        state = "COMPLETED"
    if not state:
        where = here
        if here or (ticket.get("cluster") == "local" and ticket["job"].isdecimal() and alive(int(ticket["job"]))):
            state = "RUNNING"
        else:
            state = _result(ticket) or ("UNKNOWN" if on_slurm else "STOPPED")
    try:
        progress, figures = _progress(folder)
    except OSError as error:  # of somebody else
        progress, figures = one_line(error), ""
    return State(folder, state, progress, figures, ticket.get("job", ""), where, ticket.get("log", ""))


def _done(folder: Path, ticket: dict) -> bool:
    """Whether the work is done: by the job of the ticket, or since; what lay there before may be of something else."""
    ends = [path.stat().st_mtime for name in _ENDS if (path := folder / name).exists()]
    return bool(ends) and (max(ends) >= _time(ticket) or _result(ticket) == "COMPLETED")


def _time(ticket: dict) -> float:
    """When the job was submitted; 0 where the ticket does not say it."""
    time = ticket.get("time")
    return time if isinstance(time, int | float) else 0.0


def _result(ticket: dict) -> str:
    """How the job of a ticket ended, as submitit recorded it: its pickle is looked at, not loaded. Empty: not known."""
    log = Path(ticket.get("log") or "unknown")
    try:
        begin = log.with_name(log.name.replace("_log.err", "_result.pkl")).read_bytes()[:32]
    except OSError:
        return ""
    return "COMPLETED" if b"success" in begin else "FAILED"


def _progress(folder: Path) -> tuple[str, str]:
    """How far a training is by its last line, a certification by its status, or by its end."""
    lines = read_lines(folder / "metrics.jsonl")
    if lines:
        last = lines[-1]
        seen = {name: line[name] for line in lines for name in ("acr", "accuracy", "loss") if name in line}
        figures = ", ".join(f"{name} {value:.4g}" for name, value in seen.items())
        return f"{last['part']} {last['step']}/{last['steps']}", figures
    with suppress(OSError, ValueError, KeyError, TypeError):
        status = parse_json((folder / "status.json").read_bytes())
        return f"{status['settled']:,}/{status['images']:,} images", ""
    with suppress(InputError):  # of a run that was merged, kept or released
        return f"{len(certificates.read(folder)):,} images", ""
    return "", ""


def _ticket(folder: Path) -> dict:
    """What was written when the work was submitted; empty when it was not."""
    try:
        found = parse_json((folder / "job.json").read_bytes())
        return found if isinstance(found, dict) and isinstance(found["job"], str) else {}
    except (OSError, ValueError, KeyError):
        return {}


def _last_words(log: Path) -> str:
    """The last line of a job's log that is not from a wrapper around our process: an error, if any process had one."""
    said = []
    for path in sorted(log.parent.glob(log.name.replace("_0_log.err", "_*_log.err"))):
        lines: list[str] = []
        with suppress(OSError):
            lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
        said += [line for line in lines if line and not line.startswith(("srun:", "slurmstepd:"))][-1:]
    return next((line for line in said if "Error" in line), said[0] if said else "")


def _slurm(jobs: Sequence[str]) -> dict[str, tuple[str, str]]:
    """State and nodes (or reason) of each job: from the queue where it still is, else from the accounts."""
    if not jobs:
        return {}
    found: dict[str, tuple[str, str]] = {}
    ids = ",".join(sorted({job.split("_")[0] for job in jobs}))
    for line in ask("sacct", "-X", "-n", "-P", "-o", "JobID,State,NodeList", "-j", ids):
        job, state, nodes = line.split("|")
        found[job] = (state.split()[0], nodes)
    for line in ask("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%N|%r", "-j", ids):
        job, state, nodes, reason = line.split("|")
        found[job] = (state, nodes or f"({reason})")
    return found


def ask(*words: str) -> list[str]:
    """The lines that a command of SLURM answers; none when it does not know the job, or does not answer."""
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    except subprocess.CalledProcessError:  # none of the jobs is known there any more
        return []
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"ebsc: {words[0]} does not answer: {error}", file=sys.stderr)
        return []
    return answer.stdout.split("\n")[:-1]
