"""The certificates of a finished run on disk: Parquet for us, tab-separated in the field's own form for others."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ebsc.bounds import floor_radius
from ebsc.campaign import Outcome
from ebsc.errors import InputError, one_line
from ebsc.files import write_whole

__all__ = ["FILES", "correct", "read", "seconds", "to_tsv", "write"]

FILES = ("certificates.parquet", "certificates.tsv")
"""What answers the question of a run; moved away when the run is extended."""


def correct(certificates: np.ndarray) -> np.ndarray:
    """True where a certificate is for the right class, shape (N,): something is certified, and it is the label."""
    return (certificates["radius"] > 0) & (certificates["predicted"] == certificates["label"])


def write(folder: Path, certificates: np.ndarray, seconds: np.ndarray) -> None:
    """Write ``certificates.parquet`` and ``certificates.tsv``, each whole or not at all.

    Args:
        folder: the run folder.
        certificates: of :meth:`ebsc.campaign.Campaign.certificates`.
        seconds: worker time spent on each image; the one column that differs between equal runs.
    """
    names = [outcome.name.lower() for outcome in Outcome]
    columns = {
        name: pa.array(list(certificates[name])) if certificates[name].ndim > 1 else pa.array(certificates[name])
        for name in certificates.dtype.names or ()
        if name != "outcome"
    }
    columns["outcome"] = pa.array([names[outcome] for outcome in certificates["outcome"]])
    columns["seconds"] = pa.array(seconds)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    write_whole(folder / "certificates.parquet", sink.getvalue().to_pybytes())
    write_whole(folder / "certificates.tsv", to_tsv(certificates, seconds).encode())


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
        kinds = [(name, column.dtype, column.shape[1:]) for name, column in columns.items()]
        result = np.zeros(table.num_rows, dtype=kinds)
        for name, column in columns.items():
            result[name] = column
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{folder}/certificates.parquet is not that of a certification: {one_line(error)}") from error
    return result


def seconds(folder: str | Path) -> np.ndarray:
    """Worker seconds spent on each image of a finished run, shape (N,).

    Raises:
        InputError: the run is not finished, or the file is damaged.
    """
    try:
        return _table(folder)["seconds"].to_numpy()
    except KeyError:
        raise InputError(f"{folder}/certificates.parquet is not that of a certification: no seconds") from None


def _table(folder: str | Path) -> pa.Table:
    path = Path(folder) / "certificates.parquet"
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not finished: certificates.parquet is missing; start its command again"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error
