import shutil
import sys
from contextlib import contextmanager

import lab
import pytest
import tiny

from jobs import states


@pytest.fixture(scope="session", autouse=True)
def slurm():
    """One thread a process: these machines are small, and with another number sums are rounded otherwise."""
    if not shutil.which("sbatch"):
        pytest.exit("there is no SLURM here: make test-slurm brings one up", returncode=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(states, "POLL", 0.5)
        yield


@contextmanager
def inside(folder):
    """Works in a folder; the jobs that were submitted there are gone in the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        try:
            yield folder
        finally:
            lab.cancel(folder)


@pytest.fixture(autouse=True)
def place(tmp_path):
    with inside(tmp_path):
        yield tmp_path


@pytest.fixture
def laboratory():
    """For tests that kill nodes or preempt; dead nodes are back in the end."""
    if lab.OWN:
        pytest.skip("kills a node, or needs a partition that preempts another: only on slurm/devcluster")
    yield
    lab.shell(lab.DEVCLUSTER / "up")


@pytest.fixture(scope="session")
def training():
    """The words of a training of some seconds."""
    return ["--width", 8, "--energy.steps", 400, "--head.steps", 50, "--watch.log", 10, "--watch.save", 1]


@pytest.fixture(scope="session")
def trained(training, tmp_path_factory):
    """That training as a process here, which nothing disturbs."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    lab.shell(sys.executable, "-m", "jobs.train", *training, "-o", folder)
    return folder


@pytest.fixture(scope="session")
def certification(tmp_path_factory):
    """The words of a certification that is long enough for a second worker to start beside the first."""
    model = tiny.write_model(tmp_path_factory.mktemp("certification") / "model")
    return [model, "--images", "::4", "--n", 10_000, "--radii", "0:1:0.25"]


@pytest.fixture(scope="session")
def certified(certification, tmp_path_factory):
    """That certification in this process, without SLURM and without Ray."""
    run = tmp_path_factory.mktemp("certified") / "run"
    result = tiny.cli("certify", *certification, "-o", run, "--workers", 0)
    assert result.status == 0, result.err
    return run
