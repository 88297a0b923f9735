"""The scripts of slurm/: plain, valid, and every option in them exists."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tyro

from jobs import launch
from jobs.certify import Certify
from jobs.train import Train

FOLDER = Path(launch.__file__).parents[1] / "slurm"
COMMANDS = {"train": Train, "certify": Certify}
SBATCH = set(
    """job-name nodes ntasks-per-node cpus-per-task time signal requeue open-mode output gpus-per-node partition account
    mem constraint gres qos""".split()  # noqa: SIM905
)
"""Options of sbatch, as its manual page has them."""


def test_there_is_one_for_each_command_that_a_cluster_runs():
    assert sorted(path.stem for path in FOLDER.glob("*.sbatch")) == sorted(COMMANDS)


@pytest.fixture(params=COMMANDS)
def script(request):
    return FOLDER / f"{request.param}.sbatch"


def test_it_is_valid_and_holds_no_logic(script):
    subprocess.run(["bash", "-n", script], check=True)
    head, *lines = script.read_text().splitlines()
    assert head == "#!/bin/bash"
    activate, step = (line for line in lines if not line.startswith("#"))
    assert activate == "source .venv/bin/activate"
    assert step.startswith("srun --kill-on-bad-exit=1 ")
    assert step.endswith(' "$@"')


def test_its_parameters_of_sbatch_exist(script):
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=\S+)?$", script.read_text(), re.MULTILINE)
    assert len(found) == script.read_text().count("#SBATCH")
    assert set(found) <= SBATCH
    assert {"requeue", "signal", "open-mode"} <= set(found)  # it goes on in the same log


def test_it_starts_the_command_with_options_that_it_has(script):
    words = shlex.split(script.read_text().splitlines()[-1])
    module = words.index("python")
    assert words[module : module + 3] == ["python", "-m", f"jobs.{script.stem}"]
    given = [*words[module + 3 : -1], *["model"] * (script.stem == "certify")]
    command = tyro.cli(COMMANDS[script.stem], args=given, console_outputs=False)
    assert command.cluster == ("here" if script.stem == "train" else "allocation")


def test_its_example_can_be_given(script):
    (example,) = re.findall(r"^#     (sbatch .*)$", script.read_text(), re.MULTILINE)
    before, after = example.split(f"slurm/{script.name}")
    assert set(re.findall(r"--([a-z-]+)", before)) <= SBATCH
    tyro.cli(COMMANDS[script.stem], args=shlex.split(after), console_outputs=False)
