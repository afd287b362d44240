"""Detections and truth of a whole split, packed; what every score is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Detections:
    """Detections of a split.

    Attributes:
        image: `(D,)` int64, image ids.
        boxes: `(D, 4)` float64 xyxy, pixels of the original image.
        labels: `(D,)` int64, 1..K.
        scores: `(D,)` float64, the higher the surer.
        sides: `(D, 2)` float64, width and height as a file of COCO's has them, where they come from
            one: x2 - x1 gives them but for rounding. None: take that.
    """

    image: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    sides: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Truth:
    """Truth of a split.

    Attributes:
        images: `(n,)` int64, the ids of all its images, also of those without boxes.
        image: `(T,)` int64, image ids.
        boxes: `(T, 4)` float64 xyxy, pixels of the original image.
        labels: `(T,)` int64, 1..K.
        ignore: `(T,)` bool; these count neither for nor against.
        sides: `(T, 2)` float64, as of `Detections`.
        areas: `(T,)` float64, square pixels, by which COCO's protocol tells small from large, where
            a file of COCO's has them (those of masks); None: those of the boxes.
    """

    images: NDArray[np.int64]
    image: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    sides: NDArray[np.float64] | None = None
    areas: NDArray[np.float64] | None = None


def xywh(those: Detections | Truth) -> NDArray[np.float64]:
    """Boxes as COCO has them.

    Returns:
        `(N, 4)` left, top, width and height, pixels.
    """
    boxes = those.boxes
    sides = boxes[:, 2:] - boxes[:, :2] if those.sides is None else those.sides
    return np.concatenate((boxes[:, :2], sides), 1)
