"""What came of every image, and which of them to show."""

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
    """Counts of every image at the operating point, IoU 0.5.

    Attributes:
        ids: `(n,)` int64.
        hits: `(n,)` int64, right detections.
        missed: `(n,)` int64, truth not found.
        false: `(n,)` int64, wrong detections.
        wrongness: `(n,)` float64, the scores of the wrong detections, and 1 for each missed truth.
    """

    ids: NDArray[np.int64]
    hits: NDArray[np.int64]
    missed: NDArray[np.int64]
    false: NDArray[np.int64]
    wrongness: NDArray[np.float64]

    @property
    def f1(self) -> NDArray[np.float64]:
        """`(n,)`, NaN where nothing is and nothing was found."""
        with np.errstate(invalid="ignore"):
            return 2 * self.hits / (2 * self.hits + self.missed + self.false)

    def note(self, place: int) -> str:
        """One line on the image at that place, as "F1 0.31: 4 missed, 7 wrong"."""
        missed, false = int(self.missed[place]), int(self.false[place])
        if np.isnan(self.f1[place]):
            return "no boxes, and none detected"
        faults = [f"{missed} missed"] * (missed > 0) + [f"{false} wrong"] * (false > 0)
        return f"F1 {self.f1[place]:.2f}: " + (", ".join(faults) or f"all {self.hits[place]} found")


def by_image(matches: Matches, kept: NDArray[np.bool_]) -> Images:
    """Count in every image.

    Args:
        matches: Of a split.
        kept: `(M,)`, the detections at the operating point.
    """
    truth, right = matches.truth, matches.right()[0]
    ids = np.unique(truth.images)
    unfound = ~truth.ignore
    unfound[matches.found[0, right & kept]] = False
    wrong = kept & ~right & ~matches.ignored()[0]

    def count(images: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(np.searchsorted(ids, images), minlength=len(ids))

    missed = count(truth.image[unfound])
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
    """What became of every box at IoU 0.5, at any score threshold.

    Better scores are matched first, so that the match of a detection does not depend on weaker
    ones: a threshold only takes detections away, and with them what they found.

    Args:
        matches: Of a split.

    Returns:
        `(D,)`, for every detection `RIGHT`, `WRONG` or `NEITHER`: matched with ignored truth, or
        beyond the detections that count. `(G,)`, for every truth the score of the detection that
        found it, NaN if none did.
    """
    found = np.full(len(matches.detections.labels), NEITHER)
    right = matches.right()[0]
    found[matches.rows] = np.where(right, RIGHT, np.where(matches.ignored()[0], NEITHER, WRONG))
    scores = np.full(len(matches.truth.labels), np.nan)
    scores[matches.found[0, right]] = matches.scores[right]
    return found, scores


@dataclass(frozen=True)
class Choice:
    """An image to show.

    Attributes:
        image: Its id.
        reasons: Of `REASONS`; none where there was a place left over.
        note: One line on what came of it.
    """

    image: int
    reasons: tuple[str, ...]
    note: str


def gallery(images: Images, suspects: Iterable[int] = (), most: int = 100) -> list[Choice]:
    """Choose images to show, each once: the best, the worst, the most wrong, those of suspects.

    Best and worst go by F1, which falls with every missed and every wrong box. Of equal F1, the
    image with more right boxes is better and the one with more errors is worse. F1 of the best is
    at least 0.5. Most wrong goes by `wrongness`. All have an equal share of the places; those left
    over go to any image. So a split of no more than `most` images is shown whole.

    Args:
        images: The counts.
        suspects: Ids of images with suspected labels, most suspicious first.
        most: How many altogether.

    Returns:
        The first of each list, the second of each, and so on; then what is in none.
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
    """For every reason that holds of any image the places of the first of them, equally many."""
    errors, f1 = images.missed + images.false, images.f1

    def ranked(among: NDArray[np.bool_], *keys: NDArray[Any]) -> list[int]:
        """Places by falling values of the first key, of equal ones by the next."""
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
