"""Evaluate a task on a split, and write and show what came out; shared by train and evaluate."""

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
from detector.types import AnnotatedImages, ClassMap

if TYPE_CHECKING:
    from detector.data.datamodule import DetectionDataModule
    from detector.evaluation.coco import Scores
    from detector.evaluation.metric import Evaluation
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
) -> dict[str, float]:
    """Evaluate on a split; write `metrics.json` and `detections.png`; print the summary.

    COCO's numbers are computed once more by pycocotools, and those are what is written.

    Args:
        config: The run's.
        task: With the weights to evaluate.
        data: Has the split.
        split: `train`, `val` or `test`.
        folder: Where the files go.
        train_seconds: For the record.

    Returns:
        COCO's twelve numbers and VOC's two, as `voc_<name>`; fractions in 0..1.

    Raises:
        RuntimeError: If images are missing, or a number is not pycocotools'; nothing is written.
    """
    from detector.build import build_trainer
    from detector.evaluation.coco import PROTOCOL as COCO_PROTOCOL
    from detector.evaluation.voc import PROTOCOL as VOC_PROTOCOL
    from detector.evaluation.voc import voc_scores

    trainer = build_trainer(config, folder)
    started = time.perf_counter()
    trainer.test(task, data.loader(split, training=False), verbose=False)
    seconds = {"train": train_seconds, "evaluate": round(time.perf_counter() - started, 2)}
    evaluation = task.metric.evaluation
    assert evaluation is not None
    seen, expected = len(evaluation.truth.images), len(data.splits[split])
    limit = config.trainer.limit_test_batches
    if isinstance(limit, float) and limit == 1.0 and seen != expected:
        raise RuntimeError(f"{seen} images were evaluated, but the split has {expected}")
    voc, voc_classes = voc_scores(evaluation.detections, evaluation.truth, len(task.classes))
    voc_values = {f"voc_{name}": value for name, value in voc.items()}
    if not trainer.is_global_zero:
        return {**evaluation.coco, **voc_values}
    coco, coco_classes = _checked(evaluation, len(task.classes))
    per_class = {
        name: {**a, **b}
        for name, a, b in zip(task.classes.names, coco_classes, voc_classes, strict=True)
    }
    picture = folder / "detections.png"
    _draw(data.splits[split], evaluation, task.classes, config.score_threshold, picture)
    content = {
        "split": split,
        "images": len(evaluation.truth.images),
        "protocol": {"coco": COCO_PROTOCOL, "voc": VOC_PROTOCOL},
        "coco": coco,
        "voc": voc,
        "per_class": per_class,
        "seconds": seconds,
        "environment": environment(),
    }
    file = folder / "metrics.json"
    write_json(file, content)
    _print_summary(split, content, per_class)
    log.info("picture of detections: %s", picture)
    log.info("metrics: %s", file)
    return {**coco, **voc_values}


def _checked(evaluation: Evaluation, classes: int) -> Scores:
    """The same detections' scores by pycocotools; RuntimeError if a number is another."""
    from detector.evaluation import reference

    expected = reference.pycocotools_scores(evaluation.detections, evaluation.truth, classes)
    for name, value in expected[0].items():
        ours = evaluation.coco[name]
        same = math.isclose(ours, value, rel_tol=0, abs_tol=TOLERANCE)
        if not same and not (math.isnan(ours) and math.isnan(value)):
            raise RuntimeError(
                f"{name} is {ours!r}, but {value!r} by pycocotools; no metrics were written"
            )
    return expected


def _draw(
    images: AnnotatedImages,
    evaluation: Evaluation,
    classes: ClassMap,
    threshold: float,
    file: Path,
) -> None:
    """A picture of some images, truth beside detections."""
    from detector.data.images import read_image
    from detector.report.draw import Boxes, Panel, draw_sheet

    seen = evaluation.truth.images
    chosen = seen[np.linspace(0, len(seen) - 1, min(PICTURED, len(seen))).round().astype(int)]
    panels = []
    for index in chosen.tolist():
        truth = images[index]
        rows = evaluation.detections.image == index
        rows &= evaluation.detections.scores >= threshold
        found = Boxes(
            evaluation.detections.boxes[rows],
            evaluation.detections.labels[rows],
            scores=evaluation.detections.scores[rows],
        )
        there = Boxes(truth.boxes, truth.labels, ignore=truth.ignore)
        panels.append(Panel(truth.path.name, read_image(truth.path), there, found))
    draw_sheet(panels, classes.names, threshold, file)


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
