"""Comparison of two detectors on the same images, and of their settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.evaluation.arrays import GroundTruth
from detector.evaluation.bootstrap import Floats, bootstrap, interval
from detector.evaluation.matching import Matches

DIGITS = 6  # decimals of a percentage point that are more than rounding errors


@dataclass(frozen=True)
class Difference:
    """One score of two detectors; fractions, NaN without ground truth.

    Attributes:
        a: Score of A, 0..1.
        b: Score of B, 0..1.
        difference: `b - a`.
        interval: Interval of the difference; None as for `bootstrap.interval`.
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
        ap: Average precision of each class.
        ap_50: Average precision of each class at IoU 0.5.
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

    Hard images are hard for both detectors, which cancels in the difference within a resample, so
    that its interval is narrower than those of the scores.

    Args:
        a: Matches of detector A.
        b: Matches of detector B with the same ground truth.
        classes: Number of classes, K.
        resamples: Number of resamples.
        seed: Seed of the draws.
        level: Share of the resamples in the intervals.

    Raises:
        ValueError: If images or ground truth differ.
    """
    if not np.array_equal(np.sort(a.ground_truth.images), np.sort(b.ground_truth.images)):
        raise ValueError("A and B must be compared on the same images")
    if not np.array_equal(_sorted_rows(a.ground_truth), _sorted_rows(b.ground_truth)):
        raise ValueError("A and B must be compared with the same ground truth")
    of_a, of_b = (bootstrap(one, classes, resamples, seed) for one in (a, b))

    at_a, at_b = of_a.point, of_b.point
    return Comparison(
        _difference(at_a.map, at_b.map, of_b.map - of_a.map, level),
        _difference(at_a.map_50, at_b.map_50, of_b.map_50 - of_a.map_50, level),
        _per_class(at_a.ap, at_b.ap, of_b.ap - of_a.ap, level),
        _per_class(at_a.ap_50, at_b.ap_50, of_b.ap_50 - of_a.ap_50, level),
    )


def sentence(found: Difference, score: str = "mAP", names: tuple[str, str] = ("A", "B")) -> str:
    """The result of a comparison in words.

    For example: "B is better by 2.1 points of mAP, 95% interval 0.4 to 3.9." Points are percentage
    points. Numbers have one decimal, or as many as are needed to show that the interval excludes 0
    where one detector is called better.

    Args:
        found: The difference.
        score: Name of the score.
        names: Names of A and B.
    """
    a, b = names
    if np.isnan(found.difference):
        return f"{a} and {b} cannot be compared in {score}: there are no true boxes."
    # The sentence is about the detector with the higher score.
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
        order of the configurations; None where a configuration lacks the key.
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
    """The difference of one score, from its values of A, of B, and `(R,)` of B - A resampled."""
    return Difference(
        float(a),
        float(b),
        float(b - a),
        interval(resampled, float(b - a), level, least=-1.0),
        level,
    )


def _per_class(a: Floats, b: Floats, resampled: Floats, level: float) -> list[Difference]:
    """Differences of each class, from `(K,)`, `(K,)` and `(R, K)`."""
    return [_difference(*of_one, level) for of_one in zip(a, b, resampled.T, strict=True)]


def _points(fraction: float) -> float:
    """A fraction in percentage points, without rounding errors of sums."""
    return round(100 * fraction, DIGITS)


def _shown(points: float, digits: int = 1) -> str:
    """Points with so many decimals, and 0 without a sign."""
    return f"{round(points, digits) + 0.0:.{digits}f}"


def _sorted_rows(ground_truth: GroundTruth) -> Floats:
    """Ground truth as one table of sorted rows."""
    table: Floats = np.column_stack(
        (ground_truth.boxes, ground_truth.image, ground_truth.labels, ground_truth.ignore)
    )
    return table[np.lexsort(table.T)]
