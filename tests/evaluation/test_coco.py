import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from detector.evaluation.arrays import Detections, Truth
from detector.evaluation.coco import NAMES, coco_scores
from detector.evaluation.metric import DetectionMetric
from detector.types import Prediction, Target


def make(seed, images=6, classes=3, per_image=8, ignored=0.0):
    """Random truth, and detections that are the truth shaken, plus some that are nothing."""
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for image in range(images):
        n = int(rng.integers(0, per_image))
        corner, side = rng.uniform(0, 300, (n, 2)), rng.uniform(4, 150, (n, 2))
        boxes = np.concatenate((corner, corner + side), 1)
        labels = rng.integers(1, classes + 1, n)
        shaken = np.repeat(boxes, 2, 0) + rng.normal(0, 4, (2 * n, 4))
        shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
        found_labels = np.where(rng.random(2 * n) < 0.8, np.repeat(labels, 2), 1)
        scores = rng.random(2 * n).round(1)  # with ties
        predictions.append(
            Prediction(
                torch.from_numpy(shaken).float(),
                torch.from_numpy(found_labels),
                torch.from_numpy(scores).float(),
            )
        )
        targets.append(
            Target(
                torch.from_numpy(boxes).float(),
                torch.from_numpy(labels),
                torch.from_numpy(rng.random(n) < ignored),
                torch.tensor(image),
                torch.ones(2),
            )
        )
    return predictions, targets


def metric_of(predictions, targets, classes=3):
    metric = DetectionMetric(classes)
    metric.update(predictions, targets)
    return metric


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_the_twelve_numbers_equal_torchmetrics(seed, ignored):
    predictions, targets = make(seed, ignored=ignored)
    # COCO's recall points in float64: torchmetrics' own are float32, which moves a curve that
    # steps at just such a point by up to 0.001.
    theirs = MeanAveragePrecision(rec_thresholds=np.linspace(0, 1, 101).tolist())
    theirs.update(
        [{"boxes": p.boxes, "labels": p.labels, "scores": p.scores} for p in predictions],
        [{"boxes": t.boxes, "labels": t.labels, "iscrowd": t.ignore.int()} for t in targets],
    )
    expected = theirs.compute()
    found = metric_of(predictions, targets).compute()
    assert tuple(found) == NAMES
    for name, value in found.items():
        reference = float(expected[name])
        if reference == -1:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(reference, abs=1e-6)


def arrays(boxes, scores, labels, truth, truth_labels):
    found = Detections(
        np.zeros(len(boxes), np.int64),
        np.array(boxes, float).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(scores, float),
    )
    there = Truth(
        np.zeros(1, np.int64),
        np.zeros(len(truth), np.int64),
        np.array(truth, float).reshape(-1, 4),
        np.array(truth_labels, np.int64),
        np.zeros(len(truth), bool),
    )
    return found, there


def test_a_case_worked_out_by_hand():
    # One of two objects is found exactly, after a false alarm with a higher score. The curve has
    # precision 1/2 up to recall 1/2 and nothing beyond: 51 of 101 recall points at 1/2.
    found, truth = arrays(
        [[50, 50, 60, 60], [0, 0, 10, 10]],
        [0.9, 0.8],
        [1, 1],
        [[0, 0, 10, 10], [20, 20, 30, 30]],
        [1, 1],
    )
    scores, per_class = coco_scores(found, truth, classes=2)
    assert scores["map"] == pytest.approx(51 / 101 / 2)
    assert scores["map_50"] == pytest.approx(51 / 101 / 2)
    assert scores["mar_100"] == 0.5
    assert per_class[0]["ap_50"] == pytest.approx(51 / 101 / 2)
    assert np.isnan(per_class[1]["ap"])


def test_nothing_found_scores_zero():
    found, truth = arrays([], [], [], [[0, 0, 10, 10]], [1])
    scores, _ = coco_scores(found, truth, classes=1)
    assert scores["map"] == 0
    assert np.isnan(scores["map_large"])


def test_an_image_shown_twice_counts_once():
    predictions, targets = make(5)
    once = metric_of(predictions, targets).compute()
    metric = metric_of(predictions, targets)
    metric.update(predictions[:3], targets[:3])
    assert metric.compute() == pytest.approx(once, nan_ok=True)
    assert metric.evaluation.truth.images.tolist() == list(range(6))


def test_reset_forgets_everything():
    predictions, targets = make(6)
    metric = metric_of(*make(5))
    metric.reset()
    metric.update(predictions, targets)
    assert metric.compute() == pytest.approx(metric_of(predictions, targets).compute(), nan_ok=True)
