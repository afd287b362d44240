"""How well anchors fit boxes: the recall of the anchors before any training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Sides over the stride: one of the bases times one of the steps. A level's stride is twice that of
# the level before, so that a scale recurs in every octave: fractions of two lie in between, and 2
# and 4 reach further at either end.
BASES = (8.0, 5.7, 4.0, 2.8, 2.0, 1.4, 1.0, 11.3, 16.0)
STEPS: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (1.0, 2.0),
    (1.0, 1.41),
    (1.0, 1.26, 1.59),
    (1.0, 2.0, 4.0),
)
# Height over width.
RATIOS: tuple[tuple[float, ...], ...] = (
    (0.5, 1.0, 2.0),
    (1.0,),
    (0.33, 1.0, 3.0),
    (0.33, 0.5, 1.0, 2.0, 3.0),
    (0.2, 0.33, 0.5, 1.0, 2.0, 3.0, 5.0),
)
# Anchors at a cell of a fitted set. One more takes a twentieth of the time of a training step where
# the backbone is frozen; fewer than three are too sure of one size or shape.
FEWEST, MOST = 3, 9
MARGIN = 0.015  # share of boxes, at IoU 0.5, that a set with fewer anchors may lose
SAMPLE = 3000  # number of boxes that sets are tried on


@dataclass(frozen=True)
class Level:
    """Positions of the cells of a pyramid level.

    Attributes:
        stride: Distance from one cell to the next, pixels.
        offset: Centre of the first cell, pixels.
        missing: How many cells there are fewer than size / stride.
    """

    stride: int
    offset: float = 0.0
    missing: int = 0


@dataclass(frozen=True)
class Grid:
    """Positions of anchors.

    Attributes:
        levels: Pyramid levels, finest first; another level with every other cell of the last one
            is added.
        smallest: Lowest height and width that images are padded to, pixels; they are also padded
            to a multiple of the last level's stride.
    """

    levels: tuple[Level, ...]
    smallest: int = 32

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of all levels, pixels."""
        return (*(level.stride for level in self.levels), self.levels[-1].stride * 2)

    def places(self, sizes: NDArray[np.int32]) -> Iterator[tuple[Level, NDArray[np.int64]]]:
        """Yield all levels and their numbers of cells.

        Args:
            sizes: `(N, 2)` sizes of images before padding, pixels.

        Yields:
            A level, and `(N, 2)` int64, its cells along each side.
        """
        last = self.levels[-1]
        padded = -(-np.maximum(sizes, self.smallest) // last.stride) * last.stride
        for level in self.levels:
            cells = (padded // level.stride - level.missing).astype(np.int64)
            yield level, cells
        yield Level(2 * last.stride, last.offset), (cells + 1) // 2


@dataclass(frozen=True)
class Anchors:
    """A set of anchors.

    Attributes:
        grid: Positions of the anchors.
        scales: Sides over the stride of the level.
        ratios: Heights over widths.
    """

    grid: Grid
    scales: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def per_cell(self) -> int:
        """Number of anchors at every cell of a level."""
        return len(self.scales) * len(self.ratios)

    def shapes(self, stride: int) -> Iterator[NDArray[np.float32]]:
        """Yield half the width and half the height of each anchor shape, whole pixels."""
        for scale, ratio in itertools.product(self.scales, self.ratios):
            side, root = stride * scale, ratio**0.5
            # In float32 and rounded, as torchvision does.
            yield np.round(np.array([side / root, side * root], np.float32) / 2)


def best_iou(
    boxes: NDArray[np.float32], sizes: NDArray[np.int32], anchors: Anchors
) -> NDArray[np.float64]:
    """IoU of every box with the anchor that fits it best.

    Of the anchors of one shape, the one whose centre is nearest has the highest IoU, so each shape
    is tried at one position only.

    Args:
        boxes: `(N, 4)` xyxy, pixels of the network's input.
        sizes: `(N, 2)` height and width of each box's image, pixels of the input.
        anchors: The anchors.

    Returns:
        `(N,)` IoU, 0..1.
    """
    boxes = boxes.astype(np.float64)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    best = np.zeros(len(boxes))
    for level, cells in anchors.grid.places(sizes[:, ::-1]):  # width, height
        nearest = np.clip(np.round((centre - level.offset) / level.stride), 0, cells - 1)
        middle = nearest * level.stride + level.offset
        for half in anchors.shapes(level.stride):
            low = np.maximum(boxes[:, :2], middle - half)
            high = np.minimum(boxes[:, 2:], middle + half)
            inter = np.clip(high - low, 0, None).prod(1)
            union = area + 4 * float(half[0]) * float(half[1]) - inter
            np.maximum(best, inter / np.maximum(union, 1e-9), out=best)
    return best


def fit_anchors(boxes: NDArray[np.float32], sizes: NDArray[np.int32], grid: Grid) -> Anchors:
    """The fewest anchors at a cell that reach nearly as many boxes as any set does.

    Of equally many, the set that reaches most boxes at IoU 0.7, and of equally good ones the first:
    torchvision's three are tried before all others.

    Args:
        boxes: As in `best_iou`, at least one; of many boxes, an evenly spaced sample is taken.
        sizes: As in `best_iou`.
        grid: Positions of the anchors.
    """
    rows = np.linspace(0, len(boxes) - 1, min(SAMPLE, len(boxes))).astype(int)
    overlaps: dict[tuple[float, float], NDArray[np.float64]] = {}
    tried = []
    for anchors in _candidates(grid):
        pairs = list(itertools.product(anchors.scales, anchors.ratios))
        for scale, ratio in pairs:
            if (scale, ratio) not in overlaps:
                one = Anchors(grid, (scale,), (ratio,))
                overlaps[scale, ratio] = best_iou(boxes[rows], sizes[rows], one)
        tried.append((anchors, *recall(np.max([overlaps[pair] for pair in pairs], axis=0))))
    most = max(at_50 for _, at_50, _ in tried)
    enough = [(anchors, at_70) for anchors, at_50, at_70 in tried if at_50 >= most - MARGIN]
    fewest = min(anchors.per_cell for anchors, _ in enough)
    return max((t for t in enough if t[0].per_cell == fewest), key=lambda t: round(t[1], 2))[0]


def _candidates(grid: Grid) -> Iterator[Anchors]:
    """Yield the sets of anchors that are tried."""
    for base, steps, ratios in itertools.product(BASES, STEPS, RATIOS):
        scales = tuple(float(f"{base * step:.2g}") for step in steps)
        anchors = Anchors(grid, scales, ratios)
        if FEWEST <= anchors.per_cell <= MOST:
            yield anchors


def recall(overlaps: NDArray[np.float64] | Sequence[float]) -> tuple[float, float]:
    """Shares of boxes that reach IoU 0.5 and 0.7; NaN without boxes."""
    values = np.asarray(overlaps)
    if not len(values):
        return float("nan"), float("nan")
    return float((values >= 0.5).mean()), float((values >= 0.7).mean())
