"""The pages say what the program says, list what there is, and build without a warning."""

import errno
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import tiny
import torch

from cluster.ledger import Ledger
from ebsc import model
from ebsc.bounds import floor_radius
from jobs.cli import COMMANDS
from jobs.entries import read_entry
from jobs.prints import floor_percent

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"

CERTIFY = ["certify", "models/mine", "--workers", 0, "--images", "::60", "--n", 200, "-o", "runs/mine"]


def certify(*words):
    return [*CERTIFY, *words]


def finished():
    assert tiny.cli(*CERTIFY).status == 0


def spoil(name, change):
    path = Path("models/mine") / name
    path.write_bytes(change(path.read_bytes()))


def described(**changes):
    head = json.loads(Path("models/mine/model.json").read_text())
    Path("models/mine/model.json").write_text(json.dumps(head | changes))


def npz(images):
    labels = np.arange(len(images)) % 10
    np.savez("mine.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)


CASES = {}


def case(make):
    CASES[make.__name__] = make
    return make


@case
def no_model():
    return ["certify", "models/other"]


@case
def weights_not_whole():
    spoil("model.safetensors", lambda weights: weights[:-100])
    return CERTIFY


@case
def weights_that_are_nan():
    net, spec = tiny.nearest_mean()
    net.classifier.map.bias.data[3] = float("nan")
    model.save("models/mine", net, spec)
    return CERTIFY


@case
def nothing_to_download_with():
    return certify("--data", "mnist", "--data-root", "empty")


@case
def a_name_misspelt():
    return certify("--data", "minst")


@case
def no_data_set():
    described(training={})
    return CERTIFY


@case
def images_of_another_shape():
    npz(np.zeros((60, 9, 9), np.uint8))
    return certify("--data", "mine.npz")


@case
def off_the_lattice():
    npz(np.random.default_rng(0).random((60, 8, 8)))
    return certify("--data", "mine.npz")


@case
def another_configuration():
    finished()
    return certify("--alpha", 0.01, "--n", 400)


@case
def another_device():
    finished()
    config = json.loads(Path("runs/mine/config.json").read_text())
    Path("runs/mine/config.json").write_text(json.dumps(config | {"device": "cuda"}))
    return certify("--extend", "n=400")


@case
def a_second_driver():
    finished()
    with Ledger(Path("runs/mine"), json.loads(Path("runs/mine/config.json").read_text())):
        return tiny.cli(*CERTIFY)


@case
def not_finished():
    finished()
    Path("runs/mine/certificates.parquet").unlink()
    return ["table", "runs/mine"]


@case
def a_foreign_ledger():
    finished()
    ledger = Path("runs/mine/ledger.jsonl")
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text(lines[0].replace('"image": ', '"image": 9') + "".join(lines[1:]))
    Path("runs/mine/certificates.parquet").unlink()
    return CERTIFY


@case
def no_gpu():
    with patch("platform.node", return_value="node7"):
        return tiny.cli(*certify("--device", "cuda"))


@case
def no_cluster():
    return ["certify", "models/mine", "--address", "127.0.0.1:1", "-o", "runs/mine"]


@case
def no_room():
    return ["certify", "models/mine", "--workers", 1, "--gpus-per-worker", 1, "-o", "runs/mine"]


@case
def no_slurm():
    return ["certify", "models/mine", "--cluster", "slurm", "-o", "runs/mine"]


@case
def a_training_that_diverges():
    return ["train", "--denoiser", "none", "--head.learning-rate", 3e37, "--head.steps", 9, "-o", "models/new"]


@case
def outputs_that_are_not_finite():
    net, spec = tiny.nearest_mean()
    net.classifier.map.weight.data.fill_(3e38)
    model.save("models/mine", net, spec)
    return CERTIFY


@case
def code_not_allowed():
    described(classifier={"kind": "my_networks:resnet18"})
    return CERTIFY


@case
def code_not_found():
    described(classifier={"kind": "my_networks:resnet18"})
    return certify("--allow", "my_networks")


@case
def another_objective():
    return ["train", "--objective", "smoothadv", "--hyper", "stepps", 8, "-o", "models/new"]


@case
def a_tolerance_on_a_fixed_budget():
    return certify("--budget", "fixed", "--tolerance", 0.01)


@case
def another_model():
    finished()
    net, spec = model.load("models/mine")
    torch.nn.init.normal_(net.classifier.map.bias, generator=torch.Generator().manual_seed(0))
    model.save("models/other", net, spec)
    return ["attack", "runs/mine", "--model", "models/other"]


@case
def a_model_that_was_moved():
    finished()
    Path("models/mine").rename("models/elsewhere")
    return ["attack", "runs/mine"]


@case
def a_full_disk():
    with patch.object(Ledger, "append", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
        return tiny.cli(*CERTIFY)


def general(text):
    """What differs from machine to machine left out."""
    text = re.sub(r"downloaded \(.*\): put", "downloaded (REASON): put", text)
    text = re.sub(r"process \d+ on \S+ since [\d-]+ [\d:]+", "PROCESS", text)
    return re.sub(r"has [\d.]+ CPU", "has N CPU", text)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", CASES)
def test_troubleshooting_quotes_what_the_program_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    tiny.write_model(Path("models/mine"))
    made = CASES[name]()
    result = tiny.cli(*made) if isinstance(made, list) else made
    assert result.status
    assert general(result.err.strip().splitlines()[-1]) in general(PAGE.read_text()).splitlines()


def test_every_quoted_line_is_tested():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("ebsc: ")]
    assert len(lines) == len(CASES)


def test_the_reference_lists_every_module_of_the_method_and_of_the_cluster():
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    modules = {
        f"{package}.{path.stem}"
        for package in ("ebsc", "cluster")
        for path in (ROOT / package).glob("*.py")
        if path.stem != "__init__"
    }
    assert set(re.findall(r"^   ((?:ebsc|cluster)\.\w+)$", page, re.MULTILINE)) == modules


def test_the_pages_build_without_a_warning(tmp_path):
    words = ["-W", "--keep-going", "-q", "-d", tmp_path / "doctrees", ROOT / "docs", tmp_path / "site"]
    done = subprocess.run([sys.executable, "-m", "sphinx", *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    energy, commands = (
        html.unescape(re.sub("<[^>]+>", "", (tmp_path / "site" / "reference" / page).read_text()))
        for page in ("generated/ebsc.energy.html", "commands.html")
    )
    assert "forward(" in energy
    assert "y: Float[Tensor, 'batch channel height width']" in energy
    assert all(f"usage: ebsc {name} " in commands for name in COMMANDS)


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/rows.md"])
def test_accuracies_of_released_models_in_a_page_are_those_of_their_runs(page):
    released = {run.name: read_entry(run) for run in model.RELEASED.glob("*/runs/*")}
    kept = (ROOT / "benchmarks" / "results" / "mnist").glob("smoothadv-cnn-*")
    alone = [entry for entry in map(read_entry, kept) if len(entry.index) == 500]
    ten_digits = [entry for name, entry in released.items() if "-few-" not in name]
    rows = {f"**{name}**": [entry] for name, entry in released.items()} | {
        "our EBSC, one-sided: as the logs count": [entry for entry in ten_digits if not entry.two_sided],
        "our EBSC, with p_B": ten_digits,
        "our EBSC, with p_B or some digits alone": list(released.values()),
        "the CNN alone, one-sided: as the logs count": [entry for entry in alone if not entry.two_sided],
    }
    head, found = [], 0
    for line in (ROOT / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not head or not cells:
            head = cells
        elif (name := re.match(r"\*\*.+?\*\*|.*", cells[0])[0]) in rows:
            entries = rows[name]
            for column, cell in zip(head, cells, strict=True):
                if column == "ACR":
                    assert cell == floor_radius(max(entry.acr for entry in entries)), (name, column)
                elif re.fullmatch(r"(r=)?[\d.]+", column) and cell != "-":
                    radius = float(column.removeprefix("r="))
                    best = max(entries, key=lambda entry: entry.accuracy(radius))
                    assert cell == floor_percent(best.accuracy(radius), len(best.index)), (name, column)
                    found += 1
    assert found >= 9
