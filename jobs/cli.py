"""The ``ebsc`` command. Every subcommand is a dataclass of options with one method, ``run``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import tyro

from ebsc.errors import EbscError, InputError

__all__ = ["main", "start"]


class Command(Protocol):
    """A dataclass of options that can be carried out."""

    def run(self) -> None: ...


@contextmanager
def guarded() -> Iterator[None]:
    """A user's mistake is one line on stderr and exit status 2; a run that had to stop is one line and 1."""
    try:
        yield
    except EbscError as error:
        print(f"ebsc: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print("ebsc: interrupted; start the same command again to go on", file=sys.stderr)
        sys.exit(130)


def start(command: Any) -> None:
    """Parse the command line into ``command``, or one of a dictionary of subcommands, and carry it out."""
    with guarded():
        options: Command
        if isinstance(command, dict):
            options = tyro.extras.subcommand_cli_from_dict(command, description="Empirical Bayes smoothed classifiers.")
        else:
            options = tyro.cli(command)
        options.run()


def main() -> None:
    """Entry point of ``ebsc``."""
    with guarded():  # the imports take seconds in which somebody may press Ctrl-C
        from jobs.attack import Attack
        from jobs.certify import Certify
        from jobs.demo import Demo
        from jobs.geometry import Geometry
        from jobs.merge import Merge
        from jobs.reproduce import Reproduce
        from jobs.sample import Sample
        from jobs.states import Jobs
        from jobs.status import ShowStatus
        from jobs.tables import Table
        from jobs.theory import Theory
        from jobs.train import Train
        from jobs.verify import Verify

        start(
            {
                "train": Train,
                "certify": Certify,
                "table": Table,
                "attack": Attack,
                "status": ShowStatus,
                "jobs": Jobs,
                "merge": Merge,
                "verify": Verify,
                "sample": Sample,
                "geometry": Geometry,
                "theory": Theory,
                "reproduce": Reproduce,
                "demo": Demo,
            }
        )
