import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny


@dataclass(frozen=True)
class Place:
    """A folder with a model and a finished run of it."""

    folder: Path

    @property
    def model(self):
        return self.folder / "model"

    @property
    def run(self):
        return self.folder / "run"

    def certify(self, *words, out="new"):
        """The words of a small certification; later ones win."""
        return ["certify", self.model, "--workers", 0, "--images", "::60", "--n", 200, "-o", self.folder / out, *words]

    def reconfigure(self, change):
        """Have the run's `config.json` changed by a function of what it holds."""
        path = self.run / "config.json"
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Made once, to be copied."""
    place = Place(tmp_path_factory.mktemp("finished"))
    tiny.write_model(place.model)
    result = tiny.cli(*place.certify(out="run"))
    assert result.status == 0, result.err
    return place


@pytest.fixture
def place(finished, tmp_path):
    """A copy that a test may spoil."""
    return Place(Path(shutil.copytree(finished.folder, tmp_path / "place")))


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A function that puts a shell script of a name before all other programs, in place of SLURM's."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return put


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    """No program can be found."""
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
