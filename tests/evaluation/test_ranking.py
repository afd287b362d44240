"""Counts by image, and the gallery."""

import numpy as np
import pytest
from test_label_errors import planted

from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.matching import match
from detector.evaluation.ranking import NEITHER, RIGHT, WRONG, Images, by_image, gallery, outcomes

COLUMNS = ("image", "boxes", "labels", "scores")


def images(*rows):
    """Rows of hits, missed, false and wrongness, ids from 10."""
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    hits, missed, false = columns[:3].astype(np.int64)
    return Images(np.arange(10, 10 + len(rows)), hits, missed, false, columns[3])


def test_images_are_counted_by_hand():
    a, b, c = [0.0, 0, 10, 10], [50.0, 0, 60, 10], [90.0, 0, 99, 10]
    ground_truth = GroundTruth(
        np.array([3, 5, 8]),
        np.array([3, 3, 5, 5]),
        np.array([a, b, a, b]),
        np.array([1, 1, 1, 2]),
        np.array([False, False, False, True]),
    )
    detections = Detections(
        np.array([3, 3, 3, 5, 8]),
        np.array([a, c, b, b, a]),
        np.array([1, 1, 1, 2, 2]),
        np.array([0.9, 0.8, 0.2, 0.7, 0.6]),
    )
    matches = match(detections, ground_truth)
    counts = by_image(matches, matches.scores >= 0.5)
    assert counts.ids.tolist() == [3, 5, 8]
    assert counts.hits.tolist() == [1, 0, 0]
    assert counts.missed.tolist() == [1, 1, 0]
    assert counts.false.tolist() == [1, 0, 1]
    assert counts.wrongness == pytest.approx([1.8, 1, 0.6])
    assert counts.f1 == pytest.approx([0.5, 0, 0])


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ((2, 4, 5, 9), "F1 0.31: 4 missed, 5 wrong"),
        ((2, 1, 0, 1), "F1 0.80: 1 missed"),
        ((2, 0, 1, 1), "F1 0.80: 1 wrong"),
        ((3, 0, 0, 0), "F1 1.00: all 3 found"),
        ((0, 0, 0, 0), "no boxes, and none detected"),
    ],
)
def test_the_note_says_what_is_wrong(row, note):
    assert images(row).note(0) == note


def test_of_faultless_images_that_with_more_objects_is_better():
    chosen = gallery(images((1, 0, 0, 0), (9, 0, 0, 0), (5, 0, 0, 0), (0, 9, 0, 9)), most=2)
    assert chosen[0].image == 11
    assert chosen[0].reasons == ("best",)
    assert len(chosen) == 2


def test_an_image_without_a_fault_is_better_than_one_with_more_right_boxes_and_a_fault():
    chosen = gallery(images((40, 1, 0, 1), (1, 0, 0, 0), (20, 0, 4, 4)), most=1)
    assert chosen[0].image == 11


@pytest.mark.parametrize("fault", [(2, 0, 2), (0, 2, 2)])
def test_a_wrong_box_counts_against_an_image_as_much_as_a_missed_one(fault):
    rows = images((4, *fault), (4, 0, 1, 1), (4, 1, 0, 1))
    assert gallery(rows, most=1)[0].image == 11


def test_worst_is_the_greatest_share_of_errors_and_most_wrong_the_most_of_them():
    rows = images((0, 5, 0, 5), (20, 9, 8, 14), (9, 0, 0, 0), (9, 1, 0, 1), (3, 0, 0, 0))
    reasons = {one.image: one.reasons for one in gallery(rows, most=3)}
    assert reasons == {12: ("best",), 10: ("worst",), 11: ("most wrong",)}


def test_an_image_is_shown_once_with_all_its_reasons():
    rows = images((0, 9, 9, 18), (5, 0, 0, 0), (4, 0, 0, 0), (3, 0, 0, 0))
    chosen = gallery(rows, [10], most=4)
    assert [one.image for one in chosen].count(10) == 1
    assert chosen[1].image == 10
    assert chosen[1].reasons == ("worst", "most wrong", "suspect")


def test_of_images_with_nothing_right_that_with_more_objects_is_worse():
    rows = images((0, 1, 0, 1), (0, 6, 0, 6), (0, 3, 0, 3))
    assert gallery(rows)[0].image == 11


def test_no_image_is_among_the_best_and_the_worst():
    (one,) = gallery(images((3, 1, 0, 1)))
    assert one.reasons == ("best", "most wrong")


def test_no_more_are_chosen_than_asked_for():
    rows = images((5, 0, 0, 0), (0, 5, 0, 5), (9, 9, 9, 18), (4, 0, 0, 0), (3, 0, 0, 0))
    assert [one.image for one in gallery(rows, [14], most=2)] == [10, 11]


def test_an_image_without_errors_is_never_worst():
    assert [one.reasons for one in gallery(images((5, 0, 0, 0), (4, 0, 0, 0)))] == [("best",)] * 2


def test_an_image_with_half_of_it_wrong_is_never_best():
    (one,) = gallery(images((1, 2, 1, 3)))
    assert one.reasons == ("worst", "most wrong")


def test_images_of_suspects_come_in_the_suspects_order():
    rows = images(*[(5, 0, 0, 0)] * 30)
    chosen = gallery(rows, [25, 31, 25, 28], most=4)
    assert [one.image for one in chosen if "suspect" in one.reasons] == [25, 31]


def test_a_small_split_is_shown_whole_and_a_large_one_is_cut():
    matches, _ = planted(1)
    rows = by_image(matches, matches.scores >= 0.4)
    assert {one.image for one in gallery(rows, most=150)} == set(range(150))
    chosen = gallery(rows, range(0, 150, 3), most=40)
    assert len({one.image for one in chosen}) == len(chosen) == 40
    assert all(one.reasons for one in chosen[:26])
    assert {reason for one in chosen for reason in one.reasons} == {
        *("best", "worst", "most wrong", "suspect")
    }


def test_no_images_make_no_gallery():
    assert gallery(images()) == []
    assert gallery(images((0, 0, 0, 0)))[0].reasons == ()


def test_the_outcome_of_every_box_is_worked_out_by_hand():
    a, b, c = [0.0, 0, 10, 10], [50.0, 0, 60, 10], [90.0, 0, 99, 10]
    ground_truth = GroundTruth(
        np.array([3]),
        np.array([3, 3, 3]),
        np.array([a, b, c]),
        np.array([1, 1, 1]),
        np.array([False, False, True]),
    )
    detections = Detections(
        np.array([3, 3, 3, 3]),
        np.array([a, c, b, a]),
        np.array([1, 1, 2, 1]),
        np.array([0.6, 0.8, 0.9, 0.7]),
    )
    found, scores = outcomes(match(detections, ground_truth))
    # A weaker one of two on the same object is wrong, as is one of another class.
    assert found.tolist() == [WRONG, NEITHER, WRONG, RIGHT]
    np.testing.assert_equal(scores, [0.7, np.nan, np.nan])


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.8, 1.0])
def test_outcomes_hold_at_any_score_threshold(threshold):
    matches, _ = planted(1)
    found, scores = outcomes(matches)
    kept = matches.detections.scores >= threshold
    again = match(
        Detections(*(getattr(matches.detections, name)[kept] for name in COLUMNS)),
        matches.ground_truth,
    )
    fewer, now = outcomes(again)
    assert fewer.tolist() == found[kept].tolist()
    assert (now >= 0).tolist() == (scores >= threshold).tolist()
