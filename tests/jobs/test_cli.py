import dataclasses
import errno
import os
import re
import runpy
import subprocess
import sys
import typing
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pytest
import tiny
import tyro

from jobs import cli
from jobs.certify import Certify
from jobs.tables import Table
from jobs.train import Train

FULL = "ebsc: [Errno 28] No space left on device; start the same command again when there is room\n"
COMMANDS = {name: cli.load(name) for name in cli.COMMANDS}


def fields(command, prefix=""):
    """Names of all options of a dataclass, nested ones with a dot; not those that have none."""
    for field in dataclasses.fields(command):
        if {tyro.conf.Positional, tyro.conf.Suppress} & set(getattr(field.type, "__metadata__", ())):
            continue
        if typing.get_origin(field.type) is Annotated and dataclasses.is_dataclass(field.type.__origin__):
            yield from fields(field.type.__origin__)  # its names stand without a prefix
        elif dataclasses.is_dataclass(field.type):
            yield from fields(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}".replace("_", "-")


def entries(text):
    """Option -> its explanation, from a help text."""
    blocks = re.split(r"\n[\s│]+(?=--?[a-z])", text)[1:]
    return {name: block for block in blocks for name in re.findall(r"--[a-z][a-z0-9.-]*", block)}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    result = tiny.cli(name, "--help")
    assert (result.status, result.err) == (0, "")
    explained = entries(result.out)
    for field in set(fields(COMMANDS[name])):
        names = {"run-folder": "run"} | ({"runs": "run"} if name == "release" else {})
        option = "--" + names.get(field, field)
        words = explained[option].split("(default")[0]
        assert re.search(r"[a-z]{2,}.*\.\s", words, re.DOTALL), words
    if "positional arguments" in result.out:
        assert re.search(r"(PATH|RUN|\{[a-z,]+\}).*[a-z]{3,}.*\.", result.out.split("positional arguments")[1])


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_said_of_an_option_is_one_paragraph(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")
    columns, rows = tyro._fmtlib.cols, tyro._fmtlib.rows

    def in_one_column(*parts):
        """Boxes below each other, however long the help is; an option and its text, which have widths, as before."""
        return (columns if any(isinstance(part, tuple) for part in parts) else rows)(*parts)

    monkeypatch.setattr(tyro._fmtlib, "cols", in_one_column)
    for option, block in entries(tiny.cli(name, "--help").out).items():
        indented = [line for line in block.splitlines()[1:] if re.match(r"[\s│]{10,}\w", line)]
        assert len(indented) <= 1, option


@pytest.mark.parametrize("words", [["--model", "m"], ["--model=m"]])
def test_a_model_may_be_named_by_an_option_too(words):
    expected = cli.parse(Certify, ["m", "--extend", "n=200", "--n", "100"])
    assert cli.parse(Certify, ["--extend", "n=200", *words, "--n", "100"]) == expected
    assert cli.parse(COMMANDS["attack"], ["run", *words]).model == Path("m")  # there it is one


def test_it_says_its_version():
    assert tiny.cli("--version") == (0, f"ebsc {version('ebsc')}\n", "")


def test_the_command_lists_its_subcommands(monkeypatch):
    result = tiny.cli("--help")
    assert result.status == 0
    assert all(name in result.out for name in COMMANDS)


@pytest.mark.parametrize(
    ("module", "first"),
    [
        ("jobs.train", "Train an"),
        ("jobs.certify", "Certify a"),
        ("jobs.tables", "Put runs"),
        ("jobs.attack", "Attack the"),
        ("jobs.sample", "Sample from"),
        ("jobs.demo", "Train an"),
    ],
)
def test_every_command_is_a_module_too(module, first, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    assert end.value.code == 0
    assert first in capsys.readouterr().out


def test_an_interrupt_is_one_line(monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    for command in (Table, Train):
        monkeypatch.setattr(command, "run", interrupt)
    result = tiny.cli("table", "x")
    assert result.status == 130
    assert result.err == "ebsc: interrupted; start the same command again to go on\n"
    result = tiny.cli("train", "--overwrite")  # which would remove what is to be gone on from
    assert result.err == "ebsc: interrupted; start the same command again, without --overwrite, to go on\n"


def test_a_run_that_had_to_stop_is_one_line_and_status_1(place, monkeypatch):
    def fail(self, unit):
        raise ArithmeticError("first line\nsecond line")

    monkeypatch.setattr("cluster.worker.Worker.count", fail)
    result = tiny.cli(*place.certify())
    assert result.status == 1
    assert result.err.splitlines()[-1].startswith("ebsc: unit 0 (images 0 to 300) failed 3 times: ArithmeticError")
    assert "second line" in result.err.splitlines()[-1]
    monkeypatch.undo()
    assert tiny.cli(*place.certify()).status == 0  # the same command goes on
    assert tiny.columns(place.folder / "new") == tiny.columns(place.run)


@pytest.mark.parametrize("words", ["models", "--help"])
@pytest.mark.parametrize(("into", "status", "said"), [("| :", 141, ""), ("> /dev/full", 1, FULL)])
def test_when_nobody_takes_the_output_there_is_no_traceback(words, into, status, said):
    command = f'"$0" -m jobs.cli {words} {into}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command, sys.executable], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_status_1_and_the_run_goes_on(place, monkeypatch, number):
    with monkeypatch.context() as patch:

        def fail(self, records, seconds):
            raise OSError(number, os.strerror(number))

        patch.setattr("cluster.ledger.Ledger.append", fail)
        result = tiny.cli(*place.certify())
    assert result.status == 1
    assert result.err.splitlines()[-1].startswith(f"ebsc: [Errno {number}] {os.strerror(number)}; start the same")
    assert tiny.cli(*place.certify()).status == 0
    assert tiny.columns(place.folder / "new") == tiny.columns(place.run)


def test_a_pipe_to_something_else_that_breaks_is_not_passed_over(place, monkeypatch):
    def fail(self, records, seconds):
        raise BrokenPipeError(errno.EPIPE, "worker")

    monkeypatch.setattr("cluster.ledger.Ledger.append", fail)
    with (place.folder / "out").open("w") as out, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        with pytest.raises(BrokenPipeError), cli.guarded():
            cli.parse(cli.load("certify"), [str(word) for word in place.certify()[1:]]).run()
