"""PASCAL VOC average precision, in both of the development kit's forms.

VOC 2007 averages the precision at 11 recalls; from 2010 on it is the area under the curve.
Difficult objects count neither for nor against, and a second detection of one object is wrong.
Source: VOCevaldet.m and VOCap.m of the development kit.

The kit adds 1 to every width and height because its corners are inclusive. Boxes are half-open
here, so that the differences of their corners are the same widths and heights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core import boxes as box_ops
from detector.evaluation.arrays import Detections, GroundTruth, Scores

PROTOCOL = "PASCAL VOC: IoU >= 0.5 of boxes in whole pixels, difficult ignored, mean over classes"
TITLES = {"ap_50": "AP50 (area under the curve)", "ap_50_11point": "AP50 (11 points)"}


def voc_scores(detections: Detections, ground_truth: GroundTruth, classes: int) -> Scores:
    """Score detections.

    Args:
        detections: Any number of detections, in any order.
        ground_truth: The ground truth.
        classes: Number of classes, K.

    Returns:
        `ap_50_11point` and `ap_50` as means over the classes with ground truth, and of each class
        `voc_ap_50_11point` and `voc_ap_50`; fractions in 0..1, NaN without ground truth.
    """
    per_class = []
    for label in range(1, classes + 1):
        curve = precision_recall(detections, ground_truth, label)
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
    detections: Detections, ground_truth: GroundTruth, label: int, threshold: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Recall and precision of one class over its detections, highest scores first.

    Args:
        detections: Detections of all classes.
        ground_truth: Ground truth of all classes.
        label: Label of the class, 1..K.
        threshold: Lowest IoU of a true positive.

    Returns:
        Recall and precision, `(P,)`, one value for each detection that counts; None if the class
        has no ground truth.
    """
    mine = np.flatnonzero(ground_truth.labels == label)
    wanted = int((~ground_truth.ignore[mine]).sum())
    if not wanted:
        return None
    rows = np.flatnonzero(detections.labels == label)
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    mine = mine[np.argsort(ground_truth.image[mine], kind="stable")]
    images, first = np.unique(ground_truth.image[mine], return_index=True)
    by_image = dict(zip(images.tolist(), np.split(mine, first[1:]), strict=True))
    taken = np.zeros(len(ground_truth.labels), dtype=bool)
    hits: list[bool] = []
    for row, image in zip(rows.tolist(), detections.image[rows].tolist(), strict=True):
        if (candidates := by_image.get(image)) is None:
            hits.append(False)
            continue
        overlap = box_ops.iou(detections.boxes[row][None], ground_truth.boxes[candidates])[0]
        best = int(overlap.argmax())
        if overlap[best] < threshold:
            hits.append(False)
            continue
        match = candidates[best]
        if ground_truth.ignore[match]:
            continue
        hits.append(not taken[match])
        taken[match] = True
    true = np.cumsum(np.array(hits, dtype=np.float64))
    precision = true / np.arange(1, len(hits) + 1)
    return true / wanted, precision


def average_11_points(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """VOC 2007: mean over r = 0, 0.1, ..., 1 of the highest precision at recall of at least r."""
    points = np.arange(11) / 10
    return float(np.mean([precision[recall >= p].max(initial=0.0) for p in points]))


def average_area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """VOC 2010 and later: area under the curve, with precision made monotonically decreasing."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
