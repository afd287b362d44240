"""Which detections overlap which truth, of any class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.arrays import Detections, Truth, xywh
from detector.evaluation.matching import overlap

PIECE = 1_000_000  # pairs that are compared at a time, for the memory


@dataclass(frozen=True)
class Overlaps:
    """Pairs of a detection and a truth in the same image.

    Attributes:
        row: `(P,)` int64, places in the rows that were asked for.
        truth: `(P,)` int64, rows of the truth.
        iou: `(P,)` float64; for ignored truth the share of the detection that lies in it.
    """

    row: NDArray[np.int64]
    truth: NDArray[np.int64]
    iou: NDArray[np.float64]

    def where(self, keep: NDArray[np.bool_]) -> Overlaps:
        """Some of the pairs."""
        return Overlaps(self.row[keep], self.truth[keep], self.iou[keep])

    def best(self, rows: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """For each of the rows the most overlap, `(rows,)`, and the truth that has it.

        Where there is none they are 0 and -1.
        """
        return _most(self.row, self.iou, self.truth, rows)

    def best_of_truth(self, truths: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """For each truth the most overlap, `(truths,)`, and the row that has it: else 0 and -1."""
        return _most(self.truth, self.iou, self.row, truths)


def _most(
    key: NDArray[np.int64], value: NDArray[np.float64], other: NDArray[np.int64], size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For each key the largest value and what goes with it; of equal ones the first."""
    most, whose = np.zeros(size), np.full(size, -1, np.int64)
    order = np.lexsort((-np.arange(len(key)), value))  # the last assignment stays
    most[key[order]], whose[key[order]] = value[order], other[order]
    return most, whose


def overlapping(
    detections: Detections, rows: NDArray[np.int64], truth: Truth, least: float = 0.1
) -> Overlaps:
    """All pairs in the same image that overlap, of whatever class, ignored truth too.

    Args:
        detections: Detections of a split.
        rows: `(R,)`, those of them to compare.
        truth: The truth.
        least: Lowest IoU of a pair to be kept.
    """
    order = np.argsort(truth.image, kind="stable")
    images, first, number = np.unique(truth.image[order], return_index=True, return_counts=True)
    if not len(images):
        return Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    at = np.minimum(np.searchsorted(images, detections.image[rows]), len(images) - 1)
    count = np.where(images[at] == detections.image[rows], number[at], 0)
    pieces = []
    ends = np.cumsum(count)
    cuts = np.searchsorted(ends, np.arange(PIECE, ends[-1] if len(ends) else 0, PIECE))
    boxes, truths = xywh(detections), xywh(truth)
    for mine in np.split(np.arange(len(rows)), cuts):
        many = count[mine]
        row = np.repeat(mine, many)
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        there = order[first[at[row]] + within]
        iou = overlap(boxes[rows[row]], truths[there], truth.ignore[there])
        near = iou >= least
        pieces.append((row[near], there[near], iou[near]))
    row, there, iou = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return Overlaps(row, there, iou)
