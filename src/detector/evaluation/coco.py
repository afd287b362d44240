"""COCO's twelve numbers (https://cocodataset.org/#detection-eval), by hotcoco.

hotcoco computes what pycocotools does, to the last bit, in a fraction of the time. It is imported
here alone; `reference.py` has pycocotools, which a run's final scores are checked against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

from detector.evaluation.arrays import Detections, Truth, xywh
from detector.evaluation.matching import Matches

PROTOCOL = (
    "COCO: AP over IoU 0.50:0.95, 101 recall points, at most 100 detections per image, "
    "areas of {areas} in original pixels; ignored truth is matched as crowd"
)
NAMES = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)

ERRORS = {  # hotcoco's names; ours, and what they mean
    "Cls": ("classification", "right place, wrong class"),
    "Loc": ("localisation", "right class, badly placed (IoU 0.1 to 0.5)"),
    "Both": ("both", "wrong class and badly placed"),
    "Dupe": ("duplicate", "a second detection of the same object"),
    "Bkg": ("background", "no object is there"),
    "Miss": ("missed", "no detection on it, not even badly placed or of a wrong class"),
}

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
    return scores(evaluated(detections, truth, classes))


def evaluated(detections: Detections, truth: Truth, classes: int) -> COCOeval:
    """Match detections with truth; `scores` and `calibration` take what comes back.

    Args:
        detections: Any number, in any order, of the truth's images.
        truth: The truth.
        classes: Number of classes, K.
    """
    evaluation = _evaluator(detections, truth, classes)
    evaluation.evaluate()
    return evaluation


def scores(evaluation: COCOeval) -> Scores:
    """What `coco_scores` returns, of what `evaluated` returned."""
    evaluation.accumulate()
    evaluation.summary_lines()  # `summarize` would print them
    arrays = evaluation.eval
    assert arrays is not None
    return named(evaluation.stats, arrays["precision"])


def calibration(evaluation: COCOeval, bins: int = 10) -> dict[str, Any]:
    """How far scores are from the share of detections that are right, at IoU 0.5.

    D-ECE is the mean distance of the two over the bins, weighted by their detections (Kueppers et
    al. 2020, https://arxiv.org/abs/2004.13546, by score alone). All detections that count and are
    not matched with ignored truth are in it, so it depends on the lowest score that is kept.

    Args:
        evaluation: From `evaluated`.
        bins: How many equal bins 0..1 is cut into; a bin has its lower end, the last also 1.

    Returns:
        `d_ece`, NaN without detections, and `bins`: `low`, `high`, `count`, and the mean score
        (`confidence`) and the share that is right (`precision`), NaN in an empty bin.
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
    """Sort the errors into kinds, and say what AP50 would gain without those of each kind.

    Bolya et al. 2020, https://arxiv.org/abs/2008.08115, as their program tidecv has it. Without:
    what is of the wrong class or badly placed becomes a hit of its truth, if it is the best for it
    and the truth was not found, and else goes; other wrong detections go; what is missed need not
    be found. So a class without any hit costs nothing as missed: there is no precision to keep.

    hotcoco takes overlap with ignored truth for bad placing. Ignored truth, and what is matched
    with it, is therefore left out before.

    Args:
        matches: Of a split.
        classes: Number of classes, K.

    Returns:
        `ap_50`, the mean over the classes with truth, and `types`: `name`, `count`, `cost` (of
        AP50, 0..1) and `meaning` in the order of `ERRORS`. Without truth AP50 and costs are NaN.
    """
    truth = _chosen(matches.truth, ~matches.truth.ignore)
    counting = matches.rows[~matches.ignored()[0]]
    found = evaluated(_chosen(matches.detections, counting), truth, classes).tide_errors()
    undefined = 0.0 if len(truth.labels) else float("nan")
    types = [
        {
            "name": name,
            "count": found["counts"][key],
            # Interpolation at 101 recalls can lose a little where nothing got worse.
            "cost": max(found["delta_ap"][key], 0.0) + undefined,
            "meaning": meaning,
        }
        for key, (name, meaning) in ERRORS.items()
    ]
    return {"ap_50": found["ap_base"] + undefined, "types": types}


def confusion(matches: Matches, kept: NDArray[np.bool_], classes: int) -> NDArray[np.int64]:
    """Count which class was found where which class is, at IoU 0.5.

    Hits are those of the matching, so that the diagonal agrees with recall and precision. Of what
    is left, best scores choose first, whatever their class. Ignored truth, and what is matched
    with it, is not in it.

    Args:
        matches: Of a split.
        kept: `(M,)`, the detections to count.
        classes: Number of classes, K.

    Returns:
        `(K + 1, K + 1)`: rows are truth, columns detections, the last of both is background.
    """
    right, ignored = matches.right()[0], matches.ignored()[0]
    unfound = ~matches.truth.ignore
    unfound[matches.found[0, right & kept]] = False
    rest = matches.rows[kept & ~right & ~ignored]
    evaluator = _evaluator(
        _chosen(matches.detections, rest), _chosen(matches.truth, unfound), classes
    )
    found = evaluator.confusion_matrix(iou_thr=0.5, max_det=len(rest) + 1)
    matrix: NDArray[np.int64] = found["matrix"].astype(np.int64)
    hits = np.bincount(matches.labels[right & kept] - 1, minlength=classes + 1)
    return matrix + np.diag(hits)


Rows = TypeVar("Rows", Detections, Truth)


def _chosen(rows: Rows, which: NDArray[np.int64] | NDArray[np.bool_]) -> Rows:
    """Some of the boxes; all images stay."""
    columns: dict[str, Any] = {
        field.name: None if (column := getattr(rows, field.name)) is None else column[which]
        for field in fields(rows)
        if field.name != "images"
    }
    return replace(rows, **columns)


def _evaluator(detections: Detections, truth: Truth, classes: int) -> COCOeval:
    """An evaluation of hotcoco's, before anything is computed."""
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
    return COCOeval(gt, gt.load_res(np.column_stack(rows)), "bbox")


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
