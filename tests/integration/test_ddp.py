"""Two processes of torch.distributed train as one does, through second derivatives of the energy under attack.

This file is also the program of those processes: `python test_ddp.py RANK FOLDER`.
"""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from nets import float64, small

from ebsc import data, model, training
from ebsc.model import ModelSpec
from ebsc.objectives import learned
from ebsc.training import Schedule, Trainer

WORLD = 2
FORTY = data.load("digits", "train").take(np.arange(40))
SIX = Schedule(steps=6, batch=16, learning_rate=1e-2, warmup=2, clip=1.0, ema=0.9)  # two and a half epochs


network = partial(small, std=0.2)


def joint(schedule: Schedule) -> Trainer:
    """The energy and the classifier under attack."""
    net = network("residual")
    attack = learned(net, "smoothadv", levels=16, draws=3, ramp=2, denoising=0.1, steps=3)
    return Trainer(net, FORTY, attack, schedule)


def on_a_fixed_energy(schedule: Schedule) -> Trainer:
    net = network("residual")
    net.denoiser.requires_grad_(False)
    return Trainer(net, FORTY, learned(net, "catrs", levels=16, draws=2, steps=2), schedule)


def energy_alone(schedule: Schedule) -> Trainer:
    net = network("scalar")
    net.classifier.requires_grad_(False)
    return Trainer(net, FORTY, training.denoising(net, 16), schedule)


def train(make) -> dict:
    """Gradients of the first step, losses, and the state at the end; or why there is none."""
    try:
        first = make(replace(SIX, clip=1e9))
        first.advance()
        weights = first.module.named_parameters()
        gradients = {name: weight.grad.clone() for name, weight in weights if weight.grad is not None}
        trainer, losses = make(SIX), []
        while not trainer.done:
            losses.append(trainer.advance().loss)
            if trainer.step == 3:
                middle = {name: value.clone() for name, value in trainer.state().items()}
        resumed = make(SIX)
        resumed.restore(middle)
        while not resumed.done:
            resumed.advance()
    except RuntimeError as error:
        return {"error": str(error)}
    ends = {"state": trainer.state(), "resumed": resumed.state()}
    return {"error": "", "gradients": gradients, "losses": torch.tensor(losses), **ends}


def all_trainings() -> dict[str, dict]:
    with float64():
        found = {"joint, in float64": train(joint)}
    return found | {make.__name__: train(make) for make in (joint, on_a_fixed_energy, energy_alone)}


def start(rank: int, folder: Path) -> subprocess.Popen:
    command = [sys.executable, __file__, str(rank), str(folder)]
    root = Path(__file__).parents[2]
    beside = str(root / "tests" / "ebsc")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": beside}
    return subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What this process finds by itself, and what each of two processes does."""
    folder = tmp_path_factory.mktemp("ddp")
    processes = [start(rank, folder) for rank in range(WORLD)]
    try:
        alone = all_trainings()
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, errors
    return alone, [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Where a tensor is large, relative to its largest entry."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = max(1.0, float(value.abs().max()))
        assert float((found[name] - value).abs().max()) <= tolerance * size, name


# the tolerance of gradients, and of weights: Adam divides by gradients that may be nothing but rounding
CASES = [
    ("joint, in float64", 1e-12, 1e-9),
    ("joint", 1e-6, 1e-4),
    ("on_a_fixed_energy", 1e-6, 1e-4),
    ("energy_alone", 1e-6, 1e-4),
]


@pytest.mark.parametrize(("name", "of_gradients", "of_weights"), CASES)
def test_two_processes_find_what_one_does(found, name, of_gradients, of_weights):
    alone, shared = found
    expected = alone[name]
    assert len(expected["gradients"]) >= 2
    for here in (rank[name] for rank in shared):
        assert here["error"] == ""
        assert_close(here["gradients"], expected["gradients"], of_gradients)
        assert_close({"": here["losses"]}, {"": expected["losses"]}, of_weights)
        assert_close(here["state"], expected["state"], of_weights)
        assert_close(here["state"], shared[0][name]["state"], 0)
        assert_close(here["resumed"], here["state"], 0)


UNUSED = """
from torch import nn

class Unused(nn.Module):
    def __init__(self, shape, n_classes):
        super().__init__()
        self.head, self.spare = nn.Linear(64, n_classes), nn.Linear(64, n_classes)
    def forward(self, x):
        return self.head(x.flatten(1))
"""


@pytest.mark.timeout(120)
def test_several_processes_overwrite_a_model_together(tmp_path):
    """A network of one's own, with weights that no loss uses."""
    (tmp_path / "mynets.py").write_text(UNUSED)
    words = ["jobs.train", "--data", "digits", "--denoiser", "none", "--head.steps", "3", "--out", str(tmp_path)]
    words += ["--classifier", "mynets:Unused", "--allow", "mynets"]
    model.save(tmp_path, network("none"), ModelSpec(sigma=0.5, shape=(1, 8, 8), n_classes=10, levels=16))
    before = (tmp_path / "model.safetensors").read_bytes()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD), "-m"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path)])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([*launcher, *words, "--overwrite"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.safetensors").read_bytes() != before
    assert done.stdout.count("model written to") == 1


THREADS = """
import gc, os, torch
from torch.nn.parallel import DistributedDataParallel
from jobs.launch import processes

def gloo():
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    return sum("gloo" in name for name in names)

with processes(torch.device("cpu")):
    net = DistributedDataParallel(torch.nn.Linear(2, 2))
    net(torch.zeros(1, 2)).sum().backward()
    before = gloo()
    del net
    gc.collect()
print(before, gloo())
"""


def test_no_thread_of_the_group_outlives_it():
    """It would abort the process now and then, when that ends."""
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", THREADS], env=os.environ | place, capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    assert before > 0, done.stderr
    assert after == 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    torch.save(all_trainings(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
