"""Labels that are probably wrong: forgotten, in the wrong place, or of the wrong class.

A detector that is right about most objects and sure about one that is not labelled is perhaps right
about that one too. What is listed is for eyes to judge, best first; nothing is corrected.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detector.core.boxes import iou
from detector.evaluation.breakdown import size_ranges
from detector.evaluation.matching import Matches
from detector.evaluation.overlapping import Overlaps, overlapping

FORGOTTEN = "detection without truth"
NEVER_FOUND = "truth never found"
OTHER_CLASS = "truth of another class"

APART = 0.3  # more IoU than this with any truth is that truth, badly placed
FOUND = 0.5  # IoU at which a detection speaks of a truth
SURE = 0.5  # surer than this share of the hits of its class
PROBABLE = 0.25  # least score in the list
SOLVED = 0.8  # recall of a class whose misses are suspicious
FAINT = 0.05  # least score of a detection that finds a truth at all


@dataclass(frozen=True)
class Suspect:
    """A label to look at.

    Attributes:
        kind: One of the three above.
        image: Its id.
        label: The class, 1..K: of the detection, or of truth never found.
        score: How suspicious, 0..1; of a detection see `sureness`. Of truth never found: half the
            recall of its class, times the recall among its size, times 1 - IoU with what comes
            nearest. Half, because it may as well be an object that is hard to find.
        box: xyxy, pixels.
        truth: The class that is labelled there, if it is another; else None.
    """

    kind: str
    image: int
    label: int
    score: float
    box: tuple[float, ...]
    truth: int | None = None


def suspects(matches: Matches, kept: NDArray[np.bool_], classes: int) -> list[Suspect]:
    """The most suspicious labels of a split, most suspicious first.

    Args:
        matches: Of the split.
        kept: `(M,)`, the detections at the operating point.
        classes: Number of classes, K.
    """
    overlaps = overlapping(matches.detections, matches.rows, matches.truth, 0.01)
    overlaps = overlaps.where(matches.scores[overlaps.row] >= FAINT)
    found = np.zeros(len(matches.truth.labels), bool)
    found[matches.found[0, matches.right()[0] & kept]] = True
    listed = [
        *_detections(matches, sureness(matches, classes), found, overlaps),
        *_truths(matches, found, overlaps),
    ]
    listed.sort(key=lambda one: (-one.score, one.image, one.box))
    return listed


def sureness(matches: Matches, classes: int) -> NDArray[np.float64]:
    """How much a detection is to be believed by what the others of its class are worth.

    The share of its class's hits that score no more, times the precision of the class among all
    that reach half of the hits. So a class that is often wrong where it is sure lists nothing, and
    scores of different classes compare. Forgotten labels do not hide themselves: they lower that
    precision by their own share alone.

    Args:
        matches: Of a split.
        classes: Number of classes, K.

    Returns:
        `(M,)`, 0..1; 0 for what is less sure than half of the hits, or of a class without any.
    """
    right, counts = matches.right()[0], ~matches.ignored()[0]
    order = np.argsort(matches.labels, kind="stable")
    ends = np.searchsorted(matches.labels[order], np.arange(1, classes + 2))
    sure = np.zeros(len(order))
    for start, end in pairwise(ends.tolist()):
        mine = order[start:end]
        scores, hits = matches.scores[mine], right[mine]
        if not hits.any():
            continue
        rank = np.searchsorted(scores[hits][::-1], scores, side="right") / hits.sum()
        region = (rank >= SURE) & counts[mine]
        sure[mine] = np.where(region, rank * hits[region].mean(), 0.0)
    return sure


def _detections(
    matches: Matches, sure: NDArray[np.float64], found: NDArray[np.bool_], overlaps: Overlaps
) -> list[Suspect]:
    """Sure detections where no truth is, or truth of another class that its own did not find."""
    truth = matches.truth
    nearest, there = overlaps.best(len(sure))
    wrong = ~matches.right()[0] & ~matches.ignored()[0] & (sure >= PROBABLE)
    alone = wrong & (nearest < APART)
    # Row -1 stands for no truth at all.
    free = np.append(~found & ~truth.ignore, False)[there]
    other = wrong & (nearest >= FOUND) & free
    other &= np.append(truth.labels, 0)[there] != matches.labels
    rows = np.flatnonzero(alone | other)
    listed: list[Suspect] = []
    taken: dict[int, list[NDArray[np.float64]]] = {}
    for row in rows[np.argsort(-sure[rows], kind="stable")].tolist():
        image, box = int(matches.images[row]), matches.detections.boxes[matches.rows[row]]
        before = taken.setdefault(image, [])
        if before and iou(box[None], np.array(before)).max() >= FOUND:
            continue  # the same place, as another class or once more
        before.append(box)
        kind, label = (FORGOTTEN, None) if alone[row] else (OTHER_CLASS, truth.labels[there[row]])
        listed.append(
            Suspect(
                kind,
                image,
                int(matches.labels[row]),
                float(sure[row]),
                tuple(box.tolist()),
                None if label is None else int(label),
            )
        )
    return listed


def _truths(matches: Matches, found: NDArray[np.bool_], overlaps: Overlaps) -> list[Suspect]:
    """Truth that no detection of any class comes near, where such truth is found as a rule."""
    truth = matches.truth
    wanted = ~truth.ignore
    nearest, _ = overlaps.best_of_truth(len(wanted))
    by_class = _recall(truth.labels, found, wanted)
    by_size = _recall(size_ranges(truth.boxes), found, wanted)
    score = by_class * by_size * (1 - nearest) / 2
    missed = np.flatnonzero(wanted & ~found & (nearest < FOUND) & (by_class >= SOLVED))
    first = missed[np.argsort(-score[missed], kind="stable")]
    return [
        Suspect(
            NEVER_FOUND,
            int(truth.image[t]),
            int(truth.labels[t]),
            float(score[t]),
            tuple(truth.boxes[t].tolist()),
        )
        for t in first
    ]


def _recall(
    groups: NDArray[np.int64], found: NDArray[np.bool_], wanted: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """For each truth the share found of those in its group."""
    hits = np.bincount(groups[found & wanted], minlength=groups.max(initial=0) + 1)
    all_of_it = np.bincount(groups[wanted], minlength=len(hits))
    shares: NDArray[np.float64] = (hits / np.maximum(all_of_it, 1))[groups]
    return shares
