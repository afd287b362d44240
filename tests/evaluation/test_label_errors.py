"""Suspected label errors: planted ones are found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_diagnostics import A, B, matched
from test_matching import random_split

from detector.core.boxes import iou
from detector.evaluation import overlapping
from detector.evaluation.arrays import Detections, GroundTruth, xywh
from detector.evaluation.breakdown import kept_at
from detector.evaluation.curves import best_threshold, curves
from detector.evaluation.label_errors import (
    FORGOTTEN,
    NEVER_FOUND,
    OTHER_CLASS,
    label_errors,
    sureness,
)
from detector.evaluation.matching import match, overlaps


def objects(rng, images, each):
    """Boxes on a grid of places, so that they do not overlap: image, boxes."""
    image = np.repeat(np.arange(images), each)
    place = np.concatenate([rng.permutation(25)[:each] for _ in range(images)])
    corner = np.stack((place % 5, place // 5), 1) * 100.0
    return image, np.concatenate((corner, corner + rng.uniform(30, 90, (len(image), 2))), 1)


def planted(seed, images=150, each=8, classes=3):
    """A good detector, and labels of which some are removed, invented or swapped.

    Returns:
        The matches, and (kind, image, box) of everything planted.
    """
    rng = np.random.default_rng(seed)
    image, boxes = objects(rng, images, each)
    labels = rng.integers(1, classes + 1, len(image))
    real = np.arange(len(image)) % each < each - 1  # the last of each image is nothing at first
    seen = real & (rng.random(len(image)) < 0.99)
    shaken = boxes + rng.normal(0, 2, boxes.shape)
    false = rng.integers(0, images, 2 * images)
    corner = rng.uniform(0, 450, (len(false), 2))
    detections = Detections(
        np.concatenate((image[seen], false)),
        np.concatenate((shaken[seen], np.concatenate((corner, corner + 40), 1))),
        np.concatenate((labels[seen], rng.integers(1, classes + 1, len(false)))),
        np.concatenate((rng.beta(8, 2, seen.sum()), rng.beta(1, 4, len(false)))),
    )
    what = rng.choice(4, len(image), p=[0.9, 0.04, 0.03, 0.03])
    removed, swapped = real & (what == 1), real & (what == 2)
    invented = ~real & (rng.random(len(image)) < 0.3)
    written = np.where(swapped, labels % classes + 1, labels)
    there = (real & ~removed) | invented
    ground_truth = GroundTruth(
        np.arange(images), image[there], boxes[there], written[there], np.zeros(there.sum(), bool)
    )
    errors = [
        (kind, int(image[i]), boxes[i])
        for kind, which in ((FORGOTTEN, removed), (OTHER_CLASS, swapped), (NEVER_FOUND, invented))
        for i in np.flatnonzero(which)
    ]
    return match(detections, ground_truth), errors


def listed(matches, classes):
    thresholds = [best_threshold(curve) for curve in curves(matches, classes)]
    return label_errors(matches, kept_at(matches, thresholds), classes)


def is_planted(one, errors):
    return any(
        kind == one.kind and image == one.image and iou(np.array([one.box]), box[None]) > 0.5
        for kind, image, box in errors
    )


@pytest.mark.parametrize("seed", range(5))
def test_planted_errors_come_first(seed):
    matches, errors = planted(seed)
    right = [is_planted(one, errors) for one in listed(matches, 3)]
    assert np.mean(right[: len(errors) // 3]) > 0.9
    assert np.mean(right) > 0.8


@pytest.mark.parametrize("kind", [FORGOTTEN, OTHER_CLASS, NEVER_FOUND])
def test_planted_errors_of_each_kind_are_mostly_listed(kind):
    matches, errors = planted(7)
    found = listed(matches, 3)
    mine = [error for error in errors if error[0] == kind]
    hit = [any(is_planted(one, [error]) for one in found) for error in mine]
    # Half of the detections are less sure than half of the hits.
    assert np.mean(hit) > (0.9 if kind == NEVER_FOUND else 0.3)


def test_a_split_without_errors_lists_little():
    rng = np.random.default_rng(3)
    image, boxes = objects(rng, 100, 8)
    labels = rng.integers(1, 3, len(image))
    ground_truth = GroundTruth(np.arange(100), image, boxes, labels, np.zeros(len(image), bool))
    found = Detections(image, boxes + rng.normal(0, 1, boxes.shape), labels, rng.random(len(image)))
    assert listed(match(found, ground_truth), 2) == []


def test_a_class_that_is_often_wrong_where_it_is_sure_lists_nothing():
    found = [(0.9 - n / 100, 1, [1000.0 + 50 * n, 0, 1010.0 + 50 * n, 10]) for n in range(9)]
    assert listed(matched([*found, (0.5, 1, A)], [(1, A), (1, B)]), 1) == []


def good(n=9, start=1000.0):
    """Truth and the detections that find it, in a row away from the rest."""
    boxes = [[start + 50 * i, 0, start + 50 * i + 10, 10] for i in range(n)]
    return [(0.5 + i / 100, 1, box) for i, box in enumerate(boxes)], [(1, box) for box in boxes]


def test_sureness_is_rank_among_hits_times_precision_of_the_surer_half():
    found, truths = good(8)  # 0.50 to 0.57
    matches = matched([*found, (0.565, 1, A), (0.1, 1, B)], truths)
    sure = dict(zip(matches.scores, sureness(matches, 1), strict=True))
    # At 0.53 and above (half of the hits, or more) are 5 of the 8 hits and one that is wrong.
    assert sure[0.565] == pytest.approx(7 / 8 * 5 / 6)
    assert sure[0.1] == 0


def test_a_sure_detection_without_truth_is_suspected():
    found, truths = good()
    (one,) = listed(matched([*found, (0.9, 1, A)], truths), 1)
    assert (one.kind, one.image, one.label, one.box, one.labelled) == (
        FORGOTTEN,
        0,
        1,
        tuple(A),
        None,
    )
    assert one.score == pytest.approx(5 / 6)  # surer than all; 5 of 6 of the surer half are right


def test_a_detection_on_ignored_truth_of_any_class_is_not_suspected():
    found, truths = good()
    crowd = [-500.0, -500, 500, 500]
    assert listed(matched([*found, (0.9, 1, A)], [*truths, (2, crowd, "ignored")]), 2) == []


def test_a_badly_placed_detection_is_not_suspected():
    found, truths = good()
    matches = matched([*found, (0.6, 1, A), (0.9, 1, [0.0, 0, 4, 10])], [*truths, (1, A)])
    assert listed(matches, 1) == []


def test_of_two_detections_in_one_place_one_is_suspected():
    found, truths = good()
    found_2, truths_2 = good(start=5000.0)
    found += [(score, 2, box) for score, _, box in found_2]
    truths += [(2, box) for _, box in truths_2]
    (one,) = listed(matched([*found, (0.9, 1, A), (0.55, 2, A)], truths), 2)
    assert one.label == 1


def test_truth_that_another_class_finds_is_suspected_of_its_class():
    found, truths = good()
    (one,) = listed(matched([*found, (0.9, 1, A)], [*truths, (2, A)]), 2)
    assert (one.kind, one.label, one.labelled) == (OTHER_CLASS, 1, 2)


def test_truth_that_its_class_finds_too_is_not_suspected():
    found, truths = good()
    assert listed(matched([*found, (0.9, 1, A), (0.9, 2, A)], [*truths, (2, A)]), 2) == []


def test_truth_that_nothing_finds_is_suspected_in_a_class_that_is_solved():
    found, truths = good(9)
    (one,) = listed(matched(found, [*truths, (1, A)]), 1)
    assert (one.kind, one.label, one.box) == (NEVER_FOUND, 1, tuple(A))
    assert one.score == pytest.approx(0.9 * 0.9 / 2)  # recall of the class, and of the size


def test_a_detection_near_it_makes_truth_less_suspicious():
    found, truths = good(9)
    near = listed(matched([*found, (0.3, 1, [0.0, 0, 4, 10])], [*truths, (1, A)]), 1)[-1]
    assert (near.kind, near.score) == (NEVER_FOUND, pytest.approx(0.9 * 0.9 * 0.6 / 2))


def test_truth_is_not_suspected_in_a_class_that_is_not_solved():
    found, truths = good(9)
    missing = [(1, [50.0 * n, 0, 50.0 * n + 10, 10]) for n in range(3)]
    assert listed(matched(found, [*truths, *missing]), 1) == []


def test_truth_found_faintly_is_not_suspected_and_by_less_it_is():
    found, truths = good(9)
    for score, kinds in ((0.06, []), (0.04, [NEVER_FOUND])):
        matches = matched([*found, (score, 1, A)], [*truths, (1, A)])
        assert [one.kind for one in label_errors(matches, matches.scores > 0.3, 1)] == kinds


def test_ignored_truth_is_not_suspected():
    found, truths = good(9)
    assert listed(matched(found, [*truths, (1, A, "ignored")]), 1) == []


def test_kinds_are_listed_together_by_score():
    found, truths = good(20)  # 0.50 to 0.69
    found += [(0.595, 1, A), (0.595, 1, B)]  # half of the hits are surer: 1/2 * 11/13
    kinds = [one.kind for one in listed(matched(found, [*truths, (1, [200.0, 0, 210, 10])]), 1)]
    assert kinds == [NEVER_FOUND, FORGOTTEN, FORGOTTEN]  # the first has 1/2 * (20/21)^2


def test_truth_of_another_image_is_not_overlapped():
    one, none = np.array([A]), np.zeros(1, bool)
    for image in (0, 2, 4):
        detections = Detections(np.array([image]), one, np.ones(1, int), np.ones(1))
        ground_truth = GroundTruth(
            np.arange(5), np.array([1, 3]), np.array([A, A]), np.ones(2, int), none.repeat(2)
        )
        pairs = overlapping.overlapping(detections, np.arange(1), ground_truth)
        assert len(pairs.row) == 0


def test_the_most_suspicious_comes_first():
    matches, _ = planted(2)
    full = listed(matches, 3)
    assert [one.score for one in full] == sorted((one.score for one in full), reverse=True)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([3, 50, 10**6]))
def test_overlapping_pairs_are_those_of_all_pairs(seed, piece):
    detections, ground_truth = random_split(seed)
    rows = np.random.default_rng(seed).permutation(len(detections.labels))
    table = overlaps(xywh(detections)[rows], xywh(ground_truth), ground_truth.ignore)
    table = np.where(detections.image[rows][:, None] == ground_truth.image, table, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlapping, "PIECE", piece)
        pairs = overlapping.overlapping(detections, rows, ground_truth, 0.1)
    seen = np.zeros_like(table)
    seen[pairs.row, pairs.ground_truth] = pairs.iou
    np.testing.assert_array_equal(seen, np.where(table >= 0.1, table, 0))
    best, which = pairs.best(len(rows))
    np.testing.assert_array_equal(best, seen.max(1, initial=0))
    if (best > 0).any():
        np.testing.assert_array_equal(which[best > 0], seen[best > 0].argmax(1))
    assert (which[best == 0] == -1).all()
    np.testing.assert_array_equal(
        pairs.best_of_ground_truth(len(ground_truth.labels))[0], seen.max(0, initial=0)
    )
