"""Which of two detectors is better, image for image, and in which settings they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.evaluation.arrays import Truth
from detector.evaluation.bootstrap import Floats, bootstrap, interval
from detector.evaluation.matching import Matches

DIGITS = 6  # of a point, beyond which a number is 0


@dataclass(frozen=True)
class Difference:
    """One score of two detectors; fractions, NaN where there is no truth to find.

    Attributes:
        a: The score of A, 0..1.
        b: The score of B, 0..1.
        difference: b - a.
        interval: Of the difference; None as for `bootstrap.interval`.
        level: Share of the resamples in the interval.
    """

    a: float
    b: float
    difference: float
    interval: tuple[float, float] | None
    level: float = 0.95


@dataclass(frozen=True)
class Comparison:
    """All scores of two detectors.

    Attributes:
        map: COCO's mAP.
        map_50: mAP at IoU 0.5.
        ap: Of each class.
        ap_50: Of each class, at IoU 0.5.
    """

    map: Difference
    map_50: Difference
    ap: list[Difference]
    ap_50: list[Difference]


def compare(
    a: Matches,
    b: Matches,
    classes: int,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Compare two detectors on the same resamples of the same images.

    Hard images are hard for both, which the difference within a resample leaves out: its interval
    is narrower than those of the scores.

    Args:
        a: The one detector's.
        b: The other's, with the same truth.
        classes: Number of classes, K.
        resamples: How many.
        seed: Of the draws.
        level: Share of the resamples in the intervals.

    Raises:
        ValueError: If images or truth are not the same.
    """
    if not np.array_equal(np.sort(a.truth.images), np.sort(b.truth.images)):
        raise ValueError("A and B are to be compared on the same images")
    if not np.array_equal(_sorted_rows(a.truth), _sorted_rows(b.truth)):
        raise ValueError("A and B are to be compared with the same truth")
    of_a, of_b = (bootstrap(one, classes, resamples, seed) for one in (a, b))

    at_a, at_b = of_a.point, of_b.point
    return Comparison(
        _difference(at_a.map, at_b.map, of_b.map - of_a.map, level),
        _difference(at_a.map_50, at_b.map_50, of_b.map_50 - of_a.map_50, level),
        _per_class(at_a.ap, at_b.ap, of_b.ap - of_a.ap, level),
        _per_class(at_a.ap_50, at_b.ap_50, of_b.ap_50 - of_a.ap_50, level),
    )


def sentence(found: Difference, score: str = "mAP", names: tuple[str, str] = ("A", "B")) -> str:
    """What a difference says, in words.

    For example: "B is better by 2.1 points of mAP, 95% interval 0.4 to 3.9." A point is a
    hundredth. Numbers have one decimal, or as many as it takes to show that an interval leaves out
    0 where one is called better.

    Args:
        found: The difference.
        score: Which score it is of.
        names: Of A and B.
    """
    a, b = names
    if np.isnan(found.difference):
        return f"{a} and {b} cannot be compared in {score}: there are no true boxes."
    # All is said of the one that scored more.
    sign, more, less = (1, b, a) if found.difference >= 0 else (-1, a, b)
    gap = _points(sign * found.difference)
    apart = f"{more} is {_shown(gap)} points of {score} above {less}"
    if not round(gap, 1):
        apart = f"{a} and {b} are less than 0.1 points of {score} apart"
    if found.interval is None:
        return f"No difference can be told: {apart}, on too few images for an interval."
    low, high = sorted(_points(sign * bound) for bound in found.interval)
    if gap == low == high == 0:
        return f"{a} and {b} are equal: both have {_shown(_points(found.a))} points of {score}."
    within = f"{100 * found.level:g}% interval"
    if min(gap, low) > 0:
        digits = next(d for d in range(1, DIGITS + 1) if round(min(gap, low), d))
        by, *bounds = (_shown(points, digits) for points in (gap, low, high))
        return f"{more} is better by {by} points of {score}, {within} {' to '.join(bounds)}."
    within += f" {_shown(low)} to {_shown(high)}"
    verdict = "includes 0" if low <= 0 <= high else "does not include it"
    return f"No difference can be told: {apart}, {within}, which {verdict}."


def differing_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings in which two configurations differ.

    Args:
        a: Configuration of A: dictionaries within dictionaries, lists and plain values.
        b: Configuration of B.

    Returns:
        `key`, such as `optim.lr` or `finetune.phases.0.train`, with its values `a` and `b`, in the
        order of the configurations; None where a configuration has no such key.
    """
    flat_a, flat_b = dict(_flat("", a)), dict(_flat("", b))
    return [
        {"key": key, "a": flat_a.get(key), "b": flat_b.get(key)}
        for key in dict.fromkeys((*flat_a, *flat_b))
        if flat_a.get(key) != flat_b.get(key)
    ]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Keys with dots and their values; the items of a list of dictionaries are numbered."""
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        parts = list(enumerate(value))
    else:
        yield prefix, value
        return
    for key, item in parts:
        yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)


def _difference(a: Floats, b: Floats, resampled: Floats, level: float) -> Difference:
    """Of one score: A's, B's, and `(R,)` how far B's is above A's in the resamples."""
    return Difference(
        float(a),
        float(b),
        float(b - a),
        interval(resampled, float(b - a), level, least=-1.0),
        level,
    )


def _per_class(a: Floats, b: Floats, resampled: Floats, level: float) -> list[Difference]:
    """As `_difference`, from `(K,)`, `(K,)` and `(R, K)`."""
    return [_difference(*of_one, level) for of_one in zip(a, b, resampled.T, strict=True)]


def _points(fraction: float) -> float:
    """In points, without what rounding left in sums."""
    return round(100 * fraction, DIGITS)


def _shown(points: float, digits: int = 1) -> str:
    """With so many decimals, and no minus before 0."""
    return f"{round(points, digits) + 0.0:.{digits}f}"


def _sorted_rows(truth: Truth) -> Floats:
    """Truth as one table, whatever its order."""
    table: Floats = np.column_stack((truth.boxes, truth.image, truth.labels, truth.ignore))
    return table[np.lexsort(table.T)]
