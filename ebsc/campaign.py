"""A certification campaign: which draws are needed next, and what the counts so far certify.

Plain state with two verbs, and no clock, device or I/O, so that one campaign serves a laptop, a cluster and a test::

    campaign = Campaign(labels, n_classes, sigma, budget=Fixed())
    while units := campaign.next_units(size=4096):
        for unit in units:
            campaign.merge(unit, voter.count(unit))
    campaign.certificates()

Every image goes through *looks*. Look 0 selects the candidate class on draws of its own. Looks 1, 2, ... estimate the
candidate's probability on growing totals of fresh draws. The next look of an image is planned when all draws of its
present look are merged, so that nothing depends on the order in which counts arrive. With a tolerance on the table
(:mod:`ebsc.waves`), the next looks of a wave of images are planned when all draws of the wave before are merged.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import islice
from typing import Any
from uuid import uuid4

import numpy as np
from jaxtyping import Bool, Int32, Int64
from numpy.typing import ArrayLike

from ebsc.bounds import radius
from ebsc.budgets import Budget, Sequential, Standing
from ebsc.errors import InputError
from ebsc.model import check_sigma
from ebsc.noise import BLOCK, Stream, check_seed
from ebsc.waves import Waves

__all__ = ["SPAN", "Campaign", "Outcome", "Unit", "structured"]

SPAN = np.dtype([("row", np.int32), ("image", np.int64), ("stream", np.int8), ("start", np.int64), ("stop", np.int64)])
"""Draws ``start`` to ``stop - 1`` of ``image`` in ``stream``; ``row`` is its place among the images being certified."""


REPLAY = 16_384
"""Records that are replayed at a time."""

SAMPLE = 64
"""Pending images, about, from which the draws still to come are foretold."""


class Outcome(IntEnum):
    """How an image ended."""

    PENDING = 0
    """Draws are still to be counted."""
    CERTIFIED = 1
    """g is constant within ``radius``, and every radius that was asked for is decided."""
    ABSTAINED = 2
    """Nothing could be certified: ``p_lower`` is at most 1/2. More draws may help."""
    BUDGET_SPENT = 3
    """Certified within ``radius``; a larger radius that was asked for would need more than n draws to be decided."""
    STOPPED = 4
    """Left open when the table was known to the tolerance; certified within ``radius``, which may be 0."""


@dataclass(frozen=True)
class Unit:
    """What travels to a worker: addresses of draws. The same unit gives the same counts anywhere.

    Attributes:
        number: of the unit in its campaign.
        seed: of the campaign.
        spans: which draws of which images, an array of :data:`SPAN`.
        campaign: tells its campaign from all others.
        sigma: of the campaign; None where anything may count it.
    """

    number: int
    seed: int
    spans: np.ndarray
    campaign: str = ""
    sigma: float | None = None

    @cached_property
    def draws(self) -> int:
        """Number of draws."""
        return int((self.spans["stop"] - self.spans["start"]).sum())


class Campaign:
    """The state of a certification. See the module's docstring.

    Args:
        labels: (row,), integers: true classes of the images to certify.
        n_classes: number of classes.
        sigma: standard deviation of the smoothing noise.
        budget: :class:`ebsc.budgets.Fixed` or :class:`ebsc.budgets.Sequential`.
        images: (row,), integers: what addresses the draws of each image, its index in the data set; 0, 1, 2, ... when
            absent.
        seed: seed of all draws.

    Raises:
        InputError: a negative seed, a sigma or labels that cannot be, or an image named twice.

    Attributes:
        look: the last look that each image has finished, -1 before the first.
        queued: draws planned and not yet given out.
        draws: draws merged so far.
        counter: what :func:`ebsc.votes.certify` had them counted by, which is then the only one; None before.
    """

    def __init__(
        self,
        labels: ArrayLike,
        n_classes: int,
        sigma: float,
        *,
        budget: Budget,
        images: ArrayLike | None = None,
        seed: int = 0,
    ) -> None:
        check_seed(seed)
        check_sigma(sigma)
        self.labels = labels = _integers("labels", labels, n_classes)
        self.images = np.arange(len(labels)) if images is None else _integers("images", images)
        if len(self.images) != len(labels):
            raise InputError(f"{len(self.images)} images but {len(labels)} labels")
        if len(np.unique(self.images)) < len(labels):
            raise InputError("an image is named twice: its draws would be counted twice")
        self.n_classes = n_classes
        self.sigma = float(sigma)
        self.counter: object = None
        self.budget = budget
        self.seed = seed
        self.outcome = np.full(len(labels), Outcome.PENDING, dtype=np.int8)
        self.look = np.full(len(labels), -1)
        self.predicted = np.zeros(len(labels), dtype=np.int64)
        self.p_lower = np.zeros(len(labels))
        self.counts = {stream: np.zeros((len(labels), n_classes), dtype=np.int32) for stream in Stream}
        self._looks = budget.looks
        self._waves: Waves | None = None
        if isinstance(budget, Sequential) and budget.tolerance:
            self._waves = Waves(len(labels), budget, sigma)
        self._waiting = np.zeros(len(labels), dtype=np.int64)
        self._queue: deque[np.ndarray] = deque()
        self._out: dict[int, Unit] = {}
        self._units = 0
        self._name = uuid4().hex
        self.queued = 0
        self.draws = 0
        self._plan(np.arange(len(labels)))

    # -- planning ---------------------------------------------------------------------------------------------------

    def next_units(self, size: int, limit: int | None = None) -> list[Unit]:
        """Units of at most ``size`` draws that can be counted now, at most ``limit`` of them.

        Empty when everything that can be planned is out, or when the campaign is done. A span is cut at multiples of
        :data:`ebsc.noise.BLOCK`, so that no block of noise is drawn twice; ``size`` is raised to one block.
        """
        units: list[Unit] = []
        while self._queue and (limit is None or len(units) < limit):
            unit = Unit(self._units, self.seed, self._take(max(size, BLOCK)), self._name, self.sigma)
            self.queued -= unit.draws
            self._units += 1
            self._out[unit.number] = unit
            units.append(unit)
        return units

    def _take(self, size: int) -> np.ndarray:
        taken = []
        while size > 0 and self._queue:
            spans = self._queue.popleft()
            head = spans[: size // (BLOCK // 2) + 1]  # about as many as fit
            ends = np.cumsum(head["stop"] - head["start"])
            whole = int(np.searchsorted(ends, size, side="right"))
            taken.append(head[:whole])
            size -= int(ends[whole - 1]) if whole else 0
            rest = spans[whole:]
            if whole == len(head):
                if len(rest):
                    self._queue.appendleft(rest)
                continue
            cut = (int(rest["start"][0]) + size) // BLOCK * BLOCK
            if cut > rest["start"][0]:
                piece, left = rest[:1].copy(), rest[:1].copy()
                piece["stop"], left["start"] = cut, cut
                taken.append(piece)
                if len(rest) > 1:
                    self._queue.appendleft(rest[1:])
                rest = left
            self._queue.appendleft(rest)
            break
        return _joined(taken)

    def _plan(self, rows: np.ndarray) -> None:
        """Queue the draws of the next look of these rows."""
        if not len(rows):
            return
        look = self.look[rows] + 1
        totals = np.append(0, self._looks)
        spans = np.zeros(len(rows), dtype=SPAN)
        spans["row"], spans["image"] = rows, self.images[rows]
        spans["stream"] = np.where(look == 0, Stream.SELECT, Stream.ESTIMATE)
        spans["start"] = np.where(look == 0, 0, totals[np.maximum(look - 1, 0)])
        spans["stop"] = np.where(look == 0, self.budget.n0, totals[look])
        self._waiting[rows] = spans["stop"] - spans["start"]
        self._queue.append(spans)
        self.queued += int(self._waiting[rows].sum())

    # -- counting ---------------------------------------------------------------------------------------------------

    def merge(self, unit: Unit, counts: Int64[np.ndarray, "span class"]) -> Int64[np.ndarray, " row"]:
        """Add the counts of a unit.

        Args:
            unit: one that :meth:`next_units` gave out and that was not merged before.
            counts: votes of each span for each class.

        Returns:
            Rows that have finished a look by this.

        Raises:
            ValueError: the unit is not out, or the counts are not those of its draws.
        """
        return self.merge_all([(unit, counts)])

    def merge_all(self, counted: Sequence[tuple[Unit, np.ndarray]]) -> Int64[np.ndarray, " row"]:
        """Add the counts of several units at once, all or none; see :meth:`merge`."""
        if not counted:
            return np.zeros(0, dtype=np.int64)
        numbers = [unit.number for unit, _ in counted]
        for number, (unit, counts) in zip(numbers, counted, strict=True):
            if number not in self._out or unit.campaign != self._name:
                raise ValueError(f"unit {number} is not out: it was merged before, or belongs to another campaign")
            if counts.shape != (len(unit.spans), self.n_classes):
                shape = len(unit.spans), self.n_classes
                raise ValueError(f"unit {number}: counts have shape {counts.shape}, not {shape}")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"a unit stands twice in {numbers}: it is not out any more")
        spans = _joined([self._out[number].spans for number in numbers])
        counts = np.concatenate([counts for _, counts in counted])
        draws = spans["stop"] - spans["start"]
        wrong = (counts < 0).any(1) | (counts.sum(1) != draws)
        if wrong.any():
            owner = np.repeat(numbers, [len(unit.spans) for unit, _ in counted])[wrong][0]
            raise ValueError(f"unit {owner}: counts do not add up to its draws")
        for number in numbers:
            del self._out[number]
        for stream in Stream:
            mine = spans["stream"] == stream
            np.add.at(self.counts[stream], spans["row"][mine], counts[mine])
        np.subtract.at(self._waiting, spans["row"], draws)
        self.draws += int(draws.sum())
        touched = np.unique(spans["row"]).astype(np.int64)
        finished = touched[self._waiting[touched] == 0]
        self._advance(finished)
        return finished

    def _advance(self, rows: np.ndarray) -> None:
        """Draw the conclusions of a finished look and plan the next."""
        self.look[rows] += 1
        selected = rows[self.look[rows] == 0]
        self.predicted[selected] = self.counts[Stream.SELECT][selected].argmax(1)
        estimated = rows[self.look[rows] > 0]
        undecided = self._conclude(estimated)
        if not self._waves:
            self._plan(np.sort(np.concatenate([selected, estimated[undecided]])))
        elif not self._waiting.any():
            wave = self._wave(self._waves)
            self._plan(wave)
            if not len(wave):
                self.outcome[self.outcome == Outcome.PENDING] = Outcome.STOPPED

    def _wave(self, waves: Waves) -> Int64[np.ndarray, " wave"]:
        """Rows to look at together next; none when the table is known."""
        right = np.flatnonzero((self.outcome == Outcome.PENDING) & (self.predicted == self.labels))
        first = right[self.look[right] == 0]
        # waves count the looks that estimate, from 0
        return first if len(first) else waves.next(right, self.look[right] - 1)

    def _conclude(self, rows: np.ndarray) -> Bool[np.ndarray, " row"]:
        """Update the bound after an estimation look, settle what is decided; True where more draws are wanted."""
        if not len(rows):
            return np.zeros(0, dtype=bool)
        standing = self._standing(rows)
        self.p_lower[rows] = lower = np.maximum(self.p_lower[rows], self.budget.bound(standing))
        undecided, onward = self.budget.judge(lower, standing, self.sigma)
        if self._waves:
            self._waves.learn(rows[onward], lower[onward], self._standing(rows[onward]))
        settled = rows[~onward]
        self.outcome[settled] = np.where(
            self.p_lower[settled] <= 0.5,
            Outcome.ABSTAINED,
            np.where(undecided[~onward], Outcome.BUDGET_SPENT, Outcome.CERTIFIED),
        )
        return onward

    def _standing(self, rows: Int64[np.ndarray, " row"]) -> Standing:
        """Votes of these rows at their last look."""
        return Standing.of(self.counts[Stream.ESTIMATE][rows], self.predicted[rows], self.look[rows] - 1)

    # -- what is known ----------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether every image is settled."""
        return not self._queue and not self._out

    @property
    def settled(self) -> int:
        """Number of images that need no more draws."""
        return int((self.outcome != Outcome.PENDING).sum())

    def expected_draws(self) -> int:
        """Draws still to come, about: each pending image is taken to go on at the success rate it has shown.

        With a tolerance, at most: all images that count in the table are taken to be decided.
        """
        pending = np.flatnonzero(self.outcome == Outcome.PENDING)
        if self._waves:
            pending = pending[(self.look[pending] < 0) | (self.predicted == self.labels)[pending]]
        if not len(pending):
            return 0
        some = pending[:: -(-len(pending) // SAMPLE)]
        so_far = self._standing(some)
        seen = self.counts[Stream.ESTIMATE][some].sum(1)
        left = np.zeros(len(some))

        def rate(votes: np.ndarray, unseen: float) -> np.ndarray:
            """Before its first look an image is taken to be like those that have had one."""
            share, known = votes / np.maximum(seen, 1), seen > 0
            return np.where(known, share, np.median(share[known]) if known.any() else unseen)

        rates = rate(so_far.candidate, 1.0), rate(so_far.rival, 0.0)
        active, lower = np.ones(len(some), dtype=bool), self.p_lower[some].copy()
        for look, total in enumerate(self._looks.tolist()):
            due = active & (self.look[some] <= look)
            left[due] = total - seen[due]
            votes, rival = (np.rint(share[due] * total).astype(np.int64) for share in rates)
            standing = Standing(votes, rival, np.full(int(due.sum()), look))
            lower[due] = np.maximum(lower[due], self.budget.bound(standing))
            active[due] = self.budget.judge(lower[due], standing, self.sigma)[1]
        selecting = self.budget.n0 * int((self.look[pending] < 0).sum())
        return int(left.mean() * len(pending)) + selecting

    def certificates(self) -> np.ndarray:
        """What the counts so far certify: a structured array, one row an image.

        Fields: ``index`` (in the data set), ``label``, ``predicted`` (the candidate class, whatever the outcome),
        ``outcome`` (:class:`Outcome`), ``radius`` (L2, pixels on [0, 1]; 0 unless certified), ``p_lower``
        (the p whose sigma Phi^-1(p) is the radius: a bound of p_A, or of what stands for it with p_B), ``draws`` (all,
        selecting included), ``select`` and ``counts`` (votes for each class, selecting and estimating).
        """
        select, estimate = self.counts[Stream.SELECT], self.counts[Stream.ESTIMATE]
        return structured(
            index=self.images,
            label=self.labels,
            predicted=self.predicted,
            outcome=self.outcome,
            radius=radius(self.p_lower, self.sigma),
            p_lower=self.p_lower,
            draws=select.sum(1) + estimate.sum(1),
            select=select,
            counts=estimate,
        )

    # -- records ----------------------------------------------------------------------------------------------------

    def records(self, rows: Int64[np.ndarray, " row"]) -> list[dict[str, Any]]:
        """What the last finished look of each row added, for a ledger: enough for :meth:`restore`."""
        outcome, look = self.outcome[rows], self.look[rows]
        select, estimate = (self.counts[stream][rows] for stream in (Stream.SELECT, Stream.ESTIMATE))
        counts = np.where(look[:, None] > 0, estimate, select)
        line, voted = np.nonzero(counts)
        names, votes = [str(c) for c in voted.tolist()], counts[line, voted].tolist()
        ends = np.searchsorted(line, np.arange(len(rows) + 1)).tolist()
        result: list[dict[str, Any]] = [
            {"image": image, "look": at, "votes": dict(zip(names[start:stop], votes[start:stop], strict=True))}
            for image, at, start, stop in zip(
                self.images[rows].tolist(), look.tolist(), ends[:-1], ends[1:], strict=True
            )
        ]
        for settled in np.flatnonzero(outcome != Outcome.PENDING).tolist():
            result[settled]["outcome"] = Outcome(outcome[settled]).name.lower()
        return result

    def restore(self, records: Iterable[dict[str, Any]]) -> None:
        """Replay what :meth:`records` gave, in any order that keeps each image's looks in sequence.

        With a tolerance, the order in which they were given. To be called before :meth:`next_units`. Bounds and
        decisions are computed again from the counts. Records are taken a few thousand at a time.

        Raises:
            ValueError: a record that does not belong to this campaign.
        """
        place = {int(image): row for row, image in enumerate(self.images)}
        records = iter(records)
        while batch := list(islice(records, REPLAY)):
            rows, looks, votes = self._parse(batch, place)
            left = np.arange(len(batch))
            while len(left):
                due = left[(self.look[rows[left]] + 1 == looks[left]) & (self._waiting[rows[left]] > 0)]
                due = due[np.unique(rows[due], return_index=True)[1]]
                if not len(due):
                    raise ValueError(f"look {looks[left[0]]} of an image is recorded twice or out of sequence")
                self._replay(rows[due], votes[due])
                left = np.setdiff1d(left, due)
        self.draws = sum(int(counts.sum(dtype=np.int64)) for counts in self.counts.values())
        self._queue.clear()
        self.queued = 0
        planned = np.flatnonzero(self._waiting)
        for look in np.unique(self.look[planned]):
            self._plan(planned[self.look[planned] == look])

    def _parse(
        self, records: Sequence[dict[str, Any]], place: dict[int, int]
    ) -> tuple[Int64[np.ndarray, " record"], Int64[np.ndarray, " record"], Int32[np.ndarray, "record class"]]:
        """Row, look and votes of each record."""
        votes = np.zeros((len(records), self.n_classes), dtype=np.int32)
        for line, record in enumerate(records):
            if record["image"] not in place or not 0 <= record["look"] <= len(self._looks):
                raise ValueError(f"look {record['look']} of image {record['image']} is not part of this campaign")
            for name, count in record["votes"].items():
                if not 0 <= int(name) < self.n_classes:
                    raise ValueError(f"image {record['image']} has votes for a class {name}")
                if not 0 <= count <= self.budget.n:
                    raise ValueError(f"image {record['image']} has {count} votes for a class")
                votes[line, int(name)] = count
        looks = np.array([record["look"] for record in records])
        totals = np.append(self.budget.n0, self._looks)[looks]
        wrong = votes.sum(1) != totals
        if wrong.any():
            raise ValueError(f"votes of look {looks[wrong][0]} do not add up to {totals[wrong][0]}")
        return np.array([place[record["image"]] for record in records]), looks, votes

    def _replay(self, rows: Int64[np.ndarray, " row"], votes: Int32[np.ndarray, "row class"]) -> None:
        selecting = self.look[rows] < 0
        for stream, mine in ((Stream.SELECT, selecting), (Stream.ESTIMATE, ~selecting)):
            if (votes[mine] < self.counts[stream][rows[mine]]).any():
                raise ValueError("votes of a look are fewer than those of the look before")
            self.counts[stream][rows[mine]] = votes[mine]
        self._waiting[rows] = 0
        self._advance(rows)


def _integers(name: str, values: ArrayLike, end: int = 2**63) -> Int64[np.ndarray, " row"]:
    """A row of integers in 0..end - 1."""
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise InputError(f"{name} must be a row of integers, not {values.dtype} of shape {values.shape}")
    if values.size and not 0 <= values.min() <= values.max() < end:
        raise InputError(f"{name} must lie in 0..{end - 1}, not {values.min()}..{values.max()}")
    return values.astype(np.int64)


def structured(**columns: np.ndarray) -> np.ndarray:
    """A structured array of columns of one length.

    >>> structured(index=np.array([3, 5]), votes=np.array([[1, 9], [4, 6]]))[1].item()
    (5, array([4, 6]))
    """
    kinds = [(name, column.dtype, column.shape[1:]) for name, column in columns.items()]
    table = np.zeros(len(next(iter(columns.values()))), dtype=kinds)
    for name, column in columns.items():
        table[name] = column
    return table


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """A copy of spans, one after the other; numpy.concatenate takes most of its time to find that fields agree."""
    joined, start = np.empty(sum(map(len, parts)), dtype=SPAN), 0
    for part in parts:
        joined[start : start + len(part)] = part
        start += len(part)
    return joined
