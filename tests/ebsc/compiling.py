"""Tests that compile do so in a process of their own: the checks of shapes do not go together with it."""

import subprocess
import sys
from pathlib import Path


def check(script: str) -> None:
    """Run a script that compares, and says that all was equal."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr
