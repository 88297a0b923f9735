"""Named data sets as integer images on a known pixel lattice."""

import hashlib
import os
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from ebsc.errors import InputError, one_line
from ebsc.files import lock
from ebsc.noise import check_images

__all__ = ["Dataset", "Split", "check_name", "data_root", "load", "names"]

Split = Literal["train", "test"]

# torchvision class, the folder it wants below the data root
_TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "kmnist": ("KMNIST", "KMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
}
# what the files are called when one has to fetch them by hand
_FILES = {
    "mnist": "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte",
    "cifar10": "data_batch_1 to data_batch_5, test_batch, batches.meta",
}
_DIGITS_TRAIN = 1437

DOWNLOAD_SECONDS = 3600.0
"""How long a process waits for another one that downloads."""

MOST_CLASSES = 100_000
"""Classes that labels of one's own may have: a larger label is no class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images and labels of one split.

    Attributes:
        name: the name given to :func:`load`.
        split: ``train`` or ``test``.
        images: (N, C, H, W); ``uint8`` pixel integers in {0..levels}, the lattice on which certificates are sound in
            floats; or ``float32`` in [0, 1] for images off the lattice, whose certificates are marked as not sound in
            floats.
        labels: (N,), ``int64``; classes 0 to ``n_classes - 1``.
        levels: the integer L that stands for white, an ``int``; a pixel's value is ``image / L``.
        n_classes: number of classes.

    Raises:
        InputError: shapes, dtypes or ranges are not as stated.

    >>> digits = load("digits", "test")
    >>> digits.images.shape, digits.levels, digits.n_classes
    ((360, 1, 8, 8), 16, 10)
    """

    name: str
    split: Split
    images: np.ndarray
    labels: np.ndarray
    levels: int
    n_classes: int

    def __post_init__(self) -> None:
        try:
            check_images(self.images, self.levels)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None
        if self.labels.shape != self.images.shape[:1]:
            raise InputError(f"{self.name}: {len(self.images)} images but labels of shape {self.labels.shape}")
        if not self.images.size:
            raise InputError(f"{self.name}: no images, no labels")
        if not 0 <= self.labels.min() <= self.labels.max() < self.n_classes:
            raise InputError(f"{self.name}: labels must lie in 0..{self.n_classes - 1}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        channel, height, width = self.images.shape[1:]
        return channel, height, width

    @property
    def on_lattice(self) -> bool:
        """Whether the images are integers on {0..levels}."""
        return self.images.dtype == np.uint8

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of images and labels, so that a run can name exactly what it was certified on."""
        digest = hashlib.sha256(f"{self.images.shape} {self.images.dtype} {self.levels}".encode())
        digest.update(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def off_lattice(self) -> "Dataset":
        """The same images as ``float32``: noise is then added in floats and certificates are not sound in floats."""
        if not self.on_lattice:
            return self
        return replace(self, images=self.images.astype(np.float32) / np.float32(self.levels))

    def take(self, indices: Int64[np.ndarray, " part"]) -> "Dataset":
        """Some of the images, as a data set."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def of(self, classes: Collection[int]) -> "Dataset":
        """The images of some classes, whose labels stay as they are.

        Raises:
            InputError: a class that the data set does not have, or no image of any of them.
        """
        unknown = [name for name in classes if not 0 <= name < self.n_classes]
        if unknown:
            raise InputError(f"{self.name} has the classes 0 to {self.n_classes - 1}, not {unknown[0]}")
        if not (chosen := np.isin(self.labels, list(classes))).any():
            raise InputError(
                f"{self.name}: of {len(chosen)} images none is of the classes {', '.join(map(str, classes))}"
            )
        return self.take(np.flatnonzero(chosen))


def names() -> list[str]:
    """Data sets known by name.

    >>> names()
    ['digits', 'mnist', 'fashion-mnist', 'kmnist', 'cifar10']
    """
    return ["digits", *_TORCHVISION]


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets live: ``root`` if given, else ``$EBSC_DATA``, else ``~/.cache/ebsc/data``."""
    return Path(root or os.environ.get("EBSC_DATA") or "~/.cache/ebsc/data").expanduser()


def load(name: str, split: Split, root: str | Path | None = None) -> Dataset:
    """One split of a data set: a known name, or the path of a user's own ``.npz``.

    ``digits`` (scikit-learn, 8 x 8, L = 16) needs no files: its first 1,437 images are the training split. The others
    come through torchvision from the data root, and are downloaded there when absent. An ``.npz`` holds
    ``train_images``, ``train_labels``, ``test_images``, ``test_labels``, and optionally ``levels`` (255 when absent):
    images ``uint8`` of shape (N, H, W) or (N, C, H, W), or floats in [0, 1].

    Args:
        name: one of :func:`names`, or a path that ends in ``.npz``.
        split: ``train`` or ``test``.
        root: see :func:`data_root`.

    Raises:
        InputError: unknown name, missing or damaged files, wrong arrays.
    """
    check_name(name)
    if name.endswith(".npz"):
        return _npz(Path(name), split)
    if name == "digits":
        return _digits(split)
    return _torchvision(name, split, data_root(root))


def check_name(name: str) -> None:
    """Raise :class:`InputError` unless this is the name of a data set, or that of a file of one's own."""
    if name not in names() and not name.endswith(".npz"):
        raise InputError(
            f"unknown data set {name!r}: choose one of {', '.join(names())}, or give the path of an .npz file"
        )


def _digits(split: Split) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = slice(None, _DIGITS_TRAIN) if split == "train" else slice(_DIGITS_TRAIN, None)
    images = bunch.images[part, None].astype(np.uint8)
    return Dataset(name="digits", split=split, images=images, labels=bunch.target[part], levels=16, n_classes=10)


def _torchvision(name: str, split: Split, root: Path) -> Dataset:
    import torchvision.datasets

    class_name, folder = _TORCHVISION[name]
    make: Callable[..., Any] = getattr(torchvision.datasets, class_name)
    try:
        try:
            source = make(root, train=split == "train", download=False)
        except RuntimeError:  # torchvision's word for "not found"
            _download(make, root)
            source = make(root, train=split == "train", download=False)
    except Exception as error:  # torchvision raises whatever its parser or the network raises
        files = _FILES.get(name, _FILES["mnist"])
        raise InputError(
            f"{name} cannot be read from {root / folder} nor downloaded ({one_line(error)}): put {files} there,"
            " or name another data root with --data-root or EBSC_DATA"
        ) from error
    images = np.asarray(source.data)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    labels = np.asarray(source.targets, dtype=np.int64)
    return Dataset(name=name, split=split, images=np.ascontiguousarray(images), labels=labels, levels=255, n_classes=10)


def _download(make: Callable[..., Any], root: Path) -> None:
    """Download a data set, once for all processes that want it at a time; no file appears that is not whole."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / ".download.lock"
    with ExitStack() as end:
        end.callback(lock(path, DOWNLOAD_SECONDS).release)
        end.callback(path.unlink)
        with suppress(RuntimeError):
            make(root, download=False)
            return  # another process has been here
        with TemporaryDirectory(prefix=".download-", dir=root) as apart:
            make(apart, download=True)
            for path in sorted(Path(apart).rglob("*")):
                target = root / path.relative_to(apart)
                if path.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    path.replace(target)


def _npz(path: Path, split: Split) -> Dataset:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            both = [arrays[name] for name in ("train_labels", "test_labels") if name in arrays]
            levels = arrays["levels"].item() if "levels" in arrays else 255
            if levels != int(levels):
                raise ValueError(f"levels is {levels}, no whole number")
    except KeyError as error:
        raise InputError(f"{path}: an array is missing; wanted are {split}_images and {split}_labels") from error
    except Exception as error:  # a missing, truncated, pickled or foreign file
        raise InputError(f"{path}: not a readable .npz data set ({one_line(error)})") from error
    for array in (labels, *both):
        if not np.issubdtype(array.dtype, np.integer) or array.ndim != 1 or not array.size:
            raise InputError(f"{path}: labels must be integers of shape (N,), not {array.dtype} {array.shape}")
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        raise InputError(f"{path}: images of shape {images.shape}; channels come first: (N, channels, height, width)")
    if np.issubdtype(images.dtype, np.floating):
        images = _to_lattice(images, int(levels))
    largest = max(int(array.max()) for array in (labels, *both))
    if largest >= MOST_CLASSES:
        raise InputError(f"{path}: labels are 0, 1, ..., below {MOST_CLASSES:,}, and the largest here is {largest}")
    return Dataset(
        name=str(path),
        split=split,
        images=images,
        labels=labels.astype(np.int64),
        levels=int(levels),
        n_classes=largest + 1,
    )


def _to_lattice(images: np.ndarray, levels: int) -> np.ndarray:
    """Floats that are integers over ``levels``, but for rounding, as ``uint8``; all others as ``float32``, off it."""
    with np.errstate(over="ignore", invalid="ignore"):  # of NaN and infinity, which are refused later
        scaled = images.astype(np.float64) * levels
        pixels = np.rint(scaled)
        near = np.abs(scaled - pixels).max(initial=0.0) < 1e-4
        if near and 0 <= pixels.min(initial=0.0) <= pixels.max(initial=0.0) <= levels:
            return pixels.astype(np.uint8)
        return images.astype(np.float32)
