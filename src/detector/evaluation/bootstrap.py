"""How far COCO's scores could be off by the choice of images: the bootstrap over images.

A resample draws as many images as there are, with replacement, and is scored as COCO scores a data
set that has each image as often as it was drawn. Matching happens within an image, so it is done
once; only the counts along the curve of precision and recall are weighted anew.

A class with few boxes scores a little higher in a resample than in the images themselves, since the
curve's peaks count and copies make it rougher. Over many classes that adds up to more than the
resamples vary, so intervals are moved back by it.

Source of the score: `accumulate` of pycocotools' cocoeval.py. Of the intervals: B. Efron and R. J.
Tibshirani, An Introduction to the Bootstrap, 1993, chapters 10 (bias) and 13 (percentiles).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.matching import RECALLS, THRESHOLDS, Matches

DEFINED = 0.9  # of the resamples; see `interval`
SIZE = 2**20  # numbers in the largest arrays, which bounds the memory

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Weights = NDArray[np.int32]


@dataclass(frozen=True)
class Averages:
    """COCO's averages, fractions in 0..1, for one data set or for R resamples.

    NaN where there is no truth to find; such a class does not count in the means.

    Attributes:
        map: `()` or `(R,)`, mean of `ap` over the classes.
        map_50: `()` or `(R,)`, mean of `ap_50`.
        ap: `(K,)` or `(R, K)`, mean over the IoU thresholds.
        ap_50: `(K,)` or `(R, K)`, at IoU 0.5.
    """

    map: Floats
    map_50: Floats
    ap: Floats
    ap_50: Floats


@dataclass(frozen=True)
class Resampled(Averages):
    """Averages of R resamples.

    Attributes:
        point: Those of the images as they are.
    """

    point: Averages


@dataclass(frozen=True)
class _Hits:
    """What a class's detections are at one IoU threshold.

    Attributes:
        places: `(P,)`, those that are right, among all of the class, best scores first.
        images: `(P,)`, theirs.
        ignored: `(I,)`, the images of those that match ignored truth.
        before: `(P,)`, how many of those come before each that is right.
    """

    places: Ints
    images: Ints
    ignored: Ints
    before: Ints


@dataclass(frozen=True)
class _Curve:
    """What the curves of one class are made of; images as places in the split, by their ids.

    Attributes:
        wanted: `(T,)`, the image of each truth that is to be found.
        images: `(M,)`, the image of each detection, best scores first.
        hits: For each IoU threshold.
    """

    wanted: Ints
    images: Ints
    hits: list[_Hits]


def bootstrap(matches: Matches, classes: int, resamples: int = 1000, seed: int = 0) -> Resampled:
    """Score resamples of the images.

    Exactly what pycocotools finds for the images drawn, copies of an image side by side. It differs
    only where scores of a class are equal within one image: then pycocotools has copy after copy,
    and here it is detection after detection.

    The draws depend on the seed and the number of images alone, so that two detectors are compared
    on the same ones. A single image cannot be resampled: all is NaN but `point`.

    Args:
        matches: Of all images, also of those without boxes.
        classes: Number of classes, K.
        resamples: How many, R.
        seed: Of the draws.
    """
    curves = _curves(matches, classes)
    images = len(matches.truth.images)
    ap, ap_50 = np.full((2, resamples + 1, classes), np.nan)
    as_it_is = np.ones((1, images), np.int32)
    first = 0
    for weights in chain([as_it_is], draws(images, resamples if images > 1 else 0, seed)):
        rows = slice(first, first := first + len(weights))
        for k, curve in enumerate(curves):
            found = _average_precision(curve, weights)
            ap[rows, k], ap_50[rows, k] = found.mean(0), found[0]
    means = _mean(ap), _mean(ap_50)
    point = Averages(means[0][0], means[1][0], ap[0], ap_50[0])
    return Resampled(means[0][1:], means[1][1:], ap[1:], ap_50[1:], point)


def draws(images: int, resamples: int, seed: int) -> Iterator[Weights]:
    """How often each image is drawn, by the order of ids: `(rows, images)`, until all are made.

    Args:
        images: How many there are, and are drawn each time, with replacement; at least one.
        resamples: Rows in all.
        seed: Same numbers for the same seed.
    """
    rng = np.random.default_rng(seed)
    block = max(1, SIZE // max(1, images))
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        drawn = rng.integers(0, images, (rows, images)) + images * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * images)
        yield counts.astype(np.int32).reshape(rows, images)


def interval(
    values: Floats, point: float, level: float = 0.95, least: float = 0.0
) -> tuple[float, float] | None:
    """The percentile interval, moved so that the resamples' mean is the score.

    How far resamples lie from their mean is how far scores of other images lie from theirs.

    Args:
        values: `(R,)`, of the resamples.
        point: Of the images as they are.
        level: Share of the resamples within.
        least: The lowest that a value can be; the highest is 1.

    Returns:
        None if fewer than 0.9 of the resamples are defined. That is so for a class with truth in
        one or two images of many, which 37% and 14% of the resamples do without. Its score hardly
        varies where it is drawn, and an interval would promise too much. With truth in some ten
        images the interval is still too narrow: it holds about 90 of 100 times.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < max(1, DEFINED * len(values)):
        return None
    bounds = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    low, high = np.clip(bounds + (point - defined.mean()), least, 1.0).tolist()
    return low, high


def _mean(values: Floats) -> Floats:
    """Mean over the classes that are defined, `(R, K)` to `(R,)`; NaN if none is."""
    defined = ~np.isnan(values)
    counts = defined.sum(1)
    sums = np.where(defined, values, 0).sum(1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _curves(matches: Matches, classes: int) -> list[_Curve]:
    """The curves of all classes."""
    truth, labels = matches.truth, matches.labels
    ids = np.sort(truth.images)
    wanted = np.searchsorted(ids, truth.image)
    images = np.searchsorted(ids, matches.images)
    right, ignored = matches.right(), matches.ignored()
    # What comes after the last that is right changes no score.
    mine = [np.flatnonzero(labels == label) for label in range(1, classes + 1)]
    mine = [rows[: np.flatnonzero(right[:, rows].any(0)).max(initial=-1) + 1] for rows in mine]
    curves = []
    for label, rows in enumerate(mine, 1):
        by_threshold = zip(right[:, rows], ignored[:, rows], strict=True)
        hits = [_hits(images[rows], *pair) for pair in by_threshold]
        to_find = wanted[(truth.labels == label) & ~truth.ignore]
        curves.append(_Curve(to_find, images[rows], hits))
    return curves


def _hits(images: Ints, right: NDArray[np.bool_], ignored: NDArray[np.bool_]) -> _Hits:
    """A class at one threshold, from `(M,)` each."""
    places = np.flatnonzero(right)
    before = np.cumsum(ignored, dtype=np.int64)[places]
    return _Hits(places, images[places], images[ignored], before)


def _average_precision(curve: _Curve, weights: Weights) -> Floats:
    """Average precision of one class at every threshold.

    Args:
        curve: The class.
        weights: `(R, images)`.

    Returns:
        `(10, R)`.
    """
    found = np.empty((len(THRESHOLDS), len(weights)))
    block = max(1, SIZE // max(1, len(curve.images), len(curve.wanted)))
    for first in range(0, len(weights), block):
        rows = slice(first, first + block)
        found[:, rows] = _block(curve, weights[rows])
    return found


def _block(curve: _Curve, weights: Weights) -> Floats:
    """As `_average_precision`, for as many resamples as go into memory."""
    totals = np.take(weights, curve.wanted, 1).sum(1)
    reached, starts = _points_reached(totals)
    counted = _running(weights, curve.images)
    found = np.empty((len(THRESHOLDS), len(weights)))
    for t, hits in enumerate(curve.hits):
        # Where a detection is right, precision has its peaks and recall its steps. One of weight 0
        # repeats the precision before it and reaches no further point, so it may stay.
        true = _running(weights, hits.images)
        among = np.take(counted, hits.places, 1)
        if len(hits.ignored):
            left_out = np.pad(_running(weights, hits.ignored), ((0, 0), (1, 0)))
            among -= np.take(left_out, hits.before, 1)
        precision = true / np.maximum(among, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        points = np.diff(np.take(reached, true + starts[:, None]), axis=1, prepend=0)
        found[t] = np.einsum("rp,rp->r", envelope, points) / len(RECALLS)
    return np.where(totals > 0, found, np.nan)


def _running(weights: Weights, images: Ints) -> Weights:
    """`(R, N)`, the running sums of the weights of `(N,)` images."""
    return np.cumsum(np.take(weights, images, 1), 1, np.int32)


def _points_reached(totals: Ints) -> tuple[Floats, Ints]:
    """How many of the recall points are reached with so many found.

    Compared as pycocotools does, so that rounding goes the same way.

    Args:
        totals: `(R,)`, how many are to be found.

    Returns:
        A table of all counts 0..total of every resample in turn, and `(R,)` where each begins.
        Nothing found reaches recall 0, where the envelope is what it is at the first found.
    """
    starts = np.cumsum(totals + 1) - (totals + 1)
    counts = np.arange(totals.sum() + len(totals)) - np.repeat(starts, totals + 1)
    recall = counts / np.repeat(np.maximum(totals, 1), totals + 1)
    return np.searchsorted(RECALLS, recall, side="right").astype(np.float64), starts
