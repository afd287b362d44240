"""Which detection found which truth: COCO's matching, done once and used by all analysis.

Source: evaluateImg and computeIoU of pycocotools' cocoeval.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.arrays import Detections, Truth, xywh

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU, as pycocotools writes them
RECALLS = np.linspace(0, 1, 101)  # as pycocotools writes them
MOST = 100  # detections of a class in an image; weaker ones do not count


@dataclass(frozen=True)
class Matches:
    """What became of every detection that counts, best scores first.

    Equal scores stand in the order of their images, then as they came.

    Attributes:
        detections: What was matched.
        truth: With what.
        rows: `(M,)` int64, into `detections`: those that count.
        found: `(10, M)` int64, for every threshold the row of `truth` that a detection is matched
            with, -1 for none. Ignored truth may be matched more than once.
    """

    detections: Detections
    truth: Truth
    rows: NDArray[np.int64]
    found: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """`(M,)` int64, 1..K."""
        return self.detections.labels[self.rows]

    @property
    def scores(self) -> NDArray[np.float64]:
        """`(M,)` float64, falling."""
        return self.detections.scores[self.rows]

    @property
    def images(self) -> NDArray[np.int64]:
        """`(M,)` int64, image ids."""
        return self.detections.image[self.rows]

    def ignored(self) -> NDArray[np.bool_]:
        """`(10, M)` bool: neither right nor wrong.

        That is what is matched with ignored truth and, as for pycocotools, a box whose area is
        negative, if it is matched with nothing.
        """
        inside_out = xywh(self.detections)[self.rows, 2:].prod(1) < 0
        ignore = np.append(self.truth.ignore, False)  # -1 is the last
        answer: NDArray[np.bool_] = ignore[self.found] | (inside_out & (self.found < 0))
        return answer

    def right(self) -> NDArray[np.bool_]:
        """`(10, M)` bool: matched with truth that was to be found."""
        return (self.found >= 0) & ~self.ignored()


def match(detections: Detections, truth: Truth) -> Matches:
    """Match detections with truth of the same image and class.

    Best scores choose first, and take what they overlap most of what is not yet taken; ignored
    truth only if nothing else is left.

    Args:
        detections: Any number, in any order.
        truth: The truth.
    """
    rows = _counting(detections)
    found = np.full((len(THRESHOLDS), len(rows)), -1, dtype=np.int64)
    groups = dict(_groups(truth.image, truth.labels))
    boxes, truths = xywh(detections), xywh(truth)
    for key, mine in _groups(detections.image[rows], detections.labels[rows]):
        if (there := groups.get(key)) is None:
            continue
        there = there[np.argsort(truth.ignore[there], kind="stable")]
        ignore = truth.ignore[there]
        table = overlaps(boxes[rows[mine]], truths[there], ignore)
        hopeful = np.flatnonzero(table.max(1) >= THRESHOLDS[0])
        for t, threshold in enumerate(THRESHOLDS.tolist()):
            chosen = _assign(table[hopeful].tolist(), ignore.tolist(), threshold)
            found[t, mine[hopeful]] = [there[g] if g >= 0 else -1 for g in chosen]
    return Matches(detections, truth, rows, found)


def _counting(detections: Detections) -> NDArray[np.int64]:
    """Rows of the detections that count, best scores first."""
    order = np.lexsort((detections.image, -detections.scores))
    weaker = [mine[MOST:] for _, mine in _groups(detections.image[order], detections.labels[order])]
    return np.delete(order, np.concatenate([np.zeros(0, np.int64), *weaker]))


def _groups(
    image: NDArray[np.int64], labels: NDArray[np.int64]
) -> Iterator[tuple[tuple[int, int], NDArray[np.int64]]]:
    """Rows of each image and class, in their order."""
    order = np.lexsort((labels, image))
    pairs = np.stack((image[order], labels[order]), 1)
    starts = np.flatnonzero(np.any(pairs[1:] != pairs[:-1], axis=1)) + 1
    if not len(pairs):
        return
    first = pairs[np.concatenate(([0], starts))]
    keys = zip(first[:, 0].tolist(), first[:, 1].tolist(), strict=True)
    yield from zip(keys, np.split(order, starts), strict=True)


def overlaps(
    found: NDArray[np.float64], there: NDArray[np.float64], ignore: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """`overlap` of every pair, `(D, G)`.

    Args:
        found: `(D, 4)` left, top, width and height.
        there: `(G, 4)`, the same.
        ignore: `(G,)`.
    """
    return overlap(found[:, None], there, ignore)


def overlap(
    found: NDArray[np.float64], there: NDArray[np.float64], ignore: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU, and for ignored truth the share of the detection that lies in it.

    In the order of operations of pycocotools' bbIou, so that thresholds are met by the same pairs
    to the last bit.

    Args:
        found: `(..., 4)` left, top, width and height.
        there: `(..., 4)`, the same; the leading axes are broadcast.
        ignore: `(...)`, of `there`.

    Returns:
        `(...)`.
    """
    size, sizes = found[..., 2:], there[..., 2:]
    end, ends = found[..., :2] + size, there[..., :2] + sizes
    shared = np.minimum(end, ends) - np.maximum(found[..., :2], there[..., :2])
    inside, area, areas = np.clip(shared, 0, None).prod(-1), size.prod(-1), sizes.prod(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = inside / np.where(ignore, area, area + areas - inside)
    return np.nan_to_num(ratio)


def _assign(table: Sequence[Sequence[float]], ignore: Sequence[bool], least: float) -> list[int]:
    """For each detection, best first, the truth it takes, or -1; ignored truth stands last."""
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
