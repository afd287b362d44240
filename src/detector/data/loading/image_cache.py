"""Loading of images at the input size: decoded each time, or cached in memory or in files.

Cached images are bitwise equal to decoded ones.
"""

from __future__ import annotations

import hashlib
import logging
import math
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.core.files import atomic
from detector.core.memory import free_memory
from detector.core.structures import AnnotatedImages
from detector.data.images.pixels import (
    Resized,
    read_bytes,
    read_header,
    read_resized,
    resized_shape,
)

log = logging.getLogger(__name__)

Kind = Literal["none", "ram", "disk"]
# Function of index and path of an image that returns the image at the input size of the network.
ImageLoader = Callable[[int, Path], Resized]

# Head of a file of `DiskCache`: checksum of the rest, original height and width, height and width.
HEAD = struct.Struct("<5I")
# Part of the name of a file, so that files of another resizing or another decoder are not used.
VERSION = f"2 {cv2.__version__}".encode()[: hashlib.blake2b.PERSON_SIZE]


def make_image_loaders(
    splits: dict[str, AnnotatedImages],
    size: int,
    kind: Kind = "none",
    folder: Path | None = None,
    processes: int = 1,
    channels: int = 3,
) -> dict[str, ImageLoader]:
    """Make the image loader of each split.

    Args:
        splits: Images by name of the split.
        size: Longer side of the loaded images, pixels.
        kind: `ram` and `disk` cache images; `ram` only those of `train` and `val`, since a test
            split is read once.
        folder: Folder of the files of `disk`.
        processes: Number of training processes on this machine; each has its own memory cache.
        channels: Number of channels of the images, as `read_image` takes it.

    Raises:
        RequestError: If the images do not fit into memory, or there is no folder to write to.
    """
    if kind == "disk":
        if folder is None:
            raise RequestError("data.cache=disk needs a folder to keep images in")
        return dict.fromkeys(splits, DiskCache(folder, size, channels))
    sources: dict[str, ImageLoader] = dict.fromkeys(splits, partial(_read, size, channels))
    if kind == "ram":
        kept = {n: RamCache(splits[n], size, channels) for n in splits if n in ("train", "val")}
        _check_memory(list(kept.values()), processes)
        return {**sources, **kept}
    return sources


class RamCache:
    """Cache of images in memory that all loader processes share and fill together.

    The memory is anonymous and mapped before the loader processes are forked. Other shared memory
    is in `/dev/shm`, of which containers have little.

    Args:
        images: Images of the split; the header of an image of unknown size is read.
        size: Longer side of the cached images, pixels.
        channels: Number of channels, as `read_image` takes it.

    Raises:
        RequestError: If a limit of the system, such as `ulimit -v`, does not allow so much memory.
    """

    def __init__(self, images: AnnotatedImages, size: int, channels: int = 3) -> None:
        self.size = size
        self.channels = channels
        self.sizes = images.sizes.copy()
        for i in np.flatnonzero((self.sizes <= 0).any(1)).tolist():
            header = read_header(Path(str(images.paths[i])))
            self.sizes[i] = header.height, header.width
        shapes = [resized_shape(height, width, size) for height, width in self.sizes.tolist()]
        self.shapes = np.array(shapes, dtype=np.int64).reshape(-1, 2)
        self.ends = np.cumsum(self.shapes.prod(1) * channels)
        self.bytes = int(self.ends[-1]) if len(self.ends) else 0
        # Memory is only taken when it is written to.
        try:
            self.pixels = np.frombuffer(mmap.mmap(-1, self.bytes + 1), dtype=np.uint8)
        except OSError as error:
            raise RequestError(
                f"data.cache=ram: the system gives no {self.bytes / 1e9:.1f} GB "
                f"({error.strerror}); use data.cache=disk or none, or a smaller data.image_size"
            ) from error
        self.ready = np.frombuffer(mmap.mmap(-1, len(images) + 1), dtype=np.uint8)

    def __call__(self, index: int, path: Path) -> Resized:
        """Load an image, from memory if any process has cached it."""
        height, width = self.sizes[index].tolist()
        rows, columns = self.shapes[index].tolist()
        end = int(self.ends[index])
        shape = (rows, columns, self.channels)
        place = self.pixels[end - math.prod(shape) : end].reshape(shape)
        if self.ready[index]:
            # A copy, so that changes of the batch do not change the cache.
            return Resized(place.copy(), height, width)
        fresh = read_resized(path, self.size, channels=self.channels)
        # If not, the annotation is wrong, which the data set reports.
        if (fresh.height, fresh.width) == (height, width):
            place[:] = fresh.image
            self.ready[index] = 1  # last: two processes at the same image write the same
        return fresh


class DiskCache:
    """Cache of images in files named by the content of the original, wherever that lies.

    Args:
        folder: Folder of the files; it is made if it is missing.
        size: Longer side of the cached images, pixels.
        channels: Number of channels, as `read_image` takes it.

    Raises:
        RequestError: If the folder cannot be made.
    """

    def __init__(self, folder: Path, size: int, channels: int = 3) -> None:
        self.folder = folder
        self.size = size
        self.channels = channels
        self.works = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"data.cache=disk: {folder}: {error.strerror}; DETECTOR_CACHE=DIR is another place"
            ) from error

    def __call__(self, index: int, path: Path) -> Resized:
        """Load an image, from its cached file if that is intact."""
        content = read_bytes(path)
        digest = hashlib.blake2b(content, digest_size=16, person=VERSION).hexdigest()
        file = self.folder / f"{digest}-{self.size}-{self.channels}"
        found = _unpack(file, self.channels)
        if found is None:
            found = read_resized(path, self.size, content, self.channels)
            self._write(file, found)
        return found

    def _write(self, file: Path, image: Resized) -> None:
        """Write an image, which several loader processes may do at once with the same one."""
        shape = image.image.shape[:2]
        rest = struct.pack("<4I", image.height, image.width, *shape) + image.image.tobytes()
        try:
            with atomic(file, f".{os.getpid()}") as draft:
                draft.write_bytes(struct.pack("<I", zlib.crc32(rest)) + rest)
        except OSError as error:  # a full disk is no reason to stop
            if self.works:
                log.warning(
                    "data.cache=disk: %s: %s; images are no longer kept",
                    self.folder,
                    error.strerror,
                )
            self.works = False


def _read(size: int, channels: int, index: int, path: Path) -> Resized:
    """The image loader without a cache."""
    return read_resized(path, size, channels=channels)


def _unpack(file: Path, channels: int) -> Resized | None:
    """The image in a cached file; None if there is no such file or it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if len(content) < HEAD.size:
        return None
    checksum, height, width, rows, columns = HEAD.unpack_from(content)
    if checksum != zlib.crc32(memoryview(content)[4:]):
        return None
    pixels: NDArray[np.uint8] = np.frombuffer(content, np.uint8, offset=HEAD.size)
    return Resized(pixels.reshape(rows, columns, channels).copy(), height, width)


def _check_memory(caches: Sequence[RamCache], processes: int) -> None:
    """Log how much memory the images take; RequestError if it is not available."""
    needed = sum(cache.bytes for cache in caches) * processes
    free = free_memory()
    count = sum(len(cache.sizes) for cache in caches)
    times = f" in each of {processes} processes" if processes > 1 else ""
    said = f"{count} images{times} take {needed / 1e9:.1f} GB"
    if needed > free:
        raise RequestError(
            f"data.cache=ram: {said}, but only {free / 1e9:.1f} GB are free; "
            "use data.cache=disk or none, or a smaller data.image_size"
        )
    log.info("data.cache=ram: %s of %.1f GB free, filled in the first epoch", said, free / 1e9)
