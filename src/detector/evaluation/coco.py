"""COCO's twelve scores (https://cocodataset.org/#detection-eval), computed by hotcoco.

hotcoco gives the same numbers as pycocotools, to the last bit, in a fraction of the time. Only this
module imports it; `reference.py` has pycocotools, which the final scores of a run are checked with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

from detector.evaluation.arrays import Detections, GroundTruth, Scores, xywh
from detector.evaluation.matching import Matches

PROTOCOL = (
    "COCO: AP over IoU 0.50:0.95, 101 recall points, at most 100 detections per image, "
    "areas of {areas} in original pixels; ignored truth is matched as crowd"
)
TITLES = {
    "map": "mAP, IoU 0.50 to 0.95",
    "map_50": "AP50",
    "map_75": "AP75",
    "map_small": "mAP, small boxes",
    "map_medium": "mAP, medium boxes",
    "map_large": "mAP, large boxes",
    "mar_1": "AR, 1 detection per image",
    "mar_10": "AR, 10 detections per image",
    "mar_100": "AR, 100 detections per image",
    "mar_small": "AR, small boxes",
    "mar_medium": "AR, medium boxes",
    "mar_large": "AR, large boxes",
}
NAMES = tuple(TITLES)

ERRORS = {  # name in hotcoco -> our name and its meaning
    "Cls": ("classification", "right place, wrong class"),
    "Loc": ("localisation", "right class, badly placed (IoU 0.1 to 0.5)"),
    "Both": ("both", "wrong class and badly placed"),
    "Dupe": ("duplicate", "a second detection of the same object"),
    "Bkg": ("background", "no object is there"),
    "Miss": ("missed", "no detection on it, not even badly placed or of a wrong class"),
}


def protocol(ground_truth: GroundTruth) -> str:
    """How scores against this ground truth are computed, in one line."""
    return PROTOCOL.format(areas="boxes" if ground_truth.areas is None else "the truth's file")


def coco_scores(detections: Detections, ground_truth: GroundTruth, classes: int) -> Scores:
    """Score detections.

    Args:
        detections: Any number of detections, in any order, on the images of the ground truth.
        ground_truth: The ground truth; without a box that is not ignored every score is NaN.
        classes: Number of classes, K.

    Returns:
        The twelve scores by name, and `ap` and `ap_50` of each class: fractions in 0..1, NaN where
        there is no ground truth.
    """
    return scores(evaluated(detections, ground_truth, classes))


def evaluated(detections: Detections, ground_truth: GroundTruth, classes: int) -> COCOeval:
    """Match detections with ground truth, for `scores` and `calibration`.

    Args:
        detections: Any number of detections, in any order, on the images of the ground truth.
        ground_truth: The ground truth.
        classes: Number of classes, K.
    """
    evaluation = _evaluator(detections, ground_truth, classes)
    evaluation.evaluate()
    return evaluation


def scores(evaluation: COCOeval) -> Scores:
    """Scores as `coco_scores` returns them, of an evaluation from `evaluated`."""
    evaluation.accumulate()
    evaluation.summary_lines()  # `summarize` would print the scores
    arrays = evaluation.eval
    assert arrays is not None
    return named(evaluation.stats, arrays["precision"])


def calibration(evaluation: COCOeval, bins: int = 10) -> dict[str, Any]:
    """Calibration: how far the scores of detections are from their precision, at IoU 0.5.

    D-ECE is the mean difference of the two over the bins, weighted by the number of detections
    (Kueppers et al. 2020, https://arxiv.org/abs/2004.13546, by score alone). All detections that
    count and are not matched with ignored boxes are in it, so it depends on the lowest score kept.

    Args:
        evaluation: An evaluation from `evaluated`.
        bins: Number of equal bins of 0..1; a bin includes its lower limit, the last also 1.

    Returns:
        `d_ece`, NaN without detections, and `bins`: `low`, `high`, `count`, mean score
        (`confidence`) and `precision`, the latter two NaN in an empty bin.
    """
    found = evaluation.calibration(n_bins=bins, iou_threshold=0.5)
    nan = float("nan")
    return {
        "d_ece": found["ece"] if found["num_detections"] else nan,
        "bins": [
            {
                "low": one["bin_lower"],
                "high": one["bin_upper"],
                "confidence": one["avg_confidence"] if one["count"] else nan,
                "precision": one["avg_accuracy"] if one["count"] else nan,
                "count": one["count"],
            }
            for one in found["bins"]
        ],
    }


def tide(matches: Matches, classes: int) -> dict[str, Any]:
    """Types of error, and how much AP50 would rise if all errors of one type were corrected.

    Bolya et al. 2020, https://arxiv.org/abs/2008.08115, as their program tidecv computes it. To
    correct means: a detection of the wrong class or badly placed becomes a true positive if it is
    the best for a box that was not found, and is removed otherwise; other false positives are
    removed; missed boxes are removed from the ground truth. So the missed boxes of a class without
    any true positive cost nothing.

    hotcoco takes an overlap with an ignored box for bad placement. Ignored boxes, and detections
    matched with them, are therefore left out first.

    Args:
        matches: Matches of a split.
        classes: Number of classes, K.

    Returns:
        `ap_50`, the mean over the classes with ground truth, and `types`: `name`, `count`, `cost`
        (of AP50, 0..1) and `meaning` in the order of `ERRORS`. Without ground truth AP50 and costs
        are NaN.
    """
    ground_truth = _chosen(matches.ground_truth, ~matches.ground_truth.ignore)
    counting = matches.rows[~matches.ignored()[0]]
    found = evaluated(_chosen(matches.detections, counting), ground_truth, classes).tide_errors()
    undefined = 0.0 if len(ground_truth.labels) else float("nan")
    types = [
        {
            "name": name,
            "count": found["counts"][key],
            # Interpolation at 101 recalls can lower AP a little though no precision fell.
            "cost": max(found["delta_ap"][key], 0.0) + undefined,
            "meaning": meaning,
        }
        for key, (name, meaning) in ERRORS.items()
    ]
    return {"ap_50": found["ap_base"] + undefined, "types": types}


def confusion(matches: Matches, kept: NDArray[np.bool_], classes: int) -> NDArray[np.int64]:
    """Confusion matrix at IoU 0.5.

    The true positives are those of the matching, so that the diagonal agrees with recall and
    precision. The remaining detections are matched in descending order of scores, whatever their
    class. Ignored boxes, and detections matched with them, do not count.

    Args:
        matches: Matches of a split.
        kept: `(M,)` bool, the detections to count.
        classes: Number of classes, K.

    Returns:
        `(K + 1, K + 1)` int64: rows are ground truth, columns detections; the last row and column
        are background.
    """
    right, ignored = matches.right()[0], matches.ignored()[0]
    missed = ~matches.ground_truth.ignore
    missed[matches.matched[0, right & kept]] = False
    rest = matches.rows[kept & ~right & ~ignored]
    evaluator = _evaluator(
        _chosen(matches.detections, rest), _chosen(matches.ground_truth, missed), classes
    )
    found = evaluator.confusion_matrix(iou_thr=0.5, max_det=len(rest) + 1)
    matrix: NDArray[np.int64] = found["matrix"].astype(np.int64)
    hits = np.bincount(matches.labels[right & kept] - 1, minlength=classes + 1)
    return matrix + np.diag(hits)


Rows = TypeVar("Rows", Detections, GroundTruth)


def _chosen(rows: Rows, which: NDArray[np.int64] | NDArray[np.bool_]) -> Rows:
    """Some of the boxes; all images are kept."""
    columns: dict[str, Any] = {
        field.name: None if (column := getattr(rows, field.name)) is None else column[which]
        for field in fields(rows)
        if field.name != "images"
    }
    return replace(rows, **columns)


def _evaluator(detections: Detections, ground_truth: GroundTruth, classes: int) -> COCOeval:
    """An evaluation by hotcoco, before anything is computed."""
    gt = COCO.from_arrays(
        [{"id": image} for image in ground_truth.images.tolist()],
        [{"id": label, "name": str(label)} for label in range(1, classes + 1)],
        ground_truth.image,
        ground_truth.labels,
        xywh(ground_truth),
        area=ground_truth.areas,
        iscrowd=ground_truth.ignore,
    )
    rows = (detections.image, xywh(detections), detections.scores, detections.labels)
    return COCOeval(gt, gt.load_res(np.column_stack(rows)), "bbox")


def named(stats: Sequence[float] | NDArray[np.float64], precision: NDArray[np.float64]) -> Scores:
    """Scores as `coco_scores` returns them, from an evaluation in pycocotools' form.

    Args:
        stats: `(12,)` scores in the order of `NAMES`, -1 where undefined.
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
