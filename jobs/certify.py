"""``ebsc certify``: count votes on a test set and record what they certify."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from cluster import certificates
from cluster.driver import Driver, Status
from cluster.ledger import Ledger
from cluster.pool import LocalPool, Pool, RayPool
from cluster.worker import Assignment
from ebsc import data, model
from ebsc.bounds import floor_radius
from ebsc.budgets import Budget, Fixed, Sequential
from ebsc.campaign import Campaign, Outcome
from ebsc.data import Dataset, Split
from ebsc.errors import InputError
from ebsc.model import ModelSpec
from ebsc.votes import Precision
from jobs.progress import Reporter, duration
from jobs.provenance import options, provenance

__all__ = ["Certify", "parse_radii"]


def parse_radii(text: str) -> tuple[float, ...]:
    """Radii from ``0.5``, ``0,0.5,1`` or ``start:stop:step`` (stop included).

    >>> parse_radii("0:1:0.25")
    (0.0, 0.25, 0.5, 0.75, 1.0)

    Raises:
        InputError: not of that form.
    """
    try:
        if ":" in text:
            start, stop, step = (float(part) for part in text.split(":"))
            if not (0 < step < float("inf") and 0 <= start <= stop < float("inf")):
                raise ValueError
            return tuple((start + step * np.arange(int((stop - start) / step + 1e-9) + 1)).round(9).tolist())
        radii = tuple(float(part) for part in text.split(","))
        if not all(0 <= r < float("inf") for r in radii):
            raise ValueError
        return radii
    except ValueError:
        raise InputError(f"radii {text!r}: give numbers >= 0 as 0.5, as 0,0.5,1 or as start:stop:step") from None


def parse_slice(text: str, length: int) -> np.ndarray:
    """Image indices from ``start:stop:step``, as Python slices.

    >>> parse_slice("::20", 100).tolist()
    [0, 20, 40, 60, 80]
    """
    try:
        parts = [int(part) if part else None for part in text.split(":")]
        if len(parts) not in (2, 3):
            raise ValueError
        indices = np.arange(length)[slice(*parts)]
    except ValueError:
        raise InputError(f"images {text!r}: give start:stop:step, for example ::20 for every 20th") from None
    if not len(indices):
        raise InputError(f"images {text!r} selects none of the {length} images")
    return indices


@dataclass(frozen=True, kw_only=True)
class Certify:
    """Certify a test set: how far can each image move before the smoothed classifier may change its mind?

    Workers count the votes of f(xhat(x + eps)); a binomial lower bound turns counts into an L2 radius within which the
    vote provably cannot change, wrong with probability at most alpha for each image. Interrupted in any way, the same
    command goes on where it stopped, and ends with the same table.

    Example: ebsc certify models/mnist-residual-linear-0.5 --images ::20 --n 10000 --workers 2
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Model folder, as written by `ebsc train`."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run", aliases=["-o"])] = None
    """Run folder. Default: runs/MODEL[-plain]-DATA-BUDGET-nN."""
    data: str = ""
    """Data set. Default: the one that the model was trained on."""
    data_root: Path | None = None
    """Where data sets live. Default: $EBSC_DATA, else ~/.cache/ebsc/data."""
    split: Split = "test"
    """Split to certify."""
    images: str = "::"
    """Which images, as start:stop:step; ::20 is every 20th."""
    plain: bool = False
    """Vote without the denoiser: plain randomized smoothing of the same classifier (Cohen et al. 2019)."""
    budget: Literal["sequential", "fixed"] = "sequential"
    """sequential: an image stops when every radius asked for is decided; fixed: n draws for every image, as in the
    published logs."""
    radii: str = "0:4:0.25"
    """Radii that a sequential budget decides: 0.5, or 0,0.5,1, or start:stop:step. Fewer radii need far fewer draws."""
    n: int = 100_000
    """Draws that estimate, at most, for each image."""
    n0: int = 100
    """Draws that select the candidate class."""
    alpha: float = 0.001
    """Probability that a certificate is wrong, for each image."""
    seed: int = 0
    """Seed of all draws."""
    lattice: bool = True
    """Keep noise on the pixel lattice, so that certificates hold in floating point. --no-lattice takes images off the
    lattice too, and marks the run."""
    precision: Precision = "float32"
    """Of the network. The noise is always drawn and added in float32."""
    batch: int = 256
    """Images of one micro-batch; on a GPU, as many as fit."""
    compile: bool = False
    """Compile the network: up to a minute at the start of each worker, then faster."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto: CUDA where there is one."""
    workers: int | None = None
    """Ray actors. 0: no Ray, in this process. Default: one for each GPU of the cluster, or each CPU when it has none."""
    cpus_per_worker: float = 1
    """CPUs of each worker; also its threads."""
    gpus_per_worker: float | None = None
    """GPUs of each worker; 0.25 puts four on one. Default: 1 where the cluster has GPUs, else 0."""
    address: str | None = None
    """Ray cluster to use. Default: $RAY_ADDRESS (set inside `ray job submit`), else a Ray of this machine's own."""

    def run(self) -> None:
        """Certify, write the certificates, and say what was found."""
        net, spec = model.load(self.model)
        del net  # the workers build their own; loading has checked it
        chosen, indices = self._images(spec)
        budget = self._budget()
        campaign = Campaign(chosen.labels, spec.n_classes, spec.sigma, budget=budget, images=indices, seed=self.seed)
        config = self._config(spec, chosen, budget)
        with Ledger(self.folder(spec), config) as ledger:
            try:
                campaign.restore(ledger.records)
            except (ValueError, IndexError, AttributeError, TypeError) as error:
                raise InputError(f"{ledger.folder / 'ledger.jsonl'} is damaged or foreign: {error}") from error
            if not campaign.done:
                assignment = self._assignment(spec, chosen)
                with Reporter(f"certifying {ledger.folder.name}") as reporter, self._pool(assignment) as pool:
                    Driver(campaign, pool, ledger, _show(reporter)).run()
            seconds = np.zeros(len(indices))
            place = {int(image): row for row, image in enumerate(indices)}
            for record in ledger.records:
                seconds[place[record["image"]]] += record.get("seconds", 0.0)
            certificates.write(ledger.folder, campaign.certificates(), seconds)
        _summarise(campaign, ledger.folder)

    def folder(self, spec: ModelSpec) -> Path:
        """The run folder."""
        name = f"{self.model.name}{'-plain' * self.plain}-{Path(self._data(spec)).stem}-{self.budget}-n{self.n}"
        return self.run_folder or Path("runs") / name

    def _data(self, spec: ModelSpec) -> str:
        return self.data or spec.training.get("data", "digits")

    def _images(self, spec: ModelSpec) -> tuple[Dataset, np.ndarray]:
        """The images to certify as a data set of their own, and their indices in the whole one."""
        whole = data.load(self._data(spec), self.split, self.data_root)
        if whole.shape != spec.shape:
            raise InputError(f"{self.model} takes images of shape {spec.shape}, {whole.name} has {whole.shape}")
        if whole.n_classes > spec.n_classes:
            raise InputError(f"{self.model} knows {spec.n_classes} classes, {whole.name} has {whole.n_classes}")
        if self.lattice and not whole.on_lattice:
            raise InputError(
                f"{whole.name}: pixels are off the lattice {{0..{whole.levels}}} / {whole.levels}; state its true levels,"
                " or give --no-lattice for certificates that are not sound in floating point"
            )
        indices = parse_slice(self.images, len(whole.labels))
        part = whole.take(indices)
        return part if self.lattice else part.off_lattice(), indices

    def _budget(self) -> Budget:
        if self.budget == "fixed":
            return Fixed(n=self.n, n0=self.n0, alpha=self.alpha)
        return Sequential(radii=parse_radii(self.radii), n=self.n, n0=self.n0, alpha=self.alpha)

    def _config(self, spec: ModelSpec, chosen: Dataset, budget: Budget) -> dict[str, Any]:
        question = {
            "model": spec.sha256,
            "sigma": spec.sigma,
            "plain": self.plain,
            "data": chosen.name,
            "split": self.split,
            "images": self.images,
            "checksum": chosen.checksum,
            "lattice": chosen.on_lattice,
            "budget": {"kind": self.budget, **asdict(budget)},
            "seed": self.seed,
            "precision": self.precision,
            "compile": self.compile,
        }
        return {"question": question, "options": options(self), "provenance": provenance()}

    def _assignment(self, spec: ModelSpec, chosen: Dataset) -> Assignment:
        return Assignment(
            spec=spec,
            weights=(self.model / "model.safetensors").read_bytes(),
            plain=self.plain,
            images=chosen.images,
            levels=chosen.levels,
            device=self.device,
            precision=self.precision,
            batch=self.batch,
            compiled=self.compile,
            threads=0 if self.workers == 0 else max(1, int(self.cpus_per_worker)),
        )

    @contextmanager
    def _pool(self, assignment: Assignment) -> Iterator[Pool]:
        if self.workers == 0:
            yield LocalPool(assignment)
            return
        import ray

        mine = not ray.is_initialized()
        if mine:
            self._connect()
        try:
            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
            cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0) if self.device != "cpu" else 0)
            each = self.gpus_per_worker if self.gpus_per_worker is not None else float(gpus > 0)
            fit = int(gpus / each) if each else int(cpus / self.cpus_per_worker)
            yield RayPool(assignment, self.workers or max(1, fit), cpus=self.cpus_per_worker, gpus=each)
        finally:
            if mine:
                ray.shutdown()

    def _connect(self) -> None:
        import ray

        address = self.address or os.environ.get("RAY_ADDRESS")
        if address:
            ray.init(address=address, log_to_driver=False)
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        cores = max(os.cpu_count() or 1, int((self.workers or 1) * self.cpus_per_worker))
        ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)


def _show(reporter: Reporter) -> Any:
    noted = ""

    def report(status: Status) -> None:
        nonlocal noted
        if status.note != noted:
            noted = status.note
            reporter.say(f"{noted}; its units are sent again")
        text = (
            f"{status.settled:,}/{status.images:,} images settled, {status.draws:,} draws, {status.rate:,.0f} draws/s on"
            f" {status.workers} workers, {duration(status.seconds_left)} left"
        )
        reporter.show(status.settled, status.images, text)

    return report


def _summarise(campaign: Campaign, folder: Path) -> None:
    table = campaign.certificates()
    right = certificates.correct(table)
    n, budget = len(table), campaign.budget
    fixed = n * (budget.n0 + budget.n)
    ends = ", ".join(
        f"{int((table['outcome'] == end).sum()):,} {end.name.lower().replace('_', ' ')}" for end in Outcome if end
    )
    print(f"{n:,} images: {ends}")
    print(
        f"{right.mean():.1%} certified with the right class; ACR {floor_radius(float(table['radius'][right].sum() / n))}"
    )
    print(f"{campaign.draws:,} draws; a fixed budget takes {fixed:,} ({fixed / campaign.draws:.1f} times as many)")
    print(f"written to {folder}; show it with: ebsc table {folder}")


if __name__ == "__main__":
    from jobs.cli import start

    start(Certify)
