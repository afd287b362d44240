"""The check of a data set: everything that can be said of it before it costs a training run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detector import __version__
from detector.config.schema import Config, plain
from detector.core.errors import RequestError
from detector.core.structures import AnnotatedImages
from detector.data.formats.folder import Folder
from detector.data.formats.paths import cache_folder
from detector.data.images.pixels import read_image
from detector.data.read import DataSet
from detector.data.validation.issues import Issues
from detector.pipeline.load_data import find_source
from detector.pipeline.network_view import histograms, network_view

if TYPE_CHECKING:
    from detector.report.page import Thumbnail

PICTURED = 4  # of every kind
OUTPUTS = ("check.html", "check.json")
DIGEST = "digest"  # of the outputs kept, beside them
KEPT = 20  # checks in the cache


# What the check of a request has computed, until the run takes it.
_computed: dict[str, str] = {}


def fingerprint(config: Config) -> str:
    """A digest of all that a check's outcome depends on: files by size and time, and keys."""
    return _computed.pop(str(config), None) or _fingerprint(config)


def _fingerprint(config: Config) -> str:
    source = find_source(config)
    digest = hashlib.blake2b(digest_size=16)
    keys = {**plain(config), "preview": None, "trainer": None, "optim": None, "finetune": None}
    digest.update(f"{__version__} {json.dumps(keys, sort_keys=True)}".encode())
    files = [source.root / f for f in Folder(source.root).files]
    beside = [Path(f).expanduser() for f in (source.split_file, source.group) if f is not None]
    for file in [*files, *beside]:
        try:
            stat = os.stat(file)  # noqa: PTH116 - Path.stat takes twice as long
        except OSError:
            continue
        digest.update(f"{file}\0{stat.st_size} {stat.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()


def is_known(config: Config) -> bool:
    """Whether there seems to be an outcome to reuse."""
    key = _computed[str(config)] = _fingerprint(config)
    return (_stored_check(key) / DIGEST).is_file()


def _stored_check(key: str) -> Path:
    """Where the outcome of a check is kept, by its fingerprint."""
    return cache_folder() / "checks" / key


def _digest(folder: Path) -> str:
    """Of check.html and check.json."""
    digest = hashlib.blake2b(digest_size=16)
    for name in OUTPUTS:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def reuse(key: str, folder: Path) -> dict[str, Any] | None:
    """Take over the outcome of an earlier check of the same files with the same keys.

    Args:
        key: The fingerprint.
        folder: Gets check.json and check.html.

    Returns:
        What check.json holds; None if there is no such check, or it is damaged.
    """
    stored = _stored_check(key)
    try:
        if _digest(stored) != (stored / DIGEST).read_text():
            return None
        for name in OUTPUTS:
            shutil.copyfile(stored / name, folder / name)
        content: dict[str, Any] = json.loads((folder / OUTPUTS[-1]).read_bytes())
    except (OSError, ValueError):
        return None
    return content


def keep(key: str, folder: Path) -> None:
    """Keep a check's outcome for `reuse`, and only the latest ones.

    Args:
        key: The fingerprint from before the files were read: what has changed since is not checked.
        folder: Has check.json and check.html.
    """
    stored = _stored_check(key)
    try:
        stored.mkdir(parents=True, exist_ok=True)
        for name in OUTPUTS:
            shutil.copyfile(folder / name, stored / name)
        (stored / DIGEST).write_text(_digest(folder))
        checks = sorted(stored.parent.iterdir(), key=lambda p: p.stat().st_mtime)
        for old in checks[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError:
        return  # the next check only takes longer


def inspect(config: Config, data: DataSet) -> tuple[dict[str, Any], list[Thumbnail]]:
    """Check a data set.

    Args:
        config: Also says what the network would see of it.
        data: As read.

    Returns:
        What check.json holds, and pictures of what was found.
    """
    started = time.perf_counter()
    issues = data.issues
    content = {
        "root": str(data.root),
        "format": data.format,
        "recognised": data.recognised,
        "division": list(data.division),
        "summary": {
            "errors": issues.count("error"),
            "leakage": issues.count("leakage"),
            "warnings": issues.count("warning"),
        },
        "classes": list(data.classes.names),
        "splits": {name: _describe(images, data) for name, images in data.splits.items()},
        "findings": issues.plain(),
        "histograms": histograms(config, data),
        "model": network_view(config, data),
        "environment": {"detector": __version__},
        "seconds": round(time.perf_counter() - started, 2),
    }
    return content, _pictures(data, issues)


def _describe(images: AnnotatedImages, data: DataSet) -> dict[str, Any]:
    """Counts of one split."""
    counts = np.bincount(images.labels, minlength=len(data.classes) + 1)[1:]
    return {
        "images": len(images),
        "boxes": len(images.labels),
        "ignored": int(images.ignore.sum()),
        "without_boxes": int((np.diff(images.offsets) == 0).sum()),
        "per_class": dict(zip(data.classes.names, counts.tolist(), strict=True)),
    }


def _pictures(data: DataSet, issues: Issues) -> list[Thumbnail]:
    """A few images of every kind of issue, with their boxes, and those in question marked."""
    from detector.report.page import Thumbnail

    place = {
        path: (images, i)
        for images in data.splits.values()
        for i, path in enumerate(images.paths.tolist())
    }
    pictures = []
    for issue in issues:
        for item in [item for item in issue.items if item.image][:PICTURED]:
            for file, message in ((item.image, item.message), (item.other, "the other one")):
                pixels = _pixels(data.root / file) if file else None
                if pixels is None:
                    continue
                images, i = place.get(f"{data.root}/{file}", (None, 0))
                truth = images[i] if images is not None else None
                marked = [item.box] if item.box is not None else []
                pictures.append(
                    Thumbnail(
                        kind=issue.kind,
                        name=file,
                        message=message,
                        image=pixels,
                        boxes=truth.boxes if truth else np.zeros((0, 4), np.float32),
                        labels=truth.labels if truth else np.zeros(0, np.int64),
                        marked=np.array(marked, dtype=np.float64).reshape(-1, 4),
                    )
                )
    return pictures


def _pixels(path: Path) -> NDArray[np.uint8] | None:
    """An image to be shown; None if it cannot be read, which is an issue of its own."""
    try:
        return read_image(path)
    except RequestError:
        return None
