"""What holds for every test (shapes and dtypes in the signatures of ebsc are enforced), and what is there for any."""

import sys
import urllib.error
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# pytest puts tests/ on the path, where the folders tests/ebsc and tests/cluster would pass for packages of these names
sys.path.insert(0, str(Path(__file__).parents[1]))
# before anything imports ebsc: pytest loads this file before it collects tests or the doctests of the package
install_import_hook("ebsc", "beartype.beartype")


def _beside(name: str) -> Path:
    """Data that lie beside the checkout, in development and in CI."""
    path = Path(__file__).parents[2] / "shared" / name
    if not path.exists():
        pytest.skip(f"{path} is not there: real data are not committed, and lie beside the checkout in CI only")
    return path


@pytest.fixture
def mnist() -> Path:
    """The data root of the real MNIST."""
    return _beside("data")


@pytest.fixture
def peers() -> Path:
    """The published logs."""
    return _beside("peers/mnist")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
