"""Detections as files: any tool's, read and matched with a truth; and those of a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.config.schema import Config
from detector.core.errors import RequestError
from detector.core.files import atomic
from detector.core.run_folder import RunFolder
from detector.core.structures import AnnotatedImages, ClassMap
from detector.data.external.detections import Results, read_results
from detector.data.external.ground_truth import CocoGroundTruth, read_coco_ground_truth
from detector.data.external.match import match_classes, match_folder, match_ground_truth
from detector.data.read import DataSet
from detector.evaluation.arrays import Detections, GroundTruth, xywh
from detector.pipeline.load_data import LISTED, describe_data, usable_data
from detector.pipeline.score import EvaluationInputs

log = logging.getLogger(__name__)

CHUNK = 20_000  # entries that are written at a time


@dataclass(frozen=True)
class ExternalInputs:
    """Detections from files, with the ground truth that they are scored against.

    Attributes:
        inputs: Detections and ground truth.
        data: The data set; None if the ground truth is a file.
        notes: Warnings about the files, one line each.
        names: For each image what the ground truth's file calls it; empty with a data set.
    """

    inputs: EvaluationInputs
    data: DataSet | None
    notes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def read_external(
    config: Config, predictions: str, truth: str | None, compare: str | None, split: str | None
) -> ExternalInputs:
    """Read files of detections and the ground truth that they are scored against.

    Args:
        config: Configuration in force, which names the data set where the ground truth is no file.
        predictions: File of detections.
        truth: File of ground truth, in COCO's format; None: a split of the data set.
        compare: File of a baseline's detections; None: no comparison.
        split: Which split of the data set; None: `test`, or `val` where there is no test.

    Raises:
        RequestError: If a file is not there or cannot be used, or they do not belong together.
    """
    named = {"predictions": predictions, "compare": compare}
    files = [_file(key, value) for key, value in named.items() if value is not None]
    results = [read_results(file) for file in files]
    if truth is not None:
        return _against_file_of(config, _file("truth", truth), results)
    return _against_folder(config, split, results)


def _file(key: str, value: str) -> Path:
    """The file that a key names."""
    path = Path(value).expanduser()
    if path.is_dir():
        named = RunFolder(path).detections_json
        hint = f", such as {named}" if named.is_file() else ""
        raise RequestError(f"{key}={value}: a folder; expected a file{hint}")
    if not path.is_file():
        raise RequestError(f"{key}={value}: no such file")
    return path


def _against_file_of(config: Config, file: Path, results: Sequence[Results]) -> ExternalInputs:
    """Detections against a COCO file."""
    truth = read_coco_ground_truth(file, Path(config.data.root) if config.data.root else None)
    notes = list(truth.notes)
    if truth.issues:
        more = len(truth.issues) - 1
        others = f" (and {more} more error{'s' * (more > 1)})" if more else ""
        if config.data.on_bad == "error":
            raise RequestError(
                f"{file}: {truth.issues[0]}{others}; data.on_bad=skip leaves such things out"
            )
        notes += [f"left out of {file}: {fault}" for fault in truth.issues[:LISTED]]
    found = [_against_file(one, truth, notes) for one in results]
    images = truth.images
    arrays = GroundTruth(
        np.arange(len(images)),
        images.owners(),
        _corners(truth.boxes),
        images.labels,
        images.ignore,
        truth.boxes[:, 2:],
        truth.areas,
    )
    baseline = found[1] if len(found) > 1 else None
    ids = np.arange(len(images)) if images.ids is None else images.ids
    names = [n or f"image_id {i}" for n, i in zip(truth.names, ids.tolist(), strict=True)]
    inputs = EvaluationInputs(found[0], arrays, images, truth.classes, file.name, baseline=baseline)
    return ExternalInputs(inputs, None, notes, names)


def _against_file(results: Results, truth: CocoGroundTruth, notes: list[str]) -> Detections:
    """Detections in the truth's images and classes."""
    labels = match_classes(results, truth.classes, str(truth.file))
    place, named = match_ground_truth(results, truth)
    if named:
        notes.append(f"{results.file}: image_id is not the truth's, so file_name is what counts")
    return _pack(results, place, labels, notes)


def _against_folder(
    config: Config, split: str | None, results: Sequence[Results]
) -> ExternalInputs:
    """Detections against a split of a data set."""
    data = usable_data(config, split or "final")
    ((split, images),) = data.splits.items()
    notes: list[str] = []
    found = []
    for one in results:
        where = f"{data.root} or data.classes"
        labels = match_classes(one, data.classes, where, data.groups)
        found.append(_pack(one, match_folder(one, images, data.root), labels, notes))
    baseline = found[1] if len(found) > 1 else None
    ground_truth = ground_truth_of(images)
    inputs = EvaluationInputs(
        found[0], ground_truth, images, data.classes, split, baseline=baseline
    )
    return ExternalInputs(inputs, data, notes)


def ground_truth_of(images: AnnotatedImages) -> GroundTruth:
    """Ground truth of a split; image ids are indices into it."""
    boxes = images.boxes.astype(np.float64)
    return GroundTruth(np.arange(len(images)), images.owners(), boxes, images.labels, images.ignore)


def _pack(
    results: Results, place: NDArray[np.int64], labels: NDArray[np.int64], notes: list[str]
) -> Detections:
    """Detections whose image is in the split."""
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


def describe_external(external: ExternalInputs, files: Mapping[str, str]) -> None:
    """Log what was read, and every warning about it.

    Args:
        external: Detections and ground truth that were read.
        files: The files by key: `truth`, where it is one, `predictions` and perhaps `compare`.
    """
    inputs = external.inputs
    if external.data is not None:
        describe_data(external.data)
    else:
        ground_truth = inputs.ground_truth
        ignored = (
            f", {count} of them ignored (crowd)" if (count := ground_truth.ignore.sum()) else ""
        )
        counts = len(ground_truth.images), len(ground_truth.labels)
        log.info("truth: %s, %d images, %d boxes%s", files["truth"], *counts, ignored)
        log.info("classes: %s", ", ".join(inputs.classes.names))
    for key, those in (("predictions", inputs.detections), ("compare", inputs.baseline)):
        if those is not None:
            counts = len(those.labels), len(np.unique(those.image))
            log.info("%s: %s, %d boxes in %d images", key, files[key], *counts)
    for note in external.notes:
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
        file: The file, which is replaced in one step.
        detections: Detections; image ids are indices into `images`.
        images: Images; their own ids are written where they have some, else 1, 2, ...
        classes: Classes with category ids; their names are written too.
        root: Folder that file names are relative to.
    """
    ids = (np.arange(1, len(images) + 1) if images.ids is None else images.ids).tolist()
    names = [
        # as JSON has it; Linux allows names that are no text
        name.encode(errors="backslashreplace").decode()
        for name in images.files(root)
    ]
    boxes = xywh(detections)
    numbers, encoder = classes.ids, msgspec.json.Encoder()
    with atomic(file) as draft, draft.open("wb") as stream:
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
