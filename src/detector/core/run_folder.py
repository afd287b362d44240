"""The folder that a run writes into: the name of every file in it, and who may write there.

No other module joins these paths: a file has one attribute of `RunFolder`.
"""

from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from filelock import BaseFileLock, FileLock, Timeout

from detector.core.errors import RequestError
from detector.core.files import uninterrupted

# Locks that this process holds until it ends: a request is checked before its work begins.
_claimed: list[BaseFileLock] = []


@dataclass(frozen=True)
class File:
    """A file or folder of a run; an attribute of a `RunFolder` gives its path.

    Attributes:
        name: Path relative to the run's folder.
        result_of: Command whose result it is, which another run in the same folder would destroy.
        replaceable: Whether the same command may replace it.
        evaluated: Whether it belongs to the results of an evaluation (see `RunFolder.replace`).
    """

    name: str
    result_of: str = ""
    replaceable: bool = False
    evaluated: bool = False

    @overload
    def __get__(self, run: None, owner: type) -> File: ...
    @overload
    def __get__(self, run: RunFolder, owner: type) -> Path: ...
    def __get__(self, run: RunFolder | None, owner: type) -> File | Path:
        """The path in a run's folder; this object itself where the class is asked."""
        return self if run is None else run.path / self.name

    def beside(self, other: Path) -> Path:
        """The path of a file of this name in the folder of another file."""
        return other.with_name(Path(self.name).name)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, by whichever command; it need not exist.

    `str(run)` is its path, as the user typed it where that is so; `run.metrics_json` and the other
    attributes are the paths of its files. A file that is the result of a new command needs one
    attribute with `result_of` here, and nothing elsewhere.

    Attributes:
        path: The folder, relative to the working directory or absolute.
    """

    path: Path

    lock = File(".lock")
    hydra = File(".hydra")  # written by Hydra before the work begins
    # train
    train_log = File("train.log")
    config = File("config.yaml")
    checkpoints = File("checkpoints")
    last_checkpoint = File("checkpoints/last.ckpt", result_of="train")
    best_checkpoint = File("checkpoints/best.ckpt", result_of="train")
    checkpoint_thresholds = File("checkpoints/thresholds.json")  # of the best checkpoint
    metrics_csv = File("metrics.csv")
    phases = File("phases.json")
    schedule = File("schedule.png")
    splits = File("splits.json")
    # evaluate, and the evaluation at the end of train
    analysis = File("analysis.json", evaluated=True)
    label_errors = File("suspects.csv", evaluated=True)
    thresholds = File("thresholds.json", evaluated=True)
    detections_json = File("detections.json", evaluated=True)
    detections_png = File("detections.png", evaluated=True)
    report = File("report/index.html", evaluated=True)
    metrics_json = File("metrics.json", result_of="evaluate", evaluated=True)
    # predict
    predictions_json = File("predictions.json", result_of="predict")
    predictions_csv = File("predictions.csv")
    images = File("images")
    # check
    check_json = File("check.json", result_of="check", replaceable=True)
    check_html = File("check.html")
    preview = File("preview.png")

    def __str__(self) -> str:
        """The folder's path."""
        return str(self.path)

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder:
        """The folder of the run that wrote a checkpoint, if the file lies where it was written."""
        return cls(checkpoint.parent.parent)

    @classmethod
    def create(cls, wanted: Path) -> RunFolder:
        """Create a folder that did not exist: the wanted one, or its name with a number appended.

        Two commands that start in the same second ask for the same name.

        Args:
            wanted: Path of the folder, such as one with date and time.
        """
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return cls(folder)
        raise AssertionError("there is always another number")

    def log(self, logger: str) -> Path:
        """The folder that a logger such as `tensorboard` writes into."""
        return self.path / logger

    def log_id(self, logger: str) -> Path:
        """The file with the id of this run in a logger's database, by which it is continued."""
        return self.log(logger) / "run_id"

    def discard(self, logger: str) -> None:
        """Remove what a run has written that was found wrong after it had begun.

        The folder goes too, unless something else is in it.

        Args:
            logger: Name of the run's logger.
        """
        for name in {Path(file.name).parts[0] for file in _files()} | {self.log(logger).name}:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # there is something else
            self.path.rmdir()

    def check_unused(self, command: str, key: str, ckpt: str | None) -> None:
        """Refuse a folder that has the results of an earlier run.

        A training that continues from its own last checkpoint is the same run, and a check may
        replace the results of another one: the data are still there to be checked again.

        Args:
            command: The command that is going to write into the folder.
            key: The folder's key in messages, such as `hydra.run.dir`.
            ckpt: The checkpoint as typed; None for a new run.

        Raises:
            RequestError: If there are such results.
        """
        if command == "train" and ckpt is not None and self.is_resumed(ckpt):
            return
        for file in _files():
            kept = file.result_of and not (file.replaceable and file.result_of == command)
            if not kept or not (self.path / file.name).is_file():
                continue
            resumable = command == file.result_of == "train" and ckpt is None
            hint = f"ckpt={self} continues it, or " if resumable else ""
            raise RequestError(
                f"{key}={self}: has the results of an earlier run ({file.name}), which would be "
                f"lost; {hint}choose another {key}="
            )

    def is_resumed(self, ckpt: str) -> bool:
        """Whether a training that continues from `ckpt` into this folder continues its own run."""
        last, named = self.last_checkpoint, Path(ckpt)
        named = RunFolder(named).last_checkpoint if named.is_dir() else named
        return last.is_file() and named.is_file() and last.samefile(named)

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Keep other processes from writing into the folder during the block.

        The folder is created if it does not exist. The system releases the lock of a process that
        is killed.

        Args:
            key: The folder's key in messages.

        Raises:
            RequestError: If another process is writing into the folder.
        """
        lock = self._acquire(key)
        try:
            yield
        finally:
            lock.release()

    def claim(self, key: str) -> None:
        """Keep other processes from writing into the folder until this one ends; see `locked`."""
        _claimed.append(self._acquire(key))

    def check_replaceable(self, key: str) -> None:
        """Refuse a folder in which `replace` would fail: folders in the place of files, and so on.

        Args:
            key: The folder's key in messages.

        Raises:
            RequestError: Naming what is in the way.
        """
        for file in (self.path.absolute() / file.name for file in _files() if file.evaluated):
            if file.is_dir() or (file.parent.exists() and not file.parent.is_dir()):
                wrong = file if file.is_dir() else file.parent
                raise RequestError(f"{key}={self}: {wrong} is in the way of the results")

    @contextmanager
    def replace(self) -> Iterator[RunFolder]:
        """Replace all results of an evaluation at once, when the block has ended without an error.

        If the block fails or is interrupted, the older files stay. Files that the block does not
        write are removed. If the process is killed while files are replaced, there is no
        metrics.json.

        Yields:
            A draft folder, which the block writes to.
        """
        draft = RunFolder(self.path / ".results")
        shutil.rmtree(draft.path, ignore_errors=True)
        draft.path.mkdir()
        try:
            yield draft
            with uninterrupted():
                self.metrics_json.unlink(missing_ok=True)  # is the last one to be moved
                for name in (file.name for file in _files() if file.evaluated):
                    if (draft.path / name).is_file():
                        (self.path / name).parent.mkdir(exist_ok=True)
                        (draft.path / name).replace(self.path / name)
                    else:
                        (self.path / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)

    def _acquire(self, key: str) -> BaseFileLock:
        self.path.mkdir(parents=True, exist_ok=True)
        # One object for each file and process, so that a process may lock again what it has.
        lock = FileLock(self.path.resolve() / RunFolder.lock.name, is_singleton=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RequestError(
                f"{key}={self}: another process is writing into it; wait for its end, or choose "
                f"another {key}="
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # a file system without locks
                raise
        return lock


def _files() -> list[File]:
    """All files of a run, in the order of their attributes."""
    return [value for value in vars(RunFolder).values() if isinstance(value, File)]
