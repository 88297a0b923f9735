"""The crash-safe record of a run: ``config.json`` and an append-only ``ledger.jsonl``, under a lock."""

import hashlib
import json
import lzma
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster import certificates
from cluster.folder import RunFolder, flat, read_config
from ebsc.errors import InputError
from ebsc.files import parse_json, write_whole

__all__ = ["KEPT", "LEDGER", "Ledger", "Record", "compress", "recorded", "write"]

Record = dict[str, Any]

SYNC_EVERY = 1.0
"""Seconds between writes that wait for the disk."""

LEDGER = "ledger.jsonl"
"""The ledger of a run."""

KEPT = "ledger.jsonl.xz"
"""The ledger of a finished run that is kept for good."""

_TAIL = 1 << 16
"""Bytes that are read at a time to find the end of the last whole line."""

_MOST_SECONDS = 1e9
"""More than any worker spent on an image: a damaged line."""

_BEGIN = b'{"image": '
"""How every line of a ledger begins, so that a torn line is told from somebody else's file."""


class Ledger:
    """A run folder, held by one driver at a time.

    Opening creates the folder, or continues a run of the same configuration; one that was kept (:func:`compress`) is
    unpacked. One line of the ledger is one finished look of one image. What :meth:`append` wrote survives the end of
    this process, however it ends; and that of this machine from the first :meth:`append`, of records or none,
    :data:`SYNC_EVERY` later. A look that is lost is counted again, to the same counts. A last line that a crash tore
    is dropped.

    Args:
        folder: the run folder.
        config, extends: see :class:`cluster.folder.RunFolder`.

    Raises:
        InputError: another driver holds the folder; it holds another configuration or a foreign ledger; it cannot be
            written. Nothing is overwritten.
    """

    def __init__(self, folder: str | Path, config: dict[str, Any], extends: Sequence[dict[str, Any]] = ()) -> None:
        self.folder = Path(folder)
        self._path = self.folder / LEDGER
        self._synced, self._dirty = 0.0, False
        self._votes = _votes_of(config["question"])
        self._held = RunFolder(folder, config, LEDGER, KEPT, extends=extends)
        try:
            self._unpack()
            self._whole = self._without_torn_line()
        except BaseException:
            self._held.release()
            raise

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._sync(0.0)
        finally:
            self._held.release()

    def pin(self, device: str) -> None:
        """See :meth:`cluster.folder.RunFolder.pin`; what was not begun to be counted is not pinned."""
        self._held.pin(device, begun=bool(self._whole))

    def extend(self) -> None:
        """A run that this one extends becomes this one; see :meth:`cluster.folder.RunFolder.extend`."""
        self._held.extend(certificates.FILES)
        (self.folder / KEPT).unlink(missing_ok=True)  # its records are all in the ledger

    def append(self, records: list[Record], seconds: np.ndarray) -> None:
        """Record finished looks, with the worker seconds that each took."""
        if records:
            timed = [{**record, "seconds": round(float(s), 6)} for record, s in zip(records, seconds, strict=True)]
            timed[0] |= {"votes_of": self._votes}
            with self._path.open("ab") as file:
                file.truncate(self._whole)
                file.write(_lines(timed))
                file.flush()
                self._whole = file.tell()
            self._dirty = True
        self._sync(SYNC_EVERY)

    def _sync(self, every: float) -> None:
        """To the disk, which takes milliseconds: not for every look."""
        if self._dirty and time.monotonic() - self._synced >= every:
            with self._path.open("ab") as file:
                os.fsync(file.fileno())
            self._synced, self._dirty = time.monotonic(), False

    def read(self) -> Iterator[Record]:
        """All records, in the order in which they were appended, one at a time: a ledger may be larger than memory.

        Raises:
            InputError: a line is damaged.
        """
        if not self._whole:
            return
        with self._path.open("rb") as file:
            yield from _parsed(_first(file, self._whole), self._path, self._votes)

    def _unpack(self) -> None:
        """Make the ledger of a run that was kept; the compressed one stays until :meth:`extend`."""
        kept = self.folder / KEPT
        if kept.exists() and not (self._path.exists() and self._path.stat().st_size):
            write_whole(self._path, b"".join(_unpacked(kept)))
            self._dirty = True
            self._sync(0.0)

    def _without_torn_line(self) -> int:
        """The length of the file without a torn last line, which the first append cuts off."""
        if not self._path.exists():
            return 0
        with self._path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            torn = b""
            while end and b"\n" not in torn:
                start = max(0, end - _TAIL)
                file.seek(start)
                torn, end = file.read(end - start) + torn, start
        line = torn.rfind(b"\n") + 1
        begun = torn[line:].rstrip(b"\0")  # a file system may have kept the length and not the bytes
        if not _BEGIN.startswith(begun[: len(_BEGIN)]):
            raise InputError(f"{self._path} does not end in a ledger line: the file is damaged or foreign")
        return end + line


def recorded(folder: str | Path) -> Iterator[Record]:
    """All records of a finished run, from its ledger or from the compressed one; nothing is held or written.

    Raises:
        InputError: there is no ledger, or it is damaged.
    """
    path = Path(folder) / LEDGER
    votes = _votes_of(read_config(folder)["question"])
    try:
        if path.exists():
            with path.open("rb") as file:
                yield from _parsed(file, path, votes)
            return
        path = Path(folder) / KEPT
        yield from _parsed(_unpacked(path), path, votes)
    except FileNotFoundError:
        raise InputError(f"{folder} has no ledger: neither {LEDGER} nor {KEPT}") from None


def write(folder: Path, question: Mapping[str, Any], records: Sequence[Record]) -> None:
    """Write the whole ledger of a finished run that this process holds."""
    write_whole(folder / LEDGER, _lines([records[0] | {"votes_of": _votes_of(question)}, *records[1:]]))


def compress(folder: Path, into: Path) -> None:
    """Keep the ledger of a finished run in another folder, compressed: about a tenth of its size."""
    path = folder / LEDGER  # the one that recorded() reads
    kept = lzma.compress(path.read_bytes()) if path.exists() else (folder / KEPT).read_bytes()
    write_whole(into / KEPT, kept)


def _votes_of(question: Mapping[str, Any]) -> str:
    """What tells the votes that a question asks for from others: all of it but the budget, which may be extended."""
    asked = flat({name: value for name, value in question.items() if name != "budget"})
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _lines(records: Iterable[Record]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _unpacked(path: Path) -> Iterator[bytes]:
    """Lines of a compressed ledger."""
    try:
        with lzma.open(path) as file:
            yield from file
    except (lzma.LZMAError, EOFError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def _first(lines: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Lines of the first ``size`` bytes."""
    for line in lines:
        yield line
        size -= len(line)
        if not size:
            return


def _parsed(lines: Iterable[bytes], path: Path, votes: str) -> Iterator[Record]:
    """Records of the votes that ``votes`` names; ledgers made before 1 December 2026 do not say whose theirs are."""
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
            values = [record["image"], record["look"], *record["votes"].values()]
            seconds = record["seconds"]
            known = isinstance(seconds, float) and 0 <= seconds < _MOST_SECONDS
            if not (known and all(isinstance(v, int) for v in values)):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}, line {number} is not a ledger line: the file is damaged or foreign") from None
        if record.pop("votes_of", votes) != votes:
            raise InputError(f"{path}, line {number} is of another run than the config.json beside it")
        yield record
