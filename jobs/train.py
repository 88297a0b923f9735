"""``ebsc train``: learn the energy of the smoothed density, and a classifier on its estimates."""

import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
import torch
import tyro
from torch import nn

from cluster.folder import RunFolder, clear, read_config
from ebsc import data, mixture, model, training, validation
from ebsc.augment import Augmentation, augmented
from ebsc.data import Dataset
from ebsc.device import Device, pick
from ebsc.errors import InputError
from ebsc.estimator import EmpiricalBayes
from ebsc.model import Ebsc, ModelSpec, Storage
from ebsc.noise import check_exact
from ebsc.objectives import check_training, hyperparameters, learned
from ebsc.own import is_own, module_of, unknown
from ebsc.training import Schedule
from jobs import recipes
from jobs.fitting import Fitting, Watch
from jobs.launch import Cluster, OnStop, Slurm, dispatch, processes, start_token
from jobs.options import DataRoot, parse_sweep, sweep_names
from jobs.provenance import configuration, options_of, provenance
from jobs.record import is_main, of_main
from jobs.runs import load_model, look_here

__all__ = ["HEAD", "Classifier", "Train"]

_Options = TypeVar("_Options")

Denoiser = Literal["residual", "scalar", "mixture", "network", "none"]
Classifier = Literal["linear", "lenet", "cnn", "resnet"]

HEAD = Schedule(steps=5000, learning_rate=1e-3, batch=128, clip=1.0)
"""Default schedule of the classifier."""

_MADE = ("config.json", "model.json", "model.safetensors", "metrics.jsonl", "checkpoint", "tensorboard")
"""What a training leaves in its folder."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train an empirical Bayes smoothed classifier and write a model folder.

    First the energy phi of the smoothed density, by least squares: E|x - xhat(x + sigma eps)|^2 with
    xhat(y) = y - sigma^2 grad phi(y); or in closed form, that of a mixture of Gaussians fitted to the images. Then the
    classifier: on clean images (plug-in), or on xhat under noise and attack (learned), alone or jointly with the
    energy. `ebsc certify` votes with both.

    Interrupted in any way, the same command goes on where it stopped and ends with the same weights. With
    --cluster slurm it is a SLURM job that survives preemption, time limits and lost nodes; --sweep makes it an array.

    Example: ebsc train --data mnist --sigma 0.5 --energy.precision bfloat16

    Example: ebsc train --data mnist --classifier lenet --objective smoothadv --epsilon 1 --sweep sigma=0.25,0.5,1

    Example: ebsc train --recipe ebsc-small --sigma 0.75
    """

    recipe: str | None = None
    """Named recipe that the options start from; those given beside it override it, and --help after it shows what it
    says. The field's, as published: gaussian, stability, smoothadv, consistency, macer, smoothmix, catrs; learned EBSC:
    ebsc-small and ebsc-cnn for a CPU, ebsc-cnn-draws to go on for a higher average radius at sigma 1, ebsc-cnn-far and
    ebsc-cnn-frozen for larger radii, ebsc-cnn-moved for small sigmas, ebsc-cnn-bounded, ebsc-cnn-few (by some classes
    alone) and ebsc-cnn-sigmoid for radii near three sigma, ebsc-full for a GPU; smoothadv-cnn: the baseline of
    ebsc-cnn."""
    data: str = "digits"
    """Data set: digits, mnist, fashion-mnist, kmnist, cifar10, or a path ending in .npz."""
    data_root: DataRoot = None
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Model folder to write. Default: models/DATA-DENOISER-CLASSIFIER[-OBJECTIVE[-joint]]-SIGMA. Of a sweep: the folder
    of its model folders."""
    overwrite: bool = False
    """Replace a model that is already there. Interrupted, the training goes on without this option."""
    sigma: float = 0.5
    """Standard deviation of the noise, on the scale where pixels lie in [0, 1]."""
    denoiser: Denoiser | str = "residual"
    """residual: phi = |y - h(y)|^2 / (2 sigma^2); scalar: a network with one output; mixture: Gaussians fitted to the
    clean images, whose energy under noise is known exactly; network: no energy, plain regression of the clean image;
    none: plain smoothing; MODULE:FACTORY: code of your own, see --allow."""
    width: int = 32
    """Channels of the denoiser's network."""
    components: int = 100
    """Gaussians of a mixture."""
    classifier: Classifier | str = "linear"
    """Base classifier; or MODULE:FACTORY."""
    allow: tuple[str, ...] = ()
    """Python modules of your own that may be imported for the model; see `ebsc certify --help`."""
    start_from: Path | None = None
    """Model folder, or name of a released model, whose denoiser to take, and whose classifier too if it is of the same
    kind. The energy is not trained again; one of another sigma is trained on, as --energy says."""
    objective: Literal["clean", "gaussian", "stability", "smoothadv", "consistency", "macer", "smoothmix", "catrs"] = (
        "clean"
    )
    """How the classifier learns. clean: on clean images (plug-in EBSC); gaussian: under noise; the others: as their
    papers say, see `ebsc/objectives.py`. With a denoiser all of them see xhat, and attacks go through it."""
    joint: bool = False
    """Train the energy on, together with the classifier."""
    epsilon: float | None = None
    """Radius of the L2 attack in smoothadv and catrs: XHAT(epsilon). Default: the published one, 1."""
    draws: int = 4
    """Draws of noise for each image in an objective."""
    ramp: int = 0
    """Steps over which the attacks of smoothadv and smoothmix grow to their full strength, and after which the radius
    term of macer begins; ignored by the others."""
    denoising: float = 0.0
    """With --joint, weight of the denoising error, in units of sigma^2, beside the objective; keeps phi an energy."""
    hyper: dict[str, float] = field(default_factory=dict)
    """Other hyperparameters of the objective, as `--hyper weight 5 steps 8`; a wrong one is answered with the list."""
    classes: tuple[int, ...] = ()
    """Classes that the classifier learns; default: all. It sees no image of the others: those are answered as one of
    these, wrongly and often with a certificate, while what lies near them is certified farther. An energy that is
    trained first learns from all images; with --joint it goes on with these alone."""
    augment: Augmentation = field(default_factory=Augmentation)
    """How the classifier's training images are moved; with --joint the energy sees these too."""
    held_out: int | None = None
    """Training images kept aside for quick certifications, which pick the best weights. Default: 0 for clean, else
    200."""
    energy: Schedule = field(default_factory=lambda: Schedule(steps=9000))
    """How to train the denoiser."""
    head: Schedule = HEAD
    """How to train the classifier, and with --joint both."""
    storage: Storage = "float32"
    """Storage type of the written weights. float16: rounded at the end, half the size; what is evaluated and certified
    is the rounded network."""
    device: Device = "auto"
    """cpu, cuda, or auto: CUDA where there is one."""
    watch: Watch = field(default_factory=Watch)
    """How often to log, validate and save."""
    sweep: tuple[str, ...] = ()
    """Train every combination of these options' values: `--sweep sigma=0.25,0.5 epsilon=0.5,1 hyper.steps=2,10`."""
    cluster: Cluster = "here"
    """here: in this process; slurm: as a SLURM job, an array for a sweep; local: as processes of this machine; debug:
    through submitit, but in this process."""
    slurm: Annotated[Slurm, tyro.conf.OmitArgPrefixes] = field(default_factory=Slurm)
    """What to ask SLURM for."""

    token: Annotated[str, tyro.conf.Suppress] = ""
    """Of a command that overwrites: tells its own traces from older ones when it is started again."""
    given: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """Of a sweep: the options that were typed, so that no recipe replaces them."""

    def __post_init__(self) -> None:
        model.check_sigma(self.sigma)
        _check_kind("denoiser", self.denoiser, get_args(Denoiser))
        _check_kind("classifier", self.classifier, get_args(Classifier))
        if self.recipe is not None:
            recipes.named(self.recipe, self.sigma)
        if self.epsilon is not None and not 0 < self.epsilon < float("inf"):
            raise InputError(f"epsilon must be a positive number, not {self.epsilon}")
        if self.objective == "clean" and (self.joint or self.epsilon is not None or self.denoising or self.hyper):
            raise InputError("joint, epsilon, denoising and hyper need an --objective other than clean")
        check_training(self.draws, self.ramp, self.denoising)
        if self.classes and not 1 < len(self.classes) == len(set(self.classes)):
            raise InputError("classes must be two or more different ones")
        if self.epsilon is not None and "epsilon" in self.hyper:
            raise InputError("epsilon is given twice, by --epsilon and by --hyper")
        if self.objective != "clean":
            hyperparameters(self.objective, self._hyperparameters)
        if self.denoiser in ("none", "mixture") and (self.joint or self.denoising):
            raise InputError("joint and denoising need a denoiser with weights to train: residual, scalar or network")

    @classmethod
    def by(cls, recipe: str, sigma: float, **changes: Any) -> "Train":
        """The training of a recipe, with changes.

        >>> Train.by("gaussian", 0.25, classifier="resnet").head.batch
        256

        Raises:
            InputError: unknown name.
        """
        return cls(recipe=recipe, sigma=sigma, **recipes.named(recipe, sigma) | changes)

    @property
    def base(self) -> "Train":
        """What all options are when none is given beside the recipe and sigma."""
        if not self.recipe:
            return Train()
        base = Train.by(self.recipe, self.sigma)
        return base if base.objective == self.objective else base.apart

    @property
    def apart(self) -> "Train":
        """The same without what an objective does not leave to another one."""
        return replace(self, epsilon=None, hyper={})

    def run(self) -> None:
        """Train here, or hand the job or the sweep to a cluster."""
        asked = replace(self, token=start_token() if self.overwrite else "", given=())
        points = [replace(point, out=self._root / label) for label, point in self._points(asked)] or [asked]
        if self.cluster == "slurm":
            for point in points:
                point._check()
        dispatch(points, self.cluster, self.slurm, self._root)

    def _points(self, asked: "Train") -> Iterator[tuple[str, "Train"]]:
        """The points of a sweep, each under its label: what is neither given nor swept is as its recipe has it."""
        fixed = {*self.given, *sweep_names(self.sweep), "recipe", "sigma"}
        start, before = replace(asked, out=None, sweep=()), self.base
        if self.recipe and "objective" in fixed:
            start, before = _followed(start, start, start.apart, fixed), before.apart
        first = {"recipe", "sigma", "objective"}
        held = fixed - (sweep_names(self.sweep) - first)  # the rest of what is swept is set later

        def led(point: Train) -> Train:
            if not point.recipe:
                return point
            after = point.base if "objective" in fixed else Train.by(point.recipe, point.sigma)
            return _followed(point, before, after, held)

        yield from parse_sweep(start, self.sweep, first, led).items()

    def _check(self) -> None:
        """What would otherwise be said after the queue."""
        data.check_name(self.data)
        for schedule in (self.head,) if self.start_from else (self.energy, self.head):
            training.share(schedule.batch, self.slurm.nodes * self.tasks)
        if self.start_from and not self.slurm.depends:
            self._check_start()
            load_model(self.start_from, self.allow)

    def _check_start(self) -> None:
        if self.start_from and os.path.realpath(model.locate(self.start_from)) == os.path.realpath(self.folder):
            raise InputError(f"{self.folder} cannot start from itself: name another folder with --out")

    @property
    def folder(self) -> Path:
        """The model folder."""
        return self.out or Path("models") / self._name

    @property
    def tasks(self) -> int:
        """Processes on each node of a SLURM job."""
        return self.slurm.tasks or max(1, self.slurm.all_gpus)

    def here(self, on_stop: OnStop) -> None:
        """Train in this process, which may be one of several."""
        device = pick(self.slurm.device(self.device, self.cluster))
        self._check_start()
        with processes(device):
            self._train(device, on_stop)

    def _train(self, device: torch.device, on_stop: OnStop) -> None:
        started = time.monotonic()
        whole, test = (data.load(self.data, split, self.data_root) for split in ("train", "test"))
        for part in (whole, test):
            if not part.on_lattice:
                raise InputError(f"{part.name}: training needs images on the lattice of {part.levels} levels")
        if whole.shape != test.shape:
            raise InputError(
                f"{whole.name}: its training images have shape {whole.shape}, its test images {test.shape}"
            )
        train, held = self._split(whole)
        if held:
            check_exact(self.sigma, whole.levels)  # as quick certificates would say, much later
        taught, examined = self._taught(train), held and self._taught(held)
        training.share(self.head.batch)  # not after hours of training an energy
        start = load_model(self.start_from, self.allow) if self.start_from else None
        spec, net = self._build(whole, start)
        config = configuration(self._question(whole, start, model.code(spec)), self, self.device)
        if is_main() and self.token:
            self._clear()
        with RunFolder(self.folder, config, "model.json", "checkpoint") if is_main() else nullcontext():
            if of_main((self.folder / "model.json").exists):
                print(f"{self.folder} is trained already; --overwrite trains it again")
                return
            fitting = Fitting(
                net=net, train=train, held=held, folder=self.folder, device=device, watch=self.watch, on_stop=on_stop
            )
            # a mixture is one of clean images, whatever sigma
            same = start is not None and (start[1].sigma == self.sigma or self.denoiser == "mixture")
            self._parts(fitting, replace(fitting, train=taught, held=examined), trained=same)
            if is_main():
                net = model.unpack(*model.pack(net, spec), allow=self.allow)  # what will be read back
                figures = _evaluate(net, test, device) | {"seconds": round(time.monotonic() - started, 1)}
                record = {
                    "data": self.data,
                    "checksum": whole.checksum,
                    "figures": figures,
                    "options": options_of(self),
                }
                if start:
                    record["started_from"] = {"sha256": start[1].sha256, "training": start[1].training}
                model.save(self.folder, net, replace(spec, training={**record, **provenance(self.device)}))
                print(f"model written to {self.folder} ({sum(p.numel() for p in net.parameters()):,} parameters)")

    def _clear(self) -> None:
        """Remove what was there before this command: not what it made itself before it was interrupted."""
        made: dict[str, Any] = {}
        with suppress(InputError):  # nothing is there, or it is damaged
            made = read_config(self.folder)
        if made and "objective" not in made["question"]:
            raise InputError(f"{self.folder} holds something else than a training: --overwrite leaves it alone")
        if made.get("options", {}).get("token") == self.token:
            return
        clear(self.folder, _MADE)

    def _parts(self, fitting: Fitting, head: Fitting, *, trained: bool) -> None:
        """The energy, unless it is trained already, then the classifier or both, on the images of ``head``."""
        net, levels = fitting.net, fitting.train.levels
        if self.denoiser == "mixture" and not trained:
            net.denoiser = self._mixture(fitting.train)
        # what a factory of one's own has frozen stays so
        denoiser, classifier = _learning(net.denoiser), _learning(net.classifier)
        if denoiser and self.denoiser != "mixture" and not trained:
            net.classifier.requires_grad_(False)
            fitting.part(
                "energy", f"{self.denoiser} denoiser", training.denoising(net, levels, self.energy.compile), self.energy
            )
        for weight in classifier:
            weight.requires_grad_(True)
        for weight in denoiser:
            weight.requires_grad_(self.joint)
        title = f"{self.classifier} classifier"
        if self.objective == "clean":
            objective = training.classification(net.classifier, levels, self.head.compile)
        else:
            title += f" by {self.objective}"
            objective = learned(
                net,
                self.objective,
                levels=levels,
                draws=self.draws,
                ramp=self.ramp,
                denoising=self.denoising,
                compiled=self.head.compile,
                **self._hyperparameters,
            )
        picking = self.objective != "clean" and head.held is not None
        head.part("head", title, augmented(objective, self.augment), self.head, pick=picking)

    def _mixture(self, train: Dataset) -> EmpiricalBayes:
        started = time.monotonic()
        energy = mixture.fit(train, self.components, self.sigma, seed=self.energy.seed)
        if is_main():
            print(f"mixture of {self.components} Gaussians fitted in {time.monotonic() - started:.1f} s")
        return EmpiricalBayes(energy, self.sigma)

    @property
    def _hyperparameters(self) -> dict[str, float]:
        return self.hyper | ({} if self.epsilon is None else {"epsilon": self.epsilon})

    @property
    def _name(self) -> str:
        objective = "" if self.objective == "clean" else f"-{self.objective}{'-joint' * self.joint}"
        denoiser, classifier = (kind.rpartition(":")[2] for kind in (self.denoiser, self.classifier))
        return f"{Path(self.data).stem}-{denoiser}-{classifier}{objective}-{self.sigma:g}"

    @property
    def _root(self) -> Path:
        """The folder of all that one command makes."""
        return self.out or Path("models") / (self._name + "-sweep" * bool(self.sweep))

    def _split(self, whole: Dataset) -> tuple[Dataset, Dataset | None]:
        """What to train on, and what is held out: chosen at random, by a seed that does not change."""
        count = (0 if self.objective == "clean" else 200) if self.held_out is None else self.held_out
        if not 0 <= count < len(whole.labels):
            raise InputError(f"held_out must lie between 0 and {len(whole.labels) - 1}, the training images but one")
        if not count:
            return whole, None
        order = np.random.default_rng(0).permutation(len(whole.labels))
        return whole.take(np.sort(order[count:])), whole.take(np.sort(order[:count]))

    def _taught(self, part: Dataset) -> Dataset:
        """What of it the classifier sees."""
        return part.of(self.classes) if self.classes else part

    def _build(self, train: Dataset, start: tuple[Ebsc, ModelSpec] | None) -> tuple[ModelSpec, Ebsc]:
        if self.denoiser == "mixture":
            mixture.check_components(self.components, train)
        width = {"width": self.width}
        sizes: dict[str, dict[str, int]] = {"none": {}, "mixture": {"components": self.components}}
        spec = ModelSpec(
            sigma=self.sigma,
            shape=train.shape,
            n_classes=train.n_classes,
            levels=train.levels,
            denoiser={"kind": self.denoiser} | sizes.get(self.denoiser, {} if is_own(self.denoiser) else width),
            classifier={"kind": self.classifier},
            storage=self.storage,
        )
        torch.manual_seed(self.energy.seed)
        look_here(self.allow)
        net = model.build(spec, self.allow)
        model.check_own(net.eval(), spec, "the networks asked for")
        if not _learning(net.classifier):
            raise InputError(f"the classifier {self.classifier} has no weights to train")
        if start:
            given, theirs = start
            if theirs.shape != spec.shape or theirs.denoiser != spec.denoiser:
                raise InputError(
                    f"{self.start_from} has shape {theirs.shape}, denoiser {theirs.denoiser};"
                    f" asked for are {spec.shape}, {spec.denoiser}"
                )
            net.denoiser.load_state_dict(given.denoiser.state_dict())
            if theirs.classifier == spec.classifier and theirs.n_classes == spec.n_classes:
                net.classifier = given.classifier
        return spec, net

    def _question(
        self, whole: Dataset, start: tuple[Ebsc, ModelSpec] | None, code: Mapping[str, str]
    ) -> dict[str, Any]:
        """All that decides the weights."""
        here = {"out", "data_root", "overwrite", "device", "watch", "cluster", "slurm", "token", "start_from", "allow"}
        here |= {"recipe", "sweep", "given"}  # what these say is in the other options
        bare = Train()
        here |= {name for name in ("storage", "classes", "augment") if getattr(self, name) == getattr(bare, name)}
        if self.denoiser != "mixture":
            here.add("components")
        said = options_of(self) | {"classes": sorted(self.classes)}
        decides = {key: value for key, value in said.items() if key not in here}
        if code:
            decides["code"] = dict(code)
        origin = start[1].sha256 if start else None
        return decides | {"checksum": whole.checksum, "looks": self.watch.looks, "start_from": origin}


def _followed(point: _Options, before: _Options, after: _Options, fixed: Collection[str], group: str = "") -> _Options:
    """``point`` with the values of ``after`` wherever it has those of ``before``, but for the options ``fixed``."""
    changes: dict[str, Any] = {}
    for item in fields(point):  # type: ignore[arg-type]
        now, was, then = (getattr(options, item.name) for options in (point, before, after))
        if (name := group + item.name) in fixed:
            continue
        if is_dataclass(now):
            changes[item.name] = _followed(now, was, then, fixed, f"{name}.")
        elif isinstance(now, dict):
            given = {key: value for key, value in now.items() if f"{name}.{key}" in fixed or was.get(key) != value}
            changes[item.name] = then | given
        elif now == was:
            changes[item.name] = then
    return replace(point, **changes)  # type: ignore[type-var]


def _learning(part: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in part.parameters() if weight.requires_grad]


def _check_kind(part: str, kind: str, known: tuple[str, ...]) -> None:
    if is_own(kind):
        module_of(kind)
    elif kind not in known:
        raise unknown(part, kind, known)


def _evaluate(net: Ebsc, test: Dataset, device: torch.device) -> dict[str, float]:
    """What a user wants to know before certifying, said and recorded."""
    figures = {"accuracy_on_noisy": validation.accuracy(net.plain(), test, device=device)}
    print(f"accuracy of the classifier on y = x + sigma eps: {figures['accuracy_on_noisy']:.1%}")
    if not isinstance(net.denoiser, nn.Identity):
        figures["accuracy_on_xhat"] = validation.accuracy(net, test, device=device)
        figures["denoising_error"] = validation.denoising_error(net.denoiser, test, net.sigma, device=device)
        print(f"accuracy of the classifier on xhat(y): {figures['accuracy_on_xhat']:.1%}")
        print(f"denoising error: {figures['denoising_error']:.5f} per pixel (the noise itself: {net.sigma**2:g})")
    net.cpu()
    return figures


if __name__ == "__main__":
    from jobs.cli import start

    start(Train)
