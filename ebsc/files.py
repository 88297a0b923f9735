"""Files that appear whole or not at all, and locks."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import filelock

from ebsc.errors import InputError

__all__ = ["FULL", "lock", "make_folder", "parse_json", "refused", "write_whole"]

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk without room: no mistake of whoever gave the command."""


def parse_json(text: bytes | str) -> Any:
    """:func:`json.loads`, with :class:`ValueError` for whatever is wrong with a text, too deep nesting among it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def refused(error: OSError, said: str) -> Exception:
    """What to raise where a file cannot be written: a full disk is no mistake of whoever gave the command."""
    return error if error.errno in FULL else InputError(f"{said}: {error.strerror or error}")


REQUEUED = 180.0
"""Seconds for which a requeued job waits for a lock: a file server keeps that of a dead node for its lease."""


def make_folder(folder: Path, what: str) -> None:
    """Make a folder, and try whether a file can be written there; ``what`` names it in the error.

    Raises:
        InputError: it cannot be made or written to.
        OSError: the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.probe"
        write_whole(probe, b"")
        probe.unlink()
    except OSError as error:
        raise refused(error, f"cannot write the {what} {folder}") from error


def write_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write under a temporary name in the same folder, then move into place; ``mode`` is cut by the umask.

    What is there and is no ordinary file (``/dev/null``, ``/dev/stdout``, a pipe, a link) is written to, not replaced.

    Raises:
        OSError: nothing is left behind, and what stood there before stands there still.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(data)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch(mode)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a node that dies may leave the new name with nothing behind it
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def lock(path: Path, seconds: float = 0.0) -> filelock.BaseFileLock:
    """Hold the lock of this file until it is released; the kernel drops it when the process ends, however it ends.

    Args:
        path: the file; made where it is absent.
        seconds: to wait for whoever holds it; a job that SLURM has requeued waits :data:`REQUEUED` at least.

    Raises:
        filelock.Timeout: another process holds it.
        InputError: it cannot be locked, as on a file system without locks.
    """
    held = filelock.FileLock(path, fallback_to_soft=False, thread_local=False)
    requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    try:
        held.acquire(timeout=max(seconds, REQUEUED) if requeued else seconds)
    except filelock.Timeout:
        raise
    except OSError as error:
        why = f"{error.strerror or error}; the file system must have locks, on Lustre by mounting it with -o flock"
        raise InputError(f"{path} cannot be locked: {why}") from error
    return held
