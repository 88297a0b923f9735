"""The ``ebsc`` command. Every subcommand is a dataclass of options with one method, ``run``."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import tyro

from ebsc.errors import EbscError, InputError

__all__ = ["COMMANDS", "load", "main", "start"]


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


COMMANDS = {
    "train": "jobs.train:Train",
    "certify": "jobs.certify:Certify",
    "table": "jobs.tables:Table",
    "plot": "jobs.plot:Plot",
    "attack": "jobs.attack:Attack",
    "status": "jobs.status:ShowStatus",
    "jobs": "jobs.states:Jobs",
    "merge": "jobs.merge:Merge",
    "import": "jobs.exchange:Import",
    "export": "jobs.exchange:Export",
    "sample": "jobs.sample:Sample",
    "geometry": "jobs.geometry:Geometry",
    "theory": "jobs.theory:Theory",
    "reproduce": "jobs.reproduce:Reproduce",
    "demo": "jobs.demo:Demo",
}
"""Subcommands and where they are; only the one that is asked for is imported, as imports take seconds."""


def load(name: str) -> Any:
    """The dataclass of a subcommand."""
    module, _, command = COMMANDS[name].partition(":")
    return getattr(importlib.import_module(module), command)


def main() -> None:
    """Entry point of ``ebsc``."""
    with guarded():  # the imports take seconds in which somebody may press Ctrl-C
        name, *words = sys.argv[1:] or [""]
        if name in COMMANDS:
            tyro.cli(load(name), prog=f"ebsc {name}", args=words).run()
        else:
            start({name: load(name) for name in COMMANDS})


if __name__ == "__main__":
    main()
