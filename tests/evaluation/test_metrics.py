"""The table of metrics: what one row adds."""

import math

import pytest
from test_curves import split

from detector.evaluation import metrics, reference
from detector.evaluation.metrics import METRICS, Metric, compute_all


@pytest.fixture
def matches():
    """Two classes, of which the first is found and the second is not."""
    return split([(0.9, 0, 1)], [1, 2])


def test_scores_of_all_metrics_are_by_key_and_by_class(matches):
    found = compute_all(matches.detections, matches.ground_truth, 2)
    assert list(found.overall) == ["coco", "voc"] == list(found.protocol)
    assert found.overall["voc"] == {"ap_50_11point": 0.5, "ap_50": 0.5}
    assert found.overall["coco"]["map_50"] == pytest.approx(0.5)
    assert list(found.per_class[0]) == ["ap", "ap_50", "voc_ap_50_11point", "voc_ap_50"]
    assert [row["voc_ap_50"] for row in found.per_class] == [1, 0]


def test_a_metric_is_added_by_one_row(matches, monkeypatch):
    def count(detections, ground_truth, classes):
        return {"boxes": len(ground_truth.labels)}, [{"toy_boxes": 1.0}] * classes

    row = Metric("toy", "Toy", count, lambda ground_truth: "Toy: counts", {"boxes": "Boxes"})
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, row))
    found = compute_all(matches.detections, matches.ground_truth, 2)
    assert found.overall["toy"] == {"boxes": 2}
    assert found.protocol["toy"] == "Toy: counts"
    assert [row["toy_boxes"] for row in found.per_class] == [1, 1]


def test_every_score_has_a_title(matches):
    found = compute_all(matches.detections, matches.ground_truth, 2)
    for metric in METRICS:
        assert set(metric.titles) == set(found.overall[metric.key])


@pytest.mark.parametrize("other", [0.25, math.nan])
def test_scores_that_differ_from_pycocotools_are_refused(matches, monkeypatch, other):
    scores = reference.pycocotools_scores

    def changed(*arguments):
        overall, per_class = scores(*arguments)
        return overall | {"mar_10": other}, per_class

    monkeypatch.setattr(reference, "pycocotools_scores", changed)
    with pytest.raises(RuntimeError, match=rf"mar_10 is 0\.5, but {other} by pycocotools"):
        compute_all(matches.detections, matches.ground_truth, 2)
