"""Curves over the score and the thresholds chosen by them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_matching import random_split

from detector.core.errors import RequestError
from detector.core.files import write_json
from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.coco import evaluated, scores
from detector.evaluation.curves import (
    GRID,
    Curve,
    best_threshold,
    curves,
    recall_precision,
    threshold_for,
    together,
)
from detector.evaluation.matching import RECALLS, match
from detector.evaluation.thresholds import choose, read_thresholds, thresholds_content, unmeasured


def split(found, truths, ignored=0):
    """Truth in a row, then ignored truth; detections are score, what of it (or None), class."""
    places = np.arange(len(truths) + ignored)[:, None] * 100.0
    boxes = np.concatenate((places, places * 0, places + 10, places * 0 + 10), 1)
    labels = np.array([*truths, *[1] * ignored], np.int64)
    ground_truth = GroundTruth(
        np.array([0]),
        np.zeros(len(labels), np.int64),
        boxes,
        labels,
        np.arange(len(labels)) >= len(truths),
    )
    nowhere = [5000.0, 5000, 5010, 5010]
    detections = Detections(
        np.zeros(len(found), np.int64),
        np.array([nowhere if at is None else boxes[at] for _, at, _ in found]).reshape(-1, 4),
        np.array([label for *_, label in found], np.int64),
        np.array([score for score, *_ in found], np.float64),
    )
    return match(detections, ground_truth)


def at(curve, threshold):
    g = round(threshold * 200)
    return [float(line[g]) for line in (curve.precision, curve.recall, curve.f1)]


def test_the_values_at_thresholds_are_those_counted_by_hand():
    matches = split([(0.9, 0, 1), (0.8, None, 1), (0.5, 1, 1), (0.3, None, 1)], [1, 1, 1])
    (curve,) = curves(matches, 1)
    assert at(curve, 0.85) == pytest.approx([1, 1 / 3, 2 / 4])
    assert at(curve, 0.6) == pytest.approx([1 / 2, 1 / 3, 2 / 5])
    assert at(curve, 0.4) == pytest.approx([2 / 3, 2 / 3, 4 / 6])
    assert at(curve, 0.0) == pytest.approx([2 / 4, 2 / 3, 4 / 7])


def test_a_detection_whose_score_is_the_threshold_is_kept():
    (curve,) = curves(split([(0.5, 0, 1), (1.0, 1, 1), (0.0, None, 1)], [1, 1]), 1)
    assert curve.right[100] == 2
    assert curve.right[101] == 1
    assert curve.right[200] == 1
    assert curve.wrong[:2].tolist() == [1, 0]


def test_without_detections_precision_is_undefined_and_f1_is_zero():
    (curve,) = curves(split([(0.5, 0, 1)], [1]), 1)
    precision, recall, f1 = at(curve, 0.6)
    assert np.isnan(precision)
    assert (recall, f1) == (0, 0)


def test_what_is_found_on_ignored_truth_counts_neither_way():
    (curve,) = curves(split([(0.9, 1, 1), (0.8, 0, 1)], [1], ignored=1), 1)
    assert at(curve, 0.1) == [1, 1, 1]
    assert curve.positives == 1


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_curves_are_counts_of_what_remains(seed):
    matches = match(*random_split(seed, round_to=2))
    right, ignored = matches.right()[0], matches.ignored()[0]
    each = curves(matches, 2)
    for g in (0, 1, 77, 100, 151, 200):
        kept = matches.scores >= GRID[g]
        for k in (1, 2):
            mine = kept & (matches.labels == k)
            assert each[k - 1].right[g] == (mine & right).sum()
            assert each[k - 1].wrong[g] == (mine & ~right & ~ignored).sum()
        assert together(each).right[g] == (kept & right).sum()
    assert together(each).positives == (~matches.ground_truth.ignore).sum()


def test_the_best_threshold_lies_in_the_middle_of_where_f1_is_best():
    # All is right from 0.405 to 0.8: 80 steps.
    (curve,) = curves(split([(0.9, 0, 1), (0.8, 1, 1), (0.4, None, 1)], [1, 1]), 1)
    assert curve.f1.max() == 1
    assert best_threshold(curve) == pytest.approx((0.405 + 0.8) / 2, abs=0.005)


def test_of_equally_long_stretches_the_higher_is_taken():
    def steps(*pairs):
        return np.concatenate([np.full(n, value) for n, value in pairs])

    # F1 is 2/3 on steps 1 to 50 and 101 to 150, less elsewhere.
    curve = Curve(
        2,
        steps((51, 2), (100, 1), (50, 0)),
        steps((1, 9), (50, 2), (50, 3), (100, 0)),
    )
    assert best_threshold(curve) == pytest.approx(126 / 200)


@pytest.mark.parametrize("found", [[], [(0.9, None, 1)]])
def test_where_nothing_is_right_the_threshold_is_a_half(found):
    (curve,) = curves(split(found, [1]), 1)
    assert best_threshold(curve) == 0.5


def test_a_wanted_precision_is_reached_with_most_recall():
    matches = split(
        [(0.9, None, 1), (0.8, 0, 1), (0.7, 1, 1), (0.6, 2, 1), (0.3, None, 1)], [1] * 4
    )
    (curve,) = curves(matches, 1)
    lines = curve.precision, curve.recall
    assert threshold_for(*lines, precision=0.75) == pytest.approx(0.305)  # 3 of 4
    assert threshold_for(*lines, precision=0.6) == 0.0  # 3 of 5
    assert threshold_for(*lines, precision=0.76) is None


def test_a_wanted_recall_is_reached_with_the_highest_threshold():
    (curve,) = curves(split([(0.9, 0, 1), (0.6, 1, 1)], [1] * 4), 1)
    lines = curve.precision, curve.recall
    assert threshold_for(*lines, recall=0.25) == 0.9
    assert threshold_for(*lines, recall=0.5) == 0.6
    assert threshold_for(*lines, recall=0.51) is None


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_interpolated_precision_is_cocos(seed):
    detections, ground_truth = random_split(seed)
    if ground_truth.ignore.all():
        return
    evaluation = evaluated(detections, ground_truth, 3)
    scores(evaluation)
    expected = evaluation.eval["precision"][0, :, :, 0, -1].T
    ours = recall_precision(match(detections, ground_truth), 3)
    np.testing.assert_array_equal(np.nan_to_num(ours, nan=-1), expected)


def test_the_recalls_are_pycocotools():
    from pycocotools.cocoeval import COCOeval

    assert RECALLS.tolist() == COCOeval(iouType="bbox").params.recThrs.tolist()


@pytest.fixture
def content():
    matches = split([(0.9, 0, 1), (0.8, None, 1), (0.5, 1, 1), (0.7, 2, 2)], [1, 1, 2])
    return thresholds_content("val", 1, ["cat", "dog", "owl"], curves(matches, 3))


def test_thresholds_are_read_as_they_were_written(content, tmp_path):
    write_json(tmp_path / "t.json", content)
    read = read_thresholds(tmp_path / "t.json")
    names = ["cat", "dog", "owl"]
    assert choose(read, names) == choose(content, names)
    assert choose(read, names, recall=1.0) == choose(content, names, recall=1.0) == [0.5, 0.7, 0.5]
    assert read["classes"]["cat"]["best"] == content["classes"]["cat"]["best"]


def test_without_a_wish_the_thresholds_are_those_of_best_f1(content):
    best = [content["classes"][name]["best"]["threshold"] for name in ("dog", "cat")]
    assert choose(content, ["dog", "cat"]) == best
    assert content["classes"]["cat"]["best"]["f1"] == pytest.approx(0.8)  # all of it: 4 of 5


def test_classes_without_truth_have_no_curve_and_a_half(content):
    assert choose(content, ["owl"], precision=0.99) == [0.5]
    assert unmeasured(content, ["cat", "dog", "owl"]) == ["owl"]


def test_what_cannot_be_reached_is_refused_with_the_most_that_can(content):
    with pytest.raises(RequestError, match=r"recall=1.5: class 'cat' reaches at most 1 on val"):
        choose(content, ["cat"], recall=1.5)
    low = thresholds_content("val", 1, ["a"], curves(split([(0.5, None, 1), (0.4, 0, 1)], [1]), 1))
    with pytest.raises(RequestError, match=r"precision=0.9: class 'a' reaches at most 0.5 on val"):
        choose(low, ["a"], precision=0.9)


def test_a_file_of_other_classes_is_refused(content):
    with pytest.raises(RequestError, match="has no class 'emu'"):
        choose(content, ["cat", "emu"])


def test_precision_and_recall_are_not_both_wanted(content):
    with pytest.raises(RequestError, match="one of the two"):
        choose(content, ["cat"], precision=0.5, recall=0.5)


def spoil(content, path, value):
    *outer, last = path
    for key in outer:
        content = content[key]
    if value is KeyError:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["split"], 3, "split"),
        (["images"], True, "images"),
        (["images"], -1, "images"),
        (["iou"], 0.75, "iou"),
        (["thresholds"], [0.0, 1.0], "thresholds"),
        (["classes"], [], "classes"),
        (["classes"], {}, "classes"),
        (["classes", "cat"], None, "class 'cat'"),
        (["classes", "cat", "best"], KeyError, "class 'cat' has no best threshold"),
        (["classes", "cat", "best", "threshold"], None, "class 'cat' has no best threshold"),
        (["classes", "cat", "best", "threshold"], 1.5, "class 'cat' has no best threshold"),
        (["classes", "cat", "best", "f1"], "much", "class 'cat' has a best f1"),
        (["classes", "cat", "recall"], KeyError, "class 'cat' has no recall"),
        (["classes", "cat", "recall"], [], "class 'cat' has only one"),
        (["classes", "cat", "precision", 7], "high", "class 'cat' has a precision"),
        (["classes", "cat", "precision", 7], True, "class 'cat' has a precision"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(content, tmp_path, path, value, said):
    file = tmp_path / "thresholds.json"
    spoil(content, path, value)
    write_json(file, content)
    with pytest.raises(RequestError, match=said) as refusal:
        read_thresholds(file)
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"split": ', "\xff"])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    file = tmp_path / "thresholds.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RequestError, match=r"thresholds\.json"):
        read_thresholds(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RequestError, match="No such file"):
        read_thresholds(tmp_path / "none.json")


def test_the_content_is_plain_json(content):
    assert json.loads(json.dumps(content))["split"] == "val"
