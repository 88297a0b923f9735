"""The report of many large runs: seconds to make it beside the table and the curves, its size, and how it looks.

The runs are synthetic: plausible votes of a model with random weights over real images (MNIST's test split, from the
data root), certified and written by the library's own writers, so that every part of a report is there but an attack.
Each command runs in a process of its own; seconds include its start.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.measuring import lenet, save
from cluster import certificates
from cluster.folder import RunFolder
from ebsc import data, model
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.data import Dataset
from jobs.certify import Certify
from jobs.provenance import configuration

CHROMIUM = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
CHROMIUM += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
CHROMIUM += ["--hide-scrollbars", "--virtual-time-budget=8000"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure `ebsc table`, `ebsc table --plot` and `ebsc report`."""

    runs: int = 30
    """Synthetic runs."""
    images: int = 10_000
    """Images of each."""
    data: str = "mnist"
    """Data set by name."""
    rounds: int = 3
    """Repetitions; the fastest counts."""
    screenshots: Path | None = None
    """Also write the report and how it looks at 390 and 1280 pixels to this folder."""
    out: Path = Path(__file__).parent / "results" / "report.json"
    """Where the JSON goes."""

    def run(self) -> None:
        """Make the runs, time the commands, and write what was measured."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            runs = self._write(folder)
            page, curves = folder / "report.html", folder / "curves.svg"
            seconds = {
                "table": self._fastest("jobs.tables", *runs),
                "table and curves": self._fastest("jobs.tables", *runs, "--plot", str(curves)),
                "report": self._fastest("jobs.report", *runs, "-o", str(page)),
                "report without pictures": self._fastest("jobs.report", *runs, "-o", f"{page}.bare", "--gallery", "0"),
            }
            megabytes = {
                name: Path(f"{page}{end}").stat().st_size / 1e6 for name, end in (("all", ""), ("bare", ".bare"))
            }
            print(seconds, megabytes)
            asked = {"runs": self.runs, "images": self.images, "data": self.data, "rounds": self.rounds}
            save(self.out, asked=asked, seconds=seconds, megabytes=megabytes)
            if self.screenshots:
                self.screenshots.mkdir(parents=True, exist_ok=True)
                shutil.copy(page, self.screenshots)
                for width, height in ((390, 4000), (1280, 3000)):
                    self._photograph(page, width, height)

    def _write(self, folder: Path) -> list[str]:
        """Run folders over one model, each of a method of its own strength."""
        whole = data.load(self.data, "test")
        net, spec = lenet(whole, "residual")
        model.save(folder / "model", net, spec)
        _, spec = model.load(folder / "model")
        random = np.random.default_rng(0)
        chosen = whole.take(np.arange(self.images))
        found = []
        for number in range(self.runs):
            path = folder / f"method-{number:02}-sigma0.50"
            budget = Fixed(n=100_000)
            campaign = Campaign(chosen.labels, spec.n_classes, spec.sigma, budget=budget, seed=number)
            strength = 1.5 + 2.0 * number / self.runs
            for look, draws in enumerate((budget.n0, budget.n)):
                votes = _votes(chosen, draws, strength, np.random.default_rng(number))
                campaign.restore(
                    {"image": image, "look": look, "votes": {str(c): int(row[c]) for c in np.flatnonzero(row)}}
                    for image, row in enumerate(votes)
                )
            question = {
                **{"model": spec.sha256, "sigma": spec.sigma, "plain": False, "data": whole.name, "split": "test"},
                **{"images": f":{self.images}", "checksum": chosen.checksum, "lattice": True},
                **{"budget": {"kind": "fixed", **asdict(budget)}, "seed": number},
                **{"precision": "float32", "compile": False},
            }
            command = Certify(model=folder / "model", run_folder=path, budget="fixed", seed=number)
            with RunFolder(path, configuration(question, command)):
                certificates.write(path, campaign.certificates(), random.uniform(0.1, 0.2, self.images))
            found.append(str(path))
        return found

    def _fastest(self, module: str, *words: str) -> float:
        """Seconds of a command."""
        took = []
        for _ in range(self.rounds):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", module, *words], check=True, capture_output=True)
            took.append(time.perf_counter() - started)
        return min(took)

    def _photograph(self, page: Path, width: int, height: int) -> None:
        """How the page looks. Chromium's window is 500 pixels wide at least: the page is put in a frame."""
        frame = page.with_name("frame.html")
        frame.write_text(
            f'<!doctype html><style>body{{margin:0}}</style><iframe src="{page.name}"'
            f' style="border:0;width:{width}px;height:{height}px"></iframe>'
        )
        with tempfile.TemporaryDirectory() as profile:
            shot = self.screenshots / f"report-{width}.png"
            words = [f"--user-data-dir={profile}", f"--window-size={max(width, 500)},{height}", f"--screenshot={shot}"]
            subprocess.run([*CHROMIUM, *words, frame.as_uri()], check=True, capture_output=True)


def _votes(chosen: Dataset, draws: int, strength: float, random: np.random.Generator) -> np.ndarray:
    """Counts that look like those of a classifier: most images surely of their class, some of another, some neither."""
    images, classes = len(chosen.labels), chosen.n_classes
    scores = random.normal(0, 1, (images, classes))
    scores[np.arange(images), chosen.labels] += random.normal(2.5 * strength, 2.5, images)
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return random.multinomial(draws, shares / shares.sum(1, keepdims=True))


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
