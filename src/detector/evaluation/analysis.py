"""Analysis of a scored split beyond its scores, as plain data for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.evaluation import coco
from detector.evaluation.breakdown import aspects, kept_at, sizes
from detector.evaluation.curves import (
    GRID,
    Curve,
    best_threshold,
    curves,
    recall_precision,
    together,
)
from detector.evaluation.label_errors import LabelError, label_errors
from detector.evaluation.matching import RECALLS, Matches
from detector.evaluation.ranking import by_image, gallery

BEST = "the score threshold of best F1 of each class, chosen on"
GIVEN = "score thresholds chosen elsewhere"


def analyse(
    matches: Matches,
    names: Sequence[str],
    thresholds: Sequence[float] | None = None,
    *,
    threshold_source: str | None = None,
    pictures: int = 100,
    listed: int = 200,
) -> dict[str, Any]:
    """Analyse a split at IoU 0.5.

    Args:
        matches: Matches of the split, with scores in 0..1.
        names: Class names in the order of their labels.
        thresholds: `(K,)` score thresholds; None: those of the highest F1 on this split, at which
            precision and recall are better than on other images.
        threshold_source: Where the thresholds come from, as a phrase.
        pictures: Largest number of images of the gallery.
        listed: Largest number of suspected label errors.

    Returns:
        Python numbers, strings, lists and dicts; NaN where undefined. `per_class`, `curves`,
        `recall_precision`, `sizes`, `aspects`, `operating_point` (where the thresholds come from),
        `confusion`, `errors`, `calibration`, `suspects` (suspected label errors),
        `suspects_total` (their number, listed or not) and `gallery`, in the order of the class
        names or of the function that computes it. `detections` counts all detections of a class,
        but by size and shape only those that reach the threshold.
    """
    classes = len(names)
    each = curves(matches, classes)
    if threshold_source is None:
        threshold_source = f"{BEST} this very split" if thresholds is None else GIVEN
    if thresholds is None:
        thresholds = [best_threshold(curve) for curve in each]
    kept = kept_at(matches, thresholds)
    found = label_errors(matches, kept, classes)
    total, found = len(found), found[:listed]
    return {
        "per_class": _per_class(matches, names, each, thresholds, kept),
        "curves": {
            "thresholds": GRID.tolist(),
            "all": _lines(together(each)),
            "classes": {name: _lines(curve) for name, curve in zip(names, each, strict=True)},
        },
        "recall_precision": {
            "recall": RECALLS.tolist(),
            "classes": dict(zip(names, recall_precision(matches, classes).tolist(), strict=True)),
        },
        "sizes": sizes(matches, kept),
        "aspects": aspects(matches, kept),
        "operating_point": threshold_source,
        "confusion": {
            "iou": 0.5,
            "labels": [*names, "background"],
            "matrix": coco.confusion(matches, kept, classes).tolist(),
        },
        "errors": coco.tide(matches, classes),
        "calibration": coco.calibration(
            coco.evaluated(matches.detections, matches.ground_truth, classes)
        ),
        "suspects": [_label_error(one, names) for one in found],
        "suspects_total": total,
        "gallery": [
            {**asdict(choice), "reasons": list(choice.reasons)}
            for choice in gallery(by_image(matches, kept), (one.image for one in found), pictures)
        ],
    }


def _per_class(
    matches: Matches,
    names: Sequence[str],
    each: Sequence[Curve],
    thresholds: Sequence[float],
    kept: NDArray[np.bool_],
) -> dict[str, dict[str, Any]]:
    """Counts of every class, and precision, recall and F1 at its threshold, not the grid's."""
    right = matches.right()[0] & kept
    wrong = kept & ~matches.right()[0] & ~matches.ignored()[0]
    size = len(names) + 1
    hits, false = (np.bincount(matches.labels[x], minlength=size).tolist() for x in (right, wrong))
    detections = np.bincount(matches.detections.labels, minlength=size).tolist()
    rows = {}
    for k, (name, curve, threshold) in enumerate(zip(names, each, thresholds, strict=True), 1):
        rows[name] = {
            "truths": curve.positives,
            "detections": detections[k],
            "threshold": float(threshold),
            "precision": _share(hits[k], hits[k] + false[k]),
            "recall": _share(hits[k], curve.positives),
            "f1": _share(2 * hits[k], hits[k] + false[k] + curve.positives)
            if curve.positives
            else math.nan,
        }
    return rows


def _share(part: int, whole: int) -> float:
    """`part / whole`, NaN where `whole` is 0."""
    return part / whole if whole else math.nan


def _lines(curve: Curve) -> dict[str, list[float]]:
    """Values of a curve over the grid; NaN for a class without ground truth."""
    lines = {"precision": curve.precision, "recall": curve.recall, "f1": curve.f1}
    nothing = [math.nan] * len(GRID)
    return {key: line.tolist() if curve.positives else nothing for key, line in lines.items()}


def _label_error(one: LabelError, names: Sequence[str]) -> dict[str, Any]:
    """A suspected label error as plain data; `truth` is the labelled class if it is another."""
    row = {
        "kind": one.kind,
        "image": one.image,
        "class": names[one.label - 1],
        "suspicion": one.score,
        "box": list(one.box),
    }
    return row if one.labelled is None else {**row, "truth": names[one.labelled - 1]}
