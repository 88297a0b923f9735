"""Images per second of training, eager and compiled, float32 and bfloat16, side by side in one process.

Each row makes steps of :class:`ebsc.training.Trainer` on the data set. Repetitions go round robin and a ratio is the
median over rounds of the ratio within a round, because other work may come and go on the machine. The attack and the
loss of the learned EBSC go through grad phi: second derivatives of the energy.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import tyro
from tabulate import tabulate

from benchmarks.measuring import lenet, repeated, round_robin, save
from ebsc import data, training
from ebsc.data import Dataset
from ebsc.device import Device, pick
from ebsc.model import Ebsc
from ebsc.objectives import learned
from ebsc.training import Objective, Schedule, Trainer

MODES = tuple(product((False, True), ("float32", "bfloat16")))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure training.

    Attributes:
        data: data set.
        rounds: repetitions of every row.
        steps: steps of one repetition.
        batch: images of a step.
        threads: CPU threads.
        device: where to train.
        rows: which of the rows below.
        out: where the JSON goes.
    """

    data: str = "mnist"
    rounds: int = 7
    steps: int = 2
    batch: int = 64
    threads: int = 2
    device: Device = "auto"
    rows: tuple[str, ...] = ("energy", "lenet gaussian", "lenet smoothadv", "ebsc smoothadv", "ebsc smoothadv joint")
    out: Path = Path(__file__).parent / "results" / "training.json"

    def run(self) -> None:
        torch.set_num_threads(self.threads)
        train = data.load(self.data, "train")
        rows = [row for name in self.rows for row in self._row(name, train)]
        print(tabulate(rows, headers="keys", floatfmt=".3g", intfmt=","))
        save(self.out, training=rows)

    def _row(self, name: str, train: Dataset) -> list[dict]:
        tasks = {}
        for compiled, precision in MODES:
            net, _ = lenet(train, "none" if name.startswith("lenet") else "residual")
            schedule = Schedule(
                steps=10**6, batch=self.batch, precision=precision, compile=compiled, clip=1.0, learning_rate=1e-4
            )
            trainer = Trainer(
                net, train, objective(name, net, train.levels, compiled), schedule, device=pick(self.device)
            )
            tasks[f"{precision} {'compiled' if compiled else 'eager'}"] = repeated(trainer.advance, self.steps)
        seconds = round_robin(tasks, self.rounds)
        base = seconds["float32 eager"]
        return [
            {
                "training": name,
                "mode": mode,
                "images/s": round(float(np.median(self.steps * self.batch / took))),
                "times float32 eager": float(np.median(base / took)),
            }
            for mode, took in seconds.items()
        ]


def objective(name: str, net: Ebsc, levels: int, compiled: bool) -> Objective:
    """4 draws and 4 steps of the attack; only what a row names is trained."""
    if name == "energy":
        net.classifier.requires_grad_(False)
        return training.denoising(net, levels, compiled)
    joint = name.endswith("joint")
    net.denoiser.requires_grad_(joint)
    options = {"steps": 4} if "smoothadv" in name else {}
    return learned(net, name.split()[1], levels=levels, draws=4, denoising=float(joint), compiled=compiled, **options)


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
