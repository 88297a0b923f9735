"""The programme behind the headline rows: recipes over sigmas, classifiers and seeds, and ablations that teach."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ebsc.training import Schedule
from jobs.entries import named_sigma
from jobs.recipes import FURTHER
from jobs.release import Release
from jobs.story import Setting, Step
from jobs.train import HEAD, Classifier, Train
from jobs.verify import Verify

__all__ = ["PLANS", "Programme"]


@dataclass(frozen=True, kw_only=True)
class Programme:
    """How much work it is.

    Every headline row is there with every classifier, and each beside its own baseline: the same classifier without a
    denoiser, under the same attack.

    Attributes:
        ebsc, baseline: recipes.
        ebsc_changes, baseline_changes: options in which the trainings differ from them.
        plug_in: schedule of the linear classifier that is trained beside an energy.
        sigmas: of the headline rows.
        bounded: of these, where rows and baselines are also continued with bounded losses
            (:data:`jobs.recipes.FURTHER`), for radii near three sigma, and certified with p_B.
        middle: sigma of the ablations.
        classifiers: of the headline rows; the first is that of the ablations.
        seeds: of the headline rows; ablations have the first, and the model of the first is released.
        objectives: ablation: the EBSC by other objectives, and their classifiers without a denoiser.
        epsilons: ablation: radii of the attack.
        images, n: what is certified, and draws.
        budget: fixed for average certified radii that compare with published ones.
        compile: the networks that vote.
        radii: columns of the tables.
    """

    ebsc: str
    baseline: str
    ebsc_changes: dict[str, Any] = field(default_factory=dict)
    baseline_changes: dict[str, Any] = field(default_factory=dict)
    plug_in: Schedule = HEAD
    sigmas: tuple[float, ...] = (0.15, 0.25, 0.35, 0.5, 0.75, 1.0)
    bounded: tuple[float, ...] = ()
    middle: float = 0.5
    classifiers: tuple[Classifier, ...] = ("lenet", "resnet")
    seeds: tuple[int, ...] = (0,)
    objectives: tuple[str, ...] = ("gaussian", "consistency", "catrs")
    epsilons: tuple[float, ...] = (0.5, 2.0)
    images: str = "::"
    n: int = 100_000
    budget: Literal["fixed", "sequential"] = "fixed"
    compile: bool = True
    radii: str = "0:3:0.25"

    @property
    def certification(self) -> dict[str, Any]:
        """Options of every certification."""
        votes: dict[str, Any] = {"precision": "bfloat16", "compile": self.compile}
        return {"images": self.images, "n": self.n, "budget": self.budget} | votes

    def story(self, setting: Setting) -> Iterator[Step]:
        """The steps: headline rows sigma by sigma, ablations, verification, model cards."""
        headline: list[str] = []
        for sigma in self.sigmas:
            rows: list[str] = []
            for seed in self.seeds:
                for name, step, far in self._pairs(setting, sigma, seed):
                    yield step
                    yield setting.certify(name, name, two_sided=far)
                    rows.append(name)
            peers = tuple(log for log in setting.peers if named_sigma(log) == sigma)
            several = len(self.seeds) > 1
            yield setting.table(f"Headline rows at sigma {sigma:g}", f"headline-{sigma:g}", rows, peers, spread=several)
            headline += rows
        yield setting.table("The envelope over sigma", "envelope", headline, setting.peers, envelope=True)
        ablations = []
        for title, name, train in self._ablations(setting):
            yield setting.train(title, name, train)
            yield setting.certify(name, name)
            ablations.append(name)
        model = self._name("ebsc", self.classifiers[0], self.middle, self.seeds[0])
        plain = f"{model}-voting-without-denoiser"
        yield setting.certify(plain, model, plain=True)
        beside = [self._name(kind, self.classifiers[0], self.middle, self.seeds[0]) for kind in ("ebsc", "baseline")]
        title = f"Ablations at sigma {self.middle:g}"
        yield setting.table(title, "ablations", [*beside, *ablations, plain])
        kept = setting.folder / "kept"
        runs = [*headline, *ablations, plain]
        verify = Verify(runs=tuple(map(setting.run, runs)), data_root=setting.data_root, keep=kept)
        yield Step("Verify all runs, and keep them with their votes", verify)
        yield from self._releases(setting)

    def _pairs(self, setting: Setting, sigma: float, seed: int) -> Iterator[tuple[str, Step, bool]]:
        """An energy, and with each classifier the EBSC and its baseline, both also continued for large radii.

        Yields names, trainings, and whether they are for large radii.
        """
        energy = self._name("plug-in", "linear", sigma, seed)
        title = f"Learn the energy at sigma {sigma:g}, seed {seed}, and a linear classifier on clean images"
        yield energy, setting.train(title, energy, self._plug_in(self._ebsc(sigma, seed))), False
        for classifier in self.classifiers:
            at = f"{classifier} at sigma {sigma:g}, seed {seed}"
            ours = self._ebsc(sigma, seed, classifier=classifier, start_from=setting.model(energy))
            alone = self._baseline(sigma, seed, classifier=classifier)
            for kind, title, train in (
                ("ebsc", f"EBSC with {at}", ours),
                ("baseline", f"Its baseline: {at}, without a denoiser", alone),
            ):
                name = self._name(kind, classifier, sigma, seed)
                yield name, setting.train(title, name, train), False
                for how, changes in FURTHER.items() if sigma in self.bounded else ():
                    further = self._name(f"{kind}-{how}", classifier, sigma, seed)
                    on = replace(train, start_from=setting.model(name), **changes(sigma, train.hyper))
                    yield further, setting.train(f"{title}, continued: {how}", further, on), True

    def _ablations(self, setting: Setting) -> Iterator[tuple[str, str, Train]]:
        """One thing changed at a time, from the first classifier's EBSC at the middle sigma."""
        sigma, seed, classifier = self.middle, self.seeds[0], self.classifiers[0]
        energy = setting.model(self._name("plug-in", "linear", sigma, seed))
        start: dict[str, Any] = {"classifier": classifier, "start_from": energy}
        learned = self._ebsc(sigma, seed, **start)
        alone = self._baseline(sigma, seed, classifier=classifier)
        yield "The energy stays as it is", "frozen-energy", replace(learned, joint=False, denoising=0.0)
        yield "No weight on denoising", "no-denoising", replace(learned, denoising=0.0)
        clean = Train(sigma=sigma, width=learned.width, head=learned.head, **start)
        yield f"Plug-in: {classifier} on clean images", f"plug-in-{classifier}", clean
        for denoiser in ("scalar", "network"):
            other = replace(learned, denoiser=denoiser)
            yield f"Learn another denoiser: {denoiser}", f"plug-in-{denoiser}", self._plug_in(other)
            train = replace(other, start_from=setting.model(f"plug-in-{denoiser}"))
            yield f"Another denoiser: {denoiser}", f"denoiser-{denoiser}", train
        for epsilon in self.epsilons:
            yield f"Epsilon {epsilon:g}", f"epsilon-{epsilon:g}", replace(learned, epsilon=epsilon)
        for objective in self.objectives:
            published = Train.by(objective, sigma)
            said = {name: getattr(published, name) for name in ("objective", "hyper", "epsilon", "draws")}
            for title, name, train in (
                (f"EBSC by {objective}", f"ebsc-by-{objective}", learned),
                (f"Without a denoiser, by {objective}", f"alone-by-{objective}", alone),
            ):
                # the radius of macer counts after a third of the steps
                ramp = train.head.steps // 3 if objective == "macer" else train.ramp
                yield title, name, replace(train, **said, ramp=ramp)

    def _releases(self, setting: Setting) -> Iterator[Step]:
        """The EBSCs of the first seed, as they are to be put into the repository."""
        into = setting.folder / "released"
        for sigma in self.sigmas:
            ways = ("", *(f"-{how}" for how in FURTHER)) if sigma in self.bounded else ("",)
            for how, (place, classifier) in itertools.product(ways, enumerate(self.classifiers)):
                run = self._name(f"ebsc{how}", classifier, sigma, self.seeds[0])
                name = f"ebsc{f'-{classifier}' * bool(place)}{how}-{Path(setting.data).stem}-{sigma:.2f}"
                release = Release(
                    model=setting.model(run),
                    runs=(setting.run(run),),
                    name=name,
                    radii=self.radii,
                    into=into,
                    data_root=setting.data_root,
                )
                yield Step(f"Release {name}", release, into / name / "README.md")

    def _name(self, kind: str, classifier: str, sigma: float, seed: int) -> str:
        return f"{kind}-{classifier}-{sigma:g}" + f"-seed{seed}" * (seed != self.seeds[0])

    def _plug_in(self, ebsc: Train) -> Train:
        """The energy of an EBSC, and a linear classifier on clean images."""
        same = {name: getattr(ebsc, name) for name in ("sigma", "width", "denoiser", "energy")}
        return Train(head=self.plug_in, **same)

    def _ebsc(self, sigma: float, seed: int, **changes: Any) -> Train:
        return _trained(self.ebsc, self.ebsc_changes, sigma, seed, changes)

    def _baseline(self, sigma: float, seed: int, **changes: Any) -> Train:
        return _trained(self.baseline, self.baseline_changes, sigma, seed, changes)


def _trained(recipe: str, plan: dict[str, Any], sigma: float, seed: int, changes: dict[str, Any]) -> Train:
    """A recipe as this plan changes it, seeded, and as this row changes it."""
    # below the published sigmas the published attack is far stronger than anything that can be certified
    attack = {"epsilon": 2.5 * sigma} if sigma < 0.25 else {}
    train = Train.by(recipe, sigma, **attack | plan)
    schedules = {"energy": replace(train.energy, seed=seed), "head": replace(train.head, seed=seed)}
    return replace(train, **schedules | changes)


_HEAD = Schedule(batch=64, learning_rate=1e-3, clip=1.0, precision="bfloat16")

PLANS: dict[str, dict[str, Programme]] = {
    "mnist": {
        "minutes": Programme(
            ebsc="ebsc-small",
            baseline="smoothadv",
            ebsc_changes={
                "energy": Schedule(steps=1200, precision="bfloat16"),
                "head": replace(_HEAD, steps=240),
                "ramp": 80,
            },
            baseline_changes={"draws": 2, "hyper": {"steps": 2.0}, "head": replace(_HEAD, steps=1000), "ramp": 300},
            sigmas=(0.5,),
            classifiers=("lenet",),
            objectives=("gaussian",),
            epsilons=(0.5,),
            images="::100",
            n=1000,
            budget="sequential",
            compile=False,
        ),
        "small": Programme(
            ebsc="ebsc-cnn",
            baseline="smoothadv-cnn",
            bounded=(0.75, 1.0),
            classifiers=("lenet", "cnn"),
            images="::20",
            budget="sequential",
        ),
        "full": Programme(
            ebsc="ebsc-full",
            baseline="smoothadv",
            bounded=(0.75, 1.0),
            seeds=(0, 1, 2),
            objectives=("gaussian", "stability", "consistency", "macer", "smoothmix", "catrs"),
            epsilons=(0.5, 1.5, 2.0),
        ),
    },
    "digits": {
        "minutes": Programme(
            ebsc="ebsc-small",
            baseline="smoothadv",
            ebsc_changes={
                "energy": Schedule(steps=600),
                "head": Schedule(steps=100, batch=64, learning_rate=1e-3, clip=1.0),
                "ramp": 30,
                "epsilon": 0.5,
            },
            baseline_changes={"head": Schedule(steps=500, batch=64, learning_rate=1e-3, clip=1.0), "ramp": 100},
            sigmas=(0.25,),
            middle=0.25,
            classifiers=("linear",),
            seeds=(0, 1),
            objectives=("consistency",),
            epsilons=(0.25,),
            images="::6",
            n=500,
            budget="sequential",
            compile=False,
            radii="0:1:0.125",
        ),
    },
}
"""Budgets by data set and name."""
