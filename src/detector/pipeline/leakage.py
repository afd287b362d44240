"""Images of an evaluation that the detector has seen: found, recorded as issues, and reported.

Copies across the splits of one data set are found when it is validated; those that only a
checkpoint knows of are found here, by the fingerprints that it holds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from detector.data.read import DataSet
from detector.data.validation.duplicates import NEAR, similar
from detector.data.validation.image_info import inspect
from detector.data.validation.issues import Item
from detector.pipeline.load_data import open_cache
from detector.training.checkpoint import Fingerprint


def fingerprints(data: DataSet, split: str) -> dict[str, Fingerprint]:
    """Fingerprints of a split's images by relative path; unreadable ones are left out."""
    files = data.files()[split]
    with closing(open_cache()) as cache:
        infos = inspect(data.root, files, cache, decode=True)
    return {f: Fingerprint(infos[f].digest, infos[f].hash) for f in files if infos[f].digest}


class Seen(NamedTuple):
    """Images of a split that a detector was trained on, by relative path.

    Attributes:
        same: The same files, under any name.
        near: Files of nearly the same pictures.
    """

    same: set[str]
    near: set[str]


def seen_in_training(
    data: DataSet, split: str, records: Sequence[Collection[Fingerprint]]
) -> list[Seen]:
    """Find the images of a split that detectors were trained on, under any path.

    Args:
        data: The data set, which has the split.
        split: Its name.
        records: Fingerprints of training images, one collection for each detector; where all are
            empty, no image is read.

    Returns:
        For each record, the images of the split that are in it.
    """
    ours = fingerprints(data, split) if any(records) else {}
    return [_seen(ours, record) for record in records]


def _seen(ours: Mapping[str, Fingerprint], record: Collection[Fingerprint]) -> Seen:
    digests = {one.digest for one in record}
    same = {file for file, one in ours.items() if one.digest in digests}
    rest = [file for file, one in ours.items() if one.hash and file not in same]
    hashes = [one.hash for one in record if one.hash], [ours[file].hash for file in rest]
    return Seen(same, {rest[j] for _, j, _ in similar(*hashes, NEAR)})


def note_seen(data: DataSet, split: str, seen: Seen, by: str) -> None:
    """Add an issue for each image of a split that a detector was trained on.

    Args:
        data: The data set that the issues are added to.
        split: Its name.
        seen: The images.
        by: Beginning of the message, such as `ckpt=a was trained on`.
    """
    for kind, files, what in (
        ("seen in training", seen.same, "it"),
        ("like a training image", seen.near, "a picture like it"),
    ):
        for file in sorted(files):
            data.issues.add(kind, Item(split, file, f"{by} {what}", file))


def leakage_of(data: DataSet | None, split: str) -> list[dict[str, Any]]:
    """Leakage that makes the scores of a split too high, as metrics.json has it.

    Args:
        data: The data set with its issues; None where there is none.
        split: Name of the split.

    Returns:
        For each kind of issue its `kind`, `count` (images) and an `example`.
    """
    return [
        {"kind": kind, "count": len(_images(items)), "example": str(items[0])}
        for kind, items in _leaks(data, split).items()
    ]


def leakage_sentence(data: DataSet | None, split: str, images: int) -> str | None:
    """The leakage of a split as a sentence; None if there is none.

    Args:
        data: The data set with its issues; None where there is none.
        split: Name of the split.
        images: Number of images of the split.
    """
    count = len(_images([item for items in _leaks(data, split).values() for item in items]))
    if not count:
        return None
    return (
        f"{count} of the {images} {split} images {'are' if count > 1 else 'is'} also, or nearly, "
        "in the data that the detector was trained or chosen on: the scores are too high"
    )


def _leaks(data: DataSet | None, split: str) -> dict[str, list[Item]]:
    """Items of leakage in a split, by kind of issue; only kinds that occur."""
    found = data.issues.of("leakage") if data else []
    items = {issue.kind: [item for item in issue.items if item.split == split] for issue in found}
    return {kind: those for kind, those in items.items() if those}


def _images(items: Collection[Item]) -> set[str]:
    """The images that items are about."""
    return {item.image or item.file for item in items}
