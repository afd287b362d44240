"""Table of the metrics: a new metric is one module with one function, and one row here.

The scores of every row are in metrics.json (under its key, and for each class in `per_class`), in
the report, and on the terminal where the row says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from detector.evaluation import coco, voc
from detector.evaluation.arrays import Detections, GroundTruth, Scores


@dataclass(frozen=True)
class Metric:
    """A protocol by which detections are scored.

    Attributes:
        key: Key of its scores in metrics.json.
        name: Name of the metric in the report and on the terminal.
        function: Computes the scores from detections, ground truth and the number of classes; the
            names of scores of classes must differ from those of all other metrics.
        protocol: How scores against a ground truth are computed, in one line.
        titles: Name of a score in the report for each key, in the order shown.
        logged: Whether the terminal has a line with the scores.
    """

    key: str
    name: str
    function: Callable[[Detections, GroundTruth, int], Scores]
    protocol: Callable[[GroundTruth], str]
    titles: Mapping[str, str]
    logged: bool = True


def _coco(detections: Detections, ground_truth: GroundTruth, classes: int) -> Scores:
    """COCO's scores, checked with pycocotools."""
    from detector.evaluation.reference import checked_coco_scores  # slow to import

    return checked_coco_scores(detections, ground_truth, classes)


METRICS = (
    # The terminal's table has COCO's scores.
    Metric("coco", "COCO", _coco, coco.protocol, coco.TITLES, logged=False),
    Metric("voc", "PASCAL VOC", voc.voc_scores, lambda _: voc.PROTOCOL, voc.TITLES),
)


@dataclass(frozen=True)
class AllScores:
    """Scores of a split by all metrics, fractions in 0..1, NaN where undefined.

    Attributes:
        overall: Key of a metric -> its scores of the whole split by name.
        per_class: Scores of each class by all metrics, in the order of labels.
        protocol: Key of a metric -> how its scores are computed, in one line.
    """

    overall: dict[str, dict[str, float]]
    per_class: list[dict[str, float]]
    protocol: dict[str, str]


def compute_all(detections: Detections, ground_truth: GroundTruth, classes: int) -> AllScores:
    """Score detections by every metric of the table.

    Args:
        detections: Any number of detections, in any order, on the images of the ground truth.
        ground_truth: The ground truth.
        classes: Number of classes, K.

    Raises:
        RuntimeError: If a score of COCO's differs from that of pycocotools.
    """
    overall: dict[str, dict[str, float]] = {}
    per_class: list[dict[str, float]] = [{} for _ in range(classes)]
    for metric in METRICS:
        overall[metric.key], of_classes = metric.function(detections, ground_truth, classes)
        for row, scores in zip(per_class, of_classes, strict=True):
            row.update(scores)
    protocols = {metric.key: metric.protocol(ground_truth) for metric in METRICS}
    return AllScores(overall, per_class, protocols)
