"""Uncertainty of COCO's scores: the paired bootstrap over images, ours beside hotcoco's.

Both compare two detectors on the same synthetic images, after matching. The point estimates agree,
the intervals do not: hotcoco counts an image that is drawn twice once, so that its intervals are
about a quarter too narrow. Then seconds of a whole bootstrap of one detector, which are wanted to
be at most 10 for 1,000 resamples of 1,000 images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hotcoco
import numpy as np
from common import Bound, Report, compare, seconds
from metric import CLASSES, DETECTIONS, synthetic

from detector.evaluation import bootstrap as resampling
from detector.evaluation import comparison
from detector.evaluation.arrays import Detections, GroundTruth, xywh
from detector.evaluation.matching import match
from detector.evaluation.metric import DetectionMetric


def measure(quick: bool) -> Report:
    """The comparison and the seconds; the point estimates agree, or it raises."""
    return measure_at(*((50, 100, 2) if quick else (1000, 1000, 5)))


def measure_at(images: int, resamples: int, rounds: int) -> Report:
    """The comparison and the seconds at a size.

    Args:
        images: How many.
        resamples: Of a whole bootstrap; the comparison takes a tenth of them.
        rounds: As `common.compare` takes it.

    Raises:
        AssertionError: If the differences of mAP are further apart than 1e-9.
    """
    a, ground_truth = arrays(images, CLASSES)
    moved = np.random.default_rng(1).normal(0, 2, (len(a.boxes), 2))
    b = replace(a, boxes=a.boxes + np.tile(moved, 2))
    few = max(1, resamples // 10)
    found, expected = ours(a, b, ground_truth, few)(), peer(a, b, ground_truth, few)()
    apart = abs(found.map.difference - expected["deltas"]["AP"])
    assert apart <= 1e-9, f"the differences of mAP are {apart} apart"
    figure = compare(
        ours(a, b, ground_truth, few),
        peer(a, b, ground_truth, few),
        rounds,
        what=f"paired bootstrap of two detectors, a resample of {images} images with {DETECTIONS} "
        f"detections each, {CLASSES} classes; hotcoco's compare",
        count=few,
        bound=Bound(
            counting(a, b, ground_truth, few),
            "for every class one running sum of how often each detection's image was drawn, "
            "instead of ten precision-recall curves",
        ),
    )
    taken = {classes: whole(images, classes, resamples) for classes in (1, 20, CLASSES)}
    rows = [f"| {classes} | {value:.1f} |" for classes, value in taken.items()]
    table = (
        f"Bootstrap of a detector's scores after matching, {resamples:,} resamples of {images:,} "
        f"images with {DETECTIONS} detections each (wanted: at most 10 s):\n\n"
        "| classes | s |\n|--:|--:|\n" + "\n".join(rows)
    )
    extra = {f"bootstrap_{classes}_s": value for classes, value in taken.items()}
    return Report({"bootstrap": figure}, table, extra)


def arrays(images: int, classes: int) -> tuple[Detections, GroundTruth]:
    """Synthetic detections and truth, packed."""
    metric = DetectionMetric(classes)
    for predictions, targets in synthetic(images, classes):
        metric.update(predictions, targets)
    return metric.arrays()


def whole(images: int, classes: int, resamples: int) -> float:
    """Seconds of the bootstrap of one detector."""
    matches = match(*arrays(images, classes))
    return seconds(lambda: resampling.bootstrap(matches, classes, resamples))


def ours(
    a: Detections, b: Detections, ground_truth: GroundTruth, resamples: int
) -> Callable[[], comparison.Comparison]:
    """Our comparison; matched beforehand."""
    of_a, of_b = match(a, ground_truth), match(b, ground_truth)
    return lambda: comparison.compare(of_a, of_b, CLASSES, resamples)


def counting(
    a: Detections, b: Detections, ground_truth: GroundTruth, resamples: int
) -> Callable[[], None]:
    """The detections before each one, counted as often as their images were drawn.

    Precision has this below its fraction line. Detections after the last true positive of a class
    change no score and are left out, as ours does.
    """
    weights = np.concatenate([*resampling.draws(len(ground_truth.images), resamples, 0)])
    images = []
    for matches in (match(a, ground_truth), match(b, ground_truth)):
        right = matches.right()
        for label in range(1, CLASSES + 1):
            mine = matches.labels == label
            last = np.flatnonzero(right[:, mine].any(0)).max(initial=-1)
            images.append(matches.images[mine][: last + 1])  # ids are 0, 1, 2...

    def work() -> None:
        for each in images:
            np.cumsum(np.take(weights, each, 1), 1, np.int32)

    return work


def peer(
    a: Detections, b: Detections, ground_truth: GroundTruth, resamples: int
) -> Callable[[], dict[str, Any]]:
    """The peer's; matched beforehand too."""
    of_a, of_b = (evaluated(one, ground_truth) for one in (a, b))
    return lambda: hotcoco.compare(of_a, of_b, n_bootstrap=resamples)


def evaluated(detections: Detections, ground_truth: GroundTruth) -> hotcoco.COCOeval:
    """Matched by the peer."""
    gt = hotcoco.COCO.from_arrays(
        [{"id": image} for image in ground_truth.images.tolist()],
        [{"id": label, "name": str(label)} for label in range(1, CLASSES + 1)],
        ground_truth.image,
        ground_truth.labels,
        xywh(ground_truth),
        iscrowd=ground_truth.ignore,
    )
    rows = (detections.image, xywh(detections), detections.scores, detections.labels)
    evaluation = hotcoco.COCOeval(gt, gt.load_res(np.column_stack(rows)), "bbox")
    evaluation.evaluate()
    return evaluation
