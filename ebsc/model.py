"""An EBSC as one module, and the folder that holds it: ``model.json`` + ``model.safetensors``."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ebsc import classifier, energy
from ebsc.errors import InputError, one_line
from ebsc.estimator import EmpiricalBayes
from ebsc.files import make_folder, write_whole
from ebsc.networks import UNet

__all__ = [
    "RELEASED",
    "Ebsc",
    "ModelSpec",
    "Storage",
    "build",
    "check_sigma",
    "load",
    "locate",
    "pack",
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
            of :mod:`ebsc.energy`.
        classifier: ``{"kind": name, **options}`` of :mod:`ebsc.classifier`.
        training: how the weights came to be; free.
        storage: of the weights in ``model.safetensors``; float16 halves it. The network computes in float32 with what
            is stored, so that a certificate is one of the stored weights, and the checksum names those.
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
        if self.n_classes < 2 or self.levels < 1:
            raise InputError(f"n_classes must be 2 or more, levels 1 or more, not {self.n_classes} and {self.levels}")
        if self.storage not in ("float32", "float16"):
            raise InputError(f"storage must be float32 or float16, not {self.storage}")
        for part in (self.denoiser, self.classifier):
            if not isinstance(part, dict) or "kind" not in part:
                raise InputError(f'a denoiser or classifier is {{"kind": name, **options}}, not {part}')


def check_sigma(sigma: float) -> None:
    """Raise :class:`InputError` unless sigma is a positive number."""
    if not isinstance(sigma, int | float) or not 0 < sigma < float("inf"):
        raise InputError(f"sigma must be a positive number, not {sigma}")


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

    def plain(self) -> "Ebsc":
        """The same classifier voting on ``x + eps`` itself: plain smoothing, to be put beside the EBSC."""
        return Ebsc(nn.Identity(), self.classifier, self.sigma)


def build(spec: ModelSpec) -> Ebsc:
    """An untrained model from its specification.

    >>> build(ModelSpec(sigma=0.5, shape=(1, 8, 8), n_classes=10, levels=16)).sigma
    0.5

    Raises:
        InputError: an unknown kind, or options that it does not have.
    """
    denoiser, base = dict(spec.denoiser), dict(spec.classifier)
    try:
        head = classifier.build(base.pop("kind"), spec.shape, spec.n_classes, **base)
        return Ebsc(_denoiser(denoiser.pop("kind"), spec.shape, spec.sigma, denoiser), head, spec.sigma)
    except TypeError as error:
        raise InputError(f"not a model specification: {error}") from error


def _denoiser(kind: str, shape: tuple[int, int, int], sigma: float, options: dict[str, Any]) -> nn.Module:
    if kind == "none" and not options:
        return nn.Identity()
    if kind == "network":
        return UNet(shape, sigma, **options)
    return EmpiricalBayes(energy.build(kind, shape, sigma, **options), sigma)


def save(folder: str | Path, model: Ebsc, spec: ModelSpec) -> None:
    """Write a model folder; each file appears whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    spec, weights = pack(model, spec)
    head = json.dumps({"format": _FORMAT, **asdict(spec)}, indent=2).encode()
    make_folder(folder, "model")
    try:
        write_whole(folder / "model.safetensors", weights)
        write_whole(folder / "model.json", head + b"\n")
    except OSError as error:
        raise InputError(f"cannot write the model {folder}: {error.strerror}") from error


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


def load(folder: str | Path) -> tuple[Ebsc, ModelSpec]:
    """Read a model folder, or a released model by its name. Nothing in it is executed: JSON and safetensors only.

    Returns:
        The model in evaluation mode on the CPU, and its specification.

    Raises:
        InputError: a file is missing, truncated or altered, or the weights contain NaN or infinity.
    """
    folder = locate(folder)
    try:
        head = json.loads((folder / "model.json").read_bytes())
        weights = (folder / "model.safetensors").read_bytes()
        if head.pop("format") != _FORMAT:
            raise InputError(f"not a model of format {_FORMAT}")
        spec = ModelSpec(**{**head, "shape": tuple(head["shape"])})
    except FileNotFoundError as error:
        raise InputError(f"{folder} is not a model folder: {Path(error.filename).name} is missing") from error
    except InputError as error:
        raise InputError(f"{folder}/model.json: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}/model.json cannot be read: {one_line(repr(error))}") from error
    return unpack(spec, weights, origin=str(folder)), spec


def pack(model: Ebsc, spec: ModelSpec) -> tuple[ModelSpec, bytes]:
    """The bytes of a model's safetensors file, and the specification with their checksum."""
    state = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    if spec.storage == "float16":
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    weights = safetensors.torch.save(state)
    return replace(spec, sha256=hashlib.sha256(weights).hexdigest()), weights


def unpack(spec: ModelSpec, weights: bytes, origin: str = "model") -> Ebsc:
    """The inverse of :func:`pack`, checked; ``origin`` is named in errors."""
    if hashlib.sha256(weights).hexdigest() != spec.sha256:
        raise InputError(f"{origin}/model.safetensors is truncated or altered: its checksum is not that of model.json")
    try:
        model = build(spec)
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
