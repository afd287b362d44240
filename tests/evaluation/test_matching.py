"""Matching, beside pycocotools' own."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.matching import THRESHOLDS, match


def random_split(seed, images=4, classes=2, most=9, per_truth=3, ignored=0.3, round_to=1):
    """Truth on a coarse grid (so that overlaps tie), and shaken copies with tied scores."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, images, int(rng.integers(0, images * most)))
    corner = rng.integers(0, 12, (len(image), 2)) * 5.0
    boxes = np.concatenate((corner, corner + rng.integers(1, 8, (len(image), 2)) * 5.0), 1)
    labels = rng.integers(1, classes + 1, len(image))
    ground_truth = GroundTruth(
        np.arange(images), image, boxes, labels, rng.random(len(image)) < ignored
    )
    chosen = rng.integers(0, max(1, len(image)), per_truth * len(image))
    shaken = boxes[chosen] + rng.integers(-1, 2, (len(chosen), 4)) * 2.0
    shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
    scores = rng.random(len(chosen)).round(round_to)
    return Detections(image[chosen], shaken, labels[chosen], scores), ground_truth


def reference(detections, ground_truth, classes):
    """pycocotools' matches: image, class, threshold -> pairs of detection and truth rows."""
    images = [{"id": i} for i in ground_truth.images.tolist()]
    categories = [{"id": k} for k in range(1, classes + 1)]

    def index(part, **columns):
        rows = []
        for i in range(len(part.labels)):
            x1, y1, x2, y2 = part.boxes[i].tolist()
            row = {"id": i + 1, "image_id": int(part.image[i]), "area": (x2 - x1) * (y2 - y1)}
            row |= {"category_id": int(part.labels[i]), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            rows.append(row | {"iscrowd": 0} | {k: v[i] for k, v in columns.items()})
        coco = COCO()
        coco.dataset = {"images": images, "categories": categories, "annotations": rows}
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            index(ground_truth, iscrowd=ground_truth.ignore.astype(int).tolist()),
            index(detections, score=detections.scores.tolist()),
            "bbox",
        )
        evaluation.evaluate()
    found = np.full((10, len(detections.labels)), -2)  # -2: does not count
    area = evaluation.params.areaRng[0]
    for one in evaluation.evalImgs:
        if one is None or one["aRng"] != area:
            continue
        for d, name in enumerate(one["dtIds"]):
            found[:, name - 1] = one["dtMatches"][:, d].astype(int) - 1
    return found


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_matches_are_pycocotools(seed):
    detections, ground_truth = random_split(seed)
    matches = match(detections, ground_truth)
    expected = reference(detections, ground_truth, 2)
    np.testing.assert_array_equal(matches.matched, expected[:, matches.rows])
    assert set(matches.rows) == set(np.flatnonzero(expected[0] > -2))


def test_no_more_than_a_hundred_of_a_class_in_an_image_count():
    detections, ground_truth = random_split(5, images=2, most=40, per_truth=10)
    matches = match(detections, ground_truth)
    expected = reference(detections, ground_truth, 2)
    assert len(matches.rows) < len(detections.labels)
    np.testing.assert_array_equal(matches.matched, expected[:, matches.rows])
    assert (np.delete(expected[0], matches.rows) == -2).all()


def test_best_scores_come_first_and_ties_stand_by_image():
    detections, ground_truth = random_split(3)
    matches = match(detections, ground_truth)
    keys = list(zip(-matches.scores, matches.images, matches.rows, strict=True))
    assert keys == sorted(keys)


def test_what_is_matched_with_ignored_truth_is_neither_right_nor_wrong():
    ground_truth = GroundTruth(
        np.array([0]),
        np.array([0, 0]),
        np.array([[0, 0, 10, 10], [20, 20, 40, 40.0]]),
        np.array([1, 1]),
        np.array([False, True]),
    )
    boxes = np.array([[0, 0, 10, 10], [22, 22, 30, 30], [24, 24, 30, 30], [60, 60, 70, 70.0]])
    matches = match(
        Detections(np.zeros(4, int), boxes, np.ones(4, int), np.array([0.9, 0.8, 0.7, 0.6])),
        ground_truth,
    )
    np.testing.assert_array_equal(matches.matched[0], [0, 1, 1, -1])
    np.testing.assert_array_equal(matches.right()[0], [True, False, False, False])
    np.testing.assert_array_equal(matches.ignored()[0], [False, True, True, False])


@pytest.mark.parametrize("empty", ["detections", "truth", "both"])
def test_nothing_matches_nothing(empty):
    detections, ground_truth = random_split(1)
    none = np.zeros(0, int)
    if empty in ("detections", "both"):
        detections = Detections(none, np.zeros((0, 4)), none, np.zeros(0))
    if empty in ("truth", "both"):
        ground_truth = GroundTruth(
            ground_truth.images, none, np.zeros((0, 4)), none, np.zeros(0, bool)
        )
    matches = match(detections, ground_truth)
    assert matches.matched.shape == (10, len(detections.labels))
    assert (matches.matched == -1).all()


def test_the_thresholds_are_cocos():
    assert THRESHOLDS.tolist() == COCOeval(iouType="bbox").params.iouThrs.tolist()


def test_a_box_inside_out_that_matches_nothing_is_neither_right_nor_wrong():
    ground_truth = GroundTruth(
        np.array([0]), np.array([0]), np.array([[0, 0, 10, 10.0]]), np.array([1]), np.array([False])
    )
    boxes = np.array([[40, 20, 30, 30], [60, 60, 70, 70.0]])
    detections = Detections(np.zeros(2, int), boxes, np.ones(2, int), np.array([0.9, 0.8]))
    matches = match(detections, ground_truth)
    np.testing.assert_array_equal(matches.ignored()[0], [True, False])
    np.testing.assert_array_equal(matches.right()[0], [False, False])
