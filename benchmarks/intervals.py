"""How often 95 % intervals hold what they are about: simulated detectors on simulated images.

    python benchmarks/intervals.py          # about a quarter of an hour; prints the table

Many sets of images are drawn from one source and scored, each with its interval. An interval is
right if it holds the mean score of such sets. Beside it, percentiles that are not moved to the
score, which lie too high where classes are many (see evaluation/bootstrap.py).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.bootstrap import bootstrap, interval
from detector.evaluation.matching import Matches, match

RESAMPLES = 400
COLUMNS = (
    *("images", "classes", "mAP of the detector", "resamples above it, points"),
    *("mAP", "AP50", "AP of a class", "mAP, not moved"),
)


@dataclass(frozen=True)
class Source:
    """What sets of images are drawn from.

    Attributes:
        images: In a set.
        classes: The first ones are more frequent.
        boxes: An image, on average.
        found: Share of the boxes that are found, in an image of mean difficulty.
        false: Detections of nothing an image, on average.
    """

    images: int
    classes: int
    boxes: float
    found: float
    false: float


SOURCES = (
    Source(50, 1, 3, 0.3, 10),
    Source(30, 1, 8, 0.6, 6),
    Source(40, 2, 5, 0.97, 1),
    Source(70, 3, 12, 0.8, 6),
    Source(200, 20, 7, 0.7, 20),
    Source(500, 80, 7, 0.7, 30),
)


def draw(source: Source, seed: int) -> Matches:
    """A set of images, some easy and some hard, and what a detector finds in them."""
    rng = np.random.default_rng(seed)
    hard = rng.beta(4, 4, source.images)
    weights = np.arange(1, source.classes + 1) ** -0.7
    weights /= weights.sum()

    def boxes(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image = np.repeat(np.arange(source.images), counts)
        corner = rng.uniform(0, 500, (len(image), 2))
        sides = np.exp(rng.uniform(np.log(16), np.log(200), (len(image), 2)))
        labels = rng.choice(source.classes, len(image), p=weights) + 1
        return image, np.concatenate((corner, corner + sides), 1), labels

    image, there, labels = boxes(rng.poisson(source.boxes, source.images))
    chance = source.found + 0.6 * (0.5 - hard[image])
    hit = np.flatnonzero(rng.random(len(image)) < chance)
    sides = np.tile(there[hit, 2:] - there[hit, :2], 2)
    shaken = there[hit] + rng.normal(0, 0.09, (len(hit), 4)) * sides
    shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
    strays = boxes(rng.poisson(source.false * (0.5 + hard)))
    found = Detections(
        np.concatenate((image[hit], strays[0])),
        np.concatenate((shaken, strays[1])),
        np.concatenate((labels[hit], strays[2])),
        np.concatenate((rng.beta(4, 2, len(hit)), rng.beta(2, 4, len(strays[0])))),
    )
    ground_truth = GroundTruth(
        np.arange(source.images), image, there, labels, np.zeros(len(image), bool)
    )
    return match(found, ground_truth)


def coverage(source: Source, sets: int) -> list[str]:
    """The cells of a row: the mean mAP, how far resamples lie above, shares of intervals."""
    scores, above = [], []
    bounds: list[list[tuple[float, float]]] = []
    for seed in range(sets):
        found = bootstrap(draw(source, seed), source.classes, RESAMPLES)
        point = found.point
        ones = [(found.map, point.map), (found.map_50, point.map_50)]
        ones.append((found.ap[:, 0], point.ap[0]))  # of the most frequent class
        scores.append([float(value) for _, value in ones])
        above.append(found.map.mean() - point.map)
        moved = [interval(values, float(value)) or (np.nan, np.nan) for values, value in ones]
        as_it_is = tuple(np.quantile(found.map, [0.025, 0.975]).tolist())
        bounds.append([*moved, as_it_is])
    wanted = np.mean(scores, 0)
    wanted = np.append(wanted, wanted[0])
    low, high = np.moveaxis(np.array(bounds), 2, 0)
    held = ((low <= wanted) & (wanted <= high)).mean(0)
    return [
        *(str(source.images), str(source.classes), f"{wanted[0]:.2f}"),
        *(f"{100 * np.mean(above):.1f}", *(f"{100 * share:.0f} %" for share in held)),
    ]


def main(sets: int) -> None:
    """Print the table, a row as it is measured."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'--:|' * len(COLUMNS)}")
    for source in SOURCES:
        print(f"| {' | '.join(coverage(source, sets))} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
