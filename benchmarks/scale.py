"""The driver at scale, on simulated workers: how much of the workers' time is used, and what the driver itself costs.

The real driver, campaign and ledger run on a pool whose workers exist only in time: a unit takes its draws divided by
its worker's speed. The driver's own work is measured on this machine and added to the simulated clock, so that a driver
that cannot keep up leaves its workers idle here as it would there. Workers differ in speed, straggle, and die; a dead
one is replaced after a while. Votes are binomial at fixed probabilities.

Last comes a paper model of ImageNet: operations of one draw are counted in the networks; what a GPU sustains of them
and what a budget saves are assumptions, stated in the table.
"""

import heapq
import resource
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchvision
import tyro
from scipy.special import ndtr
from tabulate import tabulate

from benchmarks.measuring import count_flops, save
from cluster.driver import Driver
from cluster.ledger import Ledger
from cluster.pool import Load, Reply
from cluster.worker import Tally
from ebsc import energy
from ebsc.budgets import Budget, Fixed, Sequential
from ebsc.campaign import Campaign, Unit
from ebsc.estimator import EmpiricalBayes


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Simulate certifications with more and more workers.

    Attributes:
        workers: numbers of workers to simulate.
        images: images to certify, but at most 200 for each worker.
        n: draws that estimate, at most.
        budget: fixed or sequential, over radii 0, 0.25, ..., 4 at sigma 1.
        speed: draws per second of a worker.
        spread: standard deviation of the log of the workers' speeds.
        straggling: share of units that take ten times as long.
        mean_life: seconds between deaths of one worker, on average; 0 for never.
        rebirth: seconds until a dead worker is replaced.
        latency: seconds from the end of a unit to the driver.
        tflops: TFLOP/s that a GPU sustains in bfloat16, for the paper model: 40% of an A100's and of an H100's peak.
        savings: how many times fewer draws than a fixed budget, for the paper model; see benchmarks/draws.py.
        out: where the JSON goes.
    """

    workers: tuple[int, ...] = (1, 8, 64, 512, 1024, 4096)
    images: int = 10_000
    n: int = 100_000
    budget: Literal["fixed", "sequential"] = "sequential"
    speed: float = 1_000.0
    spread: float = 0.1
    straggling: float = 0.001
    mean_life: float = 36_000.0
    rebirth: float = 20.0
    latency: float = 0.002
    tflops: dict[str, float] = field(default_factory=lambda: {"A100": 125.0, "H100": 400.0})
    savings: dict[str, float] = field(default_factory=lambda: {"fixed": 1.0, "curve": 2.0, "one radius": 50.0})
    out: Path = Path(__file__).parent / "results" / "scale.json"

    def run(self) -> None:
        rows = []
        for workers in self.workers:
            rows.append(self._simulate(workers))
            print(rows[-1], flush=True)
        print(tabulate(rows, headers="keys", floatfmt=".4g", intfmt=","))
        paper = self._imagenet(min(row["efficiency, %"] for row in rows) / 100)
        print(tabulate(paper, headers="keys", floatfmt=",.4g", intfmt=","))
        save(self.out, options=asdict(self), scale=rows, imagenet=paper)

    def _imagenet(self, efficiency: float) -> list[dict]:
        """50,000 images of 3 x 224 x 224, n = 100,000: ResNet-50 behind the xhat of a residual energy."""
        x = torch.zeros(1, 3, 224, 224)
        denoiser = EmpiricalBayes(energy.build("residual", (3, 224, 224), 0.5, width=64, depth=2), 0.5)
        flops = count_flops(denoiser, x) + count_flops(torchvision.models.resnet50(), x)
        draws = 50_000 * 100_100
        return [
            {
                "budget": budget,
                "GPU": gpu,
                "GFLOP a draw": flops / 1e9,
                "sustained TFLOP/s": tflops,
                "draws/s": tflops * 1e12 / flops,
                "GPU hours": (hours := draws / saved * flops / (tflops * 1e12) / 3600),
                **{f"hours on {gpus:,} GPUs": hours / gpus / efficiency for gpus in (8, 64, 1024)},
            }
            for gpu, tflops in self.tflops.items()
            for budget, saved in self.savings.items()
        ]

    def _simulate(self, workers: int) -> dict:
        rng = np.random.default_rng(0)
        budget: Budget = Fixed(n=self.n)
        if self.budget == "sequential":
            budget = Sequential(n=self.n, radii=tuple(np.arange(0, 4.01, 0.25)))
        before = peak_memory()
        images = min(self.images, 200 * workers)
        campaign = Campaign(np.zeros(images, dtype=np.int64), 10, 1.0, budget=budget)
        pool = SimulatedPool(self, workers, ndtr(rng.normal(1.5, 1.0, images)), rng)
        with tempfile.TemporaryDirectory() as folder, Ledger(folder, {"question": {}}) as ledger:
            driver = Driver(campaign, pool, ledger, clock=lambda: pool.now)
            pool.resume()
            driver.run()
            pool.pause()
        return {
            "workers": workers,
            "images": images,
            "draws": campaign.draws,
            "units": pool.answered,
            "wall, s": pool.now,
            "efficiency, %": 100 * pool.useful / (workers * pool.now),
            "driver, % of wall": 100 * pool.driver / pool.now,
            "driver per unit, ms": 1000 * pool.driver / pool.answered,
            "deaths": pool.deaths,
            "resent": driver.resent,
            "peak memory, MB": peak_memory(),
            "more than before, MB": peak_memory() - before,
        }


def peak_memory() -> float:
    """MB of this process so far; Python, torch and the rest take most of it before a campaign is made."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass
class Worker:
    """A simulated worker: when it is free, and what it has."""

    speed: float
    free: float = 0.0
    units: list[int] = field(default_factory=list)


class SimulatedPool:
    """Workers in simulated time; see the module's docstring. Stands where :class:`cluster.pool.RayPool` does."""

    def __init__(self, options: Benchmark, workers: int, share: np.ndarray, rng: np.random.Generator) -> None:
        self.options = options
        self.share = share
        self.rng = rng
        self.now = self.driver = self.useful = 0.0
        self.answered = self.deaths = 0
        self.workers: dict[int, Worker] = {}
        self.load = Load()
        self.events: list[tuple[float, int, str, int]] = []
        self.units: dict[int, tuple[Unit, float]] = {}
        self.counted: set[int] = set()
        self.births = self.sent = 0
        self.since: float | None = None
        for _ in range(workers):
            self.hire()

    # the driver's own work runs while nothing of the pool does
    def resume(self) -> None:
        self.since = time.perf_counter()

    def pause(self) -> None:
        if self.since is not None:
            spent = time.perf_counter() - self.since
            self.driver += spent
            self.now += spent
            self.since = None

    def hire(self) -> None:
        life = self.rng.exponential(self.options.mean_life) if self.options.mean_life else float("inf")
        speed = self.options.speed * float(np.exp(self.rng.normal(0, self.options.spread)))
        self.workers[self.births] = Worker(speed, self.now)
        self.load.add(self.births, 0)
        heapq.heappush(self.events, (self.now + life, self.births, "death", self.births))
        self.births += 1

    def __len__(self) -> int:
        return len(self.workers)

    def free(self) -> list[int]:
        return self.load.free()

    def send(self, worker: int, unit: Unit) -> None:
        self.pause()
        who = self.workers[worker]
        slow = 10.0 if self.rng.random() < self.options.straggling else 1.0
        seconds = unit.draws / who.speed * slow
        who.free = max(who.free, self.now + self.options.latency) + seconds
        self.sent += 1
        who.units.append(self.sent)
        self.load.add(worker, 1)
        self.units[self.sent] = (unit, seconds)
        heapq.heappush(self.events, (who.free + self.options.latency, self.sent, "answer", worker))
        self.resume()

    def wait(self, seconds: float, linger: float) -> list[Reply]:
        self.pause()
        replies: list[Reply] = []
        if self.events:
            # never later than the driver wants to be woken, and all that has come by then
            self.now = max(self.now, min(self.events[0][0], self.now + seconds)) + linger
        while self.events and self.events[0][0] <= self.now:
            _, number, kind, worker = heapq.heappop(self.events)
            if kind == "birth":
                self.hire()
            elif worker in self.workers:
                replies += self.die(worker) if kind == "death" else [self.answer(worker, number)]
        self.resume()
        return replies

    def die(self, worker: int) -> list[Reply]:
        self.deaths += 1
        heapq.heappush(self.events, (self.now + self.options.rebirth, -self.deaths, "birth", -1))
        self.load.remove(worker)
        lost = self.workers.pop(worker).units
        return [Reply(self.units.pop(sent)[0], worker, lost="killed", in_hand=not n) for n, sent in enumerate(lost)]

    def answer(self, worker: int, sent: int) -> Reply:
        self.workers[worker].units.remove(sent)
        self.load.add(worker, -1)
        unit, seconds = self.units.pop(sent)
        self.answered += 1
        if unit.number not in self.counted:
            self.counted.add(unit.number)
            self.useful += unit.draws / self.workers[worker].speed
        draws = unit.spans["stop"] - unit.spans["start"]
        counts = np.zeros((len(draws), 10), dtype=np.int64)
        counts[:, 0] = np.random.default_rng(unit.number).binomial(draws, self.share[unit.spans["row"]])
        counts[:, 1] = draws - counts[:, 0]
        return Reply(unit, worker, tally=Tally(counts, seconds, 256))


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
