"""What the tests of `cluster`, `jobs` and the whole share: a model that needs no training, and the command line."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import torch

from ebsc import data, model
from ebsc.model import Ebsc, ModelSpec
from ebsc.training import Step, Trainer
from jobs.cli import main

torch.set_num_threads(1)  # the networks are tiny, and the cores are shared: more threads would only wait for each other


def nearest_mean(sigma: float = 0.25) -> tuple[Ebsc, ModelSpec]:
    """Digits to the nearest class mean (an affine map), behind a small residual energy with random weights."""
    spec = ModelSpec(
        sigma=sigma,
        shape=(1, 8, 8),
        n_classes=10,
        levels=16,
        denoiser={"kind": "residual", "width": 8},
        training={"data": "digits"},
    )
    torch.manual_seed(0)
    net = model.build(spec)
    train = data.load("digits", "train")
    means = torch.stack([torch.from_numpy(train.images[train.labels == c]).float().mean(0) / 16 for c in range(10)])
    with torch.no_grad():
        net.classifier.map.weight.copy_(2 * means.flatten(1))
        net.classifier.map.bias.copy_(-means.flatten(1).square().sum(1))
        net.denoiser.energy.network.unfold.weight.normal_(std=0.2)
    return net.eval(), spec


def write_model(folder: Path) -> Path:
    model.save(folder, *nearest_mean())
    return folder


class Finished(NamedTuple):
    status: int
    out: str
    err: str


def cli(*words: object) -> Finished:
    """The `ebsc` command in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", ["ebsc", *map(str, words)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Finished(status, out.getvalue(), err.getvalue())


def refused(folder: Path, message: str, *words: object) -> None:
    """A command says in one line what is wrong, with status 2, and leaves a folder as it is."""
    before = files(folder)
    result = cli(*words)
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(f"ebsc: .*({message}).*\n", result.err), result.err
    assert files(folder) == before


class Stopped(BaseException):
    """As if the process had ended."""


def stop() -> None:
    raise Stopped


@contextmanager
def after(steps: int, act: Callable[[], None] = stop) -> Iterator[None]:
    """Whoever trains in this process makes that many steps; then something happens, once."""
    advance, made = Trainer.advance, 0

    def counting(trainer: Trainer) -> Step:
        nonlocal made
        if made == steps:
            act()
        made += 1
        return advance(trainer)

    with patch.object(Trainer, "advance", counting):
        yield


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a training, but for how fast it was."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def columns(run: Path) -> dict[str, list[Any]]:
    """What `certificates.parquet` says, but for the time that it took."""
    return pq.read_table(run / "certificates.parquet").drop_columns(["seconds"]).to_pydict()


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two structured arrays are the same, field by field."""
    return one.dtype == other.dtype and all((one[name] == other[name]).all() for name in one.dtype.names)


def lines(path: Path) -> int:
    """How many lines a record has by now."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def until(condition: Callable[[], object], what: str, seconds: float = 150.0) -> None:
    """Waits for something that other processes do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def start_and_kill(module: str, words: list, folder: Path, record: str, after: int, **environment: str) -> None:
    """Start a command as a process of its own and SIGKILL it when its record in `folder` has `after` lines."""
    command = [sys.executable, "-m", module, *map(str, words), "-o", str(folder)]
    errors = folder.with_name("stderr")
    with (
        errors.open("w") as stderr,
        subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=stderr) as process,
    ):
        deadline = time.monotonic() + 90
        while lines(folder / record) < after and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, errors.read_text()
