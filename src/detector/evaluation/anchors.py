"""How well anchors fit boxes: the recall that the region proposals start from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Sides over the stride and height over width that a suggestion is chosen from. A level's stride is
# twice that of the level before, so one scale covers an octave, and fractions lie in between.
SCALES: tuple[tuple[float, ...], ...] = (
    (2.0,),
    (4.0,),
    (8.0,),
    (2.0, 4.0),
    (4.0, 8.0),
    (4.0, 5.7),
    (8.0, 11.3),
    (2.0, 4.0, 8.0),
    (4.0, 5.7, 8.0),
    (2.0, 4.0, 8.0, 16.0),
)
RATIOS: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (0.5, 1.0, 2.0),
    (0.33, 0.5, 1.0, 2.0, 3.0),
    (0.2, 0.33, 0.5, 1.0, 2.0, 3.0, 5.0),
)
ENOUGH = 0.98  # recall at IoU 0.5 that a suggestion stops at
SAMPLE = 3000  # boxes that suggestions are tried on


@dataclass(frozen=True)
class Anchors:
    """A set of anchors, as torchvision's `AnchorGenerator` lays them.

    Attributes:
        strides: Of the pyramid's levels, pixels.
        scales: Anchor side over the level's stride.
        ratios: Height over width.
    """

    strides: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def per_cell(self) -> int:
        """Anchors at every place of a level."""
        return len(self.scales) * len(self.ratios)

    def shapes(self) -> Iterator[tuple[int, float, float]]:
        """Stride, half the width and half the height of every anchor shape, whole pixels."""
        for stride, scale, ratio in itertools.product(self.strides, self.scales, self.ratios):
            side, root = stride * scale, ratio**0.5
            # In float32 and rounded, as torchvision does.
            half = np.round(np.array([side / root, side * root], np.float32) / 2)
            yield stride, float(half[0]), float(half[1])


def best_iou(
    boxes: NDArray[np.float32], sizes: NDArray[np.int32], anchors: Anchors, divisor: int = 32
) -> NDArray[np.float64]:
    """The overlap of every box with the anchor that fits it best.

    Of one shape, the anchor whose centre is nearest overlaps most, so each shape is tried at one
    place: the whole grid need not be laid.

    Args:
        boxes: `(N, 4)` xyxy, pixels of the network's input.
        sizes: `(N, 2)` height and width of each box's image, pixels of the input.
        anchors: Which ones.
        divisor: Images are padded to multiples of it, pixels.

    Returns:
        `(N,)` IoU, 0..1.
    """
    boxes = boxes.astype(np.float64)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    padded = -(-sizes[:, ::-1] // divisor) * divisor  # width, height
    best = np.zeros(len(boxes))
    for stride, half_width, half_height in anchors.shapes():
        last = -(-padded // stride) - 1
        middle = np.clip(np.round(centre / stride), 0, last) * stride
        half = np.array([half_width, half_height])
        low = np.maximum(boxes[:, :2], middle - half)
        high = np.minimum(boxes[:, 2:], middle + half)
        inter = np.clip(high - low, 0, None).prod(1)
        union = area + 4 * half_width * half_height - inter
        np.maximum(best, inter / np.maximum(union, 1e-9), out=best)
    return best


def suggest(
    boxes: NDArray[np.float32],
    sizes: NDArray[np.int32],
    strides: tuple[int, ...],
    divisor: int = 32,
) -> tuple[Anchors, float, float]:
    """The smallest set of anchors that reaches nearly all boxes, or the one that reaches most.

    Args:
        boxes: As `best_iou`; of many, an even sample is taken.
        sizes: As `best_iou`.
        strides: Of the pyramid's levels, pixels.
        divisor: As `best_iou`.

    Returns:
        The anchors, and the share of boxes whose best anchor reaches IoU 0.5 and 0.7.
    """
    rows = np.linspace(0, len(boxes) - 1, min(SAMPLE, len(boxes))).astype(int)
    candidates = [Anchors(strides, s, r) for s, r in itertools.product(SCALES, RATIOS)]
    tried = [
        (anchors, *recall(best_iou(boxes[rows], sizes[rows], anchors, divisor)))
        for anchors in candidates
    ]
    enough = [t for t in tried if t[1] >= ENOUGH]
    if enough:
        fewest = min(t[0].per_cell for t in enough)
        chosen = max((t for t in enough if t[0].per_cell == fewest), key=lambda t: t[2])
    else:
        chosen = max(tried, key=lambda t: (round(t[1], 2), round(t[2], 2), -t[0].per_cell))
    return (chosen[0], *recall(best_iou(boxes, sizes, chosen[0], divisor)))


def recall(overlaps: NDArray[np.float64] | Sequence[float]) -> tuple[float, float]:
    """The shares of boxes that reach IoU 0.5 and 0.7; NaN of none."""
    values = np.asarray(overlaps)
    if not len(values):
        return float("nan"), float("nan")
    return float((values >= 0.5).mean()), float((values >= 0.7).mean())
