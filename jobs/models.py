"""Models as commands take them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ebsc import model
from ebsc.model import Ebsc, ModelSpec

__all__ = ["load_model", "look_here"]


def look_here(allow: Sequence[str]) -> None:
    """Let allowed modules lie in the working folder too, behind what is installed."""
    if allow and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def load_model(folder: Path, allow: Sequence[str]) -> tuple[Ebsc, ModelSpec]:
    """:func:`ebsc.model.load`, with modules of the working folder."""
    look_here(allow)
    return model.load(folder, allow)
