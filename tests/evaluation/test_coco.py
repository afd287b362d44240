import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from detector.core.structures import Target, TensorPrediction
from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.coco import NAMES, coco_scores
from detector.evaluation.metric import DetectionMetric
from detector.evaluation.reference import pycocotools_scores


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
            TensorPrediction(
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


def arrays(boxes, scores, labels, ground_truth, truth_labels):
    found = Detections(
        np.zeros(len(boxes), np.int64),
        np.array(boxes, float).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(scores, float),
    )
    there = GroundTruth(
        np.zeros(1, np.int64),
        np.zeros(len(ground_truth), np.int64),
        np.array(ground_truth, float).reshape(-1, 4),
        np.array(truth_labels, np.int64),
        np.zeros(len(ground_truth), bool),
    )
    return found, there


def test_a_case_worked_out_by_hand():
    # One of two objects is found exactly, after a false alarm with a higher score. The curve has
    # precision 1/2 up to recall 1/2 and nothing beyond: 51 of 101 recall points at 1/2.
    found, ground_truth = arrays(
        [[50, 50, 60, 60], [0, 0, 10, 10]],
        [0.9, 0.8],
        [1, 1],
        [[0, 0, 10, 10], [20, 20, 30, 30]],
        [1, 1],
    )
    scores, per_class = coco_scores(found, ground_truth, classes=2)
    assert scores["map"] == pytest.approx(51 / 101 / 2)
    assert scores["map_50"] == pytest.approx(51 / 101 / 2)
    assert scores["mar_100"] == 0.5
    assert per_class[0]["ap_50"] == pytest.approx(51 / 101 / 2)
    assert np.isnan(per_class[1]["ap"])


def test_nothing_found_scores_zero():
    found, ground_truth = arrays([], [], [], [[0, 0, 10, 10]], [1])
    scores, _ = coco_scores(found, ground_truth, classes=1)
    assert scores["map"] == 0
    assert np.isnan(scores["map_large"])


def case(seed, images=6, classes=4, ground_truth=30, found=200, ignored=0.2, ids=0, ties=False):
    """Ground truth of all of COCO's areas and detections near it; not every image has some."""
    rng = np.random.default_rng(seed)
    all_ids = ids + np.arange(images)
    corner = rng.uniform(0, 300, (ground_truth, 2))
    boxes = np.concatenate((corner, corner + rng.choice([8, 40, 200], (ground_truth, 2))), 1)
    there = GroundTruth(
        all_ids,
        rng.choice(all_ids[: max(1, images // 2)], ground_truth),
        boxes,
        rng.integers(1, classes + 1, ground_truth),
        rng.random(ground_truth) < ignored,
    )
    if ground_truth:
        source = rng.integers(0, ground_truth, found)
        shaken = boxes[source] + rng.normal(0, 3, (found, 4))
        image, labels = there.image[source], there.labels[source]
    else:
        shaken, image = rng.uniform(0, 300, (found, 4)), rng.choice(all_ids, found)
        labels = rng.integers(1, classes + 1, found)
    shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2])  # some have no area
    scores = rng.random(found).round(1 if ties else 12)
    return Detections(image, shaken, labels, scores), there, classes


CASES = {
    **{f"random {seed}": {"seed": seed} for seed in range(5)},
    "nothing found": {"seed": 5, "found": 0},
    "nothing there": {"seed": 6, "ground_truth": 0},
    "neither": {"seed": 7, "ground_truth": 0, "found": 0},
    "no images": {"seed": 8, "images": 0, "ground_truth": 0, "found": 0},
    "all ignored": {"seed": 9, "ignored": 1.0},
    "none ignored": {"seed": 10, "ignored": 0.0},
    "tied scores": {"seed": 11, "found": 400, "ties": True},
    "more than 100 detections in an image": {"seed": 12, "images": 1, "classes": 1, "found": 500},
    "absent classes": {"seed": 13, "classes": 60},
    "large ids": {"seed": 14, "ids": 2**53 - 6},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_every_number_is_pycocotools(options, capfd):
    detections, ground_truth, classes = case(**options)
    ours, ours_of_classes = coco_scores(detections, ground_truth, classes)
    theirs, theirs_of_classes = pycocotools_scores(detections, ground_truth, classes)
    assert tuple(ours) == tuple(theirs) == NAMES
    # NaN in the same places.
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=0, atol=1e-9)
    assert len(ours_of_classes) == len(theirs_of_classes) == classes
    for one, other in zip(ours_of_classes, theirs_of_classes, strict=True):
        assert set(one) == set(other) == {"ap", "ap_50"}
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=0, atol=1e-9)
    assert capfd.readouterr() == ("", "")  # a log has one speaker


def test_what_has_no_truth_is_undefined_in_both():
    detections, ground_truth, classes = case(0, classes=40, ignored=0.0)
    present = {int(label) for label in ground_truth.labels}
    for engine in (coco_scores, pycocotools_scores):
        _, per_class = engine(detections, ground_truth, classes)
        undefined = {k for k, row in enumerate(per_class, start=1) if np.isnan(row["ap"])}
        assert undefined == set(range(1, classes + 1)) - present


def test_an_image_shown_twice_counts_once():
    predictions, targets = make(5)
    once = metric_of(predictions, targets).compute()
    metric = metric_of(predictions, targets)
    metric.update(predictions[:3], targets[:3])
    assert metric.compute() == pytest.approx(once, nan_ok=True)
    assert metric.evaluation.ground_truth.images.tolist() == list(range(6))


def test_an_image_shown_twice_in_one_batch_counts_once():
    predictions, targets = make(5)
    once = metric_of(predictions, targets).compute()
    again = metric_of(predictions + predictions[:2], targets + targets[:2])
    assert again.compute() == pytest.approx(once, nan_ok=True)


def test_batches_of_any_size_are_the_same_split():
    predictions, targets = make(8)
    metric = DetectionMetric(3)
    for start, end in ((0, 1), (1, 1), (1, 4), (4, 6)):
        metric.update(predictions[start:end], targets[start:end])
    for ours, expected in zip(
        metric.arrays(), metric_of(predictions, targets).arrays(), strict=True
    ):
        for name, values in vars(expected).items():
            found = getattr(ours, name)
            assert np.asarray(found).dtype == np.asarray(values).dtype, name
            np.testing.assert_array_equal(found, values)


def test_boxes_stay_with_their_image():
    predictions, targets = make(9)
    detections, ground_truth = metric_of(predictions, targets).arrays()
    for target, prediction in zip(targets, predictions, strict=True):
        image = int(target.image_id)
        there, found = ground_truth.image == image, detections.image == image
        np.testing.assert_array_equal(ground_truth.boxes[there], target.boxes.numpy())
        np.testing.assert_array_equal(ground_truth.labels[there], target.labels.numpy())
        np.testing.assert_array_equal(ground_truth.ignore[there], target.ignore.numpy())
        np.testing.assert_array_equal(detections.boxes[found], prediction.boxes.numpy())
        np.testing.assert_array_equal(detections.labels[found], prediction.labels.numpy())
        np.testing.assert_array_equal(detections.scores[found], prediction.scores.numpy())


def test_reset_forgets_everything():
    predictions, targets = make(6)
    metric = metric_of(*make(5))
    metric.reset()
    metric.update(predictions, targets)
    assert metric.compute() == pytest.approx(metric_of(predictions, targets).compute(), nan_ok=True)
