"""Detect on a split, and score detections of any origin."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detector.config.schema import Config
from detector.core.run_folder import RunFolder
from detector.core.structures import AnnotatedImages, ClassMap
from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.bootstrap import Resampled, bootstrap, interval
from detector.evaluation.comparison import Comparison, compare
from detector.evaluation.matching import Matches, match
from detector.evaluation.metrics import AllScores, compute_all

if TYPE_CHECKING:
    from detector.data.loading.datamodule import DetectionDataModule
    from detector.training.module import DetectionTask

log = logging.getLogger(__name__)

LEVEL = 0.95  # of intervals
MANY = 50_000  # detections, from which on scoring takes some time


@dataclass(frozen=True)
class EvaluationInputs:
    """Detections on a split and its ground truth, wherever they come from.

    Attributes:
        detections: The detections; image ids are indices into `images`.
        truth: The ground truth, likewise.
        images: The split; paths are empty where no file is known.
        classes: Classes of detections and ground truth.
        split: Name of the split.
        seconds: Detection time, seconds; None where the detections were made elsewhere.
        baseline: Detections of another detector on the same images, to compare with; None if there
            is none.
    """

    detections: Detections
    ground_truth: GroundTruth
    images: AnnotatedImages
    classes: ClassMap
    split: str
    seconds: float | None = None
    baseline: Detections | None = None


@dataclass(frozen=True)
class Scored:
    """A scored split; scores are fractions, NaN where there is no ground truth.

    Attributes:
        inputs: Detections and ground truth.
        matches: Matches between detections and ground truth.
        scores: Scores by all metrics.
        resampled: Bootstrap resamples of the scores; None if none were wanted.
        comparison: Comparison with the baseline; None if there is none.
        seconds: Detection time, seconds; scoring time where the detections were made elsewhere.
    """

    inputs: EvaluationInputs
    matches: Matches
    scores: AllScores
    resampled: Resampled | None
    comparison: Comparison | None
    seconds: float

    @property
    def flat(self) -> dict[str, float]:
        """COCO's scores by their names, and those of another metric as `<its key>_<name>`."""
        return {
            name if key == "coco" else f"{key}_{name}": value
            for key, scores in self.scores.overall.items()
            for name, value in scores.items()
        }

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
    config: Config, task: DetectionTask, data: DetectionDataModule, split: str, folder: RunFolder
) -> EvaluationInputs | None:
    """Run a network over a split.

    Args:
        config: The configuration in force.
        task: The network with the weights to use.
        data: The data set, which has the split.
        split: `train`, `val` or `test`.
        folder: Folder that Lightning may write into.

    Returns:
        Detections and ground truth; None on all processes but the first.

    Raises:
        RuntimeError: If images are missing.
    """
    from detector.data.loading.watchdog import named_ends
    from detector.pipeline.build import build_trainer
    from detector.training.progress import EvaluationBar

    trainer = build_trainer(config, folder.path, [EvaluationBar(split)])
    data.trainer = trainer  # says which process this is
    started = time.perf_counter()
    try:
        with named_ends():
            trainer.test(task, data.loader(split, training=False), verbose=False)
    except SystemExit as end:  # Lightning's way to end after Ctrl-C
        raise KeyboardInterrupt from end
    if not trainer.is_global_zero:
        return None
    found = task.metric.evaluation
    assert found is not None
    seconds = time.perf_counter() - started
    images = data.splits[split]
    return EvaluationInputs(
        found.detections, found.ground_truth, images, task.classes, split, seconds
    )


def score(inputs: EvaluationInputs, resamples: int) -> Scored:
    """Score detections of any origin.

    Args:
        inputs: Detections and ground truth.
        resamples: Resamples of the bootstrap; 0: no intervals.

    Raises:
        RuntimeError: If a score of COCO's differs from that of pycocotools.
    """
    started = time.perf_counter()
    detections, ground_truth, classes = inputs.detections, inputs.ground_truth, inputs.classes
    if (count := len(detections.labels)) >= MANY:
        log.info("scoring %d detections; the check by pycocotools takes longest", count)
    scores = compute_all(detections, ground_truth, len(classes))
    matches = match(detections, ground_truth)
    resampled = bootstrap(matches, len(classes), resamples) if resamples else None
    comparison = None
    if inputs.baseline is not None:
        other = match(inputs.baseline, ground_truth)
        comparison = compare(matches, other, len(classes), resamples, level=LEVEL)
    seconds = time.perf_counter() - started if inputs.seconds is None else inputs.seconds
    return Scored(inputs, matches, scores, resampled, comparison, round(seconds, 2))
