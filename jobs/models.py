"""Models as commands take them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ebsc import model
from ebsc.model import Ebsc, ModelSpec

__all__ = ["load_model"]


def load_model(folder: Path, allow: Sequence[str]) -> tuple[Ebsc, ModelSpec]:
    """:func:`ebsc.model.load`, where allowed modules may lie in the working folder too, behind what is installed."""
    if allow and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return model.load(folder, allow)
