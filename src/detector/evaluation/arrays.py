"""Detections and ground truth of a split as packed arrays, which every score is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Scores of a split by their names, and for each class in the order of labels; fractions in 0..1,
# NaN where undefined.
Scores = tuple[dict[str, float], list[dict[str, float]]]


@dataclass(frozen=True)
class Detections:
    """Detections of a split.

    Attributes:
        image: `(D,)` int64, image ids.
        boxes: `(D, 4)` float64 xyxy, pixels of the original image.
        labels: `(D,)` int64, 1..K.
        scores: `(D,)` float64, confidence.
        sides: `(D, 2)` float64, width and height as a COCO file has them, which differ from those
            of the corners by rounding; None: those of the corners.
    """

    image: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    sides: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of a split.

    Attributes:
        images: `(n,)` int64, ids of all images, also of those without boxes.
        image: `(T,)` int64, image ids of the boxes.
        boxes: `(T, 4)` float64 xyxy, pixels of the original image.
        labels: `(T,)` int64, 1..K.
        ignore: `(T,)` bool, boxes that count neither for nor against.
        sides: `(T, 2)` float64, width and height, as in `Detections`.
        areas: `(T,)` float64, areas in square pixels as a COCO file has them (those of masks), by
            which COCO's protocol tells small boxes from large ones; None: areas of the boxes.
    """

    images: NDArray[np.int64]
    image: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    sides: NDArray[np.float64] | None = None
    areas: NDArray[np.float64] | None = None


def xywh(boxes: Detections | GroundTruth) -> NDArray[np.float64]:
    """Boxes in COCO's form.

    Returns:
        `(N, 4)` left, top, width and height, pixels.
    """
    corners = boxes.boxes
    sides = corners[:, 2:] - corners[:, :2] if boxes.sides is None else boxes.sides
    return np.concatenate((corners[:, :2], sides), 1)
