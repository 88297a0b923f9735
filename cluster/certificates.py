"""The certificates of a finished run on disk: Parquet for us, tab-separated in the field's own form for others."""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster import parquet
from ebsc.bounds import floor_radius
from ebsc.campaign import Outcome, structured
from ebsc.errors import InputError, one_line
from ebsc.files import write_whole

__all__ = ["FILES", "LOG", "correct", "from_tsv", "outcomes", "read", "seconds", "to_tsv", "write"]

LOG = "certificates.tsv"
"""The certificates in the field's form: what others read of a run, and all that there is of an imported log."""
FILES = ("certificates.parquet", LOG)
"""What answers the question of a run; moved away when the run is extended."""

_COLUMNS = {"index", "label", "predicted", "outcome", "radius", "p_lower", "draws", "select", "counts", "seconds"}

_LOGGED = np.dtype(
    [(name, "i8") for name in ("index", "label", "predicted")]
    + [(name, "f8") for name in ("radius", "rounding", "seconds")]
)


def correct(certificates: np.ndarray) -> np.ndarray:
    """True where a certificate is for the right class, shape (N,): something is certified, and it is the label."""
    return (certificates["radius"] > 0) & (certificates["predicted"] == certificates["label"])


def outcomes(certificates: np.ndarray) -> dict[str, int]:
    """How many images ended in which way."""
    return {
        outcome.name.lower().replace("_", " "): int(count)
        for outcome in Outcome
        if (count := (certificates["outcome"] == outcome).sum())
    }


def write(folder: Path, certificates: np.ndarray, seconds: np.ndarray, *, sound: bool = True) -> None:
    """Write ``certificates.parquet`` and ``certificates.tsv``, each whole or not at all.

    Args:
        folder: the run folder.
        certificates: of :meth:`ebsc.campaign.Campaign.certificates`.
        seconds: worker time spent on each image; the one column that differs between equal runs.
        sound: whether they hold in floating point; the tab-separated form has no place to say that they do not.
    """
    names = [outcome.name.lower() for outcome in Outcome]
    columns = {
        name: pa.array(list(certificates[name])) if certificates[name].ndim > 1 else pa.array(certificates[name])
        for name in certificates.dtype.names or ()
        if name != "outcome"
    }
    columns["outcome"] = pa.array([names[outcome] for outcome in certificates["outcome"]])
    columns["seconds"] = pa.array(seconds)
    parquet.write(folder / "certificates.parquet", columns)
    if sound:
        write_whole(folder / LOG, to_tsv(certificates, seconds).encode())


def to_tsv(certificates: np.ndarray, seconds: np.ndarray) -> str:
    """``idx label predict radius correct time``, as Cohen et al.'s scripts write and read it.

    Radii are rounded down, and the class of an image that abstains is -1, as those scripts expect.
    """
    lines = ["idx\tlabel\tpredict\tradius\tcorrect\ttime"]
    for row, right, spent in zip(certificates, correct(certificates), seconds, strict=True):
        predict = row["predicted"] if row["radius"] > 0 else -1
        took = timedelta(seconds=float(spent))
        lines.append(f"{row['index']}\t{row['label']}\t{predict}\t{floor_radius(row['radius'])}\t{right:d}\t{took}")
    return "\n".join(lines) + "\n"


def from_tsv(path: Path, text: bytes | None = None) -> np.ndarray:
    """A log in the field's form ``idx label predict radius correct time``, whoever wrote it.

    Args:
        path: the log.
        text: what it holds, where that was read already.

    Returns:
        A structured array of ``index``, ``label``, ``predicted`` (-1 where it abstained), ``radius`` as printed,
        ``rounding`` (how far the true radius may be from it: half a unit of the last digit that the log prints) and
        ``seconds`` (NaN where the time is in no known form).

    Raises:
        InputError: there is no such log, or it is not of that form.
    """
    form = "a log of the form idx label predict radius correct time"
    try:
        with io.TextIOWrapper(io.BytesIO(path.read_bytes() if text is None else text), newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        log = np.zeros(len(rows), _LOGGED)
        for column, name in zip(_LOGGED.names or (), ("idx", "label", "predict", "radius"), strict=False):
            log[column] = [_LOGGED[column].type(row[name]) for row in rows]
        right = np.array([{"0": False, "1": True}[row["correct"]] for row in rows])
        printed = [Decimal(row["radius"]) for row in rows]
        log["seconds"] = [_seconds(row.get("time") or "") for row in rows]
    except FileNotFoundError:
        raise InputError(f"{path}: no such run folder or log") from None
    except (OSError, ArithmeticError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is not {form}: {one_line(repr(error), 80)}") from error
    if not rows:
        raise InputError(f"{path} holds no image")
    if not (np.isfinite(log["radius"]) & (log["radius"] >= 0)).all():
        raise InputError(f"{path} is not {form}: a radius is no radius")
    if len(np.unique(log["index"])) < len(log):
        raise InputError(f"{path} holds an image twice")
    wrong = log["index"][right != (log["predicted"] == log["label"])]
    if len(wrong):
        raise InputError(f"{path} is not {form}: image {wrong[0]} is not correct as label and predict say")
    log["rounding"] = _half_units(log["radius"], printed)
    return log


def _half_units(radii: np.ndarray, printed: Sequence[Decimal]) -> np.ndarray:
    """Half a unit of the last digit printed. Trailing zeros are dropped by some, so the longest of a decade counts.

    Some print 3 significant digits, others a number of decimals; within a decade these are the same.
    """
    digits = np.array([-int(number.as_tuple().exponent) for number in printed])
    decades = np.floor(np.log10(np.maximum(radii, 1e-9)))
    half = np.zeros(len(radii))
    for decade in np.unique(decades[radii > 0]):
        mine = (decades == decade) & (radii > 0)
        half[mine] = 0.5 * 10.0 ** -digits[mine].max()
    return half


def _seconds(text: str) -> float:
    """Of ``0:00:04.2467`` or ``4.2467``."""
    with suppress(ValueError):
        return sum(float(part) * 60**place for place, part in enumerate(reversed(text.split(":"))))
    return float("nan")


def read(folder: str | Path) -> np.ndarray:
    """The certificates of a finished run, as :meth:`ebsc.campaign.Campaign.certificates` gave them.

    Raises:
        InputError: the run is not finished, or the file is damaged.
    """
    table = _table(folder)
    names = {outcome.name.lower(): outcome for outcome in Outcome}
    try:
        columns = {
            name: np.stack(table[name].to_numpy()) if pa.types.is_list(table[name].type) else table[name].to_numpy()
            for name in table.column_names
        }
        columns["outcome"] = np.array([names[name] for name in columns["outcome"]], dtype=np.int8)
        del columns["seconds"]
        if words := [name for name, column in columns.items() if column.dtype.kind not in "biuf"]:
            raise ValueError(f"{', '.join(words)} is no number")
        return structured(**columns)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{folder}/certificates.parquet is not that of a certification: {one_line(error)}") from error


def seconds(folder: str | Path) -> np.ndarray:
    """Worker seconds spent on each image of a finished run, shape (N,).

    Raises:
        InputError: the run is not finished, or the file is damaged.
    """
    return _table(folder)["seconds"].to_numpy()


def _table(folder: str | Path) -> pa.Table:
    path = Path(folder) / "certificates.parquet"
    try:
        table = parquet.read(path)
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not finished: certificates.parquet is missing; start its command again"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error
    if missing := _COLUMNS - {*table.column_names}:
        raise InputError(f"{path} is not that of a certification: no {', '.join(sorted(missing))}")
    return table
