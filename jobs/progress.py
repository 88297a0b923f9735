"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

__all__ = ["Reporter", "duration"]

PLAIN_EVERY = 10.0
"""Seconds between lines when the output is no terminal."""


def duration(seconds: float) -> str:
    """Time left, readable.

    >>> duration(75), duration(3 * 3600 + 61), duration(float("inf"))
    ('1:15', '3:01:01', '?')
    """
    if seconds == float("inf"):
        return "?"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Reporter:
    """Shows how far a piece of work is, on stderr.

    Args:
        title: what is being done.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._last = 0.0
        console = Console(stderr=True)
        self._live: Progress | None = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=console,
            )
            self._task = self._live.add_task(title, text="")

    def __enter__(self) -> "Reporter":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, done: int, total: int, text: str) -> None:
        """State progress: ``done`` of ``total``, and anything else that is worth a word."""
        if self._live:
            self._live.update(self._task, completed=done, total=total, text=text)
        elif done == total or time.monotonic() - self._last >= PLAIN_EVERY:
            self._last = time.monotonic()
            print(f"{self._title}: {100 * done // total:3}% {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays, for example of a fault that was survived."""
        if self._live:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
