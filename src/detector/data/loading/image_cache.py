"""Where a data set's images come from: decoded and resized each time, or once and then kept.

Whatever is kept is what decoding gives: the same bytes (tested).
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
import psutil
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.core.files import atomic
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
# Index and file of an image -> the image at the network's size.
ImageLoader = Callable[[int, Path], Resized]

# Where Linux says what a container may use (its documentation: cgroup-v2, "memory").
CGROUP = Path("/sys/fs/cgroup")
# Of a file of `DiskCache`: checksum of the rest, original height and width, height and width.
HEAD = struct.Struct("<5I")
# Entries of another rule of resizing, or of another decoder, are not found.
VERSION = f"2 {cv2.__version__}".encode()[: hashlib.blake2b.PERSON_SIZE]


def make_image_loaders(
    splits: dict[str, AnnotatedImages],
    size: int,
    kind: Kind = "none",
    folder: Path | None = None,
    processes: int = 1,
    channels: int = 3,
) -> dict[str, ImageLoader]:
    """One source for each split.

    Args:
        splits: By name.
        size: The images' longer side, pixels.
        kind: `ram` and `disk` keep images. In memory, those of `train` and `val` are: a test split
            is read once.
        folder: Of `disk`.
        processes: Training processes on this machine; each has a memory of its own.
        channels: Of the images, as `read_image` takes them.

    Raises:
        RequestError: If the images do not fit into the memory, or there is no folder to write to.
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
    """Images in memory that all loader processes share and fill together.

    The memory is anonymous and mapped before the loader processes are forked. Containers limit
    `/dev/shm`, where other shared memory lives, to little.

    Args:
        images: The split; where it does not say how large an image is, its header is read.
        size: The images' longer side, pixels.
        channels: As `read_image` takes them.

    Raises:
        RequestError: If a limit of the system's, such as `ulimit -v`, does not allow as much.
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
        # The system gives memory when it is written to, so this takes none yet.
        try:
            self.pixels = np.frombuffer(mmap.mmap(-1, self.bytes + 1), dtype=np.uint8)
        except OSError as error:
            raise RequestError(
                f"data.cache=ram: the system gives no {self.bytes / 1e9:.1f} GB "
                f"({error.strerror}); use data.cache=disk or none, or a smaller data.image_size"
            ) from error
        self.ready = np.frombuffer(mmap.mmap(-1, len(images) + 1), dtype=np.uint8)

    def __call__(self, index: int, path: Path) -> Resized:
        """The image, from memory if any process has put it there."""
        height, width = self.sizes[index].tolist()
        rows, columns = self.shapes[index].tolist()
        end = int(self.ends[index])
        shape = (rows, columns, self.channels)
        place = self.pixels[end - math.prod(shape) : end].reshape(shape)
        if self.ready[index]:
            # A copy: what becomes of the batch must not reach the memory.
            return Resized(place.copy(), height, width)
        fresh = read_resized(path, self.size, channels=self.channels)
        # Else its annotation is wrong, which the data set says.
        if (fresh.height, fresh.width) == (height, width):
            place[:] = fresh.image
            self.ready[index] = 1  # last: two processes at the same image write the same
        return fresh


class DiskCache:
    """Images in files named by the original's content, so that copies and renamed ones are found.

    Args:
        folder: Where the files are; made if it is missing.
        size: The images' longer side, pixels.
        channels: As `read_image` takes them.

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
        """The image, from its file if there is a sound one."""
        content = read_bytes(path)
        digest = hashlib.blake2b(content, digest_size=16, person=VERSION).hexdigest()
        file = self.folder / f"{digest}-{self.size}-{self.channels}"
        found = _unpack(file, self.channels)
        if found is None:
            found = read_resized(path, self.size, content, self.channels)
            self._write(file, found)
        return found

    def _write(self, file: Path, image: Resized) -> None:
        """Keep an image; several loader processes may do so with the same one."""
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
    """The source that keeps nothing."""
    return read_resized(path, size, channels=channels)


def _unpack(file: Path, channels: int) -> Resized | None:
    """The image in a file of `DiskCache`; None if there is none or it is damaged."""
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
    """Say what the images will take; refuse what does not fit."""
    needed = sum(cache.bytes for cache in caches) * processes
    free = _free_memory()
    count = sum(len(cache.sizes) for cache in caches)
    times = f" in each of {processes} processes" if processes > 1 else ""
    said = f"{count} images{times} take {needed / 1e9:.1f} GB"
    if needed > free:
        raise RequestError(
            f"data.cache=ram: {said}, but only {free / 1e9:.1f} GB are free; "
            "use data.cache=disk or none, or a smaller data.image_size"
        )
    log.info("data.cache=ram: %s of %.1f GB free, filled in the first epoch", said, free / 1e9)


def _free_memory() -> int:
    """Bytes that may still be taken: the machine's, or its container's if those are fewer."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text())  # a ValueError if there is none: "max"
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        kept = dict(line.split() for line in lines)  # files it has read, which it can let go
        return min(free, limit - used + int(kept["active_file"]) + int(kept["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return free
