"""The story of Saremi & Srivastava (2020): how much work it is, and its steps."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ebsc.attack import Pgd
from ebsc.training import Schedule
from ebsc.votes import Precision
from ebsc.walkjump import Walk
from jobs.attack import Attack
from jobs.fitting import Watch
from jobs.geometry import Geometry
from jobs.options import parse_radii
from jobs.prints import spelled
from jobs.sample import Sample
from jobs.story import Setting, Step
from jobs.theory import Theory
from jobs.train import HEAD, Classifier, Train

__all__ = ["PLANS", "Budget"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much work the story is.

    Attributes:
        sigmas: of the plug-in classifiers, the baselines and the envelope.
        middle: the sigma of what is learned, attacked and walked with.
        epsilons: of the learned EBSC.
        classifier: of what is learned and of the baselines; the plug-in's is linear, as in the paper.
        energy, learned, baseline: schedules.
        plug_in: schedule of the plug-in's classifier.
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
    plug_in: Schedule = HEAD
    precision: Precision = "float32"
    compile: bool = False
    pgd: Pgd = field(default_factory=Pgd)
    attacked: str = "::"
    samples: int = 1000

    @property
    def certification(self) -> dict[str, Any]:
        """Options of every certification."""
        return {"images": self.images, "n": self.n, "precision": self.precision, "compile": self.compile}

    def story(self, setting: Setting) -> Iterator[Step]:
        """The steps of the story."""
        return _paper(setting, self)


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


PLANS: dict[str, dict[str, Budget]] = {
    "mnist": {"minutes": _mnist(full=False), "full": _mnist(full=True)},
    "digits": {"minutes": _digits(full=False), "full": _digits(full=True)},
}
"""Budgets by data set and name."""


def _paper(setting: Setting, plan: Budget) -> Iterator[Step]:
    plug_in = [f"plug-in-{sigma:g}" for sigma in plan.sigmas]
    plain = [f"plain-{sigma:g}" for sigma in plan.sigmas]
    gaussian = [f"gaussian-{sigma:g}" for sigma in plan.sigmas]
    learned = [f"learned-{plan.middle:g}-epsilon-{epsilon:g}" for epsilon in plan.epsilons]
    attacked, middle = f"smoothadv-{plan.middle:g}-epsilon-{plan.epsilons[-1]:g}", f"plug-in-{plan.middle:g}"
    walked = f"walk-jump-{plan.middle:g}"

    for sigma, name, beside in zip(plan.sigmas, plug_in, plain, strict=True):
        title = f"Learn the energy at sigma {sigma:g}, and a linear classifier on clean images"
        yield setting.train(title, name, Train(sigma=sigma, energy=plan.energy, head=plan.plug_in))
        yield setting.certify(name, name)
        yield setting.certify(beside, name, plain=True)
    baseline: dict[str, Any] = {"denoiser": "none", "classifier": plan.classifier}
    for sigma, name in zip(plan.sigmas, gaussian, strict=True):
        title = f"Baseline: {plan.classifier} under noise of sigma {sigma:g}, without a denoiser"
        noise: dict[str, Any] = {"sigma": sigma, "objective": "gaussian", "draws": 1, "head": plan.baseline}
        yield setting.train(title, name, Train(**baseline, **noise))
        yield setting.certify(name, name)
    for epsilon, name in zip(plan.epsilons, learned, strict=True):
        title = f"Learn the EBSC, XHAT({epsilon:g}): energy and {plan.classifier} under attack through xhat"
        joint: dict[str, Any] = {"joint": True, "denoising": 1.0, "start_from": setting.model(middle)}
        yield setting.train(title, name, Train(**_under_attack(plan, epsilon), **joint))
        yield setting.certify(name, name)
    title = f"Baseline: {plan.classifier} under attack, without a denoiser"
    longer = {"head": plan.baseline, "ramp": plan.baseline.steps // 3}  # it starts from nothing
    yield setting.train(title, attacked, Train(**_under_attack(plan, plan.epsilons[-1]) | baseline | longer))
    yield setting.certify(attacked, attacked)
    # a chain of one step takes 2 evaluations
    yield setting.certify(walked, middle, vote="walk-jump", walk=Walk(steps=1), n=plan.n // 2, n0=50)

    yield setting.table("Plug-in EBSC and plain smoothing of the same linear classifier", "plug-in", plain + plug_in)
    yield setting.table("Learned EBSC and baselines", "learned", [*gaussian, attacked, *learned], peers=setting.peers)
    yield setting.table("One step and walk-jump, of equal network evaluations at most", "walk-jump", [middle, walked])
    title = "The envelope over sigma and epsilon"
    yield setting.table(title, "envelope", plug_in + learned, peers=setting.peers, envelope=True)
    yield from _looks(setting, plan, middle, plug_in + learned)


def _looks(setting: Setting, plan: Budget, middle: str, runs: list[str]) -> Iterator[Step]:
    """What is not a certificate: the attack on the last of the runs, chains, theory, geometry."""
    folder = setting.folder
    figure = folder / "attack.png"
    attack = Attack(
        run_folder=setting.run(runs[-1]),
        data_root=setting.data_root,
        images=plan.attacked,
        radii=",".join(spelled(radius) for radius in parse_radii(plan.radii) if radius),
        pgd=plan.pgd,
        n=plan.n,
        precision=plan.precision,
        compile=plan.compile,
        plot=figure,
    )
    title, table = "The empirical curve of the learned EBSC, beside the certified one", attack.folder / "attack.md"
    yield Step(title, attack, table=table, figure=figure)
    model, out = setting.model(middle), folder / "samples"
    sample = Sample(model=model, out=out, walk=Walk(steps=plan.samples), data_root=setting.data_root)
    yield Step("Look at walks and jumps", sample, out / "sample.json", figure=out / "walks.png")
    table, figure = folder / "theory.md", folder / "theory.png"  # the figure is written last
    theory = Theory(sigma=plan.middle, n=plan.n, out=table, format="markdown", plot=figure)
    yield Step("The two-class linear case, exactly", theory, figure, table, figure)
    table, figure = folder / "geometry.md", folder / "geometry.png"
    geometry = Geometry(
        data=setting.data,
        data_root=setting.data_root,
        images=plan.images,
        sigmas=",".join(f"{sigma:g}" for sigma in plan.sigmas),
        radii=plan.radii,
        runs=tuple(map(setting.run, runs)),
        format="markdown",
        out=table,
        plot=figure,
    )
    yield Step("Geometry: what the distances predict", geometry, figure, table, figure)


def _under_attack(plan: Budget, epsilon: float) -> dict[str, Any]:
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
