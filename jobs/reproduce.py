"""``ebsc reproduce``: the paper's story on a data set, from data to tables and figures."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cluster.folder import RunFolder
from ebsc.attack import Pgd
from ebsc.errors import InputError
from ebsc.files import write_whole
from ebsc.training import Schedule
from ebsc.votes import Precision
from ebsc.walkjump import Walk
from jobs.attack import Attack
from jobs.certify import Certify
from jobs.fitting import Watch
from jobs.geometry import Geometry
from jobs.launch import Cluster, Hold, Slurm, dispatch
from jobs.options import command_line, parse_radii
from jobs.provenance import options, provenance
from jobs.sample import Sample
from jobs.tables import Table
from jobs.theory import Theory
from jobs.train import Train

__all__ = ["BUDGETS", "Budget", "Reproduce"]

Classifier = Literal["linear", "lenet", "resnet"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much work the story is.

    Attributes:
        sigmas: of the plug-in classifiers, the baselines and the envelope.
        middle: the sigma of what is learned, attacked and walked with.
        epsilons: of the learned EBSC.
        classifier: of what is learned and of the baselines; the plug-in's is linear, as in the paper.
        energy, learned, baseline: schedules.
        draws, steps: of noise and of the attack, in training.
        radii: columns of the tables.
        images, n: what is certified, and draws.
        precision: of all networks.
        compile: them too.
        pgd, attacked: how hard the learned EBSC is attacked, and on which of the certified images.
        samples: steps of the chains to look at.
    """

    sigmas: tuple[float, ...]
    middle: float
    epsilons: tuple[float, ...]
    classifier: Classifier
    energy: Schedule
    learned: Schedule
    baseline: Schedule
    draws: int
    steps: int
    radii: str
    images: str
    n: int
    precision: Precision = "float32"
    compile: bool = False
    pgd: Pgd = field(default_factory=Pgd)
    attacked: str = "::"
    samples: int = 1000


def _mnist(*, full: bool) -> Budget:
    """Small enough for two cores and a coffee; or what a GPU takes hours for, with the settings of published logs."""
    precision: Precision = "bfloat16"
    shared: dict[str, Any] = {
        "sigmas": (0.25, 0.5, 1.0),
        "middle": 0.5,
        "classifier": "lenet",
        "radii": "0:2:0.25",
        "precision": precision,
    }
    if full:
        return Budget(
            epsilons=(0.5, 1.0, 1.5, 2.0),
            energy=Schedule(steps=60_000, batch=128, precision=precision, compile=True),
            learned=Schedule(steps=21_000, batch=256, learning_rate=1e-3, clip=1.0, precision=precision, compile=True),
            baseline=Schedule(steps=21_000, batch=256, learning_rate=1e-3, clip=1.0, precision=precision),
            draws=8,
            steps=10,
            images="::",
            n=100_000,
            compile=True,
            pgd=Pgd(steps=100, draws=64, restarts=3),
            attacked="::20",
            samples=10_000,
            **shared,
        )
    return Budget(
        epsilons=(0.5, 1.0),
        energy=Schedule(steps=1200, precision=precision),
        learned=Schedule(steps=240, batch=64, learning_rate=1e-3, clip=1.0, precision=precision),
        baseline=Schedule(steps=1000, batch=128, learning_rate=1e-3, clip=1.0, precision=precision),
        draws=2,
        steps=2,
        images="::100",
        n=1000,
        pgd=Pgd(steps=10, draws=8),
        attacked="::4",
        samples=300,
        **shared,
    )


def _digits(*, full: bool) -> Budget:
    """The same story on 8 x 8 digits, with a linear classifier everywhere."""
    return Budget(
        sigmas=(0.15, 0.25, 0.35),
        middle=0.25,
        epsilons=(0.25, 0.5),
        classifier="linear",
        energy=Schedule(steps=8000 if full else 600),
        learned=Schedule(steps=2000 if full else 100, batch=64, learning_rate=1e-3, clip=1.0),
        baseline=Schedule(steps=4000 if full else 1000, learning_rate=1e-3, clip=1.0),
        draws=4,
        steps=4,
        radii="0:1:0.125",
        images="::" if full else "::6",
        n=100_000 if full else 500,
        pgd=Pgd(steps=50, draws=32, restarts=3) if full else Pgd(steps=10, draws=8),
        attacked="::" if full else "::4",
        samples=5000 if full else 300,
    )


BUDGETS = {"mnist": _mnist, "digits": _digits}


@dataclass(frozen=True)
class _Step:
    """One command, what it is for, the file that says that it is done, and what of it the story shows."""

    title: str
    command: Any
    done: Path | None = None
    table: Path | None = None
    figure: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Tell the story of Saremi & Srivastava (2020) on a data set, from data to tables and figures.

    Plug-in EBSC: energies at several sigmas, each with a linear classifier; plain smoothing of the same. Learned EBSC
    at several epsilons; the same classifier without a denoiser, under noise and under attack. The envelope over sigma,
    the empirical curve beside the certified one, walk-jump, the theory of the two-class linear case, the geometry.
    Every step is an `ebsc` command, printed before it runs; story.md puts all together. Interrupted, it goes on.

    The paper's architectures, schedules and numbers of draws are not known to us (only its abstract is at hand): those
    here are ours, or those of published logs where there are such.

    Example: ebsc reproduce mnist
    """

    data: Annotated[Literal["mnist", "digits"], tyro.conf.Positional]
    """Data set."""
    budget: Literal["minutes", "full"] = "minutes"
    """minutes: on two cores, to see it all; its rows say little about what is possible. full: with the settings of the
    published logs; days on two cores, hours on a GPU."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for everything that it makes. Default: reproduce/DATA-BUDGET."""
    data_root: Path | None = None
    """Where data sets live. Default: $EBSC_DATA, else ~/.cache/ebsc/data."""
    peers: tuple[Path, ...] = ()
    """Published logs in the field's tab-separated form, to be put beside the rows."""
    workers: int | None = None
    """Ray actors of each certification; 0: without Ray. Default: as many as there is room for."""
    commands: bool = False
    """Only print the commands."""
    cluster: Cluster = "here"
    """here: in this process; slurm: as one SLURM job; local, debug: through submitit on this machine."""
    slurm: Annotated[Slurm, tyro.conf.OmitArgPrefixes] = field(default_factory=Slurm)
    """What to ask SLURM for."""

    def __post_init__(self) -> None:
        for log in self.peers:
            if not log.is_file():
                raise InputError(f"{log}: no such log")

    def run(self) -> None:
        """Run it here, or hand it to a cluster."""
        if self.commands:
            for step in self._steps():
                print(f"# {step.title}\n{command_line(step.command)}")
            return
        dispatch([self], self.cluster, self.slurm, self.folder)

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.out or Path("reproduce") / f"{self.data}-{self.budget}"

    @property
    def tasks(self) -> int:
        """Processes on each node of a SLURM job."""
        return 1

    def here(self, hold: Hold) -> None:
        """Carry out all steps that are not done yet, then write the story."""
        question = {"data": self.data, "budget": self.budget, "plan": asdict(self._plan)}
        config = {"question": question, "options": options(self), "provenance": provenance()}
        with RunFolder(self.folder, config, "story.md"):
            steps = list(self._steps())
            for number, step in enumerate(steps, 1):
                print(f"\n[{number}/{len(steps)}] {step.title}\n$ {command_line(step.command)}", flush=True)
                if step.done and step.done.exists():
                    print("done before")
                else:
                    step.command.run()
            write_whole(self.folder / "story.md", self._story(steps).encode())
        print(f"\nThe story, with its tables and figures: {self.folder / 'story.md'}")

    @cached_property
    def _plan(self) -> Budget:
        return BUDGETS[self.data](full=self.budget == "full")

    def _steps(self) -> Iterator[_Step]:
        plan = self._plan
        plug_in = [f"plug-in-{sigma:g}" for sigma in plan.sigmas]
        plain = [f"plain-{sigma:g}" for sigma in plan.sigmas]
        gaussian = [f"gaussian-{sigma:g}" for sigma in plan.sigmas]
        learned = [f"learned-{plan.middle:g}-epsilon-{epsilon:g}" for epsilon in plan.epsilons]
        attacked, middle = f"smoothadv-{plan.middle:g}-epsilon-{plan.epsilons[-1]:g}", f"plug-in-{plan.middle:g}"
        walked = f"walk-jump-{plan.middle:g}"

        for sigma, name, beside in zip(plan.sigmas, plug_in, plain, strict=True):
            title = f"Learn the energy at sigma {sigma:g}, and a linear classifier on clean images"
            yield self._train(title, name, sigma=sigma, energy=plan.energy)
            yield self._certify(name, name)
            yield self._certify(beside, name, plain=True)
        baseline: dict[str, Any] = {"denoiser": "none", "classifier": plan.classifier}
        for sigma, name in zip(plan.sigmas, gaussian, strict=True):
            title = f"Baseline: {plan.classifier} under noise of sigma {sigma:g}, without a denoiser"
            noise = {"sigma": sigma, "objective": "gaussian", "draws": 1, "head": plan.baseline}
            yield self._train(title, name, **baseline, **noise)
            yield self._certify(name, name)
        for epsilon, name in zip(plan.epsilons, learned, strict=True):
            title = f"Learn the EBSC, XHAT({epsilon:g}): energy and {plan.classifier} under attack through xhat"
            joint = {"joint": True, "denoising": 1.0, "start_from": self.folder / "models" / middle}
            yield self._train(title, name, **self._under_attack(epsilon), **joint)
            yield self._certify(name, name)
        title = f"Baseline: {plan.classifier} under attack, without a denoiser"
        longer = {"head": plan.baseline, "ramp": plan.baseline.steps // 3}  # it starts from nothing
        yield self._train(title, attacked, **self._under_attack(plan.epsilons[-1]) | baseline | longer)
        yield self._certify(attacked, attacked)
        # a chain of one step takes 2 evaluations
        yield self._certify(walked, middle, vote="walk-jump", walk=Walk(steps=1), n=plan.n // 2, n0=50)

        yield self._table("Plug-in EBSC and plain smoothing of the same linear classifier", "plug-in", plain + plug_in)
        yield self._table("Learned EBSC and baselines", "learned", [*gaussian, attacked, *learned], peers=self.peers)
        yield self._table("One step and walk-jump, of equal network evaluations at most", "walk-jump", [middle, walked])
        title = "The envelope over sigma and epsilon"
        yield self._table(title, "envelope", plug_in + learned, peers=self.peers, envelope=True)
        yield from self._looks(middle, plug_in + learned)

    def _looks(self, middle: str, runs: list[str]) -> Iterator[_Step]:
        """What is not a certificate: the attack on the last of the runs, chains, theory, geometry."""
        plan, folder = self._plan, self.folder
        figure = folder / "attack.png"
        attack = Attack(
            run_folder=folder / "runs" / runs[-1],
            data_root=self.data_root,
            images=plan.attacked,
            radii=",".join(f"{radius:g}" for radius in parse_radii(plan.radii) if radius),
            pgd=plan.pgd,
            n=plan.n,
            precision=plan.precision,
            compile=plan.compile,
            plot=figure,
        )
        title, table = "The empirical curve of the learned EBSC, beside the certified one", attack.folder / "attack.md"
        yield _Step(title, attack, table=table, figure=figure)
        model, out = folder / "models" / middle, folder / "samples"
        sample = Sample(model=model, out=out, walk=Walk(steps=plan.samples), data_root=self.data_root)
        yield _Step("Look at walks and jumps", sample, out / "sample.json", figure=out / "walks.png")
        table, figure = folder / "theory.md", folder / "theory.png"  # the figure is written last
        theory = Theory(sigma=plan.middle, n=plan.n, out=table, format="markdown", plot=figure)
        yield _Step("The two-class linear case, exactly", theory, figure, table, figure)
        table, figure = folder / "geometry.md", folder / "geometry.png"
        geometry = Geometry(
            data=self.data,
            data_root=self.data_root,
            images=plan.images,
            sigmas=",".join(f"{sigma:g}" for sigma in plan.sigmas),
            radii=plan.radii,
            runs=tuple(folder / "runs" / run for run in runs),
            format="markdown",
            out=table,
            plot=figure,
        )
        yield _Step("Geometry: what the distances predict", geometry, figure, table, figure)

    def _under_attack(self, epsilon: float) -> dict[str, Any]:
        plan = self._plan
        return {
            "sigma": plan.middle,
            "classifier": plan.classifier,
            "objective": "smoothadv",
            "epsilon": epsilon,
            "draws": plan.draws,
            "hyper": {"steps": float(plan.steps)},
            "head": plan.learned,
            "ramp": plan.learned.steps // 3,
            "watch": Watch(looks=4),
        }

    def _train(self, title: str, name: str, **options: Any) -> _Step:
        model = self.folder / "models" / name
        return _Step(title, Train(data=self.data, data_root=self.data_root, out=model, **options), model / "model.json")

    def _certify(self, name: str, model: str, **options: Any) -> _Step:
        plan, run = self._plan, self.folder / "runs" / name
        command = Certify(
            model=self.folder / "models" / model,
            run_folder=run,
            data_root=self.data_root,
            images=plan.images,
            n=plan.n,
            radii=plan.radii,
            precision=plan.precision,
            compile=plan.compile,
            workers=self.workers,
        )
        return _Step(f"Certify {name}", replace(command, **options), run / "certificates.parquet")

    def _table(self, title: str, name: str, runs: list[str], peers: tuple[Path, ...] = (), **options: Any) -> _Step:
        rows = *(self.folder / "runs" / run for run in runs), *peers
        out, plot = self.folder / f"{name}.md", self.folder / f"{name}.png"
        command = Table(rows=rows, radii=self._plan.radii, format="markdown", out=out, plot=plot, **options)
        return _Step(title, command, table=out, figure=plot)

    def _story(self, steps: list[_Step]) -> str:
        """All tables and figures, with the command that made each."""
        small = " It is a small budget: these rows say little about what is possible." * (self.budget == "minutes")
        parts = [
            f"# {self.data}: empirical Bayes smoothed classifiers, from data to tables\n",
            f"Made by `{command_line(self)}`.{small} Certified accuracies are guarantees for the images that they"
            " name; curves under attack, and all that geometry predicts, are estimates. The settings of the paper are"
            " not known to us: those here are in the commands below.\n",
        ]
        for step in steps:
            parts.append(f"## {step.title}\n\n```sh\n{command_line(step.command)}\n```\n")
            if step.table:
                parts.append(step.table.read_text())
            if step.figure:
                parts.append(f"![{step.title}]({step.figure.relative_to(self.folder)})\n")
        return "\n".join(parts)


if __name__ == "__main__":
    from jobs.cli import start

    start(Reproduce)
