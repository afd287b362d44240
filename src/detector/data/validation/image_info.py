"""Inspection of image files: size, whether they can be decoded, hashes.

Results are kept by path in a small database in the cache folder. They are valid as long as the size
and time of the file are the same, or else its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.core.bar import over
from detector.core.errors import RequestError
from detector.data.images.pixels import read_header, read_image

VERSION = 3  # of the database; one of another version is discarded
COMMIT_EVERY = 500  # files, which Ctrl-C can lose


class ImageInfo(NamedTuple):
    """What is known of one image file.

    Attributes:
        width: Width of the upright image, pixels; 0 if unreadable.
        height: Height of the upright image, pixels; 0 if unreadable.
        orientation: EXIF orientation, 1..8.
        issue: Why the image cannot be used; empty if it can.
        digest: Hash of the content, hexadecimal; empty unless the whole file was read.
        hash: Perceptual hash, hexadecimal; empty for images without contrast or not decoded.
        bands: Number of bands as in `Header`; 0 if unreadable.
    """

    width: int
    height: int
    orientation: int
    issue: str = ""
    digest: str = ""
    hash: str = ""
    bands: int = 0


class ImageInfoCache:
    """Database (SQLite) of `ImageInfo` by path, size and time of a file.

    Args:
        file: Path of the database; with None, or if it cannot be used, nothing is kept.
    """

    def __init__(self, file: Path | None) -> None:
        self._db: sqlite3.Connection | None = None
        if file is None:
            return
        with contextlib.suppress(OSError, sqlite3.Error):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open(file)

    @staticmethod
    def _open(file: Path) -> sqlite3.Connection:
        db = sqlite3.connect(file, timeout=10)
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError:  # another process keeps it locked
            db.close()
            raise
        except sqlite3.DatabaseError:  # not a database, or a broken one
            db.close()
            file.unlink()
            db = sqlite3.connect(file, timeout=10)
            version = 0
        if version != VERSION:
            db.execute("DROP TABLE IF EXISTS facts")
            db.execute(
                "CREATE TABLE IF NOT EXISTS facts (path TEXT PRIMARY KEY, size INT, time INT,"
                " width INT, height INT, orientation INT, issue TEXT, digest TEXT, hash TEXT,"
                " bands INT) WITHOUT ROWID"
            )
            db.execute(f"PRAGMA user_version = {VERSION}")
            db.commit()
        return db

    def load(self, root: Path) -> dict[str, tuple[int, int, ImageInfo]]:
        """Size in bytes, time in ns and info of every known file below a root, by path."""
        if self._db is None:
            return {}
        prefix = f"{root}{os.sep}"
        question = "SELECT * FROM facts WHERE path >= ? AND path < ?"
        try:
            rows = self._db.execute(question, (prefix, f"{prefix}\U0010ffff")).fetchall()
        except sqlite3.Error:  # another process keeps it locked, or damaged
            return {}
        return {row[0]: (row[1], row[2], ImageInfo(*row[3:])) for row in rows}

    def close(self) -> None:
        """Close the database."""
        if self._db is not None:
            self._db.close()

    def store(self, rows: Iterable[tuple[str, int, int, ImageInfo]]) -> None:
        """Save the infos of some files in one transaction."""
        if self._db is not None:
            # A name that is not UTF-8 cannot be kept.
            values = [(p, *rest, *infos) for p, *rest, infos in rows if p.isprintable()]
            with contextlib.suppress(sqlite3.Error), self._db:
                self._db.executemany("REPLACE INTO facts VALUES (?,?,?,?,?,?,?,?,?,?)", values)


def inspect(
    root: Path, files: Sequence[str], cache: ImageInfoCache, *, decode: bool = False
) -> dict[str, ImageInfo]:
    """Inspect image files; a progress bar appears if that takes more than two seconds.

    Args:
        root: Root of the data set.
        files: Relative paths of the images.
        cache: Infos of earlier inspections; unchanged files are not read again.
        decode: Decode and hash every image; else only the header and the end of a file are read.

    Returns:
        Info by relative path.
    """
    known = cache.load(root)
    infos: dict[str, ImageInfo] = {}
    todo: list[tuple[str, int, int, ImageInfo | None]] = []
    for file in dict.fromkeys(files):
        path = f"{root}{os.sep}{file}"
        try:
            stat = os.stat(path)  # noqa: PTH116 - a Path object each is slow for 100,000 files
        except OSError as error:
            infos[file] = ImageInfo(0, 0, 1, error.strerror or str(error))
            continue
        size, time, old = known.get(path, (0, 0, None))
        if old and (size, time) == (stat.st_size, stat.st_mtime_ns) and (old.digest or not decode):
            infos[file] = old
        else:
            todo.append((file, stat.st_size, stat.st_mtime_ns, old))
    if todo:
        look = _inspect_pixels if decode else _inspect_header
        infos.update(_in_threads(root, todo, look, cache))
    return infos


def _in_threads(
    root: Path,
    todo: Sequence[tuple[str, int, int, ImageInfo | None]],
    look: Callable[[Path, ImageInfo | None], ImageInfo],
    cache: ImageInfoCache,
) -> Iterator[tuple[str, ImageInfo]]:
    """Inspect files in threads (decoders release the GIL) and save results as they come."""
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    fresh: list[tuple[str, int, int, ImageInfo]] = []
    try:
        results = pool.map(lambda one: look(root / one[0], one[3]), todo)
        shown = over(results, "looking at images", "file", len(todo))
        for (file, size, time, _), infos in zip(todo, shown, strict=True):
            fresh.append((f"{root}{os.sep}{file}", size, time, infos))
            if len(fresh) >= COMMIT_EVERY:
                cache.store(fresh)
                fresh = []
            yield file, infos
    finally:  # results are saved also after Ctrl-C
        pool.shutdown(wait=False, cancel_futures=True)
        cache.store(fresh)


def _inspect_header(path: Path, _: ImageInfo | None) -> ImageInfo:
    """Read the header, and check whether the end of the file is there."""
    try:
        header = read_header(path)
    except RequestError as error:
        return ImageInfo(0, 0, 1, _reason(error, path))
    return ImageInfo(header.width, header.height, header.orientation, bands=header.bands)


def _inspect_pixels(path: Path, old: ImageInfo | None) -> ImageInfo:
    """Decode and hash the image, unless its content is the same as before."""
    try:
        content = path.read_bytes()
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        if old and old.digest == digest:
            return old
        header = read_header(path)
        image = read_image(path, content=content)
    except RequestError as error:
        return ImageInfo(0, 0, 1, _reason(error, path), digest)
    except OSError as error:
        return ImageInfo(0, 0, 1, error.strerror or str(error))
    height, width = image.shape[:2]
    hashed = perceptual_hash(image)
    return ImageInfo(width, height, header.orientation, "", digest, hashed, header.bands)


def _reason(error: RequestError, path: Path) -> str:
    """The message of an error without the name of the file."""
    return str(error).removeprefix(f"{path}: ")


def perceptual_hash(image: NDArray[np.uint8]) -> str:
    """The perceptual hash of an image by the library imagehash: similar images share most bits.

    Args:
        image: `(H, W, 3)` RGB.

    Returns:
        256 bits, hexadecimal; empty for an image without contrast, whose hash would be noise.
    """
    from imagehash import phash
    from PIL import Image

    small = cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA
    )
    return "" if small.std() < 2 else str(phash(Image.fromarray(small), hash_size=16))
