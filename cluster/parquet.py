"""Tables as Parquet files, which appear whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ebsc.files import write_whole

__all__ = ["read", "write"]


def read(path: Path) -> pa.Table:
    """The table of a file.

    Raises:
        OSError: it cannot be read.
        pyarrow.ArrowException: it is no Parquet file.
    """
    # a path might be taken for a URI; bytes of Python's may be let go by a thread of Arrow when Python has ended
    with pa.OSFile(str(path)) as file:
        return pq.read_table(file)


def write(path: Path, columns: Mapping[str, Any]) -> None:
    """Write a table of these columns, arrays of NumPy or Arrow."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(columns)), sink, compression="zstd")
    write_whole(path, sink.getvalue().to_pybytes())
