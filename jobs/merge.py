"""``ebsc merge``: runs over disjoint images, or over disjoint draws of the same images, as one."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from cluster import certificates
from cluster.folder import RunFolder, read_config
from cluster.ledger import KEPT, LEDGER, Record, recorded, write
from ebsc import data
from ebsc.errors import InputError
from jobs.options import slice_of
from jobs.provenance import images_of, options, provenance
from jobs.verify import replayed, verify

__all__ = ["Merge"]

_APART = ("images", "checksum", "seed")
"""What runs that are merged may differ in."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merge finished runs of the same configuration into one.

    Over different images (`--images 0::2` and `--images 1::2`): the run over all of them, which `ebsc certify` goes on
    with and extends. Over the same images with different seeds and a fixed budget: votes add up, and each image is
    certified anew with all draws. Anything else is refused with the reason. The runs are verified first, as by
    `ebsc verify`.

    Example: ebsc merge runs/even runs/odd --into runs/all
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Finished run folders."""
    into: Path
    """Run folder to write."""
    data_root: Path | None = None
    """Where data sets live. Default: $EBSC_DATA, else ~/.cache/ebsc/data."""

    def run(self) -> None:
        """Merge."""
        if len(self.runs) < 2 or len({run.resolve() for run in self.runs}) < len(self.runs):
            raise InputError("name two or more different runs")
        configs = [read_config(run) for run in self.runs]
        questions = [config["question"] for config in configs]
        for run, question in zip(self.runs[1:], questions[1:], strict=True):
            _check_same(self.runs[0], questions[0], run, question)
        tables = [verify(run, self.data_root) for run in self.runs]
        images = [table["index"] for table in tables]
        index, first = np.unique(np.concatenate(images), return_index=True)
        same = all(np.array_equal(one, index) for one in images)
        if not same and len(index) < sum(map(len, images)):
            raise InputError(
                "these runs share some images but not all: merge runs over disjoint images, or the same ones"
            )
        question = _added(questions) if same else self._side_by_side(questions, index)

        def records() -> Iterable[Record]:
            recalled = chain.from_iterable(map(recorded, self.runs))
            return _sums(recalled) if same else recalled

        labels = np.concatenate([table["label"] for table in tables])[first].astype(np.int64)
        campaign, seconds = replayed(question, index, labels, tables[0]["select"].shape[1], records())
        said = options(self) | {"model": configs[0]["options"].get("model")}
        config = {"question": question, "options": said, "provenance": provenance()}
        with RunFolder(self.into, config, "certificates.parquet", LEDGER, KEPT):
            write(self.into, records())
            certificates.write(self.into, campaign.certificates(), seconds)
        print(f"{len(index):,} images written to {self.into}; show it with: ebsc table {self.into}")

    def _side_by_side(self, questions: Sequence[dict[str, Any]], index: np.ndarray) -> dict[str, Any]:
        """What one run over all these images would have been asked."""
        seeds = [question["seed"] for question in questions]
        if any(seed != seeds[0] for seed in seeds):
            raise InputError(f"runs over different images must have one seed, these have {seeds}")
        one = questions[0]
        if one["budget"].get("tolerance"):
            raise InputError("runs with a tolerance cannot be merged: each stopped by its own table")
        whole = data.load(one["data"], one["split"], self.data_root)
        parts = ",".join(sorted(question["images"] for question in questions))
        question = one | {"images": slice_of(index, len(whole.labels)) or parts}
        return question | {"checksum": images_of(question, whole).checksum}


def _check_same(first: Path, one: dict[str, Any], second: Path, other: dict[str, Any]) -> None:
    differ = [key for key in sorted({*one, *other} - set(_APART)) if one.get(key) != other.get(key)]
    if differ:
        what = "; ".join(f"{key} is {json.dumps(one.get(key))} and {json.dumps(other.get(key))}" for key in differ)
        raise InputError(f"{first} and {second} are not runs of one configuration: {what}")


def _added(questions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the votes of all seeds together answer. Selecting draws still select, and estimating ones estimate."""
    budget = questions[0]["budget"]
    if budget["kind"] != "fixed":
        raise InputError(
            "these runs share their images and their budget is sequential: when each stopped depended on its votes, so"
            " that their sum certifies nothing; merge runs of a fixed budget"
        )
    seeds = sorted(chain(*(np.atleast_1d(question["seed"]).tolist() for question in questions)))
    if len(set(seeds)) < len(seeds):
        raise InputError(f"these runs share images and seeds ({seeds}): the same draws would be counted twice")
    runs = len(questions)
    more = {name: budget[name] * runs for name in ("n", "n0")}
    return questions[0] | {
        "budget": budget | more | {"extends": [n * runs for n in budget.get("extends", [])]},
        "seed": seeds,
    }


def _sums(records: Iterable[Record]) -> Iterable[Record]:
    """The votes of each look of each image, added up."""
    sums: dict[tuple[int, int], Record] = {}
    for record in records:
        image, look = record["image"], record["look"]
        total = sums.setdefault((image, look), {"image": image, "look": look, "votes": Counter(), "seconds": 0.0})
        total["votes"].update(record["votes"])
        total["seconds"] += record["seconds"]
    return sums.values()


if __name__ == "__main__":
    from jobs.cli import start

    start(Merge)
