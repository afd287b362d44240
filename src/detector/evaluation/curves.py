"""Precision and recall over the score threshold, at IoU 0.5, and the choice of a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.matching import RECALLS, Matches

GRID = np.arange(201) / 200  # score thresholds: a detection with that score or more is kept
UNKNOWN = 0.5  # score threshold of a class without ground truth


@dataclass(frozen=True)
class Curve:
    """True and false positives at every threshold of `GRID`, of one class or of several.

    Attributes:
        positives: Number of ground truth boxes that are not ignored.
        right: `(G,)` int64, true positives.
        wrong: `(G,)` int64, false positives; detections matched with ignored boxes are neither.
    """

    positives: int
    right: NDArray[np.int64]
    wrong: NDArray[np.int64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """`(G,)`, precision; NaN without detections."""
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> NDArray[np.float64]:
        """`(G,)`, recall; NaN without ground truth."""
        return _share(self.right, np.full(len(GRID), self.positives))

    @property
    def f1(self) -> NDArray[np.float64]:
        """`(G,)`, F1; 0 without true positives, NaN without ground truth."""
        if not self.positives:
            return np.full(len(GRID), np.nan)
        return 2 * self.right / (self.right + self.wrong + self.positives)

    def at(self, threshold: float) -> tuple[float, float, float]:
        """Precision, recall and F1 at the nearest threshold of the grid."""
        g = int(np.abs(GRID - threshold).argmin())
        return float(self.precision[g]), float(self.recall[g]), float(self.f1[g])


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """`part / whole`, NaN where `whole` is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return part / whole


def curves(matches: Matches, classes: int) -> list[Curve]:
    """The curve of every class.

    Args:
        matches: Matches of a split.
        classes: Number of classes, K.
    """
    positives = np.bincount(
        matches.ground_truth.labels[~matches.ground_truth.ignore], minlength=classes + 1
    )
    kept = np.searchsorted(GRID, matches.scores, side="right")  # number of thresholds reached
    right = matches.right()[0]
    wrong = ~right & ~matches.ignored()[0]
    counts = []
    for which in (right, wrong):
        cells = matches.labels[which] * (len(GRID) + 1) + kept[which]
        table = np.bincount(cells, minlength=(classes + 1) * (len(GRID) + 1))
        table = table.reshape(classes + 1, len(GRID) + 1)
        counts.append(table[:, ::-1].cumsum(1)[:, ::-1][:, 1:])
    rights, wrongs = counts
    return [Curve(int(positives[k]), rights[k], wrongs[k]) for k in range(1, classes + 1)]


def together(each: Sequence[Curve]) -> Curve:
    """The curve of all classes together, with one threshold for all."""
    none = np.zeros(len(GRID), np.int64)
    return Curve(
        sum(curve.positives for curve in each),
        sum((curve.right for curve in each), none),
        sum((curve.wrong for curve in each), none),
    )


def best_threshold(curve: Curve) -> float:
    """The threshold of the highest F1; `UNKNOWN` without ground truth.

    F1 is constant between two scores, often over many thresholds. The middle of the longest range
    with the highest F1 is taken (of equal ranges the highest), so that small changes of scores on
    other images matter least. Without true positives that is 0.5.
    """
    if not curve.positives:
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
    """The threshold for a minimum precision with the highest recall, or the other way around.

    Args:
        precisions: `(G,)`, precision over `GRID`, NaN where undefined.
        recalls: `(G,)`, recall over `GRID`, NaN where undefined.
        precision: Minimum precision: the lowest threshold that reaches it; or
        recall: minimum recall: the highest threshold that reaches it.

    Returns:
        None if no threshold reaches it.
    """
    if precision is not None:
        there = np.flatnonzero(precisions >= precision)
        return float(GRID[there[0]]) if len(there) else None
    if recall is None:
        raise ValueError("expected a minimum precision or a minimum recall")
    there = np.flatnonzero(recalls >= recall)
    return float(GRID[there[-1]]) if len(there) else None


def interpolated(right: NDArray[np.bool_], positives: int) -> NDArray[np.float64]:
    """COCO's interpolated precision: the highest at recalls of at least each of `RECALLS`.

    Operations are in the order of pycocotools' `accumulate`.

    Args:
        right: `(D,)` bool, true positives among the detections of a class, highest scores first.
        positives: Number of ground truth boxes that are not ignored.

    Returns:
        `(101,)`, NaN without ground truth; the mean is the average precision.
    """
    if not positives:
        return np.full(len(RECALLS), np.nan)
    hits = np.cumsum(right, dtype=np.float64)
    precision = hits / (np.arange(1, len(hits) + 1) + np.spacing(1))
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / positives, RECALLS, side="left")
    return np.append(falling, 0.0)[np.minimum(at, len(hits))]


def recall_precision(matches: Matches, classes: int) -> NDArray[np.float64]:
    """COCO's interpolated precision of every class at IoU 0.5.

    Args:
        matches: Matches of a split.
        classes: Number of classes, K.

    Returns:
        `(K, 101)`, precision over `RECALLS`, NaN for a class without ground truth.
    """
    counts = ~matches.ignored()[0]
    labels, right = matches.labels[counts], matches.right()[0, counts]
    positives = np.bincount(
        matches.ground_truth.labels[~matches.ground_truth.ignore], minlength=classes + 1
    )
    rows = [interpolated(right[labels == k], int(positives[k])) for k in range(1, classes + 1)]
    return np.array(rows).reshape(classes, len(RECALLS))
