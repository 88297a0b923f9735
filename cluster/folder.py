"""A folder that holds one piece of work: its ``config.json``, under a lock, for one process at a time."""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import filelock

from ebsc.errors import InputError
from ebsc.files import lock, make_folder, parse_json, write_whole

__all__ = ["OLDER", "RunFolder", "alive", "clear", "flat", "holder", "read_config", "read_run"]


OLDER = "cpu"
"""Where runs were counted that do not say it: those made before 29 November 2026, all on CPUs."""


class RunFolder:
    """A folder held by this process, made for a configuration or gone on with under the same one.

    Args:
        path: the folder.
        config: what the work is. All under ``config["question"]`` must equal what the folder already holds; the rest
            (how many workers, which host) may change from session to session.
        artefacts: files that make no sense without a ``config.json``.
        extends: questions that this one goes on from: a folder that holds one of them takes the new one by
            :meth:`extend`.

    Raises:
        InputError: another process holds the folder; it holds another configuration; it cannot be written. Nothing is
            overwritten.
    """

    def __init__(
        self,
        path: str | Path,
        config: dict[str, Any],
        *artefacts: str,
        extends: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.path = Path(path)
        make_folder(self.path, "run folder")
        self._lock = _acquire(self.path)
        try:
            who = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            write_whole(self.path / "driver.json", json.dumps(who).encode())
            self._config = config
            self._extends = self._check(config, artefacts, extends)
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others have it."""
        (self.path / "driver.json").unlink(missing_ok=True)
        self._lock.release()

    def pin(self, device: str, *, begun: bool = True) -> None:
        """Count on this kind of device, now and whenever this folder is gone on with: another one rounds otherwise.

        Args:
            device: ``cpu`` or ``cuda``.
            begun: whether anything was counted; until then it may be another one than was meant before.

        Raises:
            InputError: the folder was counted on another.
        """
        config = read_config(self.path)
        before = config.get("device", OLDER) if begun else config.get("device")
        if begun and before != device:
            raise InputError(
                f"{self.path} was counted on {before} so far, where a network rounds otherwise than on"
                f" {device}: go on with --device {before}"
            )
        if config.get("device") != device:
            write_whole(self.path / "config.json", _text(config | {"device": device}))

    def extend(self, results: Sequence[str]) -> None:
        """Take the new question in place of the one that it extends, if the folder holds such a one.

        The files that answer the earlier one, and its ``config.json``, are kept in ``earlier/0``, ``earlier/1``, ...
        """
        if not self._extends:
            return
        found = [result for result in results if (self.path / result).exists()]
        if found:
            kept = self._free(self.path / "earlier")
            kept.mkdir(parents=True, exist_ok=True)
            for name in (*found, "config.json"):
                write_whole(kept / name, (self.path / name).read_bytes())
        for name in found:  # before there is a new question, which they do not answer
            (self.path / name).unlink()
        pinned = {name: value for name, value in read_config(self.path).items() if name == "device"}
        write_whole(self.path / "config.json", _text(self._config | pinned))
        self._extends = False

    def _free(self, earlier: Path) -> Path:
        """Where the earlier one is to be kept: a folder of its own, or the one that a killed process has begun."""
        question = read_config(self.path)["question"]
        kept = (earlier / str(step) for step in count())
        return next(
            folder
            for folder in kept
            if not (folder / "config.json").exists() or read_config(folder)["question"] == question
        )

    def _check(self, config: dict[str, Any], artefacts: Iterable[str], extends: Sequence[dict[str, Any]]) -> bool:
        """Whether the folder holds a question that the new one extends, and not the new one."""
        path = self.path / "config.json"
        if not path.exists():
            for artefact in artefacts:
                if (self.path / artefact).exists():
                    raise InputError(f"{self.path} holds {artefact} but no config.json: not a folder that can go on")
            write_whole(path, _text(config))
            return False
        old, new = (flat(question) for question in (read_config(self.path)["question"], config["question"]))
        if old != new and old in map(flat, extends):
            return True
        changed = [
            f"{key} is {old.get(key)} there, {new.get(key)} here"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
        if any(change.startswith(("data is ", "images is ", "lattice is ", "split is ")) for change in changed):
            changed = [change for change in changed if not change.startswith("checksum ")]
        if changed:
            said = "; ".join(changed)
            raise InputError(f"{self.path} holds a run of another configuration: {said} (-o names another folder)")
        return False


def _text(config: dict[str, Any]) -> bytes:
    return json.dumps(config, indent=2).encode() + b"\n"


def flat(question: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The question with nested names joined by dots, and values as JSON has them."""
    found: dict[str, str] = {}
    for key, value in question.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value)
    return found


def clear(path: Path, names: Iterable[str]) -> None:
    """Remove these files and folders of a folder that nobody holds.

    Raises:
        InputError: another process holds the folder.
    """
    if path.is_dir():
        with ExitStack() as end:
            end.callback(_acquire(path).release)
            for name in names:
                if (path / name).is_dir():
                    shutil.rmtree(path / name)
                else:
                    (path / name).unlink(missing_ok=True)


def _acquire(folder: Path) -> filelock.BaseFileLock:
    try:
        return lock(folder / "lock")
    except filelock.Timeout:
        who = _recorded_holder(folder)
        by = f"process {who['pid']} on {who['host']} since {who['since']}" if who else "holder unknown"
        raise InputError(f"{folder} is in use by another process ({by})") from None


def read_config(folder: str | Path) -> dict[str, Any]:
    """``config.json`` of a folder.

    Raises:
        InputError: it is missing or damaged.
    """
    path = Path(folder) / "config.json"
    try:
        config = parse_json(path.read_bytes())
        for part in (config["question"], config.get("options") or {}, config.get("provenance") or {}):
            part.items()
    except FileNotFoundError:
        if path.with_name("job.json").exists():
            raise InputError(f"{folder} was submitted and has not begun: ebsc jobs says where it stands") from None
        raise InputError(f"{folder} is not a run folder: config.json is missing") from None
    except NotADirectoryError:
        raise InputError(f"{folder} is not a run folder, but a file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read: {error!r}") from error
    return config


def read_run(folder: str | Path) -> dict[str, Any]:
    """``config.json`` of a folder that should be a certification, or an imported log.

    Raises:
        InputError: it is missing or damaged, or the folder is a model's.
    """
    folder = Path(folder)
    trained = (folder / "model.json").exists()
    config = read_config(folder) if (folder / "config.json").exists() or not trained else {"question": {}}
    if trained and not {"log", "budget"} & config["question"].keys():
        raise InputError(f"{folder} is a model folder, not a run: ebsc certify {folder} makes one")
    return config


def _recorded_holder(folder: Path) -> dict[str, Any]:
    """Who holds a folder, as its process wrote it: host, pid, since. Empty when nobody does, or it cannot be read."""
    try:
        who = parse_json((folder / "driver.json").read_bytes())
        return {"host": who["host"], "pid": int(who["pid"]), "since": who["since"]}
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return {}


def holder(folder: Path) -> dict[str, Any]:
    """Who holds a folder (host, pid, since), as far as this host can tell; empty when nobody does."""
    who = _recorded_holder(folder)
    return {} if who and who["host"] == platform.node() and not alive(who["pid"]) else who


def alive(process: int) -> bool:
    """Whether there is such a process on this host."""
    with suppress(ChildProcessError, OverflowError):
        os.waitpid(process, os.WNOHANG)  # a child that has ended answers until its end is taken note of
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True
