"""Progress on a terminal: what is said there is shown as it is."""

import io

from rich.console import Console

from jobs import progress
from jobs.progress import Reporter


def test_brackets_are_no_markup(monkeypatch):
    seen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=seen, force_terminal=True, width=120))
    with Reporter("certifying [red]x") as reporter:
        reporter.say("unit 3 failed (ValueError: bad shape [/dev/x], [batch, 10])")
        reporter.show(1, 2, "half [bold]done")
    for text in ("certifying [red]x", "bad shape [/dev/x], [batch, 10]", "half [bold]done"):
        assert text in seen.getvalue()
