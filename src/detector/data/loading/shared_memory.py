"""Shared memory for the batches of loader processes, of which containers have little.

Torch is not imported here, so that wrong requests are refused at once.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from detector.core.structures import AnnotatedImages
from detector.data.images.pixels import resized_shape

FOLDER = Path("/dev/shm")  # its place in Linux: `man 7 shm_overview`
AHEAD = 2  # batches that each process loads ahead: DataLoader's `prefetch_factor`
HELD = 2  # batches in use: that of the step, and the next one, which Lightning has fetched
REMEDY = "docker run --shm-size=1g (or --ipc=host)"


def free_shared_memory() -> float:
    """Free shared memory, in bytes; infinite where no file system limits it."""
    if sys.platform != "linux":
        return math.inf
    try:
        status = os.statvfs(FOLDER)
    except OSError:  # there is none
        return 0
    return status.f_bavail * status.f_frsize


def largest_batch(
    splits: Iterable[AnnotatedImages], image_size: int, channels: int, batch_size: int
) -> int:
    """Bytes of the largest batch of some splits.

    Args:
        splits: Images of the splits; an image of unknown size counts as a square.
        image_size: Longer side of the input of the network, pixels.
        channels: Number of channels of the input.
        batch_size: Number of images in a batch.
    """
    sizes = {(h, w) for split in splits for h, w in split.sizes.tolist()}
    areas = [
        math.prod(resized_shape(height, width, image_size)) if height > 0 < width else image_size**2
        for height, width in sizes
    ]
    return max(areas, default=0) * channels * batch_size


def batches_at_once(workers: int) -> int:
    """Number of batches of one loader that are in shared memory at the same time."""
    return AHEAD * workers + HELD


def most_workers(wanted: int, room: float, batch: int) -> int:
    """Number of loader processes whose batches fit into shared memory, at most those wanted.

    Args:
        wanted: Number asked for.
        room: Shared memory of one loader, in bytes.
        batch: Bytes of a batch.
    """
    if batches_at_once(wanted) * batch <= room:
        return wanted
    return max(0, int((room / batch - HELD) // AHEAD))


def megabytes(count: float) -> str:
    """Bytes as text, in the units of Docker's `--shm-size`."""
    value = count / 2**20
    return f"{value:,.0f} MB" if value >= 1 or not value else f"{value:.1g} MB"
