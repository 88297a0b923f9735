"""Files appear whole or not at all, and trying a folder out leaves no trace."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import filelock
import pytest

from ebsc.errors import InputError
from ebsc.files import lock, make_folder, write_whole


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_is_written_and_replaced(tmp_path):
    write_whole(tmp_path / "a", b"one")
    write_whole(tmp_path / "a", b"three")
    assert contents(tmp_path) == {"a": b"three"}


@pytest.mark.parametrize(("owner", "step"), [(Path, "touch"), (os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_stood_there_and_nothing_else(tmp_path, monkeypatch, owner, step, error):
    (tmp_path / "a").write_bytes(b"one")

    def fail(*words):
        raise error

    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(type(error)):
        write_whole(tmp_path / "a", b"three")
    assert contents(tmp_path) == {"a": b"one"}


def test_a_full_disk_is_nobodys_mistake(tmp_path, monkeypatch):
    def fail(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        make_folder(tmp_path / "folder", "run folder")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write the run folder .*Not a directory|File exists"):
        make_folder(tmp_path / "file", "run folder")


def test_what_is_no_ordinary_file_is_written_to_and_stays(tmp_path):
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    link.symlink_to(target)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, b"one")
    assert os.read(reader, 10) == b"one"
    os.close(reader)
    assert pipe.is_fifo()
    write_whole(link, b"two")
    assert link.is_symlink()
    assert target.read_bytes() == b"two"
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, b"three")


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(os, "fsync", lambda file: steps.append(os.fstat(file).st_size))
    monkeypatch.setattr(Path, "replace", lambda part, path: steps.append(path.name))
    write_whole(tmp_path / "a", b"three")
    assert steps == [5, "a"]


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match=r"lock cannot be locked: Function not implemented; .* -o flock"):
        lock(tmp_path / "lock")


def test_a_requeued_job_waits_for_the_lock_of_the_node_that_died(tmp_path, monkeypatch):
    held = lock(tmp_path / "lock")
    with pytest.raises(filelock.Timeout):
        lock(tmp_path / "lock")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    threading.Timer(0.1, held.release).start()
    lock(tmp_path / "lock").release()


def test_a_folder_is_made_with_those_above_it_and_is_empty(tmp_path):
    make_folder(tmp_path / "a" / "b", "model folder")
    make_folder(tmp_path / "a" / "b", "model folder")
    assert contents(tmp_path / "a" / "b") == {}


def test_a_folder_in_use_stays_as_it_is(tmp_path):
    for name in ("probe", "model.json"):
        (tmp_path / name).write_bytes(b"mine")
    make_folder(tmp_path, "model folder")
    assert contents(tmp_path) == {"probe": b"mine", "model.json": b"mine"}


def test_a_folder_that_cannot_be_made_or_written_to_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"cannot write the model folder {folder}: "):
            make_folder(folder, "model folder")

    def read_only(path, mode):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(InputError, match="Read-only file system"):
        make_folder(tmp_path, "model folder")
