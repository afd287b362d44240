"""COCO's twelve numbers, by pycocotools (https://cocodataset.org/#detection-eval)."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.evaluation.arrays import Detections, Truth

PROTOCOL = (
    "COCO: AP over IoU 0.50:0.95, 101 recall points, at most 100 detections an image, "
    "areas of boxes in original pixels; ignored truth is matched as crowd"
)
NAMES = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)


def coco_scores(
    detections: Detections, truth: Truth, classes: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Score detections.

    Args:
        detections: Any number, in any order.
        truth: At least one box that is not ignored, else every number is undefined.
        classes: Number of classes, K.

    Returns:
        The twelve numbers by name, and for each class its `ap` and `ap_50`: fractions in 0..1, NaN
        where there is no truth to find (pycocotools says -1).
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        gt = COCO()
        gt.dataset = {
            "images": [{"id": int(i)} for i in truth.images],
            "categories": [{"id": k} for k in range(1, classes + 1)],
            "annotations": _annotations(truth.image, truth.boxes, truth.labels, truth.ignore),
        }
        gt.createIndex()
        found = COCO()
        found.dataset = {
            "images": gt.dataset["images"],
            "categories": gt.dataset["categories"],
            "annotations": _annotations(
                detections.image, detections.boxes, detections.labels, scores=detections.scores
            ),
        }
        found.createIndex()
        evaluation = COCOeval(gt, found, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = {
        name: _defined(value) for name, value in zip(NAMES, evaluation.stats.tolist(), strict=True)
    }
    # (IoU thresholds, recalls, classes, areas, detections): all areas, 100 detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = [
        {
            "ap": _defined(float(precision[:, :, k].mean())),
            "ap_50": _defined(float(precision[0, :, k].mean())),
        }
        for k in range(classes)
    ]
    return scores, per_class


def _annotations(
    image: NDArray[np.int64],
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    ignore: NDArray[np.bool_] | None = None,
    scores: NDArray[np.float64] | None = None,
) -> list[dict[str, object]]:
    """Boxes as COCO annotations."""
    sides = boxes[:, 2:] - boxes[:, :2]
    bbox = np.concatenate((boxes[:, :2], sides), 1).tolist()
    area = sides.prod(1).tolist()
    rows: list[dict[str, object]] = [
        {"id": i + 1, "image_id": im, "category_id": c, "bbox": b, "area": a, "iscrowd": 0}
        for i, (im, c, b, a) in enumerate(
            zip(image.tolist(), labels.tolist(), bbox, area, strict=True)
        )
    ]
    for row, crowd in zip(rows, ignore.tolist() if ignore is not None else (), strict=False):
        row["iscrowd"] = int(crowd)
    for row, score in zip(rows, scores.tolist() if scores is not None else (), strict=False):
        row["score"] = score
    return rows


def _defined(value: float) -> float:
    """The value, or NaN for pycocotools' -1."""
    return float("nan") if value < 0 else value
