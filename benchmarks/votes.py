"""Draws per second of the vote loop, beside the field's own loop, on one machine in one process.

The field's loop is that of Cohen et al. 2019 (arXiv 1902.02918): repeat the image 1000 times, add ``torch.randn_like``
times sigma, forward in float32, argmax, move to the CPU, count. Ours is :meth:`ebsc.votes.Voter.count` on units of a
campaign, addressed noise on the lattice included. Both vote over the same weights. Repetitions go round robin and a
speed-up is the median over rounds of the ratio within a round, because other work may come and go on the machine.

The second table is about the networks alone: the share of the speed of one large convolution (same dtype, eager) that
they reach on a fixed micro-batch.
"""

import multiprocessing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.measuring import Task, count_flops, repeated, round_robin, save
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign, Unit
from ebsc.device import as_graph
from ebsc.model import Ebsc, ModelSpec, build
from ebsc.votes import Precision, Voter

SHAPE, N_CLASSES, LEVELS, SIGMA = (1, 28, 28), 10, 255, 0.5
DENOISERS = {"lenet": "none", "residual + lenet": "residual", "scalar + lenet": "scalar"}
MODES: tuple[tuple[Precision, bool], ...] = tuple(product(("float32", "bfloat16"), (False, True)))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure the vote loop.

    Attributes:
        rounds: repetitions of every row.
        threads: CPU threads of this process.
        batch: micro-batch of the vote loop.
        models: rows to measure: lenet, "residual + lenet", "scalar + lenet".
        networks: measure the networks alone too.
        processes: instead of the tables, compare one process of two threads with two processes of one.
        out: where the JSON goes; the mode's name is added for the comparison of processes.
    """

    rounds: int = 15
    threads: int = 2
    batch: int = 256
    models: tuple[str, ...] = tuple(DENOISERS)
    networks: bool = True
    processes: bool = False
    out: Path = Path(__file__).parent / "results" / "votes.json"

    def run(self) -> None:
        torch.set_num_threads(self.threads)
        if self.processes:
            tables = {"processes": compare_processes(self.rounds, self.batch)}
        else:
            tables = {"votes": [row for name in self.models for row in votes(name, self.rounds, self.batch)]}
            if self.networks:
                tables["networks"] = networks(self.rounds, self.batch)
        for name, rows in tables.items():
            print(f"\n{name}\n" + tabulate(rows, headers="keys", floatfmt=".3g", intfmt=","))
        out = self.out.with_stem(f"{self.out.stem}-processes") if self.processes else self.out
        save(out, **tables)


# -- the two loops --


def field_loop(model: nn.Module, image: Tensor, draws: int) -> np.ndarray:
    """Counts of votes as the field's code takes them (its count is a Python loop; here NumPy's)."""
    counts = np.zeros(N_CLASSES, dtype=int)
    with torch.no_grad():
        for start in range(0, draws, 1000):
            batch = image.repeat((min(1000, draws - start), 1, 1, 1))
            noise = torch.randn_like(batch) * SIGMA
            predictions = model(batch + noise).argmax(1)
            counts += np.bincount(predictions.cpu().numpy(), minlength=N_CLASSES)
    return counts


def make_model(name: str) -> Ebsc:
    """Untrained: speed does not depend on what a network has learned."""
    torch.manual_seed(0)
    parts = {"denoiser": {"kind": DENOISERS[name]}, "classifier": {"kind": "lenet"}}
    return build(ModelSpec(sigma=SIGMA, shape=SHAPE, n_classes=N_CLASSES, levels=LEVELS, **parts)).eval()


def make_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, LEVELS + 1, (count, *SHAPE), dtype=np.uint8)


def make_unit(draws: int, images: int = 8) -> Unit:
    """A unit of estimation draws, as a campaign plans them after the draws that select."""
    campaign = Campaign(np.zeros(images, dtype=np.int64), N_CLASSES, SIGMA, budget=Fixed(n=100_000))
    for unit in campaign.next_units(128):
        votes = np.zeros((len(unit.spans), N_CLASSES), dtype=np.int64)
        votes[:, 0] = unit.spans["stop"] - unit.spans["start"]
        campaign.merge(unit, votes)
    return campaign.next_units(draws, limit=1)[0]


def make_voter(name: str, precision: Precision, compiled: bool, batch: int) -> Voter:
    voter = Voter(
        make_model(name),
        make_images(8),
        levels=LEVELS,
        n_classes=N_CLASSES,
        precision=precision,
        batch=batch,
        compiled=compiled,
    )
    voter.count(make_unit(2 * batch))
    return voter


# -- tables --


def votes(name: str, rounds: int, batch: int) -> list[dict[str, Any]]:
    """Draws per second of the field's loop and of ours, one row a mode."""
    draws = 8_000 if name == "lenet" else 2_000
    unit, model, image = make_unit(draws), make_model(name), torch.from_numpy(make_images(1)[0]) / LEVELS
    tasks: dict[str, Task] = {"field's loop, float32": lambda: field_loop(model, image, unit.draws)}
    for precision, compiled in MODES:
        voter = make_voter(name, precision, compiled, batch)
        tasks[f"{precision} {'compiled' if compiled else 'eager'}"] = lambda voter=voter: voter.count(unit)
    seconds = round_robin(tasks, rounds)
    field = seconds["field's loop, float32"]
    return [
        {
            "model": name,
            "loop": loop,
            "draws/s": round(float(np.median(unit.draws / took))),
            "times field": float(np.median(field / took)),
        }
        for loop, took in seconds.items()
    ]


def networks(rounds: int, batch: int) -> list[dict[str, Any]]:
    """GFLOP/s of a network on a micro-batch, and its share of what one large convolution reaches."""
    rows = []
    for precision, compiled in MODES:
        dtype = getattr(torch, precision)
        modules = {name: make_model(name) for name in DENOISERS}
        parts = {"lenet": modules["lenet"].classifier}
        parts |= {f"xhat of {name.split()[0]}": modules[name].denoiser for name in list(DENOISERS)[1:]}
        conv = nn.Conv2d(256, 256, 3, padding=1).requires_grad_(False).to(dtype, memory_format=torch.channels_last)
        wide = torch.randn(8, 256, 32, 32).to(dtype, memory_format=torch.channels_last)
        y = torch.randn(batch, *SHAPE).to(dtype)
        tasks: dict[str, Task] = {"one large convolution": lambda conv=conv, wide=wide: conv(wide)}
        flops = {"one large convolution": count_flops(conv, wide)}
        with torch.no_grad():
            for name, part in parts.items():
                module = part.requires_grad_(False).to(dtype, memory_format=torch.channels_last)
                flops[name] = count_flops(module, y)
                step = as_graph(module, compiled)
                tasks[name] = lambda step=step, y=y: step(y)
            seconds = round_robin({name: repeated(task, 10) for name, task in tasks.items()}, rounds)
        speed = {name: 10 * flops[name] / took / 1e9 for name, took in seconds.items()}
        rows += [
            {
                "network": name,
                "mode": f"{precision} {'compiled' if compiled else 'eager'}",
                "MFLOP/image": flops[name] / (8 if name == "one large convolution" else batch) / 1e6,
                "GFLOP/s": float(np.median(reached)),
                "share": float(np.median(reached / speed["one large convolution"])),
            }
            for name, reached in speed.items()
        ]
    return rows


def compare_processes(rounds: int, batch: int) -> list[dict[str, Any]]:
    """One process of two threads against two processes of one thread, counting as many draws together."""
    rows = []
    for precision, compiled in MODES:
        one = Crew(1, 2, precision, compiled, batch)
        two = Crew(2, 1, precision, compiled, batch)
        seconds = round_robin(
            {"one": lambda one=one: one.count(8_192), "two": lambda two=two: two.count(8_192)}, rounds
        )
        one.leave(), two.leave()
        rows.append(
            {
                "model": "lenet",
                "mode": f"{precision} {'compiled' if compiled else 'eager'}",
                "1 process x 2 threads, draws/s": round(float(np.median(8_192 / seconds["one"]))),
                "2 processes x 1 thread, draws/s": round(float(np.median(8_192 / seconds["two"]))),
                "ratio": float(np.median(seconds["one"] / seconds["two"])),
            }
        )
    return rows


class Crew:
    """Processes that count at the same time."""

    def __init__(self, processes: int, threads: int, *mode: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for _ in range(processes):
            mine, theirs = context.Pipe()
            context.Process(target=work, args=(theirs, threads, *mode), daemon=True).start()
            self.pipes.append(mine)
            mine.recv()

    def count(self, draws: int) -> None:
        for pipe in self.pipes:
            pipe.send(draws // len(self.pipes))
        for pipe in self.pipes:
            pipe.recv()

    def leave(self) -> None:
        for pipe in self.pipes:
            pipe.send(0)


def work(pipe: Any, threads: int, precision: Precision, compiled: bool, batch: int) -> None:
    torch.set_num_threads(threads)
    voter = make_voter("lenet", precision, compiled, batch)
    pipe.send("ready")
    while draws := pipe.recv():
        voter.count(make_unit(draws))
        pipe.send("done")


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
