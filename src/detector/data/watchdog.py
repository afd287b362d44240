"""Names the image that a loader hangs on: a dead network drive says nothing by itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawArray
from typing import Any

from numpy.typing import NDArray
from torch.utils.data import DataLoader, get_worker_info

log = logging.getLogger(__name__)


class Desk:
    """What each loader process is busy with, in memory that they share.

    Args:
        workers: Number of loader processes; 0 if the training process loads.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.image = RawArray("q", max(1, workers))
        self.since = RawArray("d", max(1, workers))  # 0: not busy

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


class WatchedLoader(DataLoader[Any]):
    """A DataLoader that warns, once each time, when a process is long at one image.

    Args:
        desk: That the data set notes its work at.
        paths: `(n,)` strings, the image files.
        stall_seconds: How long is too long.
        receive: What is done with a batch that has arrived, such as unpacking it.
        **options: DataLoader's.
    """

    def __init__(
        self,
        desk: Desk,
        paths: NDArray[Any],
        stall_seconds: float,
        receive: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.desk = desk
        self.paths = paths
        self.stall_seconds = stall_seconds
        self.receive = receive

    def __iter__(self) -> Any:
        """The batches of an epoch; somebody watches while they are fetched."""
        batches = super().__iter__()  # forks, which is better done before there is a thread
        over = threading.Event()
        watchdog = threading.Thread(
            target=self._watch, args=(over,), name="loader-watchdog", daemon=True
        )
        watchdog.start()
        try:
            yield from map(self.receive, batches) if self.receive else batches
        finally:  # also when the epoch is left early
            over.set()
            watchdog.join()

    def _watch(self, over: threading.Event) -> None:
        """Look at the desk until the epoch is over."""
        told = [0.0] * len(self.desk.since)
        while not over.wait(min(1.0, self.stall_seconds / 4)):
            for worker, since in enumerate(list(self.desk.since)):
                path = self.paths[self.desk.image[worker]]
                seconds = time.monotonic() - since
                # Asked again: the image may have been done while its name was looked up.
                if not since or since == told[worker] or since != self.desk.since[worker]:
                    continue
                if seconds > self.stall_seconds:
                    told[worker] = since
                    who = f"worker {worker}" if self.desk.workers else "the main process"
                    log.warning(
                        "%s has been at %s for %.0f s; is its drive slow or gone?",
                        *(who, path, seconds),
                    )
