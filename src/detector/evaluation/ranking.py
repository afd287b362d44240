"""Results of every image, and the choice of images for the gallery."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.matching import Matches

REASONS = ("best", "worst", "most wrong", "suspect")
WRONG, RIGHT, NEITHER = 0, 1, 2  # outcomes of a detection


@dataclass(frozen=True)
class Images:
    """Counts of every image at the score thresholds, IoU 0.5.

    Attributes:
        ids: `(n,)` int64, image ids.
        hits: `(n,)` int64, true positives.
        missed: `(n,)` int64, false negatives.
        false: `(n,)` int64, false positives.
        wrongness: `(n,)` float64, sum of the scores of false positives, plus 1 for each false
            negative.
    """

    ids: NDArray[np.int64]
    hits: NDArray[np.int64]
    missed: NDArray[np.int64]
    false: NDArray[np.int64]
    wrongness: NDArray[np.float64]

    @property
    def f1(self) -> NDArray[np.float64]:
        """`(n,)`, F1; NaN for an image without boxes and detections."""
        with np.errstate(invalid="ignore"):
            return 2 * self.hits / (2 * self.hits + self.missed + self.false)

    def note(self, place: int) -> str:
        """One line on the image at that index, such as "F1 0.31: 4 missed, 7 wrong"."""
        missed, false = int(self.missed[place]), int(self.false[place])
        if np.isnan(self.f1[place]):
            return "no boxes, and none detected"
        faults = [f"{missed} missed"] * (missed > 0) + [f"{false} wrong"] * (false > 0)
        return f"F1 {self.f1[place]:.2f}: " + (", ".join(faults) or f"all {self.hits[place]} found")


def by_image(matches: Matches, kept: NDArray[np.bool_]) -> Images:
    """Count true positives, false positives and false negatives of every image.

    Args:
        matches: Matches of a split.
        kept: `(M,)` bool, detections that reach the score threshold of their class.
    """
    ground_truth, right = matches.ground_truth, matches.right()[0]
    ids = np.unique(ground_truth.images)
    unfound = ~ground_truth.ignore
    unfound[matches.matched[0, right & kept]] = False
    wrong = kept & ~right & ~matches.ignored()[0]

    def count(images: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(np.searchsorted(ids, images), minlength=len(ids))

    missed = count(ground_truth.image[unfound])
    places = np.searchsorted(ids, matches.images[wrong])
    scores: NDArray[np.float64] = np.zeros(len(ids))
    np.add.at(scores, places, matches.scores[wrong])
    return Images(
        ids,
        count(matches.images[right & kept]),
        missed,
        count(matches.images[wrong]),
        missed + scores,
    )


def outcomes(matches: Matches) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Outcome of every box at IoU 0.5, for any score threshold.

    Detections are matched in descending order of scores, so that a match does not depend on
    detections of lower scores: a threshold only removes detections and their matches.

    Args:
        matches: Matches of a split.

    Returns:
        `(D,)` int64, for every detection `RIGHT`, `WRONG` or `NEITHER` (matched with an ignored
        box, or beyond the detections that count), and `(G,)` float64, for every ground truth box
        the score of the detection matched with it, NaN without one.
    """
    found = np.full(len(matches.detections.labels), NEITHER)
    right = matches.right()[0]
    found[matches.rows] = np.where(right, RIGHT, np.where(matches.ignored()[0], NEITHER, WRONG))
    scores = np.full(len(matches.ground_truth.labels), np.nan)
    scores[matches.matched[0, right]] = matches.scores[right]
    return found, scores


@dataclass(frozen=True)
class Choice:
    """An image to show.

    Attributes:
        image: Image id.
        reasons: Reasons of `REASONS`; empty for an image that fills a place left over.
        note: One line on the results of the image.
    """

    image: int
    reasons: tuple[str, ...]
    note: str


def gallery(images: Images, suspects: Iterable[int] = (), most: int = 100) -> list[Choice]:
    """Choose images to show, each once: best, worst, most wrong, with suspected label errors.

    Best and worst are by F1; for equal F1 more true positives are better and more errors are worse.
    The best have an F1 of at least 0.5. Most wrong is by `wrongness`. Reasons have equal shares
    of the places; images of no reason fill those left over. So a split of at most `most` images is
    shown completely.

    Args:
        images: Counts of every image.
        suspects: Ids of images with suspected label errors, most suspicious first.
        most: Number of images.

    Returns:
        The first image of each reason, the second of each, and so on; then the others.
    """
    lists = _lists(images, suspects, min(most, len(images.ids)))
    reasons: dict[int, list[str]] = {}
    for turn in range(max((len(places) for places in lists.values()), default=0)):
        for reason, places in lists.items():
            if turn < len(places):
                reasons.setdefault(places[turn], []).append(reason)
    for place in range(len(images.ids)):
        reasons.setdefault(place, [])
    return [
        Choice(
            int(images.ids[place]),
            tuple(sorted(why, key=REASONS.index)),
            images.note(place),
        )
        for place, why in list(reasons.items())[:most]
    ]


def _lists(images: Images, suspects: Iterable[int], size: int) -> dict[str, list[int]]:
    """Indices of the first images of every reason, equally many of each."""
    errors, f1 = images.missed + images.false, images.f1

    def ranked(among: NDArray[np.bool_], *keys: NDArray[Any]) -> list[int]:
        """Indices in descending order of the first key, then of the next."""
        places = np.flatnonzero(among)
        order = np.lexsort([-key[places] for key in reversed(keys)])
        chosen: list[int] = places[order].tolist()
        return chosen

    ids = np.array(list(dict.fromkeys(suspects)), np.int64)
    lists = {
        "best": ranked(f1 >= 0.5, f1, images.hits),
        "worst": ranked(errors > 0, -f1, errors),
        "most wrong": ranked(errors > 0, images.wrongness),
        "suspect": np.searchsorted(images.ids, ids).tolist(),
    }
    lists = {reason: places for reason, places in lists.items() if places}
    each = -(-size // max(len(lists), 1))
    lists["worst"] = [p for p in lists.get("worst", []) if p not in lists.get("best", [])[:each]]
    return {reason: places[:each] for reason, places in lists.items()}
