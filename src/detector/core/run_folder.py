"""The folder that a run writes into: never one with an earlier run's results, never two at once."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from detector.core.console import first_process
from detector.core.errors import RequestError

# What is lost if another run writes into the same folder, by the command that made it.
RESULTS = {
    "train": ("checkpoints/last.ckpt", "checkpoints/best.ckpt"),
    "evaluate": ("metrics.json",),
    "predict": ("predictions.json",),
    "check": ("check.json",),
}
LOCK = ".lock"

# Locks that this process holds until it ends: a request is checked before its work begins.
_claimed: list[BaseFileLock] = []


def check_unused(command: str, key: str, folder: Path, ckpt: str | None) -> None:
    """Refuse a folder that has the results of an earlier run.

    A training that goes on from its own last checkpoint is the same run, and a check may replace
    the findings of another one: the data are still there to be checked again.

    Args:
        command: What is to be run.
        key: How messages call the folder, such as `hydra.run.dir`.
        folder: Need not exist.
        ckpt: As typed; None: a new run.

    Raises:
        RequestError: If there are such results.
    """
    if command == "train" and ckpt is not None and is_resumed(folder, ckpt):
        return
    for owner, names in RESULTS.items():
        there = next((name for name in names if (folder / name).is_file()), None)
        if there is not None and not owner == command == "check":
            goes_on = f"ckpt={folder} goes on with it, or " if "ckpt" in there else ""
            goes_on = goes_on if command == "train" and ckpt is None else ""
            raise RequestError(
                f"{key}={folder}: has the results of an earlier run ({there}), which would be "
                f"lost; {goes_on}choose another {key}="
            )


def is_resumed(folder: Path, ckpt: str) -> bool:
    """Whether a training that goes on from `ckpt` into a folder goes on with that folder's run."""
    last, named = folder / "checkpoints" / "last.ckpt", Path(ckpt)
    named = named / "checkpoints" / "last.ckpt" if named.is_dir() else named
    return last.is_file() and named.is_file() and last.samefile(named)


def make_folder(wanted: Path) -> Path:
    """Make a folder that was not there before: the wanted one, or its name with a number behind.

    Two commands that begin in the same second ask for the same name.

    Args:
        wanted: Its name, such as one with date and time.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("there is always another number")


def writes(command: str) -> bool:
    """Whether this process writes a run's files: of those of one training, the first does."""
    return command not in ("train", "evaluate") or first_process()


@contextmanager
def locked(folder: Path, key: str) -> Iterator[None]:
    """Keep other processes from writing into a folder during the block; it is made if need be.

    The system releases the lock of a process that is killed.

    Args:
        folder: Relative to the working directory, or absolute.
        key: How messages call the folder.

    Raises:
        RequestError: If another process is writing into it.
    """
    lock = _acquire(folder, key)
    try:
        yield
    finally:
        lock.release()


def claim(folder: Path, key: str) -> None:
    """As `locked`, until the process ends."""
    _claimed.append(_acquire(folder, key))


def _acquire(folder: Path, key: str) -> BaseFileLock:
    folder.mkdir(parents=True, exist_ok=True)
    # One object a file and process, so that a process may lock again what it has.
    lock = FileLock(folder.resolve() / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RequestError(
            f"{key}={folder}: another process is writing into it; wait for its end, or choose "
            f"another {key}="
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # a file system without locks
            raise
    return lock
