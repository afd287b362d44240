"""COCO's matching of detections with ground truth, done once and used by all analyses.

Source: evaluateImg and computeIoU of pycocotools' cocoeval.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.arrays import Detections, GroundTruth, xywh

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU thresholds, as pycocotools writes them
RECALLS = np.linspace(0, 1, 101)  # recall thresholds, as pycocotools writes them
MOST = 100  # detections of a class that count in an image, highest scores first


@dataclass(frozen=True)
class Matches:
    """Matches between the detections that count and the ground truth, highest scores first.

    Detections of equal score are in the order of their images, then in the order given.

    Attributes:
        detections: All detections.
        ground_truth: The ground truth.
        rows: `(M,)` int64, indices into `detections` of those that count.
        matched: `(10, M)` int64, for every IoU threshold the index of the ground truth box that a
            detection is matched with, -1 for none. Ignored boxes may be matched more than once.
    """

    detections: Detections
    ground_truth: GroundTruth
    rows: NDArray[np.int64]
    matched: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """`(M,)` int64, labels 1..K."""
        return self.detections.labels[self.rows]

    @property
    def scores(self) -> NDArray[np.float64]:
        """`(M,)` float64, scores in descending order."""
        return self.detections.scores[self.rows]

    @property
    def images(self) -> NDArray[np.int64]:
        """`(M,)` int64, image ids."""
        return self.detections.image[self.rows]

    def ignored(self) -> NDArray[np.bool_]:
        """`(10, M)` bool: detections that are neither true nor false positives.

        Those are detections matched with ignored boxes and, as in pycocotools, unmatched boxes of
        negative area.
        """
        inside_out = xywh(self.detections)[self.rows, 2:].prod(1) < 0
        ignore = np.append(self.ground_truth.ignore, False)  # index -1 is the last
        answer: NDArray[np.bool_] = ignore[self.matched] | (inside_out & (self.matched < 0))
        return answer

    def right(self) -> NDArray[np.bool_]:
        """`(10, M)` bool: true positives, matched with a box that is not ignored."""
        return (self.matched >= 0) & ~self.ignored()


def match(detections: Detections, ground_truth: GroundTruth) -> Matches:
    """Match detections with ground truth boxes of the same image and class.

    In descending order of scores, each detection takes the box that it overlaps most among those
    not yet taken; an ignored box only if no other is left.

    Args:
        detections: Any number of detections in any order.
        ground_truth: The ground truth.
    """
    rows = _counting(detections)
    matched = np.full((len(THRESHOLDS), len(rows)), -1, dtype=np.int64)
    groups = dict(_groups(ground_truth.image, ground_truth.labels))
    boxes, true_boxes = xywh(detections), xywh(ground_truth)
    for key, mine in _groups(detections.image[rows], detections.labels[rows]):
        if (there := groups.get(key)) is None:
            continue
        there = there[np.argsort(ground_truth.ignore[there], kind="stable")]
        ignore = ground_truth.ignore[there]
        table = overlaps(boxes[rows[mine]], true_boxes[there], ignore)
        candidates = np.flatnonzero(table.max(1) >= THRESHOLDS[0])
        for t, threshold in enumerate(THRESHOLDS.tolist()):
            chosen = _assign(table[candidates].tolist(), ignore.tolist(), threshold)
            matched[t, mine[candidates]] = [there[g] if g >= 0 else -1 for g in chosen]
    return Matches(detections, ground_truth, rows, matched)


def _counting(detections: Detections) -> NDArray[np.int64]:
    """Indices of the detections that count, highest scores first."""
    order = np.lexsort((detections.image, -detections.scores))
    weaker = [mine[MOST:] for _, mine in _groups(detections.image[order], detections.labels[order])]
    return np.delete(order, np.concatenate([np.zeros(0, np.int64), *weaker]))


def _groups(
    image: NDArray[np.int64], labels: NDArray[np.int64]
) -> Iterator[tuple[tuple[int, int], NDArray[np.int64]]]:
    """Yield image and label with the indices of their rows, in the order of the rows."""
    order = np.lexsort((labels, image))
    pairs = np.stack((image[order], labels[order]), 1)
    starts = np.flatnonzero(np.any(pairs[1:] != pairs[:-1], axis=1)) + 1
    if not len(pairs):
        return
    first = pairs[np.concatenate(([0], starts))]
    keys = zip(first[:, 0].tolist(), first[:, 1].tolist(), strict=True)
    yield from zip(keys, np.split(order, starts), strict=True)


def overlaps(
    detected: NDArray[np.float64], true: NDArray[np.float64], ignore: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The `overlap` of every pair, `(D, G)`.

    Args:
        detected: `(D, 4)` left, top, width and height.
        true: `(G, 4)` left, top, width and height.
        ignore: `(G,)` bool, ignored boxes of `true`.
    """
    return overlap(detected[:, None], true, ignore)


def overlap(
    detected: NDArray[np.float64], true: NDArray[np.float64], ignore: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU, and for ignored boxes the share of the detection that lies in the box.

    Operations are in the order of pycocotools' bbIou, so that the same pairs reach a threshold, to
    the last bit.

    Args:
        detected: `(..., 4)` left, top, width and height.
        true: `(..., 4)` left, top, width and height; the leading axes are broadcast.
        ignore: `(...)` bool, ignored boxes of `true`.

    Returns:
        `(...)` float64, 0..1.
    """
    size, sizes = detected[..., 2:], true[..., 2:]
    end, ends = detected[..., :2] + size, true[..., :2] + sizes
    shared = np.minimum(end, ends) - np.maximum(detected[..., :2], true[..., :2])
    inside, area, areas = np.clip(shared, 0, None).prod(-1), size.prod(-1), sizes.prod(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = inside / np.where(ignore, area, area + areas - inside)
    return np.nan_to_num(ratio)


def _assign(table: Sequence[Sequence[float]], ignore: Sequence[bool], least: float) -> list[int]:
    """For each detection, highest score first, the column that it takes, or -1."""
    taken = [False] * len(ignore)
    chosen = []
    for row in table:
        best, mine = min(least, 1 - 1e-10), -1
        for g, value in enumerate(row):
            if taken[g] and not ignore[g]:
                continue
            if mine >= 0 and not ignore[mine] and ignore[g]:
                break
            if value >= best:
                best, mine = value, g
        if mine >= 0:
            taken[mine] = True
        chosen.append(mine)
    return chosen
