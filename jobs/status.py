"""``ebsc status``: where one certification stands, while it runs and afterwards."""

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cluster.driver import Status
from cluster.folder import holder, read_config
from ebsc.errors import InputError
from ebsc.files import parse_json
from jobs.prints import show_with
from jobs.progress import duration

__all__ = ["ShowStatus", "describe"]


def describe(status: Status) -> str:
    """One line for people."""
    return (
        f"{status.settled:,}/{status.images:,} images settled, {status.draws:,} draws, {status.rate:,.0f} draws/s"
        f" on {status.workers} workers, {duration(status.seconds_left)} left"
    )


@dataclass(frozen=True, kw_only=True)
class ShowStatus:
    """Say where a certification stands: share done, rate, time left, workers, last fault.

    Works on a run that goes on, on this host or another, on one that was stopped, and on a finished one.

    Example: ebsc status runs/mnist-residual-linear-0.5-mnist-sequential-n100000
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder of `ebsc certify`."""

    def run(self) -> None:
        """Print it."""
        folder = self.run_folder
        question = read_config(folder)["question"]
        if "log" in question:
            raise InputError(f"{folder} is an imported log: nothing was counted for it")
        if not isinstance(question.get("budget"), dict):
            raise InputError(f"{folder} is no certification: ebsc jobs says where it stands")
        finished = (folder / "certificates.parquet").exists()
        print(f"{folder}: {_state(folder, finished)}")
        try:
            found = parse_json((folder / "status.json").read_bytes())
            seen = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.pop("time")))
            status = Status(**found)
            share = f"{100 * status.settled // status.images}%: {describe(status)}"
        except FileNotFoundError:
            if not finished:
                print("nothing counted yet")
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
            raise InputError(f"{folder / 'status.json'} cannot be read: {error!r}") from error
        print(share)
        print(f"{status.resent} units sent again; last fault: {status.note or 'none'}; as of {seen}")


def _state(folder: Path, finished: bool) -> str:
    if finished:
        return f"finished; {show_with(folder)}"
    who = holder(folder)
    if not who:
        return "stopped; the command that started it goes on from its ledger"
    there = "" if who["host"] == platform.node() else f" on {who['host']}, as far as this host can see"
    return f"running, process {who['pid']} since {who['since']}{there}"


if __name__ == "__main__":
    from jobs.cli import start

    start(ShowStatus)
