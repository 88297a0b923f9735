"""Draws that a question about a test set takes: our budgets, a confidence sequence, a fixed budget, and the bound.

Votes are simulated at the probabilities that published certification logs imply, the same votes for every method: the
share of n = 100,000 votes whose bound at alpha = 0.001 is the logged radius, and 1/2 where the log abstains, which is
the hardest that it may be. The information bound is what any test needs on average to decide every image at error alpha
on both sides, kl(alpha, 1 - alpha) / kl(p, threshold) for the nearest threshold on each side that n draws can certify
at all, at most n. The confidence sequence is the beta mixture (Robbins 1970), looked at whenever the total has grown by
2%. Then the coverage of our bound under its stopping rule, at thresholds, where an image draws longest.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from scipy import stats
from scipy.special import betaln, expit, logit, ndtr, rel_entr, xlog1py, xlogy
from tabulate import tabulate

from benchmarks.measuring import save
from cluster.certificates import from_tsv
from ebsc.budgets import Budget, Fixed, Sequential, Standing, Tolerance
from ebsc.campaign import Campaign
from ebsc.errors import InputError
from ebsc.noise import BLOCK, Stream
from jobs.entries import named_sigma
from jobs.options import parse_radii

QUESTIONS = {
    "r = 0": "0",
    "r = 0.5": "0.5",
    "r = 1": "1",
    "r = 1.5": "1.5",
    "curve, step 0.5": "0:4:0.5",
    "curve, step 0.25": "0:4:0.25",
}


@dataclass(frozen=True, kw_only=True)
class BetaMixture(Sequential):
    """A lower bound that holds at all times: no look costs anything, but all of them together do."""

    growth: float = 1.02

    def bound(self, standing: Standing) -> np.ndarray:
        return confidence_sequence(standing.candidate, self.looks[standing.look], self.alpha)


def confidence_sequence(successes: np.ndarray, draws: np.ndarray | int, alpha: float) -> np.ndarray:
    """The p below the observed share at which the mixture of all binomials is 1/alpha times as likely as p."""
    k, n = np.asarray(successes, float), np.asarray(draws, float)
    goal = betaln(1 + k, 1 + n - k) + np.log(alpha)
    low, high = np.full(len(k), -40.0), logit(np.clip(k / n, 1e-12, 1 - 1e-12))
    for _ in range(60):
        middle = (low + high) / 2
        p = expit(middle)
        unlikely = xlogy(k, p) + xlog1py(n - k, -p) < goal
        low, high = np.where(unlikely, middle, low), np.where(unlikely, high, middle)
    return np.where(k > 0, expit(low), 0.0)


def information_bound(p: np.ndarray, thresholds: np.ndarray, alpha: float, n: int) -> np.ndarray:
    """Draws for each image; see the module's docstring."""
    thresholds = thresholds[thresholds <= alpha ** (1 / n)]
    wanted = rel_entr(alpha, 1 - alpha) + rel_entr(1 - alpha, alpha)
    above = np.searchsorted(thresholds, p, side="right")
    draws = np.zeros(len(p))
    for side in (above - 1, above):
        there = (side >= 0) & (side < len(thresholds))
        threshold = thresholds[np.clip(side, 0, len(thresholds) - 1)]
        apart = rel_entr(p, threshold) + rel_entr(1 - p, 1 - threshold)
        draws = np.maximum(draws, np.where(there, wanted / np.maximum(apart, 1e-300), 0.0))
    return np.minimum(draws, n)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Count the draws.

    Attributes:
        logs: published logs in the form idx label predict radius correct time; sigma from the name.
        every: every so-manieth image of them.
        n: draws, at most.
        alpha: probability that a certificate is wrong.
        tolerance: of the certified accuracies, for the column that asks only for the table.
        images: images of the coverage simulation, for each threshold and budget.
        out: where the JSON goes.
    """

    logs: tuple[Path, ...] = tuple(
        Path(__file__).parents[2] / "shared/peers/mnist" / f"{name}.tsv"
        for name in ("gaussian_sigma0.50", "smoothmix_sigma1.00")
    )
    every: int = 1
    n: int = 100_000
    alpha: float = 0.001
    tolerance: float = 0.01
    images: int = 100_000
    out: Path = Path(__file__).parent / "results" / "draws.json"

    def run(self) -> None:
        rows = [row for log in self.logs for row in self._log(log)]
        print(tabulate(rows, headers="keys", floatfmt=".4g"), flush=True)
        coverage = self._coverage()
        print(tabulate(coverage, headers="keys", floatfmt=".2g", intfmt=","))
        save(self.out, draws=rows, coverage=coverage)

    def _log(self, path: Path) -> list[dict]:
        log, sigma = from_tsv(path)[:: self.every], named_sigma(path)
        if sigma is None:
            raise InputError(f"{path}: its name does not say sigma")
        logged = ndtr(log["radius"] / sigma)
        p = np.where(logged > 0.5, np.minimum(stats.binom.isf(0.001, 10**5, logged) + 1, 10**5) / 10**5, 0.5)
        right = log["predicted"] == log["label"]
        votes = Votes(p, self.n)
        fixed = certified(votes.run(Fixed(n=self.n, alpha=self.alpha), right, sigma))
        rows = []
        for question, radii in QUESTIONS.items():
            grid = parse_radii(radii)
            ours = Sequential(radii=grid, n=self.n, alpha=self.alpha)
            budgets: dict[str, Budget] = {
                "ours": ours,
                f"table to {self.tolerance:g}": replace(ours, tolerance=Tolerance(accuracy=self.tolerance)),
                "confidence sequence": BetaMixture(radii=grid, n=self.n, alpha=self.alpha),
            }
            times, lost = {}, {}
            for name, budget in budgets.items():
                found = votes.run(budget, right, sigma)
                times[name] = self.n / found["draws"].mean()
                columns = [np.maximum(r, 1e-9) for r in grid]
                lost[f"{name}: points lost"] = 100 * max(
                    float((fixed >= r).mean() - (certified(found) >= r).mean()) for r in columns
                )
            bound = information_bound(p, ours.thresholds(sigma), self.alpha, self.n)
            rows.append(
                {"log": path.stem, "question": question, **times, "information bound": self.n / bound.mean(), **lost}
            )
        return rows

    def _coverage(self) -> list[dict]:
        """How often the bound is above the truth when the rule stops."""
        rows = []
        for r in (0.0, 0.5, 1.0):
            p = np.full(self.images, ndtr(r / 0.5))
            votes = Votes(p, self.n)
            one = Sequential(radii=(r,), n=self.n, alpha=self.alpha)
            curve = replace(one, radii=parse_radii("0:2:0.25"))
            budgets: dict[str, Budget] = {
                "one radius": one,
                "curve": curve,
                "extended from n/10": replace(curve, extends=(self.n // 10 // BLOCK * BLOCK,)),
                "two-sided": replace(curve, two_sided=True),
                f"table to {self.tolerance:g}": replace(curve, tolerance=Tolerance(accuracy=self.tolerance)),
            }
            for name, budget in budgets.items():
                found = votes.run(budget, np.ones(len(p), dtype=bool), 0.5)
                false = int((found["p_lower"] > np.where(found["predicted"] == 1, p, 1 - p)).sum())
                rows.append({"p at radius": r, "budget": name, "images": len(p), "false": false})
        return rows


class Votes:
    """Votes of images whose top class, 1, has probability p; the rest goes to class 0. The same whoever asks."""

    def __init__(self, p: np.ndarray, n: int) -> None:
        rng = np.random.default_rng(0)
        self._ends = np.append(np.arange(0, n, BLOCK), n)
        steps = rng.binomial(np.diff(self._ends), p[:, None])
        self._heads = np.concatenate([np.zeros((len(p), 1), dtype=np.int64), np.cumsum(steps, 1)], 1).astype(np.int32)
        self._selecting = rng.binomial(100, p)

    def run(self, budget: Budget, right: np.ndarray, sigma: float) -> np.ndarray:
        """Certificates of a campaign; of images that are not right, class 1 is not the label."""
        campaign = Campaign(np.where(right, 1, 2), 3, sigma, budget=budget)
        while units := campaign.next_units(10**7):
            for unit in units:
                campaign.merge(unit, self._count(unit.spans))
        return campaign.certificates()

    def _count(self, spans: np.ndarray) -> np.ndarray:
        start, stop = (np.searchsorted(self._ends, spans[name]) for name in ("start", "stop"))
        estimating = spans["stream"] == Stream.ESTIMATE
        stop, rows = np.where(estimating, stop, 0), spans["row"]
        heads = np.where(
            estimating, self._heads[rows, stop].astype(np.int64) - self._heads[rows, start], self._selecting[rows]
        )
        return np.stack([spans["stop"] - spans["start"] - heads, heads, np.zeros_like(heads)], 1)


def certified(found: np.ndarray) -> np.ndarray:
    return np.where(found["predicted"] == found["label"], found["radius"], 0.0)


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
