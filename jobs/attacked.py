"""What an attack found, on disk: ``attack.parquet`` and ``adversarial.npz``, a line an image and radius."""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster import parquet
from cluster.folder import read_config
from ebsc.errors import InputError, one_line
from ebsc.files import write_whole
from jobs.options import parse_radii

__all__ = ["FOUND", "Attacked", "Empirical", "arrays", "empirical", "grid", "of_run", "read", "standing", "write"]

FOUND = np.dtype([("row", "i8"), ("radius", "f8"), ("length", "f8"), ("predicted", "i8"), ("certain", "?")])
"""What came of the attack on one image: the radius allowed, the length used, the prediction there, and whether it is
certain (else the smoothed classifier abstains)."""

_LINES = np.dtype([("index", "i8"), ("label", "i8"), *FOUND.descr[1:]])


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """An attack that has ended.

    Attributes:
        lines: ``index``, ``label``, and ``radius``, ``length``, ``predicted``, ``certain`` as of :data:`FOUND`.
        images: what was attacked with, in the order of the lines; pixel integers.
    """

    lines: np.ndarray
    images: np.ndarray

    @property
    def fooled(self) -> np.ndarray:
        """Lines where another class than the label is predicted, with certainty."""
        return self.lines["certain"] & (self.lines["predicted"] != self.lines["label"])


def write(folder: Path, rows: np.ndarray, found: np.ndarray, images: np.ndarray) -> None:
    """Write both files.

    Args:
        folder: of the attack.
        rows: certificates of the run that was attacked.
        found: lines of :data:`FOUND`, whose ``row`` counts these rows.
        images: what was attacked with, in the order of the lines.
    """
    mine = rows[found["row"]]
    columns = {"index": mine["index"], "label": mine["label"], "certified": mine["predicted"]}
    columns |= {"certified_radius": mine["radius"]} | {
        name: found[name] for name in ("radius", "length", "predicted", "certain")
    }
    arrays = io.BytesIO()
    np.savez_compressed(arrays, index=mine["index"], radius=found["radius"], images=images)
    write_whole(folder / "adversarial.npz", arrays.getvalue())
    parquet.write(folder / "attack.parquet", columns)


def read(folder: Path) -> Attacked:
    """What :func:`write` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    try:
        table = parquet.read(folder / "attack.parquet")
        lines = np.zeros(table.num_rows, dtype=_LINES)
        for name in _LINES.names or ():
            lines[name] = table[name].to_numpy()
        (images,) = arrays(folder / "adversarial.npz", "images")
        if len(images) != len(lines):
            raise ValueError(f"{len(lines)} lines but {len(images)} images")
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{folder} is not that of a finished attack: {one_line(error)}") from error
    return Attacked(lines=lines, images=images)


def arrays(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of an npz file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or does not have them.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return [found[name] for name in names]
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(f"{path.name} is damaged: {one_line(error)}") from error


def grid(radii: str) -> tuple[float, ...]:
    """Radii to attack at, with 0 for the images as they are."""
    return (0.0, *sorted(set(parse_radii(radii))))


def standing(
    image: np.ndarray, radius: np.ndarray, lost: np.ndarray, radii: Sequence[float], images: int
) -> list[float]:
    """Share of images that no line up to each radius of the grid has lost.

    Args:
        image: which image a line is of.
        radius: allowed in it.
        lost: whether the image fell in it.
        radii: asked for.
        images: number of all images.
    """
    fell = [len(np.unique(image[lost & (radius <= limit)])) for limit in radii]
    return [1 - count / images for count in fell]


@dataclass(frozen=True, kw_only=True)
class Empirical:
    """What an attack left standing, right or abstaining: shares of so many images, at radii. An estimate."""

    radii: Sequence[float]
    shares: Sequence[float]
    images: int


def of_run(run: Path) -> dict[Path, Attacked]:
    """What finished attacks on a run have found, by their folders in it."""
    return {path.parent: read(path.parent) for path in sorted(run.glob("attack*/attack.parquet"))}


def empirical(attacks: Mapping[Path, Attacked], index: np.ndarray) -> Empirical | None:
    """The empirical curve over images of a row; None where none of them was attacked at radii."""
    for folder, attack in attacks.items():
        asked = read_config(folder)["question"].get("radii")
        if not isinstance(asked, str):
            raise InputError(f"{folder}/config.json is not that of an attack: no radii")
        mine = np.isin(attack.lines["index"], index)
        if asked == "certified" or not mine.any():
            continue
        lines, lost = attack.lines[mine], attack.fooled[mine]
        radii, images = grid(asked), len(np.unique(lines["index"]))
        shares = standing(lines["index"], lines["radius"], lost, radii, images)
        return Empirical(radii=radii, shares=shares, images=images)
    return None
