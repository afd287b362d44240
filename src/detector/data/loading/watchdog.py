"""Data loader that reports which image a process hangs at, and what ended a process.

Neither a dead network drive nor a killed process reports anything by itself.
"""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawArray
from typing import Any

from numpy.typing import NDArray
from torch.utils.data import DataLoader, get_worker_info

from detector.core.errors import RequestError, WorkError
from detector.data.loading.shared_memory import FOLDER, REMEDY, free_shared_memory, megabytes

log = logging.getLogger(__name__)

LEAST = 5.0  # smallest timeout in seconds: processes must start and load a batch
# Likely causes of a signal to a loader process.
PERHAPS = {
    signal.SIGKILL: "perhaps for want of memory: try a smaller data.workers=",
    signal.SIGBUS: f"perhaps {FOLDER} is full: {REMEDY}, or data.workers=0",
}


class LoaderStatus:
    """The image that each loader process is loading, in memory that the processes share.

    Args:
        workers: Number of loader processes; 0 if the training process loads images.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.image = RawArray("q", max(1, workers))
        self.since = RawArray(
            "d", max(1, workers)
        )  # time at which loading began; 0 if no image is being loaded
        self.done = RawArray("q", max(1, workers))  # number of images loaded

    @contextmanager
    def busy(self, index: int) -> Iterator[None]:
        """Record that this process is loading an image, until the block ends."""
        info = get_worker_info()
        worker = info.id if info else 0
        self.image[worker] = index
        self.since[worker] = time.monotonic()  # one clock for all processes of a machine
        try:
            yield
        finally:
            self.since[worker] = 0
            self.done[worker] += 1


class WatchedLoader(DataLoader[Any]):
    """A DataLoader that reports stalled processes and does not wait for ever.

    A process that loads one image for too long is named in a warning, once for each image: a slow
    drive may recover. If no batch arrives while no process is loading an image, a batch was lost on
    its way, and a WorkError is raised.

    Args:
        status: Status of the loader processes, which the data set updates.
        paths: `(n,)` strings, paths of the image files.
        stall_seconds: Seconds after which an image that is still loading is reported.
        receive: Function that is applied to a batch that has arrived, such as unpacking it.
        **options: Options of DataLoader.
    """

    def __init__(
        self,
        status: LoaderStatus,
        paths: NDArray[Any],
        stall_seconds: float,
        receive: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        # The work ends after two timeouts during which no image was loaded.
        timeout = max(stall_seconds, LEAST) / 2 if status.workers else 0
        super().__init__(**options, timeout=timeout)
        self.status = status
        self.paths = paths
        self.stall_seconds = stall_seconds
        self.receive = receive
        self.processes: list[Any] = []
        _loaders.add(self)

    def __iter__(self) -> Any:
        """The batches of an epoch; a thread watches the processes while batches are fetched.

        Raises:
            RequestError: If a file is unreadable or contradicts its annotation.
            WorkError: If no process can be started, or a batch cannot be loaded or does not arrive.
        """
        try:
            batches = (
                super().__iter__()
            )  # forks processes, which must be done before there is a thread
        except OSError as error:  # too many processes or files, or no room for locks
            _discard(error)
            raise WorkError(
                f"data.workers={self.status.workers}: loader processes cannot be started "
                f"({error.strerror}); {FOLDER} has {megabytes(free_shared_memory())} free; a "
                "smaller data.workers=, or data.workers=0"
            ) from error
        self.processes = _processes(batches)
        over = threading.Event()
        watchdog = threading.Thread(
            target=self._watch, args=(over,), name="loader-watchdog", daemon=True
        )
        watchdog.start()
        try:
            fetched = self._fetch(batches)
            yield from map(self.receive, fetched) if self.receive else fetched
        finally:  # also if the epoch is left early
            over.set()
            watchdog.join()

    def _fetch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Batches as they arrive."""
        seen: list[int] | None = None
        while True:
            try:
                yield next(batches)
                seen = None
            except StopIteration:
                return
            except (RequestError, WorkError) as error:
                # An error of another process has its traceback as text; the message comes last.
                raise type(error)(_last_line(error)) from error
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
                # All processes are alive: torch raises another error if one has ended.
                now = None if any(self.status.since) else list(self.status.done)
                if now is not None and now == seen:
                    raise WorkError(self._lost(batches)) from error
                seen = now

    def _lost(self, batches: Any) -> str:
        """A line that says that a batch was lost, and where its process is."""
        worker = _awaited_worker(batches)
        last = self.paths[self.status.image[worker]] if self.status.done[worker] else "none"
        return (
            f"worker {worker} of data.workers={self.status.workers} is at no image (its last: "
            f"{last}), but its batch has not arrived for {2 * self.timeout:g} s; {FOLDER} has "
            f"{megabytes(free_shared_memory())} free; data.workers=0 loads without such processes"
        )

    def end_of_process(self, error: Exception) -> str | None:
        """A line that says what ended a process of this loader.

        Args:
            error: Error of torch, such as "DataLoader worker (pid 7) is killed by signal: Killed."

        Returns:
            The line; None if the error concerns no process of this loader.
        """
        about = re.match(r"DataLoader worker \(pid\D*([\d, ]+)\)", str(error))
        pids = about[1].split(", ") if about else []
        for worker, process in enumerate(self.processes):
            if str(process.pid) not in pids:
                continue
            code = process.exitcode or 0
            how, hint = f"ended with exit code {code}", ""
            if code < 0:
                how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
                hint = PERHAPS.get(signal.Signals(-code), "")
            place = "between two images"
            if self.status.since[worker]:
                place = f"at {self.paths[self.status.image[worker]]}"
            of = f"worker {worker} of data.workers={self.status.workers} (process {process.pid})"
            return f"{of} {how}, {place}" + (f"; {hint}" if hint else "")
        return None

    def _watch(self, over: threading.Event) -> None:
        """Report processes that load one image for too long, until the epoch is over."""
        told = [0.0] * len(self.status.since)
        while not over.wait(min(1.0, self.stall_seconds / 4)):
            for worker, since in enumerate(list(self.status.since)):
                path = self.paths[self.status.image[worker]]
                seconds = time.monotonic() - since
                # Compared again, since the image may have been loaded in the meantime.
                if not since or since == told[worker] or since != self.status.since[worker]:
                    continue
                if seconds > self.stall_seconds:
                    told[worker] = since
                    who = f"worker {worker}" if self.status.workers else "the main process"
                    log.warning(
                        "%s has been at %s for %.0f s; is its drive slow or gone?",
                        *(who, path, seconds),
                    )


# All loaders: torch detects the end of a process at any time, not only while fetching a batch.
_loaders: weakref.WeakSet[WatchedLoader] = weakref.WeakSet()


@contextmanager
def named_ends() -> Iterator[None]:
    """Context of work that loads batches, which reports loader processes that ended.

    Raises:
        WorkError: If a loader process ended; the message says what ended it.
    """
    try:
        yield
    except RuntimeError as error:
        for loader in list(_loaders):
            if line := loader.end_of_process(error):
                raise WorkError(line) from error
        raise


# Torch gives no public access to the processes of a DataLoader's iterator. Only these two functions
# read its private attributes.
def _processes(batches: Any) -> list[Any]:
    """The loader processes; empty if the training process loads."""
    return getattr(batches, "_workers", [])


def _awaited_worker(batches: Any) -> int:
    """Number of the loader process whose batch is next."""
    worker: int = batches._task_info[batches._rcvd_idx][0]
    return worker


def _discard(error: OSError) -> None:
    """Delete the incomplete iterator of torch without the traceback that this would print."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


def _last_line(error: Exception) -> str:
    """The message of an error without the traceback of another process."""
    text = str(error)
    if "Traceback (most recent call last)" not in text:
        return text
    kind = f"{type(error).__module__}.{type(error).__qualname__}: "
    return text.strip().splitlines()[-1].removeprefix(kind)
