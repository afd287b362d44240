"""`python -m detector.predict ckpt=RUN source=FILE_OR_FOLDER`: detections in new images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from omegaconf import DictConfig
from pydantic import Field
from pydantic.dataclasses import dataclass as options

from detector.config.resolve import resolve
from detector.config.schema import Config
from detector.core.bar import Bar
from detector.core.console import announce
from detector.core.errors import RequestError, WorkError
from detector.core.files import uninterrupted, write_csv, write_json
from detector.core.options import STRICT, Real
from detector.core.run_folder import RunFolder
from detector.data.formats.folder import Folder
from detector.pipeline import load_data
from detector.pipeline.command import Outcome
from detector.pipeline.detector import Detector, Prediction, batches
from detector.training.checkpoint import score_thresholds

log = logging.getLogger(__name__)

COLUMNS = ("image_id", "file_name", "category_id", "category", "score", "x1", "y1", "x2", "y2")
Score = Annotated[Real, Field(ge=0, le=1)]


@options(config=STRICT, frozen=True, kw_only=True)
class PredictKeys(Config):
    """Detect in new images; the network is as it was trained.

    Examples:
      python -m detector.predict ckpt=RUN source=FILE_OR_FOLDER
      python -m detector.predict ckpt=RUN source=DIR score_threshold=0.5
      python -m detector.predict ckpt=RUN source=DIR min_precision=0.9
    """

    shown: ClassVar[tuple[str, ...]] = (
        *("ckpt", "data.batch_size", "data.image_size", "model.nms_threshold"),
        *("model.detections_per_image", "trainer.accelerator", "trainer.precision"),
    )

    source: str | None = None
    """An image or a folder of images; required."""
    score_threshold: Score | None = None
    """Lowest score of a detection that is drawn and written; null: for each class the score of best
    F1 on the validation split (checkpoints/thresholds.json)."""
    min_precision: Score | None = None
    """Instead: for each class the lowest score from which this share of the detections is right."""
    min_recall: Score | None = None
    """Instead: for each class the highest score at which this share of the objects is found."""
    thresholds: str | None = None
    """Another thresholds.json than the checkpoint's, as evaluate writes it."""

    def __post_init__(self) -> None:
        """Check that one rule is chosen."""
        super().__post_init__()
        rules = ("score_threshold", "min_precision", "min_recall")
        chosen = [key for key in rules if getattr(self, key) is not None]
        if self.score_threshold is not None and self.thresholds is not None:
            chosen.append("thresholds")
        if len(chosen) > 1:
            raise RequestError(f"{chosen[0]}= and {chosen[1]}=: expected one of the two")


KEYS = PredictKeys


@dataclass(frozen=True)
class Prepared:
    """A request to predict that was found good.

    Attributes:
        config: Configuration in force.
        files: Image files, sorted.
        thresholds: For each class name the lowest score of a detection that is wanted.
        reason: Where the thresholds come from, in words.
    """

    config: PredictKeys
    files: list[Path]
    thresholds: dict[str, float]
    reason: str


def prepare(cfg: DictConfig) -> Prepared:
    """Check a request to predict.

    Args:
        cfg: As composed, with `overrides`.

    Raises:
        RequestError: If the request is wrong; of several files, one that cannot be read is only
            named later.
    """
    for key in ("ckpt", "source"):
        if cfg[key] is None:
            raise RequestError(f"{key}= is required (see python -m detector.predict --help)")
    load_data.check_source(str(cfg.source))
    config = resolve(KEYS, cfg)
    files = load_data.source_files(str(config.source), config.model.in_channels)
    chosen, reason = score_thresholds(
        str(config.ckpt),
        config.data.classes or [],
        score_threshold=config.score_threshold,
        min_precision=config.min_precision,
        min_recall=config.min_recall,
        thresholds=config.thresholds,
    )
    thresholds = dict(zip(config.data.classes or (), chosen, strict=True))
    return Prepared(config, files, thresholds, reason)


@dataclass
class _Done:
    """What was done so far.

    Attributes:
        rows: Detections as rows of predictions.csv.
        images: Number of images.
        failed: For each image that could not be read, what is wrong.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    images: int = 0
    failed: list[str] = field(default_factory=list)


def run(prepared: Prepared, folder: RunFolder) -> Outcome:
    """Detect, and write annotated images, `predictions.json` and `predictions.csv`.

    Args:
        prepared: Result of `prepare`.
        folder: Folder for the outputs.

    Returns:
        The detections as COCO results, with `file_name` and `category` beside.

    Raises:
        RequestError: If no image can be read.
        WorkError: If no picture could be written; the detections are.
    """
    from detector.report.pictures import Pictures

    config, files = prepared.config, prepared.files
    announce("loading the network of %s", config.ckpt)
    detector = Detector(config, prepared.thresholds)
    _describe_thresholds(prepared)
    source = Path(str(config.source))
    pictures = Pictures(folder.images, files, source)
    done = _Done()
    try:
        _detect(detector, files, pictures, done)
    finally:  # what is done is kept, whatever ends this
        with uninterrupted():
            coco = _write(folder, done.rows)
        if done.images + len(done.failed) < len(files):
            ended = done.images, len(files)
            log.warning("ended after %d of %d images; their detections are kept", *ended)
    if not done.images:
        raise load_data.nothing_read(str(source), done.failed)
    _describe(done, source, pictures, folder)
    if len(pictures.failed) == done.images:
        raise WorkError(f"no picture could be written: {pictures.failed[0]}")
    return Outcome(coco)


def _describe_thresholds(prepared: Prepared) -> None:
    """Log the lowest scores that are wanted."""
    lowest = ", ".join(f"{name} {score:.3g}" for name, score in prepared.thresholds.items())
    log.info("lowest scores (%s): %s", prepared.reason, lowest)
    limit = prepared.config.model.score_threshold
    if min(prepared.thresholds.values()) < limit:
        log.warning("the network itself drops scores below model.score_threshold=%g", limit)


def _detect(detector: Detector, files: list[Path], pictures: Any, done: _Done) -> None:
    """Detect in all files, batch by batch, and draw."""
    bar = Bar("detecting", len(files), "image")
    try:
        numbered = list(enumerate(files, start=1))
        for batch in batches(numbered, detector.config.data.batch_size):
            read = []
            for image_id, file in batch:
                try:
                    read.append((image_id, file, detector.read(file)))
                except RequestError as error:
                    done.failed.append(str(error))
            found = detector.detect([image for *_, image in read])
            for (image_id, file, _), each in zip(read, found, strict=True):
                rows = _rows(image_id, pictures.names[file], each, detector)
                done.rows += rows
                done.images += 1
                pictures.write(image_id, file, _boxes(rows, each), detector.classes)
            bar.update(len(batch))
    finally:
        bar.close()


def _boxes(rows: Sequence[dict[str, Any]], found: Prediction) -> Any:
    """Detections to be drawn, as they are written."""
    from detector.report.draw import Boxes

    corners = np.array([[r[c] for c in ("x1", "y1", "x2", "y2")] for r in rows])
    return Boxes(corners.reshape(-1, 4), found.labels, np.array([r["score"] for r in rows]))


def _rows(image_id: int, name: Path, found: Prediction, detector: Detector) -> list[dict[str, Any]]:
    """The detections of one image as rows of the CSV file."""
    rows = []
    columns = found.boxes.tolist(), found.labels.tolist(), found.scores.tolist()
    for box, label, score in zip(*columns, strict=True):
        corners = dict(zip(("x1", "y1", "x2", "y2"), (round(v, 2) for v in box), strict=True))
        rows.append(
            {
                "image_id": image_id,
                "file_name": str(name),
                "category_id": detector.class_map.category_id(label),
                "category": detector.class_map.name(label),
                "score": round(score, 5),
                **corners,
            }
        )
    return rows


def _write(folder: RunFolder, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write both files; return the content of predictions.json."""
    coco = [
        {
            "image_id": r["image_id"],
            "category_id": r["category_id"],
            "bbox": [r["x1"], r["y1"], round(r["x2"] - r["x1"], 2), round(r["y2"] - r["y1"], 2)],
            "score": r["score"],
            "file_name": r["file_name"],
            "category": r["category"],
        }
        for r in rows
    ]
    write_json(folder.predictions_json, coco)
    write_csv(folder.predictions_csv, COLUMNS, rows)
    return coco


def _describe(done: _Done, source: Path, pictures: Any, folder: RunFolder) -> None:
    """Log what was done, and what could not be."""
    for line in done.failed:
        log.warning("not read: %s", line)
    if source.is_dir() and (unread := load_data.unread_pictures(Folder(source, "source"))):
        log.warning("passed over: %s", unread)
    for line in pictures.failed:
        log.warning("not drawn: %s", line)
    count = done.images
    log.info("%d detections in %d image%s", len(done.rows), count, "s" * (count != 1))
    log.info("annotated images: %s", pictures.folder)
    log.info("predictions: %s", folder.predictions_json)


if __name__ == "__main__":
    from detector.cli import run_command

    run_command("predict")
