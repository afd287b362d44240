"""Recall and precision by size and shape."""

import numpy as np
import pytest
from test_diagnostics import matched

from detector.evaluation.breakdown import aspects, kept_at, size_ranges, sizes


def box(side, x=0.0, tall=1.0):
    """A box of that side (square root of the area), `tall` times as high as wide."""
    return [x, 0.0, x + side / tall**0.5, side * tall**0.5]


def test_recall_and_precision_of_each_size_are_those_counted_by_hand():
    small, small2, large = box(20), box(20, 500), box(100, 1000)
    matches = matched(
        [(0.9, 1, small), (0.3, 1, small2), (0.8, 1, large), (0.7, 1, box(90, 3000))],
        [(1, small), (1, small2), (1, large), (1, box(25, 2000))],
    )
    rows = sizes(matches, matches.scores >= 0.5)
    assert [row["range"] for row in rows] == [*("16 to 32", "32 to 64", "64 to 96", "96 to 192")]
    assert rows[0] == {
        "range": "16 to 32",
        "truths": 3,
        "detections": 1,
        "recall": pytest.approx(1 / 3),
        "recall_any_score": pytest.approx(2 / 3),
        "precision": 1,
    }
    assert np.isnan([rows[1]["recall"], rows[1]["precision"], rows[2]["recall"]]).all()
    assert (rows[2]["detections"], rows[2]["precision"]) == (1, 0)
    assert (rows[3]["recall"], rows[3]["precision"]) == (1, 1)


def test_a_size_at_the_limit_is_in_the_upper_range():
    boxes = np.array([box(15.9), box(16), box(32), box(64), box(96), box(192)])
    assert size_ranges(boxes).tolist() == [0, 1, 2, 3, 4, 5]


def test_shape_is_height_over_width():
    shapes = [1 / 4, 1 / 2.5, 1 / 1.5, 1.5, 2.5, 4]
    matches = matched([], [(1, box(50, 1000 * n, tall)) for n, tall in enumerate(shapes)])
    rows = aspects(matches, np.zeros(0, bool))
    assert [(row["range"], row["truths"]) for row in rows] == [
        ("< 1:3", 1),
        ("1:3 to 1:2", 1),
        ("1:2 to 1:1", 1),
        ("1:1 to 2:1", 1),
        ("2:1 to 3:1", 1),
        (">= 3:1", 1),
    ]


def test_ignored_truth_and_what_is_found_on_it_is_in_no_range():
    matches = matched([(0.9, 1, box(20))], [(1, box(20), "ignored"), (1, box(40, 500))])
    (row,) = sizes(matches, np.ones(1, bool))
    assert (row["range"], row["truths"], row["detections"]) == ("32 to 64", 1, 0)


def test_boxes_without_width_or_area_have_a_range():
    matches = matched([(0.9, 1, [5.0, 5, 5, 9]), (0.8, 1, [5.0, 5, 5, 5])], [(1, box(20))])
    assert sum(row["detections"] for row in sizes(matches, np.ones(2, bool))) == 2
    assert sum(row["detections"] for row in aspects(matches, np.ones(2, bool))) == 2


def test_nothing_has_no_ranges():
    assert sizes(matched([], []), np.zeros(0, bool)) == []
    assert aspects(matched([], []), np.zeros(0, bool)) == []


def test_each_class_is_kept_at_its_own_threshold():
    places = [(0.9, 1, box(9)), (0.5, 1, box(9, 50)), (0.5, 2, box(9)), (0.2, 2, box(9, 50))]
    kept = kept_at(matched(places, []), [0.6, 0.5])
    assert kept.tolist() == [True, False, True, False]
