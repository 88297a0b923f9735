"""``ebsc verify``: whether the certificates of a run are what its recorded votes give."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from cluster import certificates
from cluster.folder import read_config
from cluster.ledger import Record, compress, recorded
from ebsc import data
from ebsc.budgets import budget_of
from ebsc.campaign import Campaign
from ebsc.errors import EbscError, InputError, RunError
from ebsc.files import make_folder, write_whole
from jobs.options import DataRoot, parse_images
from jobs.runs import certification, check_images

__all__ = ["Verify", "keep", "replayed", "verify"]


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Verify that the certificates of finished runs are what the recorded votes give.

    Nothing is voted on: from the ledger alone (votes of every look) and the budget in config.json all bounds and radii
    are computed again and compared, number by number, with certificates.parquet and certificates.tsv; the images must
    be those of the data set, by their checksum. Exit status 1 if a run fails.

    Whether the votes are those of the model is another question: `ebsc certify` with the options in config.json answers
    it, with the same votes on the same kind of device.

    Example: ebsc verify runs/* --keep results
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of `ebsc certify`, or kept ones."""
    data_root: DataRoot = None
    labels: bool = True
    """Compare images and labels with the data set. --no-labels takes the labels from certificates.parquet: for where
    there is no data set."""
    keep: Path | None = None
    """Keep every verified run for good, in a folder of its name below this one: config.json, certificates.parquet and
    the compressed ledger, which `ebsc table` and `ebsc verify` read like any run."""

    def run(self) -> None:
        """Verify all runs, then say whether one failed."""
        if not self.runs:
            raise InputError("name at least one run folder")
        places = [Path(os.path.realpath(run)) for run in self.runs]
        targets = [self.keep / place.name for place in places] if self.keep else []
        if len(set(targets)) < len(targets):
            raise InputError("two of these runs would be kept under the same name: keep them in different folders")
        if any(os.path.realpath(target) == str(place) for target, place in zip(targets, places, strict=False)):
            raise InputError("a run cannot be kept in its own place: name another folder with --keep")
        failed = []
        for number, run in enumerate(self.runs):
            try:
                images = len(verify(run, self.data_root, labels=self.labels))
                if targets:
                    keep(run, targets[number])
            except EbscError as error:
                if len(self.runs) == 1:
                    raise
                failed.append(run.name)
                print(f"{run}: FAILED: {error}", flush=True)
            else:
                print(f"{run}: verified, {images:,} images", flush=True)
        if failed:
            raise RunError(f"{len(failed)} of {len(self.runs)} runs failed: {', '.join(failed)}")


def verify(run: Path, root: Path | None = None, *, labels: bool = True) -> np.ndarray:
    """The certificates of a finished run, once they are known to be those that its ledger gives.

    Args:
        run: its folder.
        root: where data sets live.
        labels: compare images and labels with the data set; else the labels are taken as they stand.

    Raises:
        RunError: they are not, or the ledger leaves images open.
        InputError: it is no finished run, its ledger is missing or damaged, or the images are others.
    """
    question = certification(run)["question"]
    found, spent = certificates.read(run), certificates.seconds(run)
    truth = found["label"].astype(np.int64)
    if labels:
        whole = data.load(question["data"], question["split"], root)
        check_images(run, question, whole)
        indices = parse_images(question["images"], len(whole.labels))
        if not np.array_equal(indices, found["index"]):
            raise RunError(f"{run}: certificates.parquet is of other images than config.json")
        truth = whole.labels[indices]
        if found["select"].shape[1] < whole.n_classes:  # labels could lie outside
            raise RunError(f"{run}: certificates.parquet has fewer classes than the data")
    try:
        campaign, seconds = replayed(question, found["index"], truth, found["select"].shape[1], recorded(run))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run}: config.json, ledger and certificates are not of one run: {error}") from error
    if not campaign.done:
        left = len(found) - campaign.settled
        raise RunError(f"{run}: the ledger leaves {left} of {len(found)} images open")
    given = campaign.certificates()
    for name in given.dtype.names or ():
        # the last digits of a bound are those of a version of scipy
        same = (
            np.isclose(found[name], given[name], rtol=1e-9, atol=0)
            if name in ("radius", "p_lower")
            else found[name] == given[name]
        )
        wrong = np.flatnonzero(~same.reshape(len(found), -1).all(1))
        if len(wrong):
            row = wrong[0]
            raise RunError(
                f"{run}: {name} of image {found['index'][row]} is {found[name][row].tolist()} in certificates.parquet,"
                f" but {given[name][row].tolist()} by its votes; so for {len(wrong)} of {len(found)} images"
            )
    if not np.allclose(spent, seconds):
        raise RunError(f"{run}: the seconds in certificates.parquet are not those of the ledger")
    text = run / "certificates.tsv"
    if text.exists() and text.read_bytes() != certificates.to_tsv(found, spent).encode():
        raise RunError(f"{run}: certificates.tsv is not what certificates.parquet holds")
    return found


def replayed(
    question: dict[str, Any], images: np.ndarray, labels: np.ndarray, n_classes: int, records: Iterable[Record]
) -> tuple[Campaign, np.ndarray]:
    """What recorded votes give: the campaign, and the seconds spent on each image.

    Args:
        question: of the run.
        images: index of every image, (N,).
        labels: class of every image, (N,), int64.
        n_classes: classes that the model knows.
        records: of its ledger.

    Raises:
        ValueError, KeyError, TypeError: question, images and records are not of one run.
    """
    seconds = Counter[int]()

    def timed() -> Iterator[Record]:
        for record in records:
            seconds[record["image"]] += record["seconds"]
            yield record

    campaign = Campaign(labels, n_classes, question["sigma"], budget=budget_of(question["budget"]), images=images)
    campaign.restore(timed())
    return campaign, np.array([seconds[image] for image in images.tolist()])


def keep(run: Path, folder: Path) -> None:
    """Keep a verified run for good: all that its rows and their verification need, compressed."""
    make_folder(folder, "kept run")
    if (folder / "config.json").exists() and read_config(folder)["question"] != read_config(run)["question"]:
        raise InputError(f"{folder} holds another run already: keep this one elsewhere")
    for name in ("config.json", "certificates.parquet"):
        write_whole(folder / name, (run / name).read_bytes())
    compress(run, folder)


if __name__ == "__main__":
    from jobs.cli import start

    start(Verify)
