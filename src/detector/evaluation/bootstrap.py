"""Confidence intervals of COCO's scores: the bootstrap over images.

A resample draws as many images as there are, with replacement, and is scored as COCO scores a data
set that has each image as often as it was drawn. Matching happens within an image, so it is done
once; a resample only changes the weights of the images in the counts of precision and recall.

The average precision of a class with few boxes is a little higher in a resample than in the images
themselves, since interpolation takes the peaks of the curve and copies of images make it rougher.
Over many classes this bias exceeds the variation of the resamples, so intervals are corrected for
it.

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

DEFINED = 0.9  # lowest share of defined resamples; see `interval`
SIZE = 2**20  # size of the largest arrays, which bounds the memory

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Weights = NDArray[np.int32]


@dataclass(frozen=True)
class Averages:
    """Average precision, fractions in 0..1, of one data set or of R resamples.

    NaN without ground truth; such a class does not count in the means.

    Attributes:
        map: `()` or `(R,)`, mean of `ap` over the classes.
        map_50: `()` or `(R,)`, mean of `ap_50` over the classes.
        ap: `(K,)` or `(R, K)`, average precision, mean over the IoU thresholds.
        ap_50: `(K,)` or `(R, K)`, average precision at IoU 0.5.
    """

    map: Floats
    map_50: Floats
    ap: Floats
    ap_50: Floats


@dataclass(frozen=True)
class Resampled(Averages):
    """Average precision of R resamples.

    Attributes:
        point: Average precision of the images as they are.
    """

    point: Averages


@dataclass(frozen=True)
class _Hits:
    """True positives and ignored detections of a class at one IoU threshold.

    Attributes:
        places: `(P,)`, indices of the true positives among the detections of the class, highest
            scores first.
        images: `(P,)`, images of the true positives.
        ignored: `(I,)`, images of the detections matched with ignored boxes.
        before: `(P,)`, number of ignored detections before each true positive.
    """

    places: Ints
    images: Ints
    ignored: Ints
    before: Ints


@dataclass(frozen=True)
class _Curve:
    """Data of the precision-recall curves of one class; images are indices in the order of ids.

    Attributes:
        wanted: `(T,)`, image of each ground truth box that is not ignored.
        images: `(M,)`, image of each detection, highest scores first.
        hits: True positives for each IoU threshold.
    """

    wanted: Ints
    images: Ints
    hits: list[_Hits]


def bootstrap(matches: Matches, classes: int, resamples: int = 1000, seed: int = 0) -> Resampled:
    """Score resamples of the images.

    Scores are those of pycocotools for the images drawn, with copies of an image side by side. They
    differ only where scores of a class are equal within one image: pycocotools then orders by copy,
    and this function by detection.

    The draws depend on the seed and the number of images alone, so that two detectors are compared
    on the same resamples. A single image cannot be resampled: all but `point` is NaN.

    Args:
        matches: Matches of all images, also of those without boxes.
        classes: Number of classes, K.
        resamples: Number of resamples, R.
        seed: Seed of the draws.
    """
    curves = _curves(matches, classes)
    images = len(matches.ground_truth.images)
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
    """Yield how often each image is drawn, in the order of ids: blocks of `(rows, images)`.

    Args:
        images: Number of images, which is also the number of draws of a resample; at least one.
        resamples: Number of rows of all blocks.
        seed: Seed of the draws.
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
    """The percentile interval, shifted so that the mean of the resamples is the score.

    The deviations of the resamples from their mean estimate those of scores on other images.

    Args:
        values: `(R,)`, scores of the resamples.
        point: Score of the images as they are.
        level: Share of the resamples in the interval.
        least: Lowest possible value; the highest is 1.

    Returns:
        Lower and upper limit; None if fewer than 0.9 of the resamples are defined. That is so for a
        class with ground truth in one or two of many images, which 37% and 14% of the resamples do
        not draw. Its score hardly varies over the others, so that an interval would be far too
        narrow. With ground truth in about ten images it is still too narrow: its coverage is about
        90%.
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
    ground_truth, labels = matches.ground_truth, matches.labels
    ids = np.sort(ground_truth.images)
    wanted = np.searchsorted(ids, ground_truth.image)
    images = np.searchsorted(ids, matches.images)
    right, ignored = matches.right(), matches.ignored()
    # Detections after the last true positive change no score.
    mine = [np.flatnonzero(labels == label) for label in range(1, classes + 1)]
    mine = [rows[: np.flatnonzero(right[:, rows].any(0)).max(initial=-1) + 1] for rows in mine]
    curves = []
    for label, rows in enumerate(mine, 1):
        by_threshold = zip(right[:, rows], ignored[:, rows], strict=True)
        hits = [_hits(images[rows], *pair) for pair in by_threshold]
        to_find = wanted[(ground_truth.labels == label) & ~ground_truth.ignore]
        curves.append(_Curve(to_find, images[rows], hits))
    return curves


def _hits(images: Ints, right: NDArray[np.bool_], ignored: NDArray[np.bool_]) -> _Hits:
    """True positives of a class at one threshold; all arguments are `(M,)`."""
    places = np.flatnonzero(right)
    before = np.cumsum(ignored, dtype=np.int64)[places]
    return _Hits(places, images[places], images[ignored], before)


def _average_precision(curve: _Curve, weights: Weights) -> Floats:
    """Average precision of one class at every IoU threshold.

    Args:
        curve: Curves of the class.
        weights: `(R, images)`, how often each image was drawn.

    Returns:
        `(10, R)`, average precision.
    """
    found = np.empty((len(THRESHOLDS), len(weights)))
    block = max(1, SIZE // max(1, len(curve.images), len(curve.wanted)))
    for first in range(0, len(weights), block):
        rows = slice(first, first + block)
        found[:, rows] = _block(curve, weights[rows])
    return found


def _block(curve: _Curve, weights: Weights) -> Floats:
    """As `_average_precision`, for as many resamples as fit into memory."""
    totals = np.take(weights, curve.wanted, 1).sum(1)
    reached, starts = _points_reached(totals)
    counted = _running(weights, curve.images)
    found = np.empty((len(THRESHOLDS), len(weights)))
    for t, hits in enumerate(curve.hits):
        # Precision has its peaks and recall its steps at true positives. One of weight 0 repeats
        # the precision before it and reaches no further recall threshold, so it can be kept.
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
    """`(R, N)`, cumulative sums of the weights of `(N,)` images."""
    return np.cumsum(np.take(weights, images, 1), 1, np.int32)


def _points_reached(totals: Ints) -> tuple[Floats, Ints]:
    """Number of recall thresholds reached for each number of true positives.

    Values are compared as in pycocotools, so that rounding has the same effect.

    Args:
        totals: `(R,)`, number of boxes to be found in each resample.

    Returns:
        A table with the counts 0..total of every resample one after the other, and `(R,)`, the
        index where each resample begins. Without true positives, recall 0 is reached, where the
        envelope has its value at the first true positive.
    """
    starts = np.cumsum(totals + 1) - (totals + 1)
    counts = np.arange(totals.sum() + len(totals)) - np.repeat(starts, totals + 1)
    recall = counts / np.repeat(np.maximum(totals, 1), totals + 1)
    return np.searchsorted(RECALLS, recall, side="right").astype(np.float64), starts
