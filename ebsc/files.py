"""Files that appear whole or not at all."""

import os
from pathlib import Path

from ebsc.errors import InputError

__all__ = ["make_folder", "write_whole"]


def make_folder(folder: Path, what: str) -> None:
    """Make a folder, and try whether a file can be written there; ``what`` names it in the error.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.probe"
        write_whole(probe, b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write the {what} {folder}: {error.strerror}") from error


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
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
