"""``ebsc attack``: how far an adversary gets, beside how far certificates reach."""

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro

from cluster import certificates
from cluster.folder import RunFolder
from ebsc.attack import Attacker, Pgd, distances
from ebsc.bounds import false_certificates
from ebsc.budgets import Sequential
from ebsc.data import Dataset
from ebsc.device import Device, pick
from ebsc.errors import InputError
from ebsc.files import write_whole
from ebsc.model import Ebsc
from ebsc.noise import check_seed
from ebsc.votes import Precision, Voter, predict
from ebsc.walkjump import Walk
from jobs import attacked
from jobs.attacked import FOUND, Empirical
from jobs.entries import Entry, read_entry
from jobs.launch import Cluster, OnStop, Slurm, dispatch
from jobs.options import DataRoot, parse_images, parse_radii
from jobs.plots import curves
from jobs.prints import Format, check_figure, floor_percent, spelled, typeset
from jobs.progress import Reporter
from jobs.provenance import configuration
from jobs.runs import certification, data_of_run, model_of_run

__all__ = ["Attack"]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Attack the images of a certification run: the empirical upper curve beside its certified lower curve.

    L2 PGD on the smoothed classifier, by expectation over noise, through xhat; rounded to the pixel lattice within the
    ball. Then the smoothed prediction is taken there by voting, and may abstain. An image is right at r while that
    prediction is, with certainty, at the worst points found up to r. Inside a certified radius no attack may
    succeed: with --radii certified every certified image is attacked at its own radius, which tests just that.
    Interrupted, the same command goes on.

    Example: ebsc attack runs/mnist-residual-linear-0.5-mnist-sequential-n10000 --radii 0.5:2:0.5 --plot curve.png
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Finished run folder of `ebsc certify`."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for what is found. Default: RUN/attack, or RUN/attack-certified."""
    model: Path | None = None
    """Model folder, or the name of a released model. Default: the one that the run names."""
    allow: tuple[str, ...] = ()
    """Python modules of your own that the model may import; see `ebsc certify --help`."""
    data_root: DataRoot = None
    images: str = "::"
    """Which images of the run, as start:stop:step."""
    radii: str = "0.25:1.5:0.25"
    """Radii to attack at: 0.5, or 0.5,1, or start:stop:step; or the word certified."""
    pgd: Annotated[Pgd, tyro.conf.OmitArgPrefixes] = field(default_factory=Pgd)
    """How hard to attack."""
    n: int = 10_000
    """Draws of a prediction, at most."""
    alpha: float = 0.001
    """Probability that a prediction is wrong."""
    seed: int = 1
    """Seed of attacks and predictions; their draws are never those of the run."""
    batch: int = 32
    """Images attacked at a time."""
    precision: Precision = "float32"
    """Precision of the network in gradients. Predictions use the run's own, which is what is certified."""
    compile: bool = False
    """Compile the gradients."""
    device: Device = "auto"
    """cpu, cuda, or auto: CUDA where there is one."""
    plot: Path | None = None
    """Also draw both curves: .png, .svg or .pdf."""
    cluster: Cluster = "here"
    """here: in this process; slurm: as a SLURM job; local, debug: through submitit on this machine."""
    slurm: Annotated[Slurm, tyro.conf.OmitArgPrefixes] = field(default_factory=Slurm)
    """What to ask SLURM for."""

    tasks: ClassVar[int] = 1  # processes on each node of a SLURM job

    def __post_init__(self) -> None:
        if self.cluster == "slurm":
            self.slurm.one_process("an attack")
        if self.batch < 1:
            raise InputError(f"the batch must be at least 1, not {self.batch}")
        if self.inside and self.plot:
            raise InputError("a plot needs radii, not the word certified")
        if not self.inside and min(parse_radii(self.radii)) <= 0:
            raise InputError("radii of an attack must be positive")
        check_seed(self.seed)
        Sequential(radii=(0.0,), n=self.n, alpha=self.alpha)  # says what is wrong with them

    def run(self) -> None:
        """Attack here, or hand the job to a cluster."""
        if self.cluster == "slurm" and not self.slurm.depends:  # what would otherwise be said after the queue
            certification(self.run_folder)
        dispatch([self], self.cluster, self.slurm, self.folder)

    @property
    def inside(self) -> bool:
        """Whether each image is attacked at its own certified radius."""
        return self.radii == "certified"

    @cached_property
    def folder(self) -> Path:
        """Where what is found goes."""
        return self.out or self.run_folder / ("attack-certified" if self.inside else "attack")

    def here(self, on_stop: OnStop) -> None:
        """Attack, write what was found, and say it; what is found is on disk whenever this is stopped."""
        made = certification(self.run_folder)
        question = made["question"]
        rows = certificates.read(self.run_folder)
        rows = rows[parse_images(self.images, len(rows))]
        if self.inside and not rows["radius"].any():
            raise InputError(f"nothing is certified in {self.run_folder}")
        net, _ = model_of_run(self.run_folder, made, self.model, self.allow)
        if not question["lattice"]:
            raise InputError(f"{self.run_folder} is off the lattice: its certificates are not sound in floating point")
        chosen = data_of_run(self.run_folder, question, self.data_root).take(rows["index"])
        asked = {"run": question, "images": self.images, "radii": self.radii, **asdict(self.pgd)}
        asked |= {name: getattr(self, name) for name in ("n", "alpha", "seed", "batch", "precision", "compile")}
        config = configuration(asked, self, self.device)
        with RunFolder(self.folder, config, "attack.parquet"):
            if self.plot:
                check_figure(self.plot)
            found, adversarial = _Evaluation(self, made, net, chosen, rows).run()
            attacked.write(self.folder, rows, found, adversarial)
            entry = read_entry(self.run_folder).only(rows["index"])
            write_whole(self.folder / "attack.md", self._said(entry, rows, found, "markdown").encode())
        print(self._said(entry, rows, found, "text") + f"written to {self.folder}")
        if self.plot:
            under = Empirical(radii=self.grid, shares=self._standing(rows, found)[1], images=len(rows))
            curves([entry], self.plot, attacked={entry.name: under})

    @property
    def grid(self) -> tuple[float, ...]:
        """Radii to attack at, with 0 for the images as they are."""
        return attacked.grid(self.radii)

    def _standing(self, rows: np.ndarray, found: np.ndarray) -> tuple[list[float], list[float]]:
        """Shares of images that are right up to each radius of the grid, and that are right or abstain."""
        fooled = _fooled(found, rows["label"])
        left = partial(attacked.standing, found["row"], found["radius"], radii=self.grid, images=len(rows))
        return left(fooled | ~found["certain"]), left(fooled)

    def _said(self, entry: Entry, rows: np.ndarray, found: np.ndarray, form: Format) -> str:
        """Both curves, and what happened inside certified radii."""
        tried, fooled = _inside(rows, found)
        stages = 1 if self.inside else len(self.grid)
        limit = false_certificates(len(rows), min((entry.alpha or 0.0) + stages * self.alpha, 1.0))
        inside = (
            f"{tried} certified images attacked inside their certified radius: {fooled} predicted as another class"
            f" there (what certificates and predictions may err allows {limit})."
        )
        if self.inside:
            return inside + "\n"
        images = len(rows)
        shares = [entry.accuracy(radius) for radius in self.grid], *self._standing(rows, found)
        names = "certified (guarantee)", "right under attack", "right or abstaining (upper curve)"
        body = [
            [name, *(floor_percent(share, images) for share in row)] for name, row in zip(names, shares, strict=True)
        ]
        notes = [
            f"Per cent of {images} images. Under attack: what the smoothed classifier says at the worst points found up"
            f" to r, from up to {self.n} draws; wrong with probability at most {self.alpha:g}, else it abstains. An"
            " estimate: another attack may find worse.",
            inside,
        ]
        return typeset(["accuracy", *(f"r={spelled(radius)}" for radius in self.grid)], body, notes, form)


class _Evaluation:
    """One attack on a run: stage after stage, a stage being one radius, or each image's own."""

    def __init__(self, attack: Attack, made: dict[str, Any], net: Ebsc, chosen: Dataset, rows: np.ndarray) -> None:
        question = made["question"]
        device = pick(attack.slurm.device(attack.device, attack.cluster))
        self._attack, self._chosen, self._rows = attack, chosen, rows
        self._seeds = np.atleast_1d(question["seed"]).tolist()
        walk = Walk(**question["walk"]) if "walk" in question else None
        self._voter = Voter(
            net,
            chosen.images,
            levels=chosen.levels,
            n_classes=rows["counts"].shape[1],
            device=device,
            precision=question["precision"],
            batch=made["options"].get("batch", 256),
            compiled=question["compile"],
            walk=walk,
        )
        self._attacker = Attacker(
            net,
            levels=chosen.levels,
            how=attack.pgd,
            device=device,
            bfloat16=attack.precision == "bfloat16",
            compiled=attack.compile,
        )

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """What was found, one line an image and stage, and the images that were attacked with."""
        rows = self._rows
        if self._attack.inside:
            standing, stages = np.flatnonzero(rows["radius"] > 0), [("inside certified radii", rows["radius"])]
        else:
            standing = np.arange(len(rows))
            stages = [(f"r = {radius:g}", np.full(len(rows), radius)) for radius in self._attack.grid]
        parts = []
        with Reporter(f"attacking {self._attack.run_folder.name}") as reporter:
            for number, (title, radii) in enumerate(stages):
                if not len(standing):
                    break
                found, images = self._stage(number, standing, radii, reporter, title)
                parts.append((found, images))
                standing = found["row"][~_fooled(found, self._targets)]
        return _joined(parts)

    @cached_property
    def _targets(self) -> np.ndarray:
        """The class that must not be predicted any more: the true one, or the one that is certified."""
        return self._rows["predicted"] if self._attack.inside else self._chosen.labels

    def _stage(
        self, number: int, standing: np.ndarray, radii: np.ndarray, reporter: Reporter, title: str
    ) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for first in range(0, len(standing), self._attack.batch):
            part = standing[first : first + self._attack.batch]
            path = self._attack.folder / "batches" / f"{number}-{first}.npz"
            with suppress(OSError, ValueError):  # what is damaged is found again
                found, images = attacked.arrays(path, "found", "images")
                parts.append((found, images))
                continue
            parts.append(self._batch(number, part, radii))
            sink = io.BytesIO()
            np.savez_compressed(sink, found=parts[-1][0], images=parts[-1][1])
            path.parent.mkdir(exist_ok=True)
            write_whole(path, sink.getvalue())
            reporter.show(first + len(part), len(standing), f"{title}: {first + len(part)} of {len(standing)} images")
        return _joined(parts)

    def _batch(self, number: int, part: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        attack, clean = self._attack, self._chosen.images[part]
        attacking, voting = np.random.SeedSequence((attack.seed, number, int(part[0]))).generate_state(2).tolist()
        while voting in self._seeds:
            voting += 1
        images = clean
        if radii.any():
            full = np.resize(part, attack.batch) if attack.compile else part  # one shape, compiled once
            images = self._attacker.attack(self._chosen.images[full], self._targets[full], radii[full], attacking)
            images = images[: len(part)]
        found = np.zeros(len(part), FOUND)
        found["row"], found["radius"], found["length"] = (
            part,
            radii[part],
            distances(clean, images, self._chosen.levels),
        )
        found["predicted"], found["certain"] = predict(
            self._voter, images, self._rows["index"][part], n=attack.n, alpha=attack.alpha, seed=voting
        )
        return found, images


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    found, images = zip(*parts, strict=True)
    return np.concatenate(found), np.concatenate(images)


def _fooled(found: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Where the prediction is certain, and not the class that it should be; one that abstains is attacked further."""
    return found["certain"] & (found["predicted"] != targets[found["row"]])


def _inside(rows: np.ndarray, found: np.ndarray) -> tuple[int, int]:
    """How many certified images were attacked within their radius, and how many of them are surely of another class."""
    mine = rows[found["row"]]
    within = (mine["radius"] > 0) & (found["length"] > 0) & (found["length"] <= mine["radius"])
    fooled = within & found["certain"] & (found["predicted"] != mine["predicted"])
    return len(np.unique(found["row"][within])), len(np.unique(found["row"][fooled]))


if __name__ == "__main__":
    from jobs.cli import start

    start(Attack)
