"""What Ray costs: one certification in this process and on Ray workers of the same machine, side by side.

Without Ray, this process counts with as many threads as there are Ray workers of one thread. Rounds alternate, and a
ratio is the median over rounds of the ratio within a round. The start of the workers, until all are ready, is measured
apart, and so is the share of the wall time in which they counted.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tabulate import tabulate

from benchmarks.measuring import lenet, save
from cluster.driver import Driver
from cluster.ledger import Ledger
from cluster.session import open_pool, ray_session
from cluster.worker import Assignment
from ebsc import data, model
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure the overhead.

    Attributes:
        data: data set.
        denoiser: of the network; its weights are random.
        images: images of it.
        n: draws for each.
        workers: Ray workers of one thread, and threads of the process without Ray.
        rounds: repetitions.
        out: where the JSON goes.
    """

    data: str = "mnist"
    denoiser: str = "residual"
    images: int = 64
    n: int = 3_000
    workers: int = 2
    rounds: int = 5
    out: Path = Path(__file__).parent / "results" / "overhead.json"

    def run(self) -> None:
        rows = []
        with ray_session(cpus=self.workers):
            for _ in range(self.rounds):
                alone = self._certify(workers=0)
                ray = self._certify(workers=self.workers)
                rows.append(
                    {
                        "without Ray, draws/s": alone["rate"],
                        "Ray, draws/s": ray["rate"],
                        "Ray over without": ray["rate"] / alone["rate"],
                        "workers counting, % of wall": 100 * ray["counting"] / self.workers,
                        "start, s": ray["start"],
                    }
                )
                print(rows[-1], flush=True)
        medians = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
        print(tabulate([medians], headers="keys", floatfmt=".4g"))
        save(self.out, medians=medians, rounds=rows)

    def _assignment(self, threads: int) -> Assignment:
        chosen = data.load(self.data, "test").take(np.arange(self.images))
        net, spec = lenet(chosen, self.denoiser)
        packed, weights = model.pack(net, spec)
        return Assignment(spec=packed, weights=weights, images=chosen.images, levels=chosen.levels, threads=threads)

    def _certify(self, workers: int) -> dict[str, float]:
        opening = open_pool(self._assignment(1 if workers else self.workers), workers=workers)
        campaign = Campaign(np.zeros(self.images, dtype=np.int64), 10, 0.5, budget=Fixed(n=self.n))
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, opening as pool, Ledger(folder, {"question": {}}) as ledger:
            while len(pool) < max(1, workers):
                pool.wait(0.1)
            started = time.perf_counter()
            Driver(campaign, pool, ledger).run()
            took = time.perf_counter() - started
            counting = sum(record["seconds"] for record in ledger.read())
        return {"rate": campaign.draws / took, "counting": counting / took, "start": started - begun}


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
