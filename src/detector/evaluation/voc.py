"""PASCAL VOC average precision, in both of the development kit's forms.

VOC 2007 averages the precision at 11 recalls; from 2010 on it is the area under the curve.
Difficult objects count neither for nor against, and a second detection of one object is wrong.
Source: VOCevaldet.m and VOCap.m of the development kit.

The kit adds 1 to every width and height because its corners are inclusive. Ours are half-open, so
that their differences are these very widths and heights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core import boxes as box_ops
from detector.evaluation.arrays import Detections, Truth

PROTOCOL = "PASCAL VOC: IoU >= 0.5 of boxes in whole pixels, difficult ignored, mean over classes"


def voc_scores(
    detections: Detections, truth: Truth, classes: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Score detections.

    Args:
        detections: Any number, in any order.
        truth: The truth.
        classes: Number of classes, K.

    Returns:
        `ap_50_11point` and `ap_50`, as means over the classes that have truth, and the same for
        each class; fractions in 0..1, NaN where there is no truth to find.
    """
    per_class = []
    for label in range(1, classes + 1):
        curve = precision_recall(detections, truth, label)
        per_class.append(
            {
                "voc_ap_50_11point": average_11_points(*curve) if curve else float("nan"),
                "voc_ap_50": average_area(*curve) if curve else float("nan"),
            }
        )
    means = {}
    for name in ("ap_50_11point", "ap_50"):
        values = np.array([row[f"voc_{name}"] for row in per_class])
        defined = values[~np.isnan(values)]
        means[name] = float(defined.mean()) if len(defined) else float("nan")
    return means, per_class


def precision_recall(
    detections: Detections, truth: Truth, label: int, threshold: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The curve of one class, a point for every detection that counts, best scores first.

    Args:
        detections: All detections.
        truth: All truth.
        label: The class, 1..K.
        threshold: Lowest IoU of a hit.

    Returns:
        Recall and precision, `(P,)`; None if the class has no truth to find.
    """
    mine = np.flatnonzero(truth.labels == label)
    wanted = int((~truth.ignore[mine]).sum())
    if not wanted:
        return None
    rows = np.flatnonzero(detections.labels == label)
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    mine = mine[np.argsort(truth.image[mine], kind="stable")]
    images, first = np.unique(truth.image[mine], return_index=True)
    by_image = dict(zip(images.tolist(), np.split(mine, first[1:]), strict=True))
    taken = np.zeros(len(truth.labels), dtype=bool)
    hits: list[bool] = []
    for row, image in zip(rows.tolist(), detections.image[rows].tolist(), strict=True):
        if (candidates := by_image.get(image)) is None:
            hits.append(False)
            continue
        overlap = box_ops.iou(detections.boxes[row][None], truth.boxes[candidates])[0]
        best = int(overlap.argmax())
        if overlap[best] < threshold:
            hits.append(False)
            continue
        match = candidates[best]
        if truth.ignore[match]:
            continue
        hits.append(not taken[match])
        taken[match] = True
    true = np.cumsum(np.array(hits, dtype=np.float64))
    precision = true / np.arange(1, len(hits) + 1)
    return true / wanted, precision


def average_11_points(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """VOC 2007: the mean of the best precision at recall 0, 0.1, ..., 1 and beyond."""
    points = np.arange(11) / 10
    return float(np.mean([precision[recall >= p].max(initial=0.0) for p in points]))


def average_area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """VOC 2010 and later: the area under the curve, made falling from the right."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
