"""How well objects are found by their size and by their shape, at IoU 0.5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.matching import Matches

Ranges = Callable[[NDArray[np.float64]], NDArray[np.int64]]

SIDES = (16.0, 32.0, 64.0, 96.0, 192.0)  # square root of the area, pixels of the original image
SHAPES = (1 / 3, 1 / 2, 1.0, 2.0, 3.0)  # height over width
SIDE_NAMES = ("< 16", "16 to 32", "32 to 64", "64 to 96", "96 to 192", ">= 192")
SHAPE_NAMES = ("< 1:3", "1:3 to 1:2", "1:2 to 1:1", "1:1 to 2:1", "2:1 to 3:1", ">= 3:1")


def kept_at(matches: Matches, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """`(M,)`: detections that reach the score threshold of their class.

    Args:
        matches: Of a split.
        thresholds: `(K,)`, of class 1..K.
    """
    least = np.concatenate(([np.inf], np.asarray(thresholds, np.float64)))
    kept: NDArray[np.bool_] = matches.scores >= least[matches.labels]
    return kept


def sizes(matches: Matches, kept: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Recall and precision by size, the side of the square of the box's area: see `_strata`."""
    return _strata(matches, kept, size_ranges, SIDE_NAMES)


def aspects(matches: Matches, kept: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Recall and precision by shape, height to width: see `_strata`."""
    return _strata(matches, kept, _shape_ranges, SHAPE_NAMES)


def size_ranges(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """`(N,)` int64, the place in `SIDE_NAMES` for boxes `(N, 4)` xyxy; a limit is in the upper."""
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    ranges: NDArray[np.int64] = np.searchsorted(SIDES, sides, side="right")
    return ranges


def _shape_ranges(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    with np.errstate(divide="ignore", invalid="ignore"):
        ranges: NDArray[np.int64] = np.searchsorted(SHAPES, height / width, side="right")
    return ranges


def _strata(
    matches: Matches, kept: NDArray[np.bool_], ranges: Ranges, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Recall of truth in each range and precision of detections in it, each by its own box.

    Args:
        matches: Of a split.
        kept: `(M,)` detections at the operating point.
        ranges: Gives each box's place in `names`.
        names: Of the ranges.

    Returns:
        For each range `range`, `truths` (not ignored), `detections` (kept, not ignored), `recall`
        (by what is kept), `recall_any_score`, `precision`; NaN where there is nothing to divide
        by. Ranges at either end in which nothing lies are left out.
    """
    truth, right = matches.truth, matches.right()[0]
    wanted = ~truth.ignore
    found, found_kept = np.zeros((2, len(wanted)), bool)
    found[matches.found[0, right]] = True
    found_kept[matches.found[0, right & kept]] = True
    counted = kept & ~matches.ignored()[0]
    of_truth = ranges(truth.boxes)
    of_found = ranges(matches.detections.boxes[matches.rows])

    def count(which: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(which[mask], minlength=len(names))

    truths, detections = count(of_truth, wanted), count(of_found, counted)
    with np.errstate(invalid="ignore"):
        recall = count(of_truth, found_kept) / truths
        any_score = count(of_truth, found) / truths
        precision = count(of_found, right & kept) / detections
    used = np.flatnonzero(truths + detections)
    return [
        {
            "range": names[i],
            "truths": int(truths[i]),
            "detections": int(detections[i]),
            "recall": float(recall[i]),
            "recall_any_score": float(any_score[i]),
            "precision": float(precision[i]),
        }
        for i in (range(used[0], used[-1] + 1) if len(used) else ())
    ]
