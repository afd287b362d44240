"""Resampled scores, beside pycocotools' of the data set that a resample stands for."""

import numpy as np
import pytest

from detector.evaluation import bootstrap as module
from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.bootstrap import bootstrap, draws, interval
from detector.evaluation.matching import match
from detector.evaluation.reference import pycocotools_scores

NONE = np.zeros(0, int)


def make_split(seed, images=7, classes=3, ignored=0.2):
    """Truth, shaken copies and strays; scores tie across images but not within one."""
    rng = np.random.default_rng(seed)
    truths = int(rng.integers(2, 4 * images))
    image = rng.integers(0, images, truths)
    corner = rng.uniform(0, 60, (truths, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(10, 40, (truths, 2))), 1)
    labels = rng.integers(1, classes + 1, truths)
    ids = 3 + 10 * np.arange(images)  # not places
    ground_truth = GroundTruth(
        rng.permutation(ids), ids[image], boxes, labels, rng.random(truths) < ignored
    )
    chosen = rng.integers(0, truths, 3 * truths)
    shaken = boxes[chosen] + rng.normal(0, 1, (len(chosen), 4)) * rng.uniform(0, 5)
    shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
    found = np.where(rng.random(len(chosen)) < 0.2, rng.integers(0, images, len(chosen)), -1)
    found = np.where(found < 0, image[chosen], found)
    scores = np.empty(len(chosen))
    for i in range(images):
        mine = np.flatnonzero(found == i)
        scores[mine] = rng.choice(3 * truths, len(mine), replace=False) / (3 * truths)
    return Detections(ids[found], shaken, labels[chosen], scores), ground_truth


def repeated(detections, ground_truth, weights):
    """Every image as often as its weight says, under new ids, copies side by side."""
    old = np.repeat(np.sort(ground_truth.images), weights)

    def copies(image):
        rows = [np.flatnonzero(image == i) for i in old]
        new = np.repeat(np.arange(len(old)), [len(r) for r in rows])
        return np.concatenate([NONE, *rows]), new

    d, d_image = copies(detections.image)
    t, t_image = copies(ground_truth.image)
    return (
        Detections(d_image, detections.boxes[d], detections.labels[d], detections.scores[d]),
        GroundTruth(
            np.arange(len(old)),
            t_image,
            ground_truth.boxes[t],
            ground_truth.labels[t],
            ground_truth.ignore[t],
        ),
    )


def assert_scores(averages, row, scores):
    coco, per_class = scores
    expected = {"map": coco["map"], "map_50": coco["map_50"]}
    expected |= {name: [one[name] for one in per_class] for name in ("ap", "ap_50")}
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(averages, name)[row], values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_a_resample_scores_what_pycocotools_finds_for_its_images(seed):
    detections, ground_truth = make_split(seed)
    found = bootstrap(match(detections, ground_truth), 3, resamples=6, seed=seed)
    (weights,) = draws(7, 6, seed)
    for row, times in enumerate(weights):
        assert_scores(found, row, pycocotools_scores(*repeated(detections, ground_truth, times), 3))


@pytest.mark.parametrize("seed", range(12))
def test_the_point_is_pycocotools_score_of_the_images(seed):
    detections, ground_truth = make_split(seed)
    point = bootstrap(match(detections, ground_truth), 3, resamples=0).point
    assert_scores(point, (), pycocotools_scores(detections, ground_truth, 3))


def test_recall_is_compared_with_its_points_as_pycocotools_does():
    # 35 of 100 are found, but pycocotools' point 0.35 is above 35 / 100 by a last bit.
    detections, ground_truth = one_each(100, range(35))
    point = bootstrap(match(detections, ground_truth), 1, resamples=0).point
    assert point.map == pytest.approx(35 / 101, abs=1e-12)
    assert_scores(point, (), pycocotools_scores(detections, ground_truth, 1))


def test_where_a_class_has_no_truth_it_does_not_count():
    box = np.array([[0, 0, 10, 10.0]])
    ground_truth = GroundTruth(
        np.arange(3), np.arange(3), box.repeat(3, 0), np.array([1, 1, 2]), np.zeros(3, bool)
    )
    detections = Detections(np.array([0]), box, np.array([1]), np.array([0.5]))
    found = bootstrap(match(detections, ground_truth), 2, resamples=50)
    (weights,) = draws(3, 50, 0)
    without = weights[:, 2] == 0
    assert 0 < without.sum() < 50
    np.testing.assert_array_equal(np.isnan(found.ap[:, 1]), without)
    np.testing.assert_array_equal(found.map[without], found.ap[without, 0])
    some = ~without & (weights[:, 2] < 3)
    np.testing.assert_array_equal(found.map[some], found.ap[some, 0] / 2)


def one_each(images, hits):
    """A truth in every image, and a perfect detection in some."""
    hits = np.array(list(hits), int)
    box = np.array([[0, 0, 10, 10.0]])
    ground_truth = GroundTruth(
        np.arange(images),
        np.arange(images),
        box.repeat(images, 0),
        np.ones(images, int),
        np.zeros(images, bool),
    )
    found = Detections(hits, box.repeat(len(hits), 0), np.ones(len(hits), int), np.ones(len(hits)))
    return found, ground_truth


def test_the_spread_is_that_of_a_share():
    # Without false positives AP is the share of recall points reached, so the share of hits.
    matches = match(*one_each(400, range(240)))
    found = bootstrap(matches, 1, resamples=2000)
    error = np.sqrt(0.6 * 0.4 / 400)
    assert found.map.std() == pytest.approx(error, rel=0.06)
    low, high = interval(found.map, float(found.point.map))
    assert low == pytest.approx(0.6 - 1.96 * error, abs=0.01)
    assert high == pytest.approx(0.6 + 1.96 * error, abs=0.01)


def test_every_image_is_drawn_once_on_average_and_as_many_as_there_are():
    weights = np.concatenate(list(draws(50, 4000, 1)))
    assert weights.shape == (4000, 50)
    assert (weights.sum(1) == 50).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.08)
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.02)  # binomial


def test_an_image_without_anything_is_drawn_like_the_others():
    detections, ground_truth = one_each(1, [0])
    ground_truth = GroundTruth(
        np.arange(2),
        ground_truth.image,
        ground_truth.boxes,
        ground_truth.labels,
        ground_truth.ignore,
    )
    found = bootstrap(match(detections, ground_truth), 1, resamples=2000)
    # Two draws of two images leave one out in a quarter of the cases.
    assert np.isnan(found.map).mean() == pytest.approx(1 / 4, abs=0.03)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    matches = match(*make_split(1))
    first, again, other = (bootstrap(matches, 3, 20, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.ap, again.ap)
    assert not np.array_equal(first.map, other.map, equal_nan=True)


def test_blocks_change_no_number(monkeypatch):
    matches = match(*make_split(1))
    whole = bootstrap(matches, 3, 20)
    monkeypatch.setattr(module, "SIZE", 3 * 7)
    split = bootstrap(matches, 3, 20)
    assert len(list(draws(7, 20, 0))) == 7
    np.testing.assert_array_equal(whole.ap, split.ap)
    np.testing.assert_array_equal(whole.map_50, split.map_50)


def test_without_detections_nothing_is_found():
    detections, ground_truth = one_each(3, [])
    found = bootstrap(match(detections, ground_truth), 1, 10)
    assert found.point.map == 0
    assert (found.map == 0).all()


@pytest.mark.parametrize("ignore", [True, False], ids=["ignored", "none"])
def test_without_truth_to_find_all_is_undefined(ignore):
    detections, ground_truth = one_each(3, [0])
    if ignore:
        ground_truth = GroundTruth(
            ground_truth.images,
            ground_truth.image,
            ground_truth.boxes,
            ground_truth.labels,
            np.ones(3, bool),
        )
    else:
        ground_truth = GroundTruth(
            ground_truth.images, NONE, np.zeros((0, 4)), NONE, np.zeros(0, bool)
        )
    found = bootstrap(match(detections, ground_truth), 2, 10)
    assert np.isnan(found.point.map)
    assert np.isnan(found.map).all()
    assert found.ap.shape == (10, 2)
    assert interval(found.map, float(found.point.map)) is None


def test_a_single_image_has_a_score_but_no_resamples():
    found = bootstrap(match(*one_each(1, [0])), 1, 10)
    assert found.point.map == 1
    assert np.isnan(found.map).all()
    assert interval(found.map, float(found.point.map)) is None


def test_no_images_have_no_score():
    found = bootstrap(match(*one_each(0, [])), 1, 10)
    assert np.isnan(found.point.map)
    assert np.isnan(found.map).all()


def test_of_many_classes_those_without_truth_stay_undefined():
    found = bootstrap(match(*make_split(2)), 80, 10)
    assert np.isnan(found.ap[:, 3:]).all()
    np.testing.assert_allclose(found.map, np.nanmean(found.ap, 1))
    np.testing.assert_allclose(found.map, bootstrap(match(*make_split(2)), 3, 10).map)


def test_an_interval_leaves_out_as_many_on_either_side():
    values = np.random.default_rng(0).permutation(1001) / 1000
    assert interval(values, 0.5) == pytest.approx((0.025, 0.975))
    assert interval(values, 0.5, 0.5) == pytest.approx((0.25, 0.75))


def test_an_interval_lies_about_the_score_and_not_about_resamples_that_score_higher():
    values = 0.3 + np.random.default_rng(0).permutation(1001) / 10_000  # 0.3 to 0.4
    assert interval(values, 0.32) == pytest.approx((0.2725, 0.3675))
    assert interval(values, 0.02) == pytest.approx((0.0, 0.0675))
    assert interval(values, 0.02, least=-1) == pytest.approx((-0.0275, 0.0675))
    assert interval(values, 0.98) == pytest.approx((0.9325, 1.0))


def test_of_many_classes_the_interval_holds_the_score():
    # Nearly all resamples of many classes with few boxes each score higher.
    found = bootstrap(match(*make_split(5, images=100, classes=40)), 40, 300)
    point = float(found.point.map)
    assert (found.map > point).mean() > 0.95
    low, high = interval(found.map, point)
    assert point - low == pytest.approx(high - point, rel=0.2)


def test_an_interval_needs_nine_tenths_of_the_resamples():
    values = np.arange(100.0) / 100
    values[:10] = np.nan
    assert interval(values, 0.545, 1.0) == pytest.approx((0.1, 0.99))
    values[:11] = np.nan
    assert interval(values, 0.55) is None
    assert interval(np.zeros(0), 0.5) is None
