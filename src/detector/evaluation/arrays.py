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
        scores: `(D,)` float64.
    """

    image: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """Truth of a split.

    Attributes:
        images: `(n,)` int64, the ids of all its images, also of those without boxes.
        image: `(T,)` int64, image ids.
        boxes: `(T, 4)` float64 xyxy, pixels of the original image.
        labels: `(T,)` int64, 1..K.
        ignore: `(T,)` bool; these count neither for nor against.
    """

    images: NDArray[np.int64]
    image: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
