"""How Sphinx builds these pages: ``make docs``. Nothing is fetched."""

import importlib.metadata
import io
from contextlib import redirect_stdout, suppress
from typing import Any

import tyro
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from jobs.cli import COMMANDS, load

project = "ebsc"
version = release = importlib.metadata.version("ebsc")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path, exclude_patterns = ["templates"], ["templates"]
html_theme = "furo"
html_title = "ebsc"
html_static_path, html_css_files = ["static"], ["help.css"]
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
autodoc_inherit_docstrings = False
napoleon_use_rtype = False
napoleon_use_ivar = True


class Commands(SphinxDirective):
    """A section for each subcommand: what its ``--help`` says, from the parser that says it."""

    def run(self) -> list[nodes.Node]:
        sections = []
        for name in COMMANDS:
            text = io.StringIO()
            with redirect_stdout(text), suppress(SystemExit):
                tyro.cli(load(name), prog=f"ebsc {name}", args=["--help"])
            section = nodes.section(ids=[f"ebsc-{name}"], names=[f"ebsc {name}"])
            section += [
                nodes.title(text=f"ebsc {name}"),
                nodes.literal_block(text=text.getvalue(), language="text", classes=["help"]),
            ]
            sections.append(section)
        return sections


def plain_bars(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """In docstrings |x| is a norm, not reStructuredText's substitution."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = line.split("``")
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            lines[number] = "``".join(parts)


def plain_defaults(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> Any:
    """A default that a dataclass makes anew each time is none that Sphinx can read."""
    return (signature or "").replace("<factory>", "...") or None, returns


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.add_directive("commands", Commands)
    app.connect("autodoc-process-docstring", plain_bars)
    app.connect("autodoc-process-signature", plain_defaults)
