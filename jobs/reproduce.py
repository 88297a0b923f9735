"""``ebsc reproduce``: the paper's story on a data set, from data to tables and figures."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ebsc.attack import Pgd
from ebsc.errors import InputError
from ebsc.training import Schedule
from ebsc.votes import Precision
from ebsc.walkjump import Walk
from jobs.attack import Attack
from jobs.certify import Certify
from jobs.fitting import Watch
from jobs.geometry import Geometry
from jobs.launch import Cluster, Hold, Slurm, dispatch
from jobs.options import command_line
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
        baseline=Schedule(steps=4000 if full else 400, learning_rate=1e-3, clip=1.0),
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
    """One command, what it is for, and the file that says that it is done."""

    title: str
    command: Any
    done: Path | None = None


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
        steps = list(self._steps())
        for number, step in enumerate(steps, 1):
            print(f"\n[{number}/{len(steps)}] {step.title}\n$ {command_line(step.command)}", flush=True)
            if step.done and step.done.exists():
                print("done before")
            else:
                step.command.run()
        (self.folder / "story.md").write_text(self._story(steps))
        print(f"\nThe story, with its tables and figures: {self.folder / 'story.md'}")

    def _steps(self) -> Iterator[_Step]:
        plan, folder = BUDGETS[self.data](full=self.budget == "full"), self.folder
        train = Train(data=self.data, data_root=self.data_root)
        runs: dict[str, list[Path]] = {"plug-in": [], "baseline": [], "learned": []}

        def certified(kind: str, name: str, model: Path, **options: Any) -> _Step:
            run = folder / "runs" / name
            if kind in runs:
                runs[kind].append(run)
            command = Certify(
                model=model,
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

        def trained(title: str, name: str, **options: Any) -> _Step:
            model = folder / "models" / name
            return _Step(title, replace(train, out=model, **options), model / "model.json")

        for sigma in plan.sigmas:
            name = f"plug-in-{sigma:g}"
            title = f"Learn the energy at sigma {sigma:g}, and a linear classifier on clean images"
            yield trained(title, name, sigma=sigma, energy=plan.energy)
            yield certified("plug-in", name, folder / "models" / name)
            yield certified("plain", f"plain-{sigma:g}", folder / "models" / name, plain=True)
        for sigma in plan.sigmas:
            name = f"gaussian-{sigma:g}"
            title = f"Baseline: {plan.classifier} under noise of sigma {sigma:g}, without a denoiser"
            common = {"sigma": sigma, "denoiser": "none", "classifier": plan.classifier, "head": plan.baseline}
            yield trained(title, name, objective="gaussian", draws=1, **common)
            yield certified("baseline", name, folder / "models" / name)
        adversarial = {
            "sigma": plan.middle,
            "classifier": plan.classifier,
            "objective": "smoothadv",
            "draws": plan.draws,
            "hyper": {"steps": float(plan.steps)},
            "head": plan.learned,
            "ramp": plan.learned.steps // 3,
            "watch": Watch(looks=4),
        }
        for epsilon in plan.epsilons:
            name = f"learned-{plan.middle:g}-epsilon-{epsilon:g}"
            start = folder / "models" / f"plug-in-{plan.middle:g}"
            title = (
                f"Learn the EBSC, XHAT({epsilon:g}): energy and {plan.classifier} jointly, under attack through xhat"
            )
            options = {"epsilon": epsilon, "joint": True, "denoising": 1.0, "start_from": start}
            yield trained(title, name, **adversarial, **options)
            yield certified("learned", name, folder / "models" / name)
        name = f"smoothadv-{plan.middle:g}-epsilon-{plan.epsilons[-1]:g}"
        title = f"Baseline: {plan.classifier} under attack, without a denoiser"
        yield trained(title, name, **adversarial, denoiser="none", epsilon=plan.epsilons[-1])
        yield certified("baseline", name, folder / "models" / name)

        plug_in, walked = folder / "models" / f"plug-in-{plan.middle:g}", f"walk-jump-{plan.middle:g}"
        # chains of 2 evaluations, half as many: as many evaluations as the vote of one step
        walk = {"vote": "walk-jump", "walk": Walk(steps=1), "n": plan.n // 2}
        yield certified("walk", walked, plug_in, **walk)
        sample = Sample(model=plug_in, out=folder / "samples", steps=plan.samples, data_root=self.data_root)
        yield _Step("Look at walks and jumps", sample, folder / "samples" / "sample.json")

        plain = [folder / "runs" / f"plain-{sigma:g}" for sigma in plan.sigmas]
        table = Table(rows=(), radii=plan.radii, format="markdown")
        for title, name, rows in (
            ("Plug-in EBSC and plain smoothing of the same linear classifier", "plug-in", [*plain, *runs["plug-in"]]),
            ("Learned EBSC and baselines", "learned", [*runs["baseline"], *runs["learned"]]),
            (
                "One step and walk-jump, at equal network evaluations",
                "walk-jump",
                [
                    folder / "runs" / f"plug-in-{plan.middle:g}",
                    folder / "runs" / walked,
                ],
            ),
            ("The envelope over sigma and epsilon", "envelope", [*runs["plug-in"], *runs["learned"]]),
        ):
            made = replace(
                table,
                rows=(*rows, *(self.peers if name in ("learned", "envelope") else ())),
                out=folder / f"{name}.md",
                plot=folder / f"{name}.png",
                envelope=name == "envelope",
            )
            yield _Step(title, made)
        attack = Attack(
            run_folder=runs["learned"][-1],
            data_root=self.data_root,
            images=plan.attacked,
            radii=plan.radii.replace("0:", plan.radii.rpartition(":")[2] + ":", 1),
            pgd=plan.pgd,
            n=plan.n,
            precision=plan.precision,
            compile=plan.compile,
            plot=folder / "attack.png",
        )
        yield _Step("The empirical curve of the learned EBSC, beside the certified one", attack)
        theory = Theory(
            sigma=plan.middle, n=plan.n, out=folder / "theory.md", format="markdown", plot=folder / "theory.png"
        )
        yield _Step("The two-class linear case, exactly", theory, folder / "theory.md")
        sigmas, chosen = ",".join(f"{sigma:g}" for sigma in plan.sigmas), (*runs["plug-in"], *runs["learned"])
        geometry = Geometry(
            data=self.data,
            data_root=self.data_root,
            images=plan.images,
            sigmas=sigmas,
            radii=plan.radii,
            runs=chosen,
            format="markdown",
            out=folder / "geometry.md",
            plot=folder / "geometry.png",
        )
        yield _Step("Geometry: what the distances predict", geometry, folder / "geometry.md")

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
            out, plot = (getattr(step.command, name, None) for name in ("out", "plot"))
            if isinstance(out, Path) and out.suffix == ".md":
                parts.append(out.read_text())
            elif isinstance(step.command, Attack):
                parts.append((step.command.folder / "attack.md").read_text())
            elif isinstance(step.command, Sample):
                plot = self.folder / "samples" / "walks.png"
            if plot:
                parts.append(f"![{step.title}]({plot.relative_to(self.folder)})\n")
        return "\n".join(parts)


if __name__ == "__main__":
    from jobs.cli import start

    start(Reproduce)
