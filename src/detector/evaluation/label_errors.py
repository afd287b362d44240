"""Labels that are probably wrong: missing, in the wrong place, or of the wrong class.

A detector that is right about most objects and confident about one that is not labelled is perhaps
right about that one too. The list is for people to check, most suspicious first; nothing is
corrected.
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

APART = 0.3  # IoU with any ground truth box up to which a detection is a different object
FOUND = 0.5  # IoU from which a detection and a box are the same object
SURE = 0.5  # lowest share of the true positives of a class with scores no higher
PROBABLE = 0.25  # lowest suspicion of a listed detection
SOLVED = 0.8  # lowest recall of a class whose false negatives are suspicious
FAINT = 0.05  # lowest score of a detection that counts as finding a box


@dataclass(frozen=True)
class LabelError:
    """A suspected label error.

    Attributes:
        kind: `FORGOTTEN`, `NEVER_FOUND` or `OTHER_CLASS`.
        image: Image id.
        label: Label, 1..K, of the detection, or of the ground truth box that was never found.
        score: Suspicion, 0..1. For a detection see `sureness`. For a box never found: half the
            recall of its class, times the recall of its range of sizes, times 1 - its highest IoU
            with a detection. Half, because the object may just be hard to find.
        box: xyxy, pixels.
        labelled: Label of the ground truth box there, if it is of another class; else None.
    """

    kind: str
    image: int
    label: int
    score: float
    box: tuple[float, ...]
    labelled: int | None = None


def label_errors(matches: Matches, kept: NDArray[np.bool_], classes: int) -> list[LabelError]:
    """Suspected label errors of a split, most suspicious first.

    Args:
        matches: Matches of the split.
        kept: `(M,)` bool, detections that reach the score threshold of their class.
        classes: Number of classes, K.
    """
    overlaps = overlapping(matches.detections, matches.rows, matches.ground_truth, 0.01)
    overlaps = overlaps.where(matches.scores[overlaps.row] >= FAINT)
    found = np.zeros(len(matches.ground_truth.labels), bool)
    found[matches.matched[0, matches.right()[0] & kept]] = True
    listed = [
        *_from_detections(matches, sureness(matches, classes), found, overlaps),
        *_from_ground_truth(matches, found, overlaps),
    ]
    listed.sort(key=lambda one: (-one.score, one.image, one.box))
    return listed


def sureness(matches: Matches, classes: int) -> NDArray[np.float64]:
    """How far a detection can be trusted, by the precision of its class.

    The share of the true positives of its class that score no more, times the precision of the
    class among the detections that score at least as much as half of its true positives. So a class
    that is often wrong at high scores lists nothing, and values of different classes compare.
    Missing labels lower that precision by their own share alone.

    Args:
        matches: Matches of a split.
        classes: Number of classes, K.

    Returns:
        `(M,)`, 0..1; 0 for detections that score less than half of the true positives, or of a
        class without true positives.
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


def _from_detections(
    matches: Matches, sure: NDArray[np.float64], found: NDArray[np.bool_], overlaps: Overlaps
) -> list[LabelError]:
    """Confident detections without a ground truth box, or on a missed box of another class."""
    ground_truth = matches.ground_truth
    nearest, there = overlaps.best(len(sure))
    wrong = ~matches.right()[0] & ~matches.ignored()[0] & (sure >= PROBABLE)
    alone = wrong & (nearest < APART)
    # Index -1 means no ground truth box.
    free = np.append(~found & ~ground_truth.ignore, False)[there]
    other = wrong & (nearest >= FOUND) & free
    other &= np.append(ground_truth.labels, 0)[there] != matches.labels
    rows = np.flatnonzero(alone | other)
    listed: list[LabelError] = []
    taken: dict[int, list[NDArray[np.float64]]] = {}
    for row in rows[np.argsort(-sure[rows], kind="stable")].tolist():
        image, box = int(matches.images[row]), matches.detections.boxes[matches.rows[row]]
        before = taken.setdefault(image, [])
        if before and iou(box[None], np.array(before)).max() >= FOUND:
            continue  # a duplicate, perhaps of another class
        before.append(box)
        kind, label = (
            (FORGOTTEN, None) if alone[row] else (OTHER_CLASS, ground_truth.labels[there[row]])
        )
        listed.append(
            LabelError(
                kind,
                image,
                int(matches.labels[row]),
                float(sure[row]),
                tuple(box.tolist()),
                None if label is None else int(label),
            )
        )
    return listed


def _from_ground_truth(
    matches: Matches, found: NDArray[np.bool_], overlaps: Overlaps
) -> list[LabelError]:
    """Ground truth boxes that no detection overlaps, in classes and sizes of high recall."""
    ground_truth = matches.ground_truth
    wanted = ~ground_truth.ignore
    nearest, _ = overlaps.best_of_ground_truth(len(wanted))
    by_class = _recall(ground_truth.labels, found, wanted)
    by_size = _recall(size_ranges(ground_truth.boxes), found, wanted)
    score = by_class * by_size * (1 - nearest) / 2
    missed = np.flatnonzero(wanted & ~found & (nearest < FOUND) & (by_class >= SOLVED))
    first = missed[np.argsort(-score[missed], kind="stable")]
    return [
        LabelError(
            NEVER_FOUND,
            int(ground_truth.image[t]),
            int(ground_truth.labels[t]),
            float(score[t]),
            tuple(ground_truth.boxes[t].tolist()),
        )
        for t in first
    ]


def _recall(
    groups: NDArray[np.int64], found: NDArray[np.bool_], wanted: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """For each ground truth box the recall of its group."""
    hits = np.bincount(groups[found & wanted], minlength=groups.max(initial=0) + 1)
    all_of_it = np.bincount(groups[wanted], minlength=len(hits))
    shares: NDArray[np.float64] = (hits / np.maximum(all_of_it, 1))[groups]
    return shares
