"""Names the image that a loader hangs on, and what ended a loader process.

A dead network drive says nothing by itself; a process that was killed cannot.
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

LEAST = 5.0  # seconds that a batch may stay away: processes must start, and fill it
# What is known to send a loader process such a signal.
PERHAPS = {
    signal.SIGKILL: "perhaps for want of memory: try a smaller data.workers=",
    signal.SIGBUS: f"perhaps {FOLDER} is full: {REMEDY}, or data.workers=0",
}


class LoaderStatus:
    """What each loader process is busy with, in memory that they share.

    Args:
        workers: Number of loader processes; 0 if the training process loads.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.image = RawArray("q", max(1, workers))
        self.since = RawArray("d", max(1, workers))  # 0: not busy
        self.done = RawArray("q", max(1, workers))  # images

    @contextmanager
    def busy(self, index: int) -> Iterator[None]:
        """Note that this process is at an image, until the block ends."""
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
    """A DataLoader that does not wait in silence, or for ever.

    A process that is long at one image is named in a warning, once each time: a slow drive may come
    back. If batches stay away while no process is at an image, one was lost on its way, and the
    work ends.

    Args:
        status: That the data set notes its work at.
        paths: `(n,)` strings, the image files.
        stall_seconds: How long is too long.
        receive: What is done with a batch that has arrived, such as unpacking it.
        **options: DataLoader's.
    """

    def __init__(
        self,
        status: LoaderStatus,
        paths: NDArray[Any],
        stall_seconds: float,
        receive: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        # Twice in which nothing is done end the work.
        timeout = max(stall_seconds, LEAST) / 2 if status.workers else 0
        super().__init__(**options, timeout=timeout)
        self.status = status
        self.paths = paths
        self.stall_seconds = stall_seconds
        self.receive = receive
        self.processes: list[Any] = []
        _loaders.add(self)

    def __iter__(self) -> Any:
        """The batches of an epoch; somebody watches while they are fetched.

        Raises:
            RequestError: If a file is unreadable or contradicts its annotation.
            WorkError: If no process can be started, or a batch cannot be loaded or does not arrive.
        """
        try:
            batches = super().__iter__()  # forks, which is better done before there is a thread
        except OSError as error:  # too many processes or files, or no room for their locks
            _discard(error)
            raise WorkError(
                f"data.workers={self.status.workers}: loader processes cannot be started "
                f"({error.strerror}); {FOLDER} has {megabytes(free_shared_memory())} free; a "
                "smaller data.workers=, or data.workers=0"
            ) from error
        self.processes = getattr(batches, "_workers", [])
        over = threading.Event()
        watchdog = threading.Thread(
            target=self._watch, args=(over,), name="loader-watchdog", daemon=True
        )
        watchdog.start()
        try:
            fetched = self._fetch(batches)
            yield from map(self.receive, fetched) if self.receive else fetched
        finally:  # also when the epoch is left early
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
                # Of another process, it carries that one's traceback; what was said comes last.
                raise type(error)(_last_line(error)) from error
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
                # All processes are alive, or torch would have said so.
                now = None if any(self.status.since) else list(self.status.done)
                if now is not None and now == seen:
                    raise WorkError(self._lost(batches)) from error
                seen = now

    def _lost(self, batches: Any) -> str:
        """That a batch does not come, in a line."""
        (worker, *_) = batches._task_info[batches._rcvd_idx]
        last = self.paths[self.status.image[worker]] if self.status.done[worker] else "none"
        return (
            f"worker {worker} of data.workers={self.status.workers} is at no image (its last: "
            f"{last}), but its batch has not arrived for {2 * self.timeout:g} s; {FOLDER} has "
            f"{megabytes(free_shared_memory())} free; data.workers=0 loads without such processes"
        )

    def end_of_process(self, error: Exception) -> str | None:
        """What ended the process of this loader that an error of torch's is about, in a line.

        Args:
            error: Such as "DataLoader worker (pid 7) is killed by signal: Killed."

        Returns:
            None if it is about something else.
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
        """Look at the status until the epoch is over."""
        told = [0.0] * len(self.status.since)
        while not over.wait(min(1.0, self.stall_seconds / 4)):
            for worker, since in enumerate(list(self.status.since)):
                path = self.paths[self.status.image[worker]]
                seconds = time.monotonic() - since
                # Asked again: the image may have been done while its name was looked up.
                if not since or since == told[worker] or since != self.status.since[worker]:
                    continue
                if seconds > self.stall_seconds:
                    told[worker] = since
                    who = f"worker {worker}" if self.status.workers else "the main process"
                    log.warning(
                        "%s has been at %s for %.0f s; is its drive slow or gone?",
                        *(who, path, seconds),
                    )


# Those that there are: torch notices the end of a process whatever it is doing meanwhile.
_loaders: weakref.WeakSet[WatchedLoader] = weakref.WeakSet()


@contextmanager
def named_ends() -> Iterator[None]:
    """Around work that loads batches: name a loader process that ends, and what ended it.

    Raises:
        WorkError: If one did.
    """
    try:
        yield
    except RuntimeError as error:
        for loader in list(_loaders):
            if line := loader.end_of_process(error):
                raise WorkError(line) from error
        raise


def _discard(error: OSError) -> None:
    """Let go of the iterator that torch has half built: its end would print a traceback."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


def _last_line(error: Exception) -> str:
    """What an error says, without the traceback that it has from another process."""
    text = str(error)
    if "Traceback (most recent call last)" not in text:
        return text
    kind = f"{type(error).__module__}.{type(error).__qualname__}: "
    return text.strip().splitlines()[-1].removeprefix(kind)
