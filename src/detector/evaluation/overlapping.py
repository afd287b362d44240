"""Overlaps between detections and ground truth boxes of any class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.arrays import Detections, GroundTruth, xywh
from detector.evaluation.matching import overlap

PIECE = 1_000_000  # pairs that are compared at once, which bounds the memory


@dataclass(frozen=True)
class Overlaps:
    """Pairs of a detection and a ground truth box in the same image.

    Attributes:
        row: `(P,)` int64, indices of the detections, among the rows asked for.
        ground_truth: `(P,)` int64, indices of the ground truth boxes.
        iou: `(P,)` float64; for ignored boxes the share of the detection that lies in the box.
    """

    row: NDArray[np.int64]
    ground_truth: NDArray[np.int64]
    iou: NDArray[np.float64]

    def where(self, keep: NDArray[np.bool_]) -> Overlaps:
        """Some of the pairs."""
        return Overlaps(self.row[keep], self.ground_truth[keep], self.iou[keep])

    def best(self, rows: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Highest overlap of each detection, `(rows,)`, and the index of that ground truth box.

        Without an overlap they are 0 and -1.
        """
        return _most(self.row, self.iou, self.ground_truth, rows)

    def best_of_ground_truth(self, boxes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Highest overlap of each ground truth box, `(boxes,)`, and the index of that detection.

        Without an overlap they are 0 and -1.
        """
        return _most(self.ground_truth, self.iou, self.row, boxes)


def _most(
    key: NDArray[np.int64], value: NDArray[np.float64], other: NDArray[np.int64], size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Largest value of each key with its `other`; the first of equal ones."""
    most, whose = np.zeros(size), np.full(size, -1, np.int64)
    order = np.lexsort((-np.arange(len(key)), value))  # the last assignment stays
    most[key[order]], whose[key[order]] = value[order], other[order]
    return most, whose


def overlapping(
    detections: Detections, rows: NDArray[np.int64], ground_truth: GroundTruth, least: float = 0.1
) -> Overlaps:
    """All overlapping pairs in the same image, of any class, also with ignored boxes.

    Args:
        detections: Detections of a split.
        rows: `(R,)` int64, indices of the detections to compare.
        ground_truth: The ground truth.
        least: Lowest IoU of the pairs that are kept.
    """
    order = np.argsort(ground_truth.image, kind="stable")
    images, first, number = np.unique(
        ground_truth.image[order], return_index=True, return_counts=True
    )
    if not len(images):
        return Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    at = np.minimum(np.searchsorted(images, detections.image[rows]), len(images) - 1)
    count = np.where(images[at] == detections.image[rows], number[at], 0)
    pieces = []
    ends = np.cumsum(count)
    cuts = np.searchsorted(ends, np.arange(PIECE, ends[-1] if len(ends) else 0, PIECE))
    boxes, true_boxes = xywh(detections), xywh(ground_truth)
    for mine in np.split(np.arange(len(rows)), cuts):
        many = count[mine]
        row = np.repeat(mine, many)
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        there = order[first[at[row]] + within]
        iou = overlap(boxes[rows[row]], true_boxes[there], ground_truth.ignore[there])
        near = iou >= least
        pieces.append((row[near], there[near], iou[near]))
    row, there, iou = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return Overlaps(row, there, iou)
