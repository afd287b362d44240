"""Detect on a split and score what was found; shared by train and evaluate."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detector.config.schema import Config
from detector.core.structures import AnnotatedImages, ClassMap
from detector.evaluation.arrays import Detections, Truth
from detector.evaluation.bootstrap import Resampled, bootstrap, interval
from detector.evaluation.coco import Scores, coco_scores
from detector.evaluation.matching import Matches, match
from detector.evaluation.voc import voc_scores

if TYPE_CHECKING:
    from detector.data.loading.datamodule import DetectionDataModule
    from detector.training.module import DetectionTask

log = logging.getLogger(__name__)

# Scores further from pycocotools' than rounding explains are wrong.
TOLERANCE = 1e-9
LEVEL = 0.95  # of intervals
MANY = 50_000  # detections, from which on scoring takes some time


@dataclass(frozen=True)
class Scored:
    """A scored split; fractions, NaN where there is no truth to find.

    Attributes:
        split: Its name.
        images: Its images; those whose path is empty are nowhere.
        classes: Of detections and truth.
        matches: Detections and truth, whose image ids are places in `images`.
        coco: COCO's twelve numbers, those of pycocotools.
        voc: PASCAL VOC's two.
        per_class: By name `ap`, `ap_50`, `voc_ap_50` and `voc_ap_50_11point`.
        resampled: The bootstrap's; None if none was wanted.
        seconds: That detecting took; scoring, where the detections were there before.
    """

    split: str
    images: AnnotatedImages
    classes: ClassMap
    matches: Matches
    coco: dict[str, float]
    voc: dict[str, float]
    per_class: dict[str, dict[str, float]]
    resampled: Resampled | None
    seconds: float

    @property
    def flat(self) -> dict[str, float]:
        """COCO's numbers and VOC's, as `voc_<name>`."""
        return {**self.coco, **{f"voc_{name}": value for name, value in self.voc.items()}}

    def interval(self, score: str, label: int | None = None) -> list[float] | None:
        """The interval of a score: `map` or `map_50`, or of a class `ap` or `ap_50`."""
        if self.resampled is None:
            return None
        values, point = getattr(self.resampled, score), getattr(self.resampled.point, score)
        if label is not None:
            values, point = values[:, label - 1], point[label - 1]
        bounds = interval(values, float(point), LEVEL)
        return None if bounds is None else list(bounds)


def detect(
    config: Config, task: DetectionTask, data: DetectionDataModule, split: str, folder: Path
) -> tuple[Detections, Truth, float] | None:
    """Run a network over a split.

    Args:
        config: The run's.
        task: With the weights to use.
        data: Has the split.
        split: `train`, `val` or `test`.
        folder: Where Lightning may write.

    Returns:
        Detections, truth, and the seconds it took; None on all processes but the first.

    Raises:
        RuntimeError: If images are missing.
    """
    from detector.data.loading.watchdog import named_ends
    from detector.pipeline.build import build_trainer
    from detector.training.progress import EvaluationBar

    trainer = build_trainer(config, folder, [EvaluationBar(split)])
    data.trainer = trainer  # says which process this is
    started = time.perf_counter()
    try:
        with named_ends():
            trainer.test(task, data.loader(split, training=False), verbose=False)
    except SystemExit as end:  # Lightning's way to end after Ctrl-C
        raise KeyboardInterrupt from end
    if not trainer.is_global_zero:
        return None
    evaluation = task.metric.evaluation
    assert evaluation is not None
    return evaluation.detections, evaluation.truth, time.perf_counter() - started


def score(
    detections: Detections,
    truth: Truth,
    images: AnnotatedImages,
    classes: ClassMap,
    split: str,
    resamples: int,
    seconds: float | None = None,
) -> Scored:
    """Score detections of any origin.

    Args:
        detections: Their image ids are places in `images`.
        truth: The same.
        images: Of the split.
        classes: Of both.
        split: What to call it.
        resamples: Of the bootstrap; 0: no intervals.
        seconds: That detecting took.

    Raises:
        RuntimeError: If a number of COCO's is not pycocotools'.
    """
    started = time.perf_counter()
    if (count := len(detections.labels)) >= MANY:
        log.info("scoring %d detections; the check by pycocotools takes longest", count)
    voc, voc_classes = voc_scores(detections, truth, len(classes))
    coco, coco_classes = judged(detections, truth, len(classes))
    matches = match(detections, truth)
    per_class = {
        name: {**a, **b}
        for name, a, b in zip(classes.names, coco_classes, voc_classes, strict=True)
    }
    resampled = bootstrap(matches, len(classes), resamples) if resamples else None
    took = time.perf_counter() - started if seconds is None else seconds
    return Scored(split, images, classes, matches, coco, voc, per_class, resampled, round(took, 2))


def judged(detections: Detections, truth: Truth, classes: int) -> Scores:
    """COCO's scores by pycocotools; RuntimeError if one of hotcoco's twelve is another."""
    from detector.evaluation import reference

    ours, _ = coco_scores(detections, truth, classes)
    expected = reference.pycocotools_scores(detections, truth, classes)
    for name, value in expected[0].items():
        same = math.isclose(ours[name], value, rel_tol=0, abs_tol=TOLERANCE)
        if not same and not (math.isnan(ours[name]) and math.isnan(value)):
            raise RuntimeError(
                f"{name} is {ours[name]!r}, but {value!r} by pycocotools; no metrics were written"
            )
    return expected
