"""mAP, from tensors to COCO's twelve numbers: ours beside torchmetrics' MeanAveragePrecision.

Both take the same synthetic detections batch by batch and then compute. The peer has its default
backend, pycocotools, and COCO's recall points in float64: its own are float32, which moves a curve
that steps at just such a point by up to 0.001. Times are taken in one process, peak memory in a
process for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from common import Bound, Report, Worker, compare
from torchmetrics.detection import MeanAveragePrecision

from detector.core.structures import Target, TensorPrediction
from detector.evaluation.coco import NAMES
from detector.evaluation.metric import DetectionMetric

# As COCO's val2017 has: images, classes, and truths an image on average.
IMAGES, CLASSES, TRUTHS = 5000, 80, 7.2
DETECTIONS = 100  # an image: COCO's limit
BATCH = 8
SIDE = 640  # of an image, pixels
RECALLS = np.linspace(0, 1, 101).tolist()
Batches = Sequence[tuple[Sequence[TensorPrediction], Sequence[Target]]]


def measure(quick: bool) -> Report:
    """The comparison; the figures agree, or it raises."""
    images = 100 if quick else IMAGES
    report = measure_at(images, rounds=2 if quick else 3)
    peaks = {"ours": peak(ours, images), "torchmetrics": peak(peer, images)}
    table = (
        f"Peak memory of the metric, above that of its {images} images' tensors: "
        f"{peaks['ours']:.0f} MiB, torchmetrics' {peaks['torchmetrics']:.0f} MiB."
    )
    return replace(report, tables=table, extra={**report.extra, "peak_mib": peaks})


def measure_at(images: int, rounds: int) -> Report:
    """The times at a size.

    Args:
        images: How many.
        rounds: As `compare` takes it.

    Raises:
        AssertionError: If two numbers are further apart than 1e-6.
    """
    batches = synthetic(images)
    found, expected = ours(batches)(), peer(batches)()
    # torchmetrics says -1 where ours says NaN.
    pairs = [(np.nan_to_num(found[name], nan=-1.0), float(expected[name])) for name in NAMES]
    furthest = float(max(abs(a - b) for a, b in pairs))
    assert furthest <= 1e-6, f"the scores are {furthest} apart"
    truths = sum(len(target.labels) for _, targets in batches for target in targets)
    figure = compare(
        ours(batches),
        peer(batches),
        rounds,
        what=f"mAP of {images} images with {DETECTIONS} detections each, {truths} truths, "
        f"{CLASSES} classes; torchmetrics' MeanAveragePrecision (numbers differ by at most "
        f"{furthest:.0e})",
        target=20,
        bound=Bound(
            sorting(batches),
            "all detections in one array, and one sort of them by class and score; no matching",
        ),
    )
    return Report({"metric": figure}, extra={"largest_difference": furthest})


def peak(side: Callable[[Batches], Callable[[], object]], images: int) -> float:
    """The most memory that a score takes beside the batches, MiB."""
    held = []
    for make in (partial(_loaded, side, images), partial(_nothing, images)):
        with Worker(make) as worker:
            worker.seconds()
            held.append(worker.peak_bytes() / 2**20)
    return held[0] - held[1]


def _loaded(side: Callable[[Batches], Callable[[], object]], images: int) -> Callable[[], object]:
    """One side with its batches."""
    return side(synthetic(images))


def _nothing(images: int) -> Callable[[], object]:
    """The batches, and nothing done with them."""
    batches = synthetic(images)
    return lambda: len(batches)


def ours(batches: Batches) -> Callable[[], dict[str, float]]:
    """Our metric over the batches."""

    def score() -> dict[str, float]:
        metric = DetectionMetric(CLASSES)
        for predictions, targets in batches:
            metric.update(predictions, targets)
        return metric.compute()

    return score


def peer(batches: Batches) -> Callable[[], dict[str, torch.Tensor]]:
    """The peer over the same; its dictionaries are made beforehand."""
    rows = [
        (
            [{"boxes": p.boxes, "labels": p.labels, "scores": p.scores} for p in predictions],
            [{"boxes": t.boxes, "labels": t.labels} for t in targets],
        )
        for predictions, targets in batches
    ]

    def score() -> dict[str, torch.Tensor]:
        metric = MeanAveragePrecision(rec_thresholds=RECALLS)
        for predictions, targets in rows:
            metric.update(predictions, targets)
        return dict(metric.compute())

    return score


def sorting(batches: Batches) -> Callable[[], object]:
    """What no order of the work can avoid: all detections together, in the order of scores."""
    found = [one for predictions, _ in batches for one in predictions]

    def sort() -> object:
        boxes, labels, scores = (
            torch.cat(list(parts)).numpy()
            for parts in zip(*((p.boxes, p.labels, p.scores) for p in found), strict=True)
        )
        return boxes, np.argsort(labels - scores)  # scores are in 0..1

    return sort


def synthetic(images: int, classes: int = CLASSES, seed: int = 0) -> Batches:
    """Ground truth, and detections that are its boxes with noise.

    Args:
        images: How many.
        classes: Number of classes.
        seed: The same numbers for the same seed.
    """
    rng = np.random.default_rng(seed)
    predictions: list[TensorPrediction]
    targets: list[Target]
    predictions, targets = [], []
    for image in range(images):
        count = max(1, int(rng.poisson(TRUTHS)))
        corner = rng.uniform(0, SIDE / 2, (count, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(8, SIDE / 2, (count, 2))), 1)
        labels = rng.integers(1, classes + 1, count)
        source = rng.integers(0, count, DETECTIONS)
        shaken = boxes[source] + rng.normal(0, 1, (DETECTIONS, 4)) * rng.uniform(
            0, 12, (DETECTIONS, 1)
        )
        shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
        wrong = rng.random(DETECTIONS) < 0.3
        found = np.where(wrong, rng.integers(1, classes + 1, DETECTIONS), labels[source])
        predictions.append(
            TensorPrediction(
                torch.from_numpy(shaken).float(),
                torch.from_numpy(found),
                torch.from_numpy(rng.random(DETECTIONS)).float(),
            )
        )
        targets.append(
            Target(
                torch.from_numpy(boxes).float(),
                torch.from_numpy(labels),
                torch.zeros(count, dtype=torch.bool),
                torch.tensor(image),
                torch.ones(2),
            )
        )
    return [(predictions[i : i + BATCH], targets[i : i + BATCH]) for i in range(0, images, BATCH)]
