"""The ``ebsc`` command. Every subcommand is a dataclass of options with one method, ``run``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import tyro

from ebsc.errors import EbscError, InputError

__all__ = ["main", "parse", "start"]


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
        parse(command, sys.argv[1:]).run()


def parse(command: Any, words: list[str]) -> Command:
    """The command that these words are. A recipe among them is where its options start from.

    Raises:
        InputError: unknown recipe, or an option that is not allowed.
    """
    several = isinstance(command, dict)
    kind, given = (command.get(words[0]), words[1:]) if several and words else (command, words)
    if recipe := _recipe(kind, given):
        program = f"ebsc {words[0]}" if several else None
        # hyperparameters that stand in a default would become options of their own
        default = replace(recipe, hyper={})
        return tyro.cli(type(recipe), prog=program, args=given, default=default).with_hyper(recipe)
    if several:
        description = "Empirical Bayes smoothed classifiers."
        return tyro.extras.subcommand_cli_from_dict(command, description=description, args=words)
    return tyro.cli(command, args=words)


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    recipe: str | None = None
    sigma: float = 0.5


def _recipe(kind: Any, words: list[str]) -> Any:
    """The options of the recipe that the words name, for a command that has recipes; None if there is none."""
    if not hasattr(kind, "by") or not any(word.startswith("--recipe") for word in words):
        return None
    try:
        chosen, _ = tyro.cli(_Recipe, args=words, return_unknown_args=True, add_help=False, console_outputs=False)
    except SystemExit:  # to be explained by the parser of the whole command
        return None
    return kind.by(chosen.recipe, chosen.sigma) if chosen.recipe else None


def main() -> None:
    """Entry point of ``ebsc``."""
    with guarded():  # the imports take seconds in which somebody may press Ctrl-C
        from jobs.attack import Attack
        from jobs.certify import Certify
        from jobs.demo import Demo
        from jobs.exchange import Export, Import
        from jobs.geometry import Geometry
        from jobs.merge import Merge
        from jobs.plot import Plot
        from jobs.release import Models, Release
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
                "plot": Plot,
                "attack": Attack,
                "status": ShowStatus,
                "jobs": Jobs,
                "merge": Merge,
                "verify": Verify,
                "release": Release,
                "models": Models,
                "sample": Sample,
                "geometry": Geometry,
                "theory": Theory,
                "import": Import,
                "export": Export,
                "reproduce": Reproduce,
                "demo": Demo,
            }
        )
