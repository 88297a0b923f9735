"""``ebsc merge``: runs over disjoint images, or over disjoint draws of the same images, as one."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from cluster import certificates
from cluster.folder import OLDER, RunFolder, flat
from cluster.ledger import KEPT, LEDGER, Record, recorded, write
from ebsc import data
from ebsc.errors import InputError, RunError
from jobs.options import DataRoot, slice_of
from jobs.prints import show_with
from jobs.provenance import provenance
from jobs.runs import certification, images_of
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
    into: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to write."""
    data_root: DataRoot = None

    def run(self) -> None:
        """Merge."""
        if len(self.runs) < 2 or len(set(map(os.path.realpath, self.runs))) < len(self.runs):
            raise InputError("name two or more different runs")
        configs = [certification(run) for run in self.runs]
        questions = [config["question"] for config in configs]
        for run, question in zip(self.runs[1:], questions[1:], strict=True):
            _check_same(self.runs[0], questions[0], run, question)
        table = np.concatenate(tables := [verify(run, self.data_root) for run in self.runs])
        records = list(chain.from_iterable(map(recorded, self.runs)))
        index, first = np.unique(table["index"], return_index=True)
        if len(index) == len(table):
            question = self._side_by_side(questions, index)
        elif all(np.array_equal(one["index"], tables[0]["index"]) for one in tables):
            question, records, first = _added(questions), _sums(records), np.arange(len(index))
        else:
            raise InputError(
                "these runs share some images but not all: merge runs over disjoint images, or the same ones"
            )
        images, labels = table["index"][first], table["label"][first].astype(np.int64)
        try:
            campaign, seconds = replayed(question, images, labels, table["select"].shape[1], records)
        except ValueError as error:
            raise RunError(f"the runs have changed while they were merged: {error}") from error
        devices = {config.get("device", OLDER) for config in configs}
        if len(devices) > 1:
            raise InputError("these runs were counted on CPUs and on GPUs, where a network rounds differently")
        parts = [{"run": str(run), **config} for run, config in zip(self.runs, configs, strict=True)]
        said = configs[0]["options"] | {"run_folder": str(self.into), "images": question["images"]}
        if any("two-sided" in config["options"].get("extend", ()) for config in configs):
            said["extend"] = ["two-sided"]  # of any of them, which its table must say
        config = {"question": question, "options": said, "provenance": provenance(), "merged": parts}
        config["device"] = devices.pop()
        with RunFolder(self.into, config, *certificates.FILES, LEDGER, KEPT) as held:
            finished = (self.into / "certificates.parquet").exists()
            if not (finished and any((self.into / name).exists() for name in (LEDGER, KEPT))):
                held.pin(config["device"])
                write(self.into, question, records)
                certificates.write(self.into, campaign.certificates(), seconds, sound=question["lattice"])
        print(f"{len(images):,} images written to {self.into}; {show_with(self.into)}")

    def _side_by_side(self, questions: Sequence[dict[str, Any]], index: np.ndarray) -> dict[str, Any]:
        """What one run over all these images would have been asked."""
        seeds = [question["seed"] for question in questions]
        if any(seed != seeds[0] for seed in seeds):
            raise InputError(f"runs over different images must have one seed, these have {seeds}")
        one = questions[0]
        if one["budget"].get("tolerance"):
            raise InputError("runs with a tolerance cannot be merged: each stopped by its own table")
        whole = data.load(one["data"], one["split"], self.data_root)
        parts = ",".join(sorted({part for question in questions for part in question["images"].split(",")}))
        question = one | {"images": slice_of(index, len(whole.labels)) or parts}
        return question | {"checksum": images_of(question, whole).checksum}


def _check_same(first: Path, one: dict[str, Any], second: Path, other: dict[str, Any]) -> None:
    ones, others = (flat({key: value for key, value in it.items() if key not in _APART}) for it in (one, other))
    both = [(key, ones.get(key, "null"), others.get(key, "null")) for key in sorted({*ones, *others})]
    if any(mine != theirs for _, mine, theirs in both):
        what = "; ".join(f"{key} is {mine} and {theirs}" for key, mine, theirs in both if mine != theirs)
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


def _sums(records: Sequence[Record]) -> list[Record]:
    """The votes of each look of each image, added up."""
    sums: dict[tuple[int, int], Record] = {}
    for record in records:
        image, look = record["image"], record["look"]
        total = sums.setdefault((image, look), {"image": image, "look": look, "votes": Counter(), "seconds": 0.0})
        total["votes"].update(record["votes"])
        total["seconds"] += record["seconds"]
    return list(sums.values())


if __name__ == "__main__":
    from jobs.cli import start

    start(Merge)
