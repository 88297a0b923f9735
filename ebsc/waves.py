"""Which images to draw on for next when a table is to be known to a tolerance, and not every image decided.

The certified accuracy at radius r is known as soon as the images for which r is *open*, neither certified nor out of
reach of n draws, are few enough; the average certified radius, as soon as what could still be certified is little
enough on average; both up to what :attr:`ebsc.budgets.Sequential.futility` gives up too early. So the campaign goes on
in waves: the images that close most for their draws, by the rates that they have shown, take their next look together;
then all is weighed again. Images whose candidate is wrong count nothing in a table and are not drawn on for.

When to stop is decided over all images and uses the labels. That is sound because each image's bounds hold over all of
its looks at once, whatever decides which is the last.
"""

import numpy as np
from jaxtyping import Float64, Int64

from ebsc.bounds import radius
from ebsc.budgets import Sequential, Standing

__all__ = ["Waves"]

SHARE = 0.25
"""Of the images that matter, the share that goes into a wave."""

FEWEST = 64
"""Images in a wave, while there are so many."""


class Waves:
    """The state of knowledge of each image, at its present look and foreseen at later ones.

    Args:
        rows: number of images.
        budget: with a tolerance.
        sigma: standard deviation of the smoothing noise.
    """

    def __init__(self, rows: int, budget: Sequential, sigma: float) -> None:
        assert budget.tolerance
        self._budget, self._sigma, self._tolerance = budget, sigma, budget.tolerance
        self._thresholds = budget.thresholds(sigma)
        shape = (rows, len(budget.looks))
        # thresholds at or below what is certified and what can be; only those between them are open
        self._certified = np.zeros(shape, dtype=np.int16)
        self._reachable = np.zeros(shape, dtype=np.int16)
        self._slack = np.zeros(shape if self._tolerance.acr is not None else (rows, 0), dtype=np.float32)

    def learn(self, rows: Int64[np.ndarray, " row"], p_lower: Float64[np.ndarray, " row"], standing: Standing) -> None:
        """Take in what a look of these rows has shown, and foresee later looks at the same rates."""
        budget, looks = self._budget, self._budget.looks
        now, last = standing.look, len(looks) - 1
        for look in range(int(now.min(initial=last)), len(looks)):
            due = now <= look
            then = standing.foreseen(due, looks[look] / looks[now[due]], look)
            lower = np.maximum(p_lower[due], budget.bound(then))
            # after n draws there is nothing left that they can certify
            reach = lower if look == last else np.maximum(lower, budget.reach(then)[1])
            for known, p in ((self._certified, lower), (self._reachable, reach)):
                known[rows[due], look] = np.searchsorted(self._thresholds, p, side="right")
            if self._tolerance.acr is not None:
                self._slack[rows[due], look] = radius(reach, self._sigma) - radius(lower, self._sigma)

    def next(self, pending: Int64[np.ndarray, " row"], look: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, " wave"]:
        """Rows of the next wave; none when the table is known.

        Args:
            pending: rows that are not settled and whose candidate is right, in order.
            look: the last look of each.
        """
        wanted, slack_wanted = self._wanted(pending, look)
        if not wanted.any() and not slack_wanted:
            return pending[:0]
        below = np.append(0.0, np.cumsum(wanted))  # weight of the thresholds at or below a place
        open_ = below[self._reachable[pending]] - below[self._certified[pending]]
        if slack_wanted:
            open_ += slack_wanted * self._slack[pending]
        looks = np.arange(open_.shape[1])
        here = np.arange(len(pending))
        cost = self._budget.looks - self._budget.looks[look][:, None]
        closed = np.where(looks > look[:, None], open_[here, look][:, None] - open_, 0.0)
        gain = (closed / np.where(cost > 0, cost, 1)).max(1)
        order = np.argsort(-gain, kind="stable")
        matter = int((gain > 0).sum())
        return np.sort(pending[order[: min(matter, max(FEWEST, int(SHARE * matter)))]])

    def _open(
        self, pending: Int64[np.ndarray, " row"], look: Int64[np.ndarray, " row"]
    ) -> Int64[np.ndarray, " threshold"]:
        """For each threshold, the number of these rows for which it is open."""
        places = np.arange(len(self._thresholds))
        certified, reachable = self._certified[pending, look], self._reachable[pending, look]
        return ((certified[:, None] <= places) & (places < reachable[:, None])).sum(0)

    def _wanted(self, pending: np.ndarray, look: np.ndarray) -> tuple[np.ndarray, float]:
        """Weights of what is not known well enough yet: of each threshold, and of the average certified radius."""
        rows, tolerance = len(self._certified), self._tolerance
        weights, weight = np.zeros(len(self._thresholds)), 0.0
        if tolerance.accuracy is not None:
            allowed = tolerance.accuracy * rows
            weights[self._open(pending, look) > allowed] = 1 / allowed
        if tolerance.acr is not None and self._slack[pending, look].sum() > tolerance.acr * rows:
            weight = 1 / (tolerance.acr * rows)
        return weights, weight
