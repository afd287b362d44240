"""Precision and recall over the score, at IoU 0.5, and the score threshold to work at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.matching import RECALLS, Matches

GRID = np.arange(201) / 200  # score thresholds: a detection with that score or more is kept
UNKNOWN = 0.5  # the score threshold of a class that nothing is known of


@dataclass(frozen=True)
class Curve:
    """What remains at every threshold of `GRID`, of one class or of several.

    Attributes:
        truths: What is to be found.
        right: `(G,)` int64, detections that found it.
        wrong: `(G,)` int64, detections that found nothing. What is matched with ignored truth is
            neither.
    """

    truths: int
    right: NDArray[np.int64]
    wrong: NDArray[np.int64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """`(G,)`, NaN where there are no detections."""
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> NDArray[np.float64]:
        """`(G,)`, NaN if there is nothing to find."""
        return _share(self.right, np.full(len(GRID), self.truths))

    @property
    def f1(self) -> NDArray[np.float64]:
        """`(G,)`, 0 where nothing is right, NaN if there is nothing to find."""
        if not self.truths:
            return np.full(len(GRID), np.nan)
        return 2 * self.right / (self.right + self.wrong + self.truths)

    def at(self, threshold: float) -> tuple[float, float, float]:
        """Precision, recall and F1 at the grid's threshold that is nearest."""
        g = int(np.abs(GRID - threshold).argmin())
        return float(self.precision[g]), float(self.recall[g]), float(self.f1[g])


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Part of a whole, NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return part / whole


def curves(matches: Matches, classes: int) -> list[Curve]:
    """The curve of every class.

    Args:
        matches: Of a split.
        classes: Number of classes, K.
    """
    truths = np.bincount(matches.truth.labels[~matches.truth.ignore], minlength=classes + 1)
    kept = np.searchsorted(GRID, matches.scores, side="right")  # at how many thresholds
    right = matches.right()[0]
    wrong = ~right & ~matches.ignored()[0]
    counts = []
    for which in (right, wrong):
        cells = matches.labels[which] * (len(GRID) + 1) + kept[which]
        table = np.bincount(cells, minlength=(classes + 1) * (len(GRID) + 1))
        table = table.reshape(classes + 1, len(GRID) + 1)
        counts.append(table[:, ::-1].cumsum(1)[:, ::-1][:, 1:])
    rights, wrongs = counts
    return [Curve(int(truths[k]), rights[k], wrongs[k]) for k in range(1, classes + 1)]


def together(each: Sequence[Curve]) -> Curve:
    """The curve of all detections, whatever their class, at one threshold for all."""
    none = np.zeros(len(GRID), np.int64)
    return Curve(
        sum(curve.truths for curve in each),
        sum((curve.right for curve in each), none),
        sum((curve.wrong for curve in each), none),
    )


def best_threshold(curve: Curve) -> float:
    """The threshold of best F1, `UNKNOWN` without truth.

    The best value often holds between two scores that lie apart. The middle of the longest such
    stretch is taken (the highest of several): detections that score a little more or less on other
    images then still fall on the right side. Where nothing was right that is 0.5.
    """
    if not curve.truths:
        return UNKNOWN
    best = np.flatnonzero(curve.f1 == curve.f1.max())
    stretches = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(reversed(stretches), key=len)
    return float(GRID[longest[len(longest) // 2]])


def threshold_for(
    precisions: NDArray[np.float64],
    recalls: NDArray[np.float64],
    *,
    precision: float | None = None,
    recall: float | None = None,
) -> float | None:
    """The threshold that reaches a wanted precision with most recall, or the other way around.

    Args:
        precisions: `(G,)`, over `GRID`, NaN where undefined.
        recalls: `(G,)`, the same.
        precision: The lowest threshold that has at least this; or
        recall: the highest that has at least this.

    Returns:
        None if no threshold reaches it.
    """
    if precision is not None:
        there = np.flatnonzero(precisions >= precision)
        return float(GRID[there[0]]) if len(there) else None
    if recall is None:
        raise ValueError("a precision or a recall is wanted")
    there = np.flatnonzero(recalls >= recall)
    return float(GRID[there[-1]]) if len(there) else None


def interpolated(right: NDArray[np.bool_], truths: int) -> NDArray[np.float64]:
    """COCO's interpolated precision: the best at each recall of `RECALLS` and beyond.

    In the order of operations of pycocotools' `accumulate`.

    Args:
        right: `(D,)`, for the detections of a class, best scores first, whether they are right.
        truths: How many are to be found.

    Returns:
        `(101,)`, NaN if there is nothing to find; its mean is the average precision.
    """
    if not truths:
        return np.full(len(RECALLS), np.nan)
    hits = np.cumsum(right, dtype=np.float64)
    precision = hits / (np.arange(1, len(hits) + 1) + np.spacing(1))
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / truths, RECALLS, side="left")
    return np.append(falling, 0.0)[np.minimum(at, len(hits))]


def recall_precision(matches: Matches, classes: int) -> NDArray[np.float64]:
    """COCO's interpolated precision of every class at IoU 0.5.

    Args:
        matches: Of a split.
        classes: Number of classes, K.

    Returns:
        `(K, 101)` over `RECALLS`, NaN for a class with nothing to find.
    """
    counts = ~matches.ignored()[0]
    labels, right = matches.labels[counts], matches.right()[0, counts]
    truths = np.bincount(matches.truth.labels[~matches.truth.ignore], minlength=classes + 1)
    rows = [interpolated(right[labels == k], int(truths[k])) for k in range(1, classes + 1)]
    return np.array(rows).reshape(classes, len(RECALLS))
