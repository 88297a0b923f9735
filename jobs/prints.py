"""Numbers, tables and figures in print: what is said of an accuracy or a radius is never better than the truth."""

import csv
import io
import json
import shlex
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Literal

from tabulate import tabulate

from ebsc.errors import InputError
from ebsc.files import refused, write_whole

__all__ = [
    "Format",
    "all_but",
    "ceil_percent",
    "check_figure",
    "check_rho",
    "floor_percent",
    "put",
    "show_with",
    "spelled",
    "typeset",
    "write_output",
]

Format = Literal["text", "markdown", "latex", "csv", "json"]
_TABULATE = {"text": "simple", "markdown": "github", "latex": "latex_booktabs"}


def spelled(radius: float) -> str:
    """A radius as it was asked for: all of its digits, as one that is rounded up would be another question.

    >>> spelled(0.99609375), spelled(0.5), spelled(0.0)
    ('0.99609375', '0.5', '0')
    """
    return f"{radius:.9f}".rstrip("0").rstrip(".")


def show_with(run: Path) -> str:
    """How to show a run, to be pasted into a shell.

    >>> show_with(Path("runs/my model"))
    "show it with: ebsc table 'runs/my model'"
    """
    name = f"./{run}" if str(run).startswith("-") else str(run)
    return f"show it with: ebsc table {shlex.quote(name)}"


def floor_percent(share: float, images: int) -> str:
    """A share of images in per cent, rounded down to a tenth: a printed accuracy is never above the true one."""
    return f"{round(share * images) * 1000 // images / 10:.1f}"


def ceil_percent(share: float, images: int) -> str:
    """A share of images in per cent, rounded up to a tenth: for what is said to be no more than that."""
    return f"{-(-1000 * round(share * images) // images) / 10:.1f}"


def check_rho(rho: float) -> None:
    """Raise :class:`InputError` unless rho is the error probability of a bound."""
    if not 0 < rho < 1:
        raise InputError(f"rho must lie in (0, 1), not {rho}")


def all_but(rho: float) -> str:
    """1 - rho, and 0 where rho, a sum of probabilities, is above 1; no bound of statistics holds with probability 1.

    >>> all_but(0.001), all_but(1e-9), all_but(1e-30), all_but(1.5)
    ('0.999', '0.999999999', '1 - 1e-30', '0')
    """
    rho = min(rho, 1.0)
    text = f"{1 - rho:.12g}"
    return text if text != "1" else f"1 - {rho:g}"


def typeset(
    head: list[str], body: list[list[str]], notes: list[str], form: Format, best: Sequence[Set[int]] = ()
) -> str:
    """Any table as text, with notes below it where the form has room for them (``csv`` has none).

    ``best``: for each row, the columns whose cells are marked: bold, or with a star in text; not in csv and JSON.
    """
    if form == "csv":
        sink = io.StringIO()
        csv.writer(sink, lineterminator="\n").writerows([head, *body])
        return sink.getvalue()
    if form == "json":
        rows = [dict(zip(head, row, strict=True)) for row in body]
        return json.dumps({"rows": rows, "notes": notes}, indent=2) + "\n"
    if any(best):
        body = [_marked(row, marked, set().union(*best), form) for row, marked in zip(body, best, strict=True)]
        notes = [*notes, f"Best of each column: {'bold' if form != 'text' else 'marked *'}."]
    head, *body = ([_on_one_line(cell, form) for cell in row] for row in (head, *body))
    notes = [_on_one_line(note, "text") for note in notes]
    aligned = ("left", *["right"] * (len(head) - 1))
    table = tabulate(body, head, tablefmt=_TABULATE[form], disable_numparse=True, colalign=aligned)
    for sign, text in _SIGNS.items():
        table = table.replace(sign, text)
    comment = "% " if form == "latex" else ""
    return "\n".join([table, "", *(comment + note for note in notes)]) + "\n"


def _on_one_line(cell: str, form: Format) -> str:
    text = str(cell).replace("\n", " ")
    return text.replace("|", "\\|") if form == "markdown" else text


_SIGNS = {"\x01": r"\textbf{", "\x02": "}", "\x03": " "}  # put in last: tabulate escapes commands and strips blanks
_MARKS = {"text": ("", "*"), "markdown": ("**", "**"), "latex": ("\x01", "\x02")}


def _marked(row: list[str], marked: Set[int], columns: Set[int], form: Format) -> list[str]:
    """Cells of one row; in text those beside a marked one get a blank, so that digits stay below digits."""
    before, after = _MARKS[form]
    blank = "\x03" if form == "text" else ""
    return [
        before + cell + after if column in marked else cell + blank * (column in columns)
        for column, cell in enumerate(row)
    ]


def put(text: str, out: Path | None) -> None:
    """Print a table, or write it to a file.

    Raises:
        InputError: the file cannot be written.
    """
    if out is None:
        print(text, end="")
        return
    write_output(out, text.encode())


def write_output(path: Path, data: bytes, what: str = "") -> None:
    """Write a file that was asked for; ``what`` it is stands in the error.

    Raises:
        InputError: it cannot be written.
        OSError: the disk is full.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise refused(error, f"cannot write {what}{path}") from error


def check_figure(path: Path) -> None:
    """Raise :class:`InputError` where no figure can be written to, before there is one."""
    from matplotlib.backend_bases import FigureCanvasBase  # not at every start

    known = sorted({*FigureCanvasBase.get_supported_filetypes()} - {"pgf"})  # which runs LaTeX
    if path.suffix and path.suffix[1:].lower() not in known:
        raise InputError(f"cannot write the figure {path}: its name must end in one of .{', .'.join(known)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise InputError(f"cannot write the figure {path}: {why}")
