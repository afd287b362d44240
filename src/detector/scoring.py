"""Detect on a split, score, and write and show what came out; shared by train and evaluate."""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from detector import __version__
from detector.config import Config
from detector.output import log_table, write_json
from detector.predictions import write_detections
from detector.types import AnnotatedImages, ClassMap, RequestError

if TYPE_CHECKING:
    from detector.data.datamodule import DetectionDataModule
    from detector.data.read import DataSet
    from detector.evaluation.arrays import Detections, Truth
    from detector.evaluation.coco import Scores
    from detector.task import DetectionTask

log = logging.getLogger(__name__)

# Of each split, so many images go into the picture of detections.
PICTURED = 6
# Scores further from pycocotools' than rounding explains are wrong.
TOLERANCE = 1e-9


def score(
    config: Config,
    task: DetectionTask,
    data: DetectionDataModule,
    split: str,
    folder: Path,
    train_seconds: float | None = None,
    written_for: DataSet | None = None,
) -> dict[str, float]:
    """Evaluate a network on a split; write and show what came out, as `score_arrays` does.

    Args:
        config: The run's.
        task: With the weights to evaluate.
        data: Has the split.
        split: `train`, `val` or `test`.
        folder: Where the files go.
        train_seconds: For the record.
        written_for: The data set. Where it is given, `detections.json` is written too, with its
            paths and category ids.

    Returns:
        COCO's twelve numbers and VOC's two, as `voc_<name>`; fractions in 0..1.

    Raises:
        RuntimeError: If images are missing, or a number is not pycocotools'; nothing is written.
    """
    from detector.build import build_trainer
    from detector.evaluation.voc import voc_scores

    trainer = build_trainer(config, folder)
    started = time.perf_counter()
    trainer.test(task, data.loader(split, training=False), verbose=False)
    seconds = {"train": train_seconds, "evaluate": round(time.perf_counter() - started, 2)}
    evaluation = task.metric.evaluation
    assert evaluation is not None
    detections, truth, images = evaluation.detections, evaluation.truth, data.splits[split]
    seen, expected = len(truth.images), len(images)
    limit = config.trainer.limit_test_batches
    if isinstance(limit, float) and limit == 1.0 and seen != expected:
        raise RuntimeError(f"{seen} images were evaluated, but the split has {expected}")
    if not trainer.is_global_zero:
        voc, _ = voc_scores(detections, truth, len(task.classes))
        return {**evaluation.coco, **{f"voc_{name}": value for name, value in voc.items()}}
    if written_for is not None:
        file = folder / "detections.json"
        write_detections(file, detections, images, written_for.classes, written_for.root)
        log.info("detections: %s", file)
    return score_arrays(
        config, detections, truth, task.classes, images, split, folder, evaluation.coco, seconds
    )


def score_arrays(
    config: Config,
    detections: Detections,
    truth: Truth,
    classes: ClassMap,
    images: AnnotatedImages,
    split: str,
    folder: Path,
    coco: dict[str, float] | None = None,
    seconds: dict[str, float | None] | None = None,
) -> dict[str, float]:
    """Score detections; write `metrics.json` and `detections.png`; print the summary.

    COCO's numbers are computed once more by pycocotools, and those are what is written.

    Args:
        config: The run's.
        detections: Of any origin.
        truth: Image ids are places in `images`.
        classes: Of both.
        images: Of the truth; those whose path is empty are not pictured.
        split: What to call it.
        folder: Where the files go.
        coco: What `coco_scores` gives; None: computed here.
        seconds: For the record: `train` and `evaluate`.

    Returns:
        COCO's twelve numbers and VOC's two, as `voc_<name>`; fractions in 0..1.

    Raises:
        RuntimeError: If a number is not pycocotools'; nothing is written.
    """
    from detector.evaluation.coco import coco_scores, protocol
    from detector.evaluation.voc import PROTOCOL as VOC_PROTOCOL
    from detector.evaluation.voc import voc_scores

    started = time.perf_counter()
    voc, voc_classes = voc_scores(detections, truth, len(classes))
    ours = coco_scores(detections, truth, len(classes))[0] if coco is None else coco
    checked, coco_classes = _checked(ours, detections, truth, len(classes))
    per_class = {
        name: {**a, **b}
        for name, a, b in zip(classes.names, coco_classes, voc_classes, strict=True)
    }
    picture = _draw(images, detections, truth, classes, config.score_threshold, folder)
    elapsed = round(time.perf_counter() - started, 2)
    content = {
        "split": split,
        "images": len(truth.images),
        "protocol": {"coco": protocol(truth), "voc": VOC_PROTOCOL},
        "coco": checked,
        "voc": voc,
        "per_class": per_class,
        "seconds": seconds or {"train": None, "evaluate": elapsed},
        "environment": environment(),
    }
    file = folder / "metrics.json"
    write_json(file, content)
    _print_summary(split, content, per_class)
    if picture is not None:
        log.info("picture of detections: %s", picture)
    log.info("metrics: %s", file)
    return {**checked, **{f"voc_{name}": value for name, value in voc.items()}}


def _checked(ours: dict[str, float], detections: Detections, truth: Truth, classes: int) -> Scores:
    """The same detections' scores by pycocotools; RuntimeError if a number is another."""
    from detector.evaluation import reference

    expected = reference.pycocotools_scores(detections, truth, classes)
    for name, value in expected[0].items():
        same = math.isclose(ours[name], value, rel_tol=0, abs_tol=TOLERANCE)
        if not same and not (math.isnan(ours[name]) and math.isnan(value)):
            raise RuntimeError(
                f"{name} is {ours[name]!r}, but {value!r} by pycocotools; no metrics were written"
            )
    return expected


def _draw(
    images: AnnotatedImages,
    detections: Detections,
    truth: Truth,
    classes: ClassMap,
    threshold: float,
    folder: Path,
) -> Path | None:
    """A picture of some images, truth beside detections; None where no image is known."""
    from detector.data.images import read_image
    from detector.report.draw import Boxes, Panel, draw_sheet

    seen = truth.images[images.paths[truth.images] != ""]
    if not len(seen):
        return None
    chosen = seen[np.linspace(0, len(seen) - 1, min(PICTURED, len(seen))).round().astype(int)]
    panels = []
    for index in chosen.tolist():
        image = images[index]
        rows = (detections.image == index) & (detections.scores >= threshold)
        found = Boxes(detections.boxes[rows], detections.labels[rows], detections.scores[rows])
        there = Boxes(image.boxes, image.labels, ignore=image.ignore)
        try:
            panels.append(Panel(image.path.name, read_image(image.path), there, found))
        except RequestError as error:  # beside a truth, where nothing but pictures needs it
            log.warning("not pictured: %s", error)
    if not panels:
        return None
    file = folder / "detections.png"
    draw_sheet(panels, classes.names, threshold, file)
    return file


def _print_summary(
    split: str, content: dict[str, Any], per_class: dict[str, dict[str, float]]
) -> None:
    """One table on the terminal."""
    table = Table(title=f"{split}: {content['images']} images, percent", title_justify="left")
    for heading in ("", "COCO AP", "AP50", "VOC AP50", "VOC07 AP50"):
        table.add_column(heading, justify="left" if not heading else "right")
    names = ("ap", "ap_50", "voc_ap_50", "voc_ap_50_11point")
    for name, row in list(per_class.items())[:40]:
        table.add_row(name, *(_percent(row[key]) for key in names))
    table.add_section()
    coco, voc = content["coco"], content["voc"]
    means = (coco["map"], coco["map_50"], voc["ap_50"], voc["ap_50_11point"])
    table.add_row("all", *(_percent(value) for value in means))
    log_table(table, width=100)


def _percent(value: float) -> str:
    """A fraction as a percentage."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def environment() -> dict[str, Any]:
    """What the numbers were made with."""
    packages = ("torch", "torchvision", "lightning", "hotcoco", "pycocotools", "albumentations")
    return {
        "detector": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        **{name: metadata.version(name) for name in packages},
    }
