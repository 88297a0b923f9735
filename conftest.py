"""README.md and docs/*.md are tested as they stand: their Python runs, their `ebsc` command lines parse.

Each page runs in an empty folder of its own that holds a model, `runs/demo/model`, in place of what `ebsc demo` trains.
A block that needs what is not at hand is preceded by `<!--- skip: next -->`, and the page says so.
"""

import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

collect_ignore = ["docs/conf.py"]


LOG = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t7\t7\t0.5\t1\t0:00:01\n"


def parse(example: Example) -> None:
    """Give every `ebsc` command of a shell block to the parser of the program."""
    from jobs import cli

    text = example.parsed.replace("\\\n", " ")
    for name, value in re.findall(r'^(\w+)="(.*)"$', text, re.MULTILINE):
        text = text.replace(f"${name}", value)
    for line in re.split(r"\n|&&", text):
        words = [word for word in shlex.split(line, comments=True) if word != "..."]
        for log in (word for word in words if word.endswith(".tsv")):
            Path(log).parent.mkdir(parents=True, exist_ok=True)
            Path(log).write_text(LOG)  # some commands look at the logs of others at once
        if words[:1] == ["ebsc"] and len(words) > 1:
            said = io.StringIO()
            try:
                with redirect_stderr(said):
                    cli.parse(cli.load(words[1]), words[2:])
            except SystemExit:
                raise AssertionError(f"{line.strip()}\n{said.getvalue()}") from None


class Python(PythonCodeBlockParser):
    """Runs Python; a block whose first line is `# NAME.py` is kept as that file instead, for later ones to import."""

    def __call__(self, document: Document) -> Iterable[Region]:
        for region in super().__call__(document):
            if re.match(r"# \w+\.py\n", str(region.parsed)):
                region.evaluator = keep
            yield region


def keep(example: Example) -> None:
    Path(example.parsed.split()[1]).write_text(example.parsed)


def enter(namespace: dict[str, Any]) -> None:
    import tiny

    namespace["_folder"], namespace["_before"] = tempfile.TemporaryDirectory(), os.getcwd()
    os.chdir(namespace["_folder"].name)
    sys.path.insert(0, os.getcwd())
    tiny.write_model(Path("runs/demo/model"))


def leave(namespace: dict[str, Any]) -> None:
    sys.path.remove(os.getcwd())
    for path in Path.cwd().glob("*.py"):
        sys.modules.pop(path.stem, None)
    os.chdir(namespace["_before"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[Python(), CodeBlockParser("sh", parse), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    setup=enter,
    teardown=leave,
).pytest()
