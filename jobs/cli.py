"""The ``ebsc`` command. Every subcommand is a dataclass of options with one method, ``run``."""

import errno
import importlib
import io
import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from docstring_parser import DocstringStyle

from ebsc.errors import EbscError, InputError, one_line
from ebsc.files import FULL

__all__ = ["COMMANDS", "load", "main", "parse", "start"]


_REFUSED = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR)
"""Errors of a name that was given: no such file can be read or written."""


@contextmanager
def guarded() -> Iterator[None]:
    """A user's mistake is one line on stderr and exit status 2; a run that had to stop, or a full disk, is one and 1.

    Nothing is said when nobody reads any more, as after ``| head``; the status is then that of SIGPIPE.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except EbscError as error:
        print(f"ebsc: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print(f"ebsc: interrupted; {_again()} to go on", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        from ebsc.device import cannot_compile, out_of_memory  # here, as torch takes seconds

        if cannot_compile(error):
            print(f"ebsc: cannot compile the network here: {one_line(error)}; switch compile off", file=sys.stderr)
            sys.exit(2)
        if not out_of_memory(error):
            raise
        print(f"ebsc: out of memory: {one_line(error)}; a smaller batch may help", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno in _REFUSED:
            print(f"ebsc: {one_line(error)}", file=sys.stderr)
            sys.exit(2)
        unread = isinstance(error, BrokenPipeError) and _unread()
        if not unread and error.errno not in FULL:
            raise
        with suppress(io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        if unread:
            sys.exit(128 + signal.SIGPIPE)
        print(f"ebsc: {error}; {_again()} when there is room", file=sys.stderr)
        sys.exit(1)


def _again() -> str:
    """What to do after an interruption: a training that overwrites would begin once more."""
    training = sys.argv[1:2] == ["train"] or os.path.basename(sys.argv[0]) == "train.py"
    return "start the same command again" + ", without --overwrite," * (training and "--overwrite" in sys.argv)


def _unread() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return bool(poll.poll(0))


def start(command: Any) -> None:
    """Parse the command line into ``command``, or one of a dictionary of subcommands, and carry it out."""
    with guarded():
        if isinstance(command, dict):
            description = "Empirical Bayes smoothed classifiers. ebsc COMMAND --help explains one; ebsc --version."
            tyro.extras.subcommand_cli_from_dict(command, description=description).run()
        else:
            parse(command, sys.argv[1:]).run()


def parse(kind: Any, words: list[str], program: str | None = None) -> Any:
    """The command of this kind that these words are. A recipe among them is where its options start from.

    Raises:
        InputError: unknown recipe, an option that is not allowed or that is another command's, or one that takes a list
            given twice.
    """
    words = _model_first(kind, words)
    for word in words:
        if said := getattr(kind, "elsewhere", {}).get(word.partition("=")[0]):
            raise InputError(f"{word.partition('=')[0]}: {said}")
    for flag in _lists(kind):
        if sum(word.partition("=")[0].replace("_", "-") == flag for word in words) > 1:
            raise InputError(f"{flag} is given twice: give all its values after one")
    if recipe := _recipe(kind, words):
        default = replace(recipe, hyper={})  # hyperparameters in a default would become options of their own
        command = tyro.cli(kind, prog=program, args=words, default=default)
        command = replace(command, hyper=recipe.hyper | command.hyper)
    else:
        command = tyro.cli(kind, prog=program, args=words)
    return replace(command, given=tuple(_given(words))) if getattr(command, "sweep", ()) else command


def _model_first(kind: Any, words: list[str]) -> list[str]:
    """The same words, with a model that is named by --model, where it is no option, in its place."""
    hint = get_type_hints(kind, include_extras=True).get("model")
    if tyro.conf.Positional in get_args(hint):
        for place, word in enumerate(words):
            if word.startswith("--model="):
                return [word.removeprefix("--model="), *words[:place], *words[place + 1 :]]
            if word == "--model" and place + 1 < len(words):
                return [words[place + 1], *words[:place], *words[place + 2 :]]
    return words


def _lists(kind: Any) -> Iterator[str]:
    """The options of a command that take a list, of which a second one would replace the first."""
    hints = get_type_hints(kind, include_extras=True)
    for item in fields(kind):
        hint, *notes = get_args(hints[item.name]) if get_origin(hints[item.name]) is Annotated else (hints[item.name],)
        if is_dataclass(hint):
            yield from _lists(hint)
        elif get_origin(hint) in (tuple, dict):
            name = next((note.name for note in notes if getattr(note, "name", None)), item.name)
            yield "--" + name.replace("_", "-")


def _given(words: Sequence[str]) -> Iterator[str]:
    """The options that words set, of a map also ``map.NAME``."""
    option = ""
    for word in words:
        if word.startswith("--"):
            option = word.removeprefix("--").partition("=")[0].replace("-", "_")
            option = option.removeprefix("no_").replace(".no_", ".")
            yield from () if option == "hyper" else (option,)
        elif option == "hyper":
            yield f"hyper.{word}"


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    recipe: str | None = None
    sigma: float = 0.5
    objective: str | None = None


def _recipe(kind: Any, words: list[str]) -> Any:
    """The options of the recipe that the words name, for a command that has recipes; None if there is none."""
    if not hasattr(kind, "by") or not any(word.startswith("--recipe") for word in words):
        return None
    try:
        chosen, _ = tyro.cli(_Recipe, args=words, return_unknown_args=True, add_help=False, console_outputs=False)
    except SystemExit:  # to be explained by the parser of the whole command
        return None
    if not chosen.recipe:
        return None
    recipe = kind.by(chosen.recipe, chosen.sigma)
    return recipe if chosen.objective in (None, recipe.objective) else recipe.apart


COMMANDS = {
    "train": "jobs.train:Train",
    "certify": "jobs.certify:Certify",
    "table": "jobs.tables:Table",
    "plot": "jobs.plot:Plot",
    "report": "jobs.report:Report",
    "attack": "jobs.attack:Attack",
    "status": "jobs.status:ShowStatus",
    "jobs": "jobs.states:Jobs",
    "merge": "jobs.merge:Merge",
    "verify": "jobs.verify:Verify",
    "release": "jobs.release:Release",
    "models": "jobs.release:Models",
    "import": "jobs.exchange:Import",
    "export": "jobs.exchange:Export",
    "sample": "jobs.sample:Sample",
    "geometry": "jobs.geometry:Geometry",
    "theory": "jobs.theory:Theory",
    "reproduce": "jobs.reproduce:Reproduce",
    "demo": "jobs.demo:Demo",
}
"""Subcommands and where they are; only the one that is asked for is imported, as imports take seconds."""


_parsed = docstring_parser.parse_from_object


def _joined(obj: Any, style: DocstringStyle = DocstringStyle.AUTO) -> docstring_parser.Docstring:
    """What is said of each option as one paragraph: tyro would begin a new one at every line that is indented."""
    found = _parsed(obj, style)
    for option in found.params:
        option.description = " ".join((option.description or "").replace("``", "`").split()) or None
    return found


docstring_parser.parse_from_object = _joined  # tyro's only way to an option's text


def _version() -> str:
    try:
        return version("ebsc")
    except PackageNotFoundError:
        return "from a checkout, not installed"


def load(name: str) -> Any:
    """The dataclass of a subcommand."""
    module, _, command = COMMANDS[name].partition(":")
    return getattr(importlib.import_module(module), command)


def main() -> None:
    """Entry point of ``ebsc``."""
    with guarded():  # the imports take seconds in which somebody may press Ctrl-C
        name, *words = sys.argv[1:] or [""]
        if name in COMMANDS:
            parse(load(name), words, f"ebsc {name}").run()
        elif name == "--version":
            print(f"ebsc {_version()}")
        elif name and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, 1)
            meant = f"; perhaps {near[0]}" if near else ""
            raise InputError(f"there is no command {name!r}{meant}; ebsc --help lists them")
        else:
            start({name: load(name) for name in COMMANDS})


if __name__ == "__main__":
    main()
