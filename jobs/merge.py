"""``ebsc merge``: runs over disjoint images, or over disjoint draws of the same images, as one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from cluster import certificates
from cluster.folder import RunFolder, read_config
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.errors import InputError
from jobs.provenance import options, provenance

__all__ = ["Merge"]

_APART = ("images", "checksum", "seed")
"""What runs that are merged may differ in."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merge finished runs of the same configuration into one.

    Over different images (`--images 0::2` and `--images 1::2`): their certificates side by side. Over the same images
    with different seeds and a fixed budget: votes add up, and each image is certified anew with all draws. Anything
    else is refused with the reason.

    Example: ebsc merge runs/even runs/odd --into runs/all
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Finished run folders."""
    into: Path
    """Run folder to write."""

    def run(self) -> None:
        """Merge."""
        if len(self.runs) < 2 or len({run.resolve() for run in self.runs}) < len(self.runs):
            raise InputError("name two or more different runs")
        questions = [read_config(run)["question"] for run in self.runs]
        for run, question in zip(self.runs[1:], questions[1:], strict=True):
            _check_same(self.runs[0], questions[0], run, question)
        tables = [certificates.read(run) for run in self.runs]
        seconds = [certificates.seconds(run) for run in self.runs]
        index = np.concatenate([table["index"] for table in tables])
        if len(np.unique(index)) == len(index):
            seeds = [question["seed"] for question in questions]
            if any(seed != seeds[0] for seed in seeds):
                raise InputError(f"runs over different images must have one seed, these have {seeds}")
            question, merged, took = _side_by_side(questions, tables, seconds)
        elif all(np.array_equal(table["index"], tables[0]["index"]) for table in tables):
            question, merged, took = _added(questions, tables, seconds)
        else:
            raise InputError(
                "these runs share some images but not all: merge runs over disjoint images, or the same ones"
            )
        config = {"question": question, "options": options(self), "provenance": provenance()}
        with RunFolder(self.into, config, "certificates.parquet"):
            certificates.write(self.into, merged, took)
        print(f"{len(merged):,} images written to {self.into}; show it with: ebsc table {self.into}")


def _all(questions: Sequence[dict[str, Any]], key: str) -> list[Any]:
    """The values of all runs, one after the other; a merged run has several."""
    said = [question[key] if isinstance(question[key], list) else [question[key]] for question in questions]
    return [value for values in said for value in values]


def _check_same(first: Path, one: dict[str, Any], second: Path, other: dict[str, Any]) -> None:
    differ = [key for key in sorted({*one, *other} - set(_APART)) if one.get(key) != other.get(key)]
    if differ:
        what = "; ".join(f"{key} is {json.dumps(one.get(key))} and {json.dumps(other.get(key))}" for key in differ)
        raise InputError(f"{first} and {second} are not runs of one configuration: {what}")


def _side_by_side(
    questions: Sequence[dict[str, Any]], tables: Sequence[np.ndarray], seconds: Sequence[np.ndarray]
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    merged = np.concatenate(tables)
    order = np.argsort(merged["index"])
    pairs = sorted(zip(_all(questions, "images"), _all(questions, "checksum"), strict=True))
    question = questions[0] | {"images": [images for images, _ in pairs], "checksum": [sums for _, sums in pairs]}
    return question, merged[order], np.concatenate(seconds)[order]


def _added(
    questions: Sequence[dict[str, Any]], tables: Sequence[np.ndarray], seconds: Sequence[np.ndarray]
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Votes of all seeds together. Selecting draws still select, and estimating ones estimate: they are all fresh."""
    budget = questions[0]["budget"]
    if budget["kind"] != "fixed":
        raise InputError(
            "these runs share their images and their budget is sequential: when each stopped depended on its votes, so"
            " that their sum certifies nothing; merge runs of a fixed budget"
        )
    if len({json.dumps(question["checksum"]) for question in questions}) > 1:
        raise InputError("these runs have the same indices but other pixels: their checksums differ")
    seeds = _all(questions, "seed")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"these runs share images and seeds ({seeds}): the same draws would be counted twice")
    runs, first = len(tables), tables[0]
    larger = Fixed(n=budget["n"] * runs, n0=budget["n0"] * runs, alpha=budget["alpha"], two_sided=budget["two_sided"])
    sigma, n_classes = questions[0]["sigma"], first["select"].shape[1]
    campaign = Campaign(first["label"], n_classes, sigma, budget=larger, images=first["index"])
    for look, name in enumerate(("select", "counts")):
        votes = np.stack([table[name] for table in tables]).sum(0, dtype=np.int64)
        campaign.restore(
            {"image": image, "look": look, "votes": {str(c): int(row[c]) for c in np.flatnonzero(row)}}
            for image, row in zip(first["index"].tolist(), votes, strict=True)
        )
    question = questions[0] | {"budget": {"kind": "fixed", **asdict(larger)}, "seed": sorted(seeds)}
    return question, campaign.certificates(), np.sum(seconds, axis=0)


if __name__ == "__main__":
    from jobs.cli import start

    start(Merge)
