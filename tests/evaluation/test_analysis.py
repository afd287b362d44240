"""The analysis as a whole: plain data, complete, for any split."""

import json
import math

import numpy as np
import pytest
from test_diagnostics import A, B, C, matched
from test_label_errors import planted

from detector.evaluation.analysis import analyse
from detector.evaluation.coco import coco_scores

SPLITS = {
    "some of each": ([(0.9, 1, A), (0.8, 2, B), (0.1, 1, C)], [(1, A), (2, B), (2, C)]),
    "no detections": ([], [(1, A), (2, B)]),
    "no truth": ([(0.9, 1, A), (0.3, 2, B)], []),
    "nothing": ([], []),
    "a class absent": ([(0.9, 1, A), (0.8, 2, B)], [(1, A)]),
    "all ignored": ([(0.9, 1, A), (0.8, 2, B)], [(1, A, "ignored"), (2, C, "ignored")]),
}


def plain(value):
    """Whether it is numbers, strings, lists and dicts of Python alone."""
    if isinstance(value, dict):
        return all(type(key) is str and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (int, float, str)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("thresholds", [None, [0.5, 0.85]])
def test_everything_is_there_as_plain_data_for_any_split(split, thresholds):
    result = analyse(matched(*split), ["cat", "dog"], thresholds)
    assert set(result) == {
        *("per_class", "curves", "recall_precision", "sizes", "aspects", "operating_point"),
        *("confusion", "errors", "calibration", "suspects", "suspects_total", "gallery"),
    }
    assert plain(result)
    assert json.loads(json.dumps(result))
    for rows in (result["per_class"], result["curves"]["classes"]):
        assert list(rows) == ["cat", "dog"]
    assert len(result["recall_precision"]["classes"]["dog"]) == 101
    assert result["confusion"]["labels"] == ["cat", "dog", "background"]
    assert np.shape(result["confusion"]["matrix"]) == (3, 3)
    assert [one["image"] for one in result["gallery"]] == [0]


def test_one_class_is_enough():
    result = analyse(matched([(0.9, 1, A)], [(1, A)]), ["tree"])
    assert result["per_class"]["tree"] == {
        "truths": 1,
        "detections": 1,
        "threshold": pytest.approx(0.45, abs=0.006),
        "precision": 1,
        "recall": 1,
        "f1": 1,
    }
    assert result["confusion"]["matrix"] == [[1, 0], [0, 0]]


def test_a_class_without_truth_has_a_half_and_no_curve():
    result = analyse(matched([(0.9, 1, A), (0.8, 2, B), (0.3, 2, C)], [(1, A)]), ["cat", "dog"])
    row = result["per_class"]["dog"]
    assert (row["truths"], row["detections"], row["threshold"], row["precision"]) == (0, 2, 0.5, 0)
    assert math.isnan(row["recall"])
    assert math.isnan(row["f1"])
    assert np.isnan(result["curves"]["classes"]["dog"]["precision"]).all()
    assert np.isnan(result["recall_precision"]["classes"]["dog"]).all()


def test_given_thresholds_are_the_operating_point_of_all():
    matches = matched([(0.9, 1, A), (0.6, 1, B)], [(1, A), (1, B)])
    result = analyse(matches, ["cat"], [0.7], threshold_source="chosen on val")
    assert result["operating_point"] == "chosen on val"
    assert result["per_class"]["cat"]["recall"] == 0.5
    assert result["sizes"][0]["recall"] == 0.5
    assert result["confusion"]["matrix"] == [[1, 1], [0, 0]]
    assert result["gallery"][0]["note"] == "F1 0.67: 1 missed"


def test_it_is_said_whether_the_thresholds_were_chosen_on_the_split_itself():
    matches = matched([(0.9, 1, A)], [(1, A)])
    assert "this very split" in analyse(matches, ["cat"])["operating_point"]
    assert "elsewhere" in analyse(matches, ["cat"], [0.5])["operating_point"]


def test_a_threshold_between_the_grids_steps_is_taken_as_it_is():
    matches = matched([(0.702, 1, A), (0.6, 1, B)], [(1, A), (1, B)])
    assert analyse(matches, ["cat"], [0.7021])["per_class"]["cat"]["recall"] == 0


def test_all_parts_of_a_split_agree():
    matches, _ = planted(3)
    names = ["a", "b", "c"]
    result = analyse(matches, names, pictures=20, listed=30)
    matrix = np.array(result["confusion"]["matrix"])
    for k, name in enumerate(names):
        row = result["per_class"][name]
        line = result["curves"]["classes"][name]
        at = result["curves"]["thresholds"].index(row["threshold"])
        assert row["f1"] == pytest.approx(line["f1"][at]) == pytest.approx(np.nanmax(line["f1"]))
        assert row["recall"] == pytest.approx(line["recall"][at])
        assert row["recall"] == pytest.approx(matrix[k, k] / matrix[k].sum())
        assert row["precision"] == pytest.approx(line["precision"][at])
        assert row["precision"] == pytest.approx(matrix[k, k] / matrix[:, k].sum())
    scores, per_class = coco_scores(matches.detections, matches.ground_truth, 3)
    assert result["errors"]["ap_50"] == pytest.approx(scores["map_50"])
    lines = result["recall_precision"]["classes"].values()
    assert [np.mean(line) for line in lines] == pytest.approx([row["ap_50"] for row in per_class])
    assert sum(row["truths"] for row in result["sizes"]) == len(matches.ground_truth.labels)
    assert sum(row["truths"] for row in result["aspects"]) == len(matches.ground_truth.labels)
    assert sum(row["detections"] for row in result["sizes"]) == matrix[:, :3].sum()
    assert len(result["suspects"]) == 30 < result["suspects_total"]
    assert result["suspects"] == analyse(matches, names)["suspects"][:30]
    assert len(result["gallery"]) <= 20


def test_suspects_are_named():
    good = [[1000.0 + 50 * n, 0, 1010.0 + 50 * n, 10] for n in range(9)]
    found = [(0.5 + n / 100, 1, box) for n, box in enumerate(good)]
    matches = matched([*found, (0.9, 1, A), (0.8, 1, B)], [*[(1, box) for box in good], (2, B)])
    first, second = analyse(matches, ["cat", "dog"])["suspects"]
    assert first == {
        "kind": "detection without truth",
        "image": 0,
        "class": "cat",
        "suspicion": pytest.approx(5 / 7),
        "box": A,
    }
    assert (second["kind"], second["class"], second["truth"]) == (
        *("truth of another class", "cat", "dog"),
    )
