"""``ebsc certify``: count votes on a test set and record what they certify."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import tyro

from cluster import certificates
from cluster.allocation import Allocation, ray_across
from cluster.driver import Driver, Status
from cluster.ledger import LEDGER, Ledger
from cluster.metrics import RayMetrics
from cluster.pool import Pool, RayPool
from cluster.session import open_pool
from cluster.worker import Assignment
from ebsc import data, model
from ebsc.bounds import floor_radius
from ebsc.budgets import Budget, Fixed, Sequential, Tolerance
from ebsc.campaign import Campaign
from ebsc.data import Dataset, Split
from ebsc.device import Device, pick
from ebsc.errors import InputError
from ebsc.files import write_whole
from ebsc.model import ModelSpec
from ebsc.noise import check_exact, check_seed
from ebsc.votes import Precision
from ebsc.walkjump import Walk, check_can_walk
from jobs.launch import Cluster, OnStop, Slurm, dispatch
from jobs.options import DataRoot, parse_images, parse_radii
from jobs.prints import show_with
from jobs.progress import Reporter
from jobs.provenance import configuration
from jobs.runs import load_model
from jobs.status import describe

__all__ = ["Certify"]

STATUS_EVERY = 2.0
"""Seconds between writes of status.json, which `ebsc status` shows."""


@dataclass(frozen=True, kw_only=True)
class Certify:
    """Certify a test set: how far can each image move before the smoothed classifier may change its mind?

    Workers count the votes of f(xhat(x + eps)); a binomial lower bound turns counts into an L2 radius within which the
    vote provably cannot change, wrong with probability at most alpha for each image. Interrupted in any way, the same
    command goes on where it stopped, and ends with the same table.

    Example: ebsc certify models/mnist-residual-linear-0.5 --images ::20 --n 10000 --workers 2
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Model folder, as written by `ebsc train`, or the name of a released model (`ebsc models`)."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run", aliases=["-o"])] = None
    """Run folder. Default: runs/MODEL[-plain][-walkK]-DATA-BUDGET-nN."""
    allow: tuple[str, ...] = ()
    """Python modules of your own that the model may import, found among what is installed, on PYTHONPATH and in the
    working folder. Nothing else is ever imported for a model: allow what you trust."""
    data: str = ""
    """Data set: a name, or a path ending in .npz. Default: the one that the model was trained on."""
    data_root: DataRoot = None
    split: Split = "test"
    """Split to certify."""
    images: str = "::"
    """Which images, as start:stop:step; ::20 is every 20th. Several are joined by commas."""
    plain: bool = False
    """Vote without the denoiser: plain randomized smoothing of the same classifier (Cohen et al. 2019)."""
    vote: Literal["one-step", "walk-jump"] = "one-step"
    """one-step: a draw votes by f(xhat(x + eps)); walk-jump: by a chain of --steps Langevin steps from x + eps, with
    the mean of f over its jumps, at --steps + 1 times the cost."""
    walk: Annotated[Walk, tyro.conf.OmitArgPrefixes] = field(default_factory=Walk)
    """How to walk, with --vote walk-jump."""
    budget: Literal["sequential", "fixed"] = "sequential"
    """sequential: an image stops when every radius asked for is decided; fixed: n draws for every image, as in the
    published logs."""
    radii: str = "0:4:0.25"
    """Radii that a sequential budget decides: 0.5, or 0,0.5,1, or start:stop:step. Fewer need far fewer draws."""
    tolerance: float | None = None
    """Stop when every certified accuracy of the table is known to this share of the images (0.01: one point), and do
    not decide every image. Images that matter little to the table, and those whose candidate class is wrong, get few
    draws: their radii, and the share that abstains, are not final. Needs a sequential budget."""
    acr_tolerance: float | None = None
    """The same for the average certified radius (pixels on [0, 1]); with --tolerance, when both are known."""
    two_sided: bool = False
    """Bound every other class from above as well, with half of alpha: R = sigma/2 (Phi^-1(p_A) - Phi^-1(p_B)). Larger
    radii where several classes share what is left of p_A; slightly smaller ones where one class has all of it."""
    n: int = 100_000
    """Maximum number of estimation draws per image."""
    n0: int = 100
    """Draws that select the candidate class."""
    alpha: float = 0.001
    """Probability that a certificate is wrong, for each image."""
    extend: tuple[str, ...] = ()
    """Extend a finished run, keeping every draw: give its command again with --extend n=1000000 (more draws), --extend
    radii=0:3:0.1 (more radii) or, of a fixed budget, --extend two-sided (the other bound, from the same votes). Several
    extensions are listed in the order made, the old ones too: --extend n=1000000 radii=0:3:0.1. The tables before are
    kept in RUN/earlier."""
    seed: int = 0
    """Seed of all draws."""
    lattice: bool = True
    """Keep noise on the pixel lattice, so that certificates hold in floating point. --no-lattice takes images off
    the lattice too, and marks the run."""
    precision: Precision = "float32"
    """Precision of the network; noise is always drawn and added in float32. float32 is torch's: on recent GPUs its
    convolutions multiply in TF32."""
    batch: int = 256
    """Images of one micro-batch; on a GPU, as many as fit."""
    compile: bool = False
    """Compile the network: up to a minute at the start of each worker, then faster."""
    device: Device = "auto"
    """Where the networks run; auto: CUDA where there is one."""
    workers: int | None = None
    """Ray actors. 0: no Ray, in this process. Default: as many as the cluster has room for."""
    cpus_per_worker: float = 1
    """CPUs of each worker; also its threads."""
    gpus_per_worker: float | None = None
    """GPUs of each worker; 0.25 puts four on one. Default: 1 where the cluster has GPUs, else 0."""
    address: str | None = None
    """Ray cluster to use. Default: $RAY_ADDRESS (set inside `ray job submit`), else a Ray of this machine's own."""
    cluster: Cluster | Literal["allocation"] = "here"
    """here: from this process; slurm: as a SLURM job, with Ray over all its nodes; allocation: this is a step of a
    SLURM job, one task a node (as in slurm/certify.sbatch); local, debug: through submitit on this machine."""
    slurm: Annotated[Slurm, tyro.conf.OmitArgPrefixes] = field(default_factory=Slurm)
    """What to ask SLURM for."""

    elsewhere: ClassVar[dict[str, str]] = {
        "--sigma": "it is the model's, which was trained for it; another sigma is another model",
        "--skip": "give every 20th image as --images ::20",
        "--max": "give the first 500 images as --images :500",
        "--outfile": "give the run folder with -o",
    }
    """What to do instead of an option that this command does not have, and others do."""

    tasks: ClassVar[int] = 1  # processes on each node of a SLURM job: each starts Ray there, the first one drives

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"the micro-batch must be at least 1, not {self.batch}")
        if (self.workers or 0) < 0:
            raise InputError(f"workers must not be negative, not {self.workers}")
        if not (self.cpus_per_worker == 0 or 1e-4 <= self.cpus_per_worker < inf):  # Ray counts in ten-thousandths
            raise InputError(f"CPUs per worker must be 0 or 0.0001 and more, not {self.cpus_per_worker}")
        gpus = self.gpus_per_worker or 0
        if not (gpus == 0 or 1e-4 <= gpus <= 1 or (gpus < inf and gpus == int(gpus) > 1)):
            raise InputError(f"GPUs per worker must be 0, from 0.0001 to 1, or a whole number, not {gpus}")
        if self.workers == 0 and (self.address or gpus or self.cpus_per_worker != 1):
            raise InputError("address, cpus-per-worker and gpus-per-worker are those of Ray: --workers 0 starts none")
        if self.cluster == "slurm":
            without = " without workers" * (self.workers == 0)
            self.slurm.one_process(f"a certification{without}", on_each_node=not without)
        if self.address and self.cluster in ("slurm", "allocation"):
            raise InputError(f"--cluster {self.cluster} starts a Ray of its own: it does not take --address")
        parse_radii(self.radii)  # a fixed budget has no use for them, and they may be wrong all the same
        check_seed(self.seed)
        self._budgets()  # says what is wrong with them
        if self.vote == "one-step" and self.walk != Walk():
            raise InputError("steps, step-size and friction are those of a walk: they need --vote walk-jump")

    def run(self) -> None:
        """Certify here, or hand the job to a cluster."""
        if self.cluster == "slurm" and not self.slurm.depends:  # what would otherwise be said after the queue
            data.check_name(self._data_name(self._spec))
        dispatch([self], "here" if self.cluster == "allocation" else self.cluster, self.slurm, self.folder)

    @cached_property
    def folder(self) -> Path:
        """The run folder."""
        return self.run_folder or Path("runs") / self._name(self._spec)

    @cached_property
    def _spec(self) -> ModelSpec:
        return load_model(self.model, self.allow)[1]

    def here(self, on_stop: OnStop) -> None:
        """Certify, write the certificates, and say what was found; the ledger is on disk whenever this is stopped."""
        if self.cluster not in ("slurm", "allocation") or self.workers == 0:
            self._certify()
            return
        with ray_across(Allocation.here(), self.folder) as address:
            if address:
                self._certify()

    def _certify(self) -> None:
        if self.workers == 0:
            pick(self._device)  # says before anything is written that there is no such device
        net, spec = load_model(self.model, self.allow)
        if self._chain:
            check_can_walk(net.plain() if self.plain else net)
        *earlier, budget = self._budgets()
        chosen, indices = self._chosen(spec)
        if chosen.on_lattice:
            check_exact(spec.sigma, chosen.levels)
        campaign = Campaign(chosen.labels, spec.n_classes, spec.sigma, budget=budget, images=indices, seed=self.seed)
        folder = self.folder
        reach = budget.largest_radius(spec.sigma)
        if isinstance(budget, Sequential) and min(budget.radii) > reach:
            at_most = f"certify at most {floor_radius(reach)} at sigma {spec.sigma:g}"
            raise InputError(f"no radius asked for can be certified: {budget.n} draws {at_most}")
        asked, *extends = (self._question(spec, chosen, one) for one in (budget, *earlier))
        config = configuration(asked, self, self.device)
        with Ledger(folder, config, extends) as ledger:
            try:
                campaign.restore(ledger.read())
            except ValueError as error:
                raise InputError(f"{folder / LEDGER} is damaged or foreign: {error}") from error
            if not campaign.done:
                weights = model.read(self.model)[1]  # as they are stored: the question names their checksum
                with (
                    Reporter(f"certifying {folder.name}") as reporter,
                    open_pool(
                        self._assignment(spec, weights, chosen),
                        workers=self.workers,
                        cpus=self.cpus_per_worker,
                        gpus=self.gpus_per_worker,
                        address=self.address,
                        pin=ledger.pin,
                    ) as pool,
                ):
                    ledger.extend()  # not before it is known to be whole, and that somebody can count
                    Driver(campaign, pool, ledger, _show(reporter, folder, pool)).run()
            ledger.extend()  # where nothing was left to draw
            seconds: Counter[int] = Counter()
            for record in ledger.read():
                seconds[record["image"]] += record["seconds"]
            spent = np.array([seconds[image] for image in indices.tolist()])
            certificates.write(folder, campaign.certificates(), spent, sound=chosen.on_lattice)
        _summarise(campaign, folder)

    def _name(self, spec: ModelSpec) -> str:
        data_name = Path(self._data_name(spec)).stem
        vote = "-plain" * self.plain + f"-walk{self.walk.steps}" * (self._chain is not None)
        return f"{Path(os.path.realpath(self.model)).name}{vote}-{data_name}-{self.budget}-n{self.n}"

    @property
    def _device(self) -> Device:
        return self.slurm.device(self.device, self.cluster) if self.workers == 0 else self.device

    @property
    def _chain(self) -> Walk | None:
        return self.walk if self.vote == "walk-jump" else None

    def _data_name(self, spec: ModelSpec) -> str:
        name = self.data or spec.training.get("data")
        if not name:
            raise InputError(f"{self.model} does not say what it was trained on: name a data set with --data")
        return str(name)

    def _chosen(self, spec: ModelSpec) -> tuple[Dataset, np.ndarray]:
        """The images to certify as a data set of their own, and their indices in the whole one."""
        whole = data.load(self._data_name(spec), self.split, self.data_root)
        if whole.shape != spec.shape:
            raise InputError(f"{self.model} takes images of shape {spec.shape}, {whole.name} has {whole.shape}")
        if whole.n_classes > spec.n_classes:
            raise InputError(f"{self.model} knows {spec.n_classes} classes, {whole.name} has {whole.n_classes}")
        if self.lattice and not whole.on_lattice:
            raise InputError(
                f"{whole.name}: pixels are off the lattice of {whole.levels} levels; state the true levels, or give"
                " --no-lattice for certificates that are not sound in floating point"
            )
        indices = parse_images(self.images, len(whole.labels))
        chosen = whole.take(indices)
        return chosen if self.lattice else chosen.off_lattice(), indices

    def _budgets(self) -> list[Budget]:
        """The budget, and what it is extended to, one after the other."""
        tolerances = self.tolerance, self.acr_tolerance
        wants_all = tolerances == (None, None)
        if self.extend and not wants_all:
            raise InputError("a run with a tolerance cannot be extended: which images it drew on depends on its budget")
        common: dict[str, Any] = {"n": self.n, "n0": self.n0, "alpha": self.alpha, "two_sided": self.two_sided}
        if self.budget == "fixed":
            if not wants_all:
                raise InputError("a tolerance needs --budget sequential")
            budgets: list[Budget] = [Fixed(**common)]
        else:
            tolerance = None if wants_all else Tolerance(accuracy=self.tolerance, acr=self.acr_tolerance)
            budgets = [Sequential(radii=parse_radii(self.radii), tolerance=tolerance, **common)]
        for word in self.extend:
            budgets.append(_extended(budgets[-1], word))
        return budgets

    def _question(self, spec: ModelSpec, chosen: Dataset, budget: Budget) -> dict[str, Any]:
        """All that decides the numbers of the run."""
        return {
            **model.identity(spec),
            "plain": self.plain,
            **({"walk": asdict(self._chain)} if self._chain else {}),
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

    def _assignment(self, spec: ModelSpec, weights: bytes, chosen: Dataset) -> Assignment:
        return Assignment(
            spec=spec,
            weights=weights,
            code=model.code(spec),
            plain=self.plain,
            walk=self._chain,
            images=chosen.images,
            levels=chosen.levels,
            device=self._device,
            precision=self.precision,
            batch=self.batch,
            compiled=self.compile,
            threads=0 if self.workers == 0 else max(1, int(self.cpus_per_worker)),
        )


def _extended(budget: Budget, word: str) -> Budget:
    """The budget that one word of --extend makes of this one."""
    name, _, value = word.partition("=")
    if name == "n" and value.isdecimal():
        return replace(budget, n=int(value), extends=(*budget.extends, budget.n))
    if name == "radii" and isinstance(budget, Sequential):
        return replace(budget, radii=tuple(sorted({*budget.radii, *parse_radii(value)})))
    if word == "two-sided" and isinstance(budget, Fixed):  # sequential votes would have stopped elsewhere
        return replace(budget, two_sided=True)
    also = "two-sided" if isinstance(budget, Fixed) else "radii=START:STOP:STEP"
    raise InputError(f"extend {word!r}: give n=DRAWS or {also}")


def _show(reporter: Reporter, folder: Path, pool: Pool) -> Callable[[Status], None]:
    """Progress for the terminal, for `ebsc status`, and for Ray's dashboard."""
    gauges = RayMetrics(folder.name) if isinstance(pool, RayPool) else None
    noted, written = "", float("-inf")

    def report(status: Status) -> None:
        nonlocal noted, written
        if status.note != noted:
            noted = status.note
            reporter.say(noted)
        reporter.show(status.settled, status.images, describe(status))
        if gauges:
            gauges(status)
        if time.monotonic() - written >= STATUS_EVERY or status.settled == status.images:
            written = time.monotonic()
            write_whole(folder / "status.json", json.dumps({**asdict(status), "time": time.time()}).encode())

    return report


def _summarise(campaign: Campaign, folder: Path) -> None:
    table = campaign.certificates()
    right = certificates.correct(table)
    images, budget = len(table), campaign.budget
    fixed = images * (budget.n0 + budget.n)
    ends = Counter(certificates.outcomes(table)).most_common()
    print(f"{images:,} images: {', '.join(f'{count:,} {end}' for end, count in ends)}")
    acr = floor_radius(float(table["radius"][right].sum() / images))
    print(f"{int(right.sum()):,} of {images:,} certified with the right class; average certified radius {acr}")
    if isinstance(budget, Sequential) and max(budget.radii) > (reach := budget.largest_radius(campaign.sigma)):
        print(f"radii above {floor_radius(reach)} are out of reach of {budget.n:,} draws: they say 0.0 in a table")
    beside = f"; a fixed budget takes {fixed:,}, {fixed / campaign.draws:.1f} times as many"
    print(f"{campaign.draws:,} draws{beside * isinstance(budget, Sequential)}")
    print(f"written to {folder}; {show_with(folder)}")


if __name__ == "__main__":
    from jobs.cli import start

    start(Certify)
