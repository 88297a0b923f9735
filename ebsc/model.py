"""An EBSC as one module, and the folder that holds it: ``model.json`` + ``model.safetensors``."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ebsc import classifier, energy, own
from ebsc.device import out_of_memory
from ebsc.energy import Energy
from ebsc.errors import InputError, one_line
from ebsc.estimator import EmpiricalBayes
from ebsc.files import make_folder, parse_json, refused, write_whole
from ebsc.networks import UNet

__all__ = [
    "RELEASED",
    "Ebsc",
    "ModelSpec",
    "Storage",
    "build",
    "check_own",
    "check_sigma",
    "code",
    "identity",
    "load",
    "locate",
    "pack",
    "read",
    "released",
    "save",
    "unpack",
]

_FORMAT = 1

Storage = Literal["float32", "float16"]

RELEASED = Path(__file__).with_name("released")
"""Models that come with the program, each a model folder with a card and the runs that its table is made of."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What ``model.json`` holds.

    Attributes:
        sigma: standard deviation of the noise, on the scale where pixels lie in [0, 1].
        shape: channels, height, width of an image.
        n_classes: number of classes.
        levels: the pixel lattice the model was trained on is {0..levels} / levels.
        denoiser: ``{"kind": name, **options}``: ``none``, ``network`` (plain image-to-image regression), or an energy
            of :mod:`ebsc.energy`; or ``module:factory`` of your own, called as ``factory(shape, sigma, **options)``: a
            denoiser, or an :class:`ebsc.energy.Energy` whose Bayes estimator is taken.
        classifier: ``{"kind": name, **options}`` of :mod:`ebsc.classifier`; or ``module:factory``, called as
            ``factory(shape, n_classes, **options)``.
        training: how the weights came to be; free.
        storage: of the weights in ``model.safetensors``; float16 halves it. Whatever votes loads what is stored, so
            that a certificate is one of the stored weights, and the checksum names those.
        sha256: checksum of ``model.safetensors``.

    Raises:
        InputError: a value that is not allowed.
    """

    sigma: float
    shape: tuple[int, int, int]
    n_classes: int
    levels: int
    denoiser: dict[str, Any] = field(default_factory=lambda: {"kind": "none"})
    classifier: dict[str, Any] = field(default_factory=lambda: {"kind": "linear"})
    training: dict[str, Any] = field(default_factory=dict)
    storage: Storage = "float32"
    sha256: str = ""

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if len(self.shape) != 3 or not all(isinstance(side, int) and side > 0 for side in self.shape):
            raise InputError(f"shape must be (channels, height, width), not {self.shape}")
        if not (isinstance(self.n_classes, int) and isinstance(self.levels, int) and isinstance(self.training, dict)):
            raise InputError("n_classes and levels must be whole numbers, and training an object")
        if self.n_classes < 2 or self.levels < 1:
            raise InputError(f"n_classes must be 2 or more, levels 1 or more, not {self.n_classes} and {self.levels}")
        if self.storage not in ("float32", "float16"):
            raise InputError(f"storage must be float32 or float16, not {self.storage}")
        for part in (self.denoiser, self.classifier):
            if not isinstance(part, dict) or not isinstance(part.get("kind"), str):
                raise InputError(f'a denoiser or classifier is {{"kind": name, **options}}, not {part}')


MOST_SIGMA = 1e6
"""The largest standard deviation: its square, and that of its inverse, are numbers of float32."""


def check_sigma(sigma: float) -> None:
    """Raise :class:`InputError` unless sigma is a number from 1e-6 to 1e6: its square must be one of float32."""
    if not isinstance(sigma, Real) or not 1 / MOST_SIGMA <= sigma <= MOST_SIGMA:
        raise InputError(f"sigma must be a positive number, from 1e-6 to 1e6, not {sigma}")


class Ebsc(nn.Module):
    """Base classifier of the vote: ``f(xhat(y))``.

    The empirical Bayes smoothed classifier is g(x) = argmax_c P[f(xhat(x + eps)) = c], eps ~ N(0, sigma^2 I) (Saremi &
    Srivastava 2020, arXiv 2005.04504); this module is what is voted over. With ``nn.Identity()`` as denoiser it is
    ordinary randomized smoothing (Cohen et al. 2019).

    Args:
        denoiser: maps an image under noise to an estimate of the clean image.
        classifier: maps images on the clean scale to logits.
        sigma: standard deviation of the noise, on the scale where pixels lie in [0, 1].

    Raises:
        InputError: sigma is not a positive number.
    """

    def __init__(self, denoiser: nn.Module, classifier: nn.Module, sigma: float) -> None:
        super().__init__()
        check_sigma(sigma)
        self.denoiser = denoiser
        self.classifier = classifier
        self.sigma = float(sigma)

    def forward(self, y: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        return self.classifier(self.denoiser(y))

    def train(self, mode: bool = True) -> "Ebsc":
        """Training mode only for the parts that learn; a frozen one keeps its batch statistics and its dropout off."""
        super().train(mode)
        for part in (self.denoiser, self.classifier):
            part.train(mode and any(weight.requires_grad for weight in part.parameters()))
        return self

    def plain(self) -> "Ebsc":
        """The same classifier voting on ``x + eps`` itself: plain smoothing, to be put beside the EBSC."""
        return Ebsc(nn.Identity(), self.classifier, self.sigma)


def build(spec: ModelSpec, allow: Sequence[str] = ()) -> Ebsc:
    """An untrained model from its specification.

    Args:
        spec: the specification.
        allow: modules and packages that may be imported where it names code that is no part of this package.

    Raises:
        InputError: an unknown kind, or options that it does not have; code that is not allowed, or cannot be found.

    >>> build(ModelSpec(sigma=0.5, shape=(1, 8, 8), n_classes=10, levels=16)).sigma
    0.5
    """
    try:
        base = _classifier(spec, allow)  # before the denoiser: a seed gives the weights of each in this order
        return Ebsc(_denoiser(spec, allow), base, spec.sigma)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise InputError("the networks do not fit into memory") from error
        raise InputError(f"not a model specification: {one_line(error)}") from error


def code(spec: ModelSpec) -> dict[str, str]:
    """The modules of a user's own that a model was built with, each with its :func:`ebsc.own.checksum`.

    >>> code(ModelSpec(sigma=0.5, shape=(1, 8, 8), n_classes=10, levels=16))
    {}
    """
    return {name: own.checksum(name) for name in _modules(spec)}


def identity(spec: ModelSpec) -> dict[str, Any]:
    """What tells the function that is voted over from all others, as a run's question holds it.

    Of networks of this package that is their weights, and sigma; of a user's own, their code and their options too.

    >>> identity(ModelSpec(sigma=0.5, shape=(1, 8, 8), n_classes=10, levels=16, sha256="ab"))
    {'model': 'ab', 'sigma': 0.5}
    """
    found: dict[str, Any] = {"model": spec.sha256, "sigma": spec.sigma}
    if modules := code(spec):
        found |= {"code": modules, "denoiser": spec.denoiser, "classifier": spec.classifier}
    return found


def _modules(spec: ModelSpec) -> list[str]:
    kinds = (spec.denoiser["kind"], spec.classifier["kind"])
    return sorted({own.module_of(kind) for kind in kinds if own.is_own(kind)})


def _denoiser(spec: ModelSpec, allow: Sequence[str]) -> nn.Module:
    options = dict(spec.denoiser)
    kind = options.pop("kind")
    if own.is_own(kind):
        made = own.make(kind, allow, spec.shape, spec.sigma, **options)
        return EmpiricalBayes(made, spec.sigma) if isinstance(made, Energy) else made
    if kind == "none" and not options:
        return nn.Identity()
    if kind == "network":
        return UNet(spec.shape, spec.sigma, **options)
    return EmpiricalBayes(energy.build(kind, spec.shape, spec.sigma, **options), spec.sigma)


def _classifier(spec: ModelSpec, allow: Sequence[str]) -> nn.Module:
    options = dict(spec.classifier)
    kind = options.pop("kind")
    if own.is_own(kind):
        return own.make(kind, allow, spec.shape, spec.n_classes, **options)
    return classifier.build(kind, spec.shape, spec.n_classes, **options)


def save(folder: str | Path, model: Ebsc, spec: ModelSpec) -> None:
    """Write a model folder; each file appears whole or not at all.

    Where the specification names code of your own, that is imported, and the model is made from it as :func:`load`
    will: it must then say the same as the one that is saved.

    Raises:
        InputError: the folder cannot be written, or the specification is not that of the model.
        OSError: the disk is full.
    """
    folder = Path(folder)
    spec, weights = pack(model, spec)
    if modules := _modules(spec):
        _check_same(unpack(spec, weights, str(folder), [own.top(name) for name in modules]), model, spec)
    head = json.dumps({"format": _FORMAT, **asdict(spec)}, indent=2).encode()
    make_folder(folder, "model")
    try:
        write_whole(folder / "model.safetensors", weights)
        write_whole(folder / "model.json", head + b"\n")
    except OSError as error:
        raise refused(error, f"cannot write the model {folder}") from error


def released() -> list[str]:
    """Names of the models that come with the program."""
    return sorted(path.parent.name for path in RELEASED.glob("[!.]*/model.json"))


def locate(folder: str | Path) -> Path:
    """A model folder as it stands; or, where there is no such folder, that of a released model of this name.

    Raises:
        InputError: a name, but neither.
    """
    folder = Path(folder)
    if folder.exists() or len(folder.parts) != 1:
        return folder
    if folder.name not in released():
        names = ", ".join(released()) or "none yet"
        raise InputError(f"{folder} is not a model folder, nor a released model: released are {names}")
    return RELEASED / folder


def load(folder: str | Path, allow: Sequence[str] = ()) -> tuple[Ebsc, ModelSpec]:
    """Read a model folder, or a released model by its name. Nothing in it is executed: JSON and safetensors only.

    Args:
        folder: the model folder, or the name.
        allow: modules and packages of your own that ``model.json`` may name. It is what the caller allows that is
            imported, never what a file asks for: a folder that names other code is refused.

    Returns:
        The model in evaluation mode on the CPU, and its specification.

    Raises:
        InputError: a file is missing, truncated or altered, or the weights contain NaN or infinity; code that is not
            allowed or does not make such a model.
    """
    origin = locate(folder)
    spec, weights = read(origin)
    net = unpack(spec, weights, str(origin), allow)
    check_own(net, spec, str(origin))
    return net, spec


def read(folder: str | Path) -> tuple[ModelSpec, bytes]:
    """A model folder's specification, and the bytes of its safetensors file; no network is made.

    Raises:
        InputError: a file is missing, or ``model.json`` is not one.
    """
    folder = locate(folder)
    try:
        head = parse_json((folder / "model.json").read_bytes())
        weights = (folder / "model.safetensors").read_bytes()
        if head.pop("format") != _FORMAT:
            raise InputError(f"not a model of format {_FORMAT}")
        return ModelSpec(**{**head, "shape": tuple(head["shape"])}), weights
    except FileNotFoundError as error:
        run = ", but a run" * (folder / "certificates.parquet").exists()
        raise InputError(f"{folder} is not a model folder{run}: {Path(error.filename).name} is missing") from error
    except InputError as error:
        raise InputError(f"{folder}/model.json: {error}") from error
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}/model.json cannot be read: {one_line(repr(error))}") from error


def pack(model: Ebsc, spec: ModelSpec) -> tuple[ModelSpec, bytes]:
    """The bytes of a model's safetensors file, and the specification with their checksum."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    # cloned, as weights that several layers share would be refused
    state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    if spec.storage == "float16":
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    weights = safetensors.torch.save(state)
    return replace(spec, sha256=hashlib.sha256(weights).hexdigest()), weights


def unpack(spec: ModelSpec, weights: bytes, origin: str = "model", allow: Sequence[str] = ()) -> Ebsc:
    """The inverse of :func:`pack`, checked; ``origin`` is named in errors, ``allow`` is that of :func:`load`."""
    if hashlib.sha256(weights).hexdigest() != spec.sha256:
        raise InputError(f"{origin}/model.safetensors is truncated or altered: its checksum is not that of model.json")
    try:
        model = build(spec, allow)
    except InputError as error:
        raise InputError(f"{origin}/model.json: {error}") from error
    try:
        state = safetensors.torch.load(weights)
        model.load_state_dict(state)
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise InputError(f"{origin}/model.safetensors does not fit model.json: {one_line(error)}") from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{origin}/model.safetensors: {name} contains NaN or infinity")
    return model.eval()


def check_own(model: Ebsc, spec: ModelSpec, origin: str) -> None:
    """Raise :class:`InputError` unless networks of somebody's own take and make what the specification says."""
    if not _modules(spec):
        return
    y = torch.zeros(1, *spec.shape)
    parts = (("denoiser", model.denoiser, y.shape), ("classifier", model.classifier, torch.Size([1, spec.n_classes])))
    for name, part, wanted in parts:
        try:
            with torch.no_grad():
                made = part(y)
        except Exception as error:  # whatever it raises
            said = one_line(repr(error))
            raise InputError(f"{origin}: the {name} does not take images of shape {spec.shape}: {said}") from error
        shape = made.shape if isinstance(made, Tensor) else type(made).__name__
        if shape != wanted:
            found = shape if isinstance(shape, str) else tuple(shape)
            raise InputError(f"{origin}: the {name} makes {found} of {tuple(y.shape)}, not {tuple(wanted)}")


def _check_same(again: Ebsc, model: Ebsc, spec: ModelSpec) -> None:
    """Raise :class:`InputError` unless the factories have made, with the same weights, the same function."""
    check_own(again, spec, "the specification")
    y = torch.rand(2, *spec.shape, generator=torch.Generator().manual_seed(0))
    same = copy.deepcopy(model).cpu().eval()
    same.load_state_dict(again.state_dict())  # as they are stored
    with torch.no_grad():
        one, other = again(y), same(y)
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-4):
        far = (one - other).abs().max()
        raise InputError(f"the specification is that of another model: its outputs differ by up to {far:.3g}")
