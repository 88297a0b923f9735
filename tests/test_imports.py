"""Imports run one way: ebsc <- cluster <- jobs; and only the package that needs a library knows of it."""

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "ebsc": {"ray", "submitit", "tyro", "rich", "pyarrow", "cluster", "jobs"},
    "cluster": {"jobs", "submitit"},
    "jobs": set(),
}


def imported(path: Path) -> Iterator[str]:
    """Packages that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {(str(path.relative_to(ROOT)), name) for path in files for name in imported(path)}
    assert {pair for pair in found if pair[1] in FORBIDDEN[package]} == set()


def test_only_one_file_knows_of_submitit():
    users = [path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py") if "submitit" in imported(path)]
    assert {path.relative_to(ROOT).as_posix() for path in users} <= {"jobs/launch.py"}


def test_ebsc_works_where_the_others_are_not_installed():
    modules = [module.name for module in pkgutil.iter_modules([ROOT / "ebsc"], "ebsc.")]
    assert "ebsc.campaign" in modules
    program = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({sorted(FORBIDDEN["ebsc"])}))  # None: importing it raises ImportError
for name in {modules}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_process_needs_neither_ray_nor_submitit(tmp_path):
    """A GPU machine on its own: train, certify and verify there."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys(["ray", "submitit"]))  # None: importing it raises ImportError
sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]}
import tiny
out = {str(tmp_path)!r}
short = ["--energy.steps", 2, "--head.steps", 2, "--head.batch", 8, "--width", 4, "--held-out", 20]
ebsc = ["--objective", "smoothadv", "--joint", "--draws", 1, "--hyper", "steps", 1]
for words in (
    ["train", *ebsc, *short, "-o", out + "/model"],
    ["certify", out + "/model", "--workers", 0, "--images", "::90", "--n", 200, "-o", out + "/run"],
    ["verify", out + "/run"],
    ["table", out + "/run"],
    ["reproduce", "mnist", "--story", "results", "--budget", "full", "--workers", 0, "--commands"],
):
    done = tiny.cli(*words)
    assert done.status == 0, (words, done)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
