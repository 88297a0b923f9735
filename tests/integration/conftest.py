import pytest
import ray
import tiny

from cluster.session import ray_session


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def words(model_folder):
    """The words of a certification whose image lines come over some seconds; `-o` and `--workers` are to be added."""
    return ["certify", model_folder, "--images", "::6", "--n", 2500, "--batch", 64]


@pytest.fixture(scope="session")
def undisturbed(words, tmp_path_factory):
    """That certification in this process, without Ray and without a fault."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    result = tiny.cli(*words, "-o", run, "--workers", 0)
    assert result.status == 0, result.err
    return run


@pytest.fixture(scope="session")
def local_ray():
    """One Ray for all tests: it takes seconds to start."""
    with ray_session(cpus=4):
        yield ray
