"""Recall and precision by the size and the shape of boxes, at IoU 0.5."""

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
    """`(M,)` bool: detections that reach the score threshold of their class.

    Args:
        matches: Matches of a split.
        thresholds: `(K,)`, score thresholds of classes 1..K.
    """
    least = np.concatenate(([np.inf], np.asarray(thresholds, np.float64)))
    kept: NDArray[np.bool_] = matches.scores >= least[matches.labels]
    return kept


def sizes(matches: Matches, kept: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Recall and precision by the square root of the area; see `_breakdown`."""
    return _breakdown(matches, kept, size_ranges, SIDE_NAMES)


def aspects(matches: Matches, kept: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Recall and precision by height over width; see `_breakdown`."""
    return _breakdown(matches, kept, _shape_ranges, SHAPE_NAMES)


def size_ranges(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """`(N,)` int64, indices into `SIDE_NAMES` of boxes `(N, 4)`; a limit is in the upper range."""
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    ranges: NDArray[np.int64] = np.searchsorted(SIDES, sides, side="right")
    return ranges


def _shape_ranges(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """`(N,)` int64, indices into `SHAPE_NAMES` of boxes `(N, 4)`; a limit is in the upper range."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    with np.errstate(divide="ignore", invalid="ignore"):
        ranges: NDArray[np.int64] = np.searchsorted(SHAPES, height / width, side="right")
    return ranges


def _breakdown(
    matches: Matches, kept: NDArray[np.bool_], ranges: Ranges, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Recall of the ground truth and precision of the detections in each range.

    A detection is in the range of its own box, not in that of the box it is matched with.

    Args:
        matches: Matches of a split.
        kept: `(M,)` bool, detections that reach the score threshold of their class.
        ranges: Gives the index into `names` of each box.
        names: Names of the ranges.

    Returns:
        For each range `range`, `truths` (boxes that are not ignored), `detections` (kept and not
        ignored), `recall` (of the kept detections), `recall_any_score` and `precision`, NaN where
        the divisor is 0. Empty ranges at either end are left out.
    """
    ground_truth, right = matches.ground_truth, matches.right()[0]
    wanted = ~ground_truth.ignore
    found, found_kept = np.zeros((2, len(wanted)), bool)
    found[matches.matched[0, right]] = True
    found_kept[matches.matched[0, right & kept]] = True
    counted = kept & ~matches.ignored()[0]
    of_truth = ranges(ground_truth.boxes)
    of_found = ranges(matches.detections.boxes[matches.rows])

    def count(which: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(which[mask], minlength=len(names))

    positives, detections = count(of_truth, wanted), count(of_found, counted)
    with np.errstate(invalid="ignore"):
        recall = count(of_truth, found_kept) / positives
        any_score = count(of_truth, found) / positives
        precision = count(of_found, right & kept) / detections
    used = np.flatnonzero(positives + detections)
    return [
        {
            "range": names[i],
            "truths": int(positives[i]),
            "detections": int(detections[i]),
            "recall": float(recall[i]),
            "recall_any_score": float(any_score[i]),
            "precision": float(precision[i]),
        }
        for i in (range(used[0], used[-1] + 1) if len(used) else ())
    ]
