"""Pure box arithmetic on numpy arrays: xyxy, pixels, 0-based, half-open."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]


def area(boxes: Boxes) -> NDArray[np.float32]:
    """Areas of `(N, 4)` boxes in square pixels; degenerate boxes have area 0.

    Returns:
        `(N,)` float32.
    """
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    areas: NDArray[np.float32] = sides[:, 0] * sides[:, 1]
    return areas


def clip(boxes: Boxes, window: tuple[float, float, float, float]) -> Boxes:
    """Clip boxes to a window.

    Args:
        boxes: `(N, 4)` boxes; N may be 0.
        window: Window as x1, y1, x2, y2.

    Returns:
        `(N, 4)`, a new array; boxes fully outside have zero area.
    """
    x1, y1, x2, y2 = window
    low = np.array([x1, y1, x1, y1], dtype=np.float32)
    high = np.array([x2, y2, x2, y2], dtype=np.float32)
    return np.clip(boxes, low, high).astype(np.float32)


def around_turned(boxes: NDArray[np.float64], radians: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upright boxes around boxes that are rotated about their centres.

    Args:
        boxes: `(N, 4)` boxes before the rotation.
        radians: `(N,)` angles; the direction of the rotation makes no difference.

    Returns:
        `(N, 4)`, a new array.
    """
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    cos, sin = np.abs(np.cos(radians))[:, None], np.abs(np.sin(radians))[:, None]
    halves = (sides * cos + sides[:, ::-1] * sin) / 2
    return np.concatenate((centres - halves, centres + halves), axis=1)


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes.

    Args:
        a: `(N, 4)` boxes.
        b: `(M, 4)` boxes.

    Returns:
        `(N, M)` float64; 0 if both boxes are empty.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(-1)
    area_a = (a[:, 2:] - a[:, :2]).prod(-1)
    area_b = (b[:, 2:] - b[:, :2]).prod(-1)
    union = area_a[:, None] + area_b[None, :] - inter
    ratio: NDArray[np.float64] = np.zeros_like(inter)
    np.divide(inter, union, out=ratio, where=union > 0)
    return ratio
