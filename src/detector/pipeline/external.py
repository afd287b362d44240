"""Detections as files: any tool's, read and matched with a truth; and those of a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.core.files import whole
from detector.core.structures import AnnotatedImages, ClassMap
from detector.data.external.detections import Results, read_results
from detector.data.external.ground_truth import CocoTruth, read_coco_truth
from detector.data.external.match import match_classes, match_folder, match_truth
from detector.data.read import DataSet, files_of
from detector.evaluation.arrays import Detections, Truth, xywh
from detector.pipeline.load_data import LISTED, describe_data, usable_data

log = logging.getLogger(__name__)

CHUNK = 20_000  # entries that are written at a time


@dataclass(frozen=True)
class Contest:
    """Detections, and what they are scored against.

    Attributes:
        detections: Of `predictions=`.
        truth: Image ids are the places in `images`.
        classes: Of the truth.
        images: Of the truth; paths are empty where no file is known.
        split: Its name: `train`, `val` or `test`, or that of the truth's file.
        compare: Other detections, of `compare=`; None if there are none.
        data: The data set; None if the truth is a file.
        notes: What is to be known of all that, one line each.
        names: What the truth's file calls each image; none where there is a data set.
    """

    detections: Detections
    truth: Truth
    classes: ClassMap
    images: AnnotatedImages
    split: str
    compare: Detections | None
    data: DataSet | None
    notes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


# What the check of a request has read, until the run takes it.
_kept: dict[str, Contest] = {}


def read_contest(config: Any, *, keep: bool = False) -> Contest:
    """Read what `predictions=`, `compare=` and `truth=` or the data's keys ask for.

    Args:
        config: Says which files.
        keep: Remember the answer for the next call.

    Raises:
        RequestError: If a file is not there or cannot be used, or they do not belong together.
    """
    key = f"{config.predictions} {config.compare} {config.truth} {config.split} {config.data}"
    contest = _kept.pop(key, None)
    if contest is None:
        files = [_file(k, getattr(config, k)) for k in ("predictions", "compare")]
        results = [read_results(file) for file in files if file is not None]
        contest = _of_file(config, results) if config.truth else _of_folder(config, results)
    if keep:
        _kept[key] = contest
    return contest


def _file(key: str, value: str | None) -> Path | None:
    """The file that a key means."""
    if value is None:
        return None
    path = Path(value).expanduser()
    if path.is_dir():
        named = path / "detections.json"
        hint = f", such as {named}" if named.is_file() else ""
        raise RequestError(f"{key}={value}: a folder; expected a file{hint}")
    if not path.is_file():
        raise RequestError(f"{key}={value}: no such file")
    return path


def _of_file(config: Any, results: Sequence[Results]) -> Contest:
    """Detections against a COCO file."""
    file = _file("truth", config.truth)
    assert file is not None
    truth = read_coco_truth(file, Path(config.data.root) if config.data.root else None)
    notes = list(truth.notes)
    if truth.faults:
        more = len(truth.faults) - 1
        others = f" (and {more} more error{'s' * (more > 1)})" if more else ""
        if config.data.on_bad == "error":
            raise RequestError(
                f"{file}: {truth.faults[0]}{others}; data.on_bad=skip leaves such things out"
            )
        notes += [f"left out of {file}: {fault}" for fault in truth.faults[:LISTED]]
    found = [_against_file(one, truth, notes) for one in results]
    images = truth.images
    arrays = Truth(
        np.arange(len(images)),
        images.owners(),
        _corners(truth.boxes),
        images.labels,
        images.ignore,
        truth.boxes[:, 2:],
        truth.areas,
    )
    compare = found[1] if len(found) > 1 else None
    ids = np.arange(len(images)) if images.ids is None else images.ids
    names = [n or f"image_id {i}" for n, i in zip(truth.names, ids.tolist(), strict=True)]
    return Contest(found[0], arrays, truth.classes, images, file.name, compare, None, notes, names)


def _against_file(results: Results, truth: CocoTruth, notes: list[str]) -> Detections:
    """Detections in the truth's images and classes."""
    labels = match_classes(results, truth.classes, str(truth.file))
    place, named = match_truth(results, truth)
    if named:
        notes.append(f"{results.file}: image_id is not the truth's, so file_name is what counts")
    return _pack(results, place, labels, notes)


def _of_folder(config: Any, results: Sequence[Results]) -> Contest:
    """Detections against a split of a data set."""
    data = usable_data(config, config.split or "final")
    ((split, images),) = data.splits.items()
    notes: list[str] = []
    found = []
    for one in results:
        where = f"{data.root} or data.classes"
        labels = match_classes(one, data.classes, where, data.groups)
        found.append(_pack(one, match_folder(one, images, data.root), labels, notes))
    compare = found[1] if len(found) > 1 else None
    truth = truth_of(images)
    return Contest(found[0], truth, data.classes, images, split, compare, data, notes)


def truth_of(images: AnnotatedImages) -> Truth:
    """A split as what detections are scored against; image ids are places in it."""
    boxes = images.boxes.astype(np.float64)
    return Truth(np.arange(len(images)), images.owners(), boxes, images.labels, images.ignore)


def _pack(
    results: Results, place: NDArray[np.int64], labels: NDArray[np.int64], notes: list[str]
) -> Detections:
    """The detections whose image is there."""
    rows = np.flatnonzero(place >= 0)
    if len(rows) < len(place):
        count = len(np.unique(results.image[place < 0]))
        notes.append(
            f"{results.file}: {len(place) - len(rows)} of {len(place)} entries are left out; their "
            f"{count} images are not in the split"
        )
    scores = results.scores[rows]
    if len(rows) and not (scores.min() >= 0 and scores.max() <= 1):
        notes.append(
            f"{results.file}: scores run from {scores.min():.4g} to {scores.max():.4g}, not in "
            "0..1: they rank detections all the same, but are no probabilities"
        )
    boxes = results.boxes[rows]
    return Detections(place[rows], _corners(boxes), labels[rows], scores, boxes[:, 2:])


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The boxes, xyxy, of `(N, 4)` x, y, width and height."""
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)


def describe_contest(config: Any, contest: Contest) -> None:
    """Log what was read, and everything that is to be known of it."""
    if contest.data is not None:
        describe_data(contest.data)
    else:
        truth = contest.truth
        ignored = f", {count} of them ignored (crowd)" if (count := truth.ignore.sum()) else ""
        log.info(
            "truth: %s, %d images, %d boxes%s",
            config.truth,
            len(truth.images),
            len(truth.labels),
            ignored,
        )
        log.info("classes: %s", ", ".join(contest.classes.names))
    for key, those in (("predictions", contest.detections), ("compare", contest.compare)):
        if those is not None:
            images = len(np.unique(those.image))
            log.info(
                "%s: %s, %d boxes in %d images",
                key,
                getattr(config, key),
                len(those.labels),
                images,
            )
    for note in contest.notes:
        log.warning("%s", note)


class _Row(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: list[float]
    score: float
    file_name: str
    category: str


def write_detections(
    file: Path, detections: Detections, images: AnnotatedImages, classes: ClassMap, root: Path
) -> None:
    """Write detections as COCO results, to the last digit, so that scoring them again is exact.

    Args:
        file: Is replaced in one step.
        detections: Their image ids are places in `images`.
        images: Their own ids are written where they have some, else 1, 2, ...
        classes: Have the category ids; their names are written too.
        root: What file names are relative to.
    """
    ids = (np.arange(1, len(images) + 1) if images.ids is None else images.ids).tolist()
    names = [
        # as JSON has it; Linux allows names that are no text
        name.encode(errors="backslashreplace").decode()
        for name in files_of(images, root)
    ]
    boxes = xywh(detections)
    numbers, encoder = classes.ids, msgspec.json.Encoder()
    draft = file.with_name(file.name + ".part")
    with whole(draft, file), draft.open("wb") as stream:
        separator = b"[\n"
        for start in range(0, len(boxes), CHUNK):
            here = slice(start, start + CHUNK)
            columns = (detections.image, detections.labels - 1, boxes, detections.scores)
            rows = zip(*(column[here].tolist() for column in columns), strict=True)
            texts = [
                encoder.encode(_Row(ids[i], numbers[k], box, score, names[i], classes.names[k]))
                for i, k, box, score in rows
            ]
            stream.write(separator + b",\n".join(texts))
            separator = b",\n"
        stream.write(b"\n]\n" if len(boxes) else b"[]\n")
