"""COCO's twelve numbers (https://cocodataset.org/#detection-eval), by hotcoco.

hotcoco computes what pycocotools does, to the last bit, in a fraction of the time. It is imported
here alone; `reference.py` has pycocotools, which a run's final scores are checked against.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

from detector.evaluation.arrays import Detections, Truth, xywh

PROTOCOL = (
    "COCO: AP over IoU 0.50:0.95, 101 recall points, at most 100 detections an image, "
    "areas of {areas} in original pixels; ignored truth is matched as crowd"
)
NAMES = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)

Scores = tuple[dict[str, float], list[dict[str, float]]]


def protocol(truth: Truth) -> str:
    """How numbers on this truth are computed, in one line."""
    return PROTOCOL.format(areas="boxes" if truth.areas is None else "the truth's file")


def coco_scores(detections: Detections, truth: Truth, classes: int) -> Scores:
    """Score detections.

    Args:
        detections: Any number, in any order, of the truth's images.
        truth: At least one box that is not ignored, else every number is undefined.
        classes: Number of classes, K.

    Returns:
        The twelve numbers by name, and for each class its `ap` and `ap_50`: fractions in 0..1, NaN
        where there is no truth to find.
    """
    gt = COCO.from_arrays(
        [{"id": image} for image in truth.images.tolist()],
        [{"id": label, "name": str(label)} for label in range(1, classes + 1)],
        truth.image,
        truth.labels,
        xywh(truth),
        area=truth.areas,
        iscrowd=truth.ignore,
    )
    rows = (detections.image, xywh(detections), detections.scores, detections.labels)
    evaluation = COCOeval(gt, gt.load_res(np.column_stack(rows)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # `summarize` would print them
    arrays = evaluation.eval
    assert arrays is not None
    return named(evaluation.stats, arrays["precision"])


def named(stats: Sequence[float] | NDArray[np.float64], precision: NDArray[np.float64]) -> Scores:
    """What `coco_scores` returns, from an evaluation in pycocotools' form.

    Args:
        stats: `(12,)`, in the order of `NAMES`; -1 where undefined.
        precision: `(10, 101, K, 4, 3)`: IoU thresholds, recalls, classes, areas, detections.
    """
    scores = {name: _defined(value) for name, value in zip(NAMES, stats, strict=True)}
    overall = precision[:, :, :, 0, -1]  # all areas, 100 detections
    per_class = [
        {
            "ap": _defined(overall[:, :, k].mean()),
            "ap_50": _defined(overall[0, :, k].mean()),
        }
        for k in range(overall.shape[2])
    ]
    return scores, per_class


def _defined(value: float) -> float:
    """The value, or NaN for -1."""
    return float("nan") if value < 0 else float(value)
