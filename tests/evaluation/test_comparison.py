"""The difference of two detectors' scores, and its words."""

import numpy as np
import pytest

from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.bootstrap import bootstrap, interval
from detector.evaluation.comparison import Difference, compare, differing_settings, sentence
from detector.evaluation.matching import match

IMAGES = 60
BOX = np.array([[0, 0, 10, 10.0]])
TRUTH = GroundTruth(
    np.arange(IMAGES),
    np.arange(IMAGES),
    BOX.repeat(IMAGES, 0),
    np.arange(IMAGES) % 2 + 1,
    np.zeros(IMAGES, bool),
)


def finds(hits, ground_truth=TRUTH):
    """A detector that finds just these images' boxes."""
    hits = np.array(hits)
    scores = np.linspace(0.9, 0.1, len(hits))
    return match(Detections(hits, BOX.repeat(len(hits), 0), hits % 2 + 1, scores), ground_truth)


def test_a_detector_is_no_better_than_itself():
    found = compare(finds(range(30)), finds(range(30)), 2, resamples=50)
    for one in (found.map, found.map_50, *found.ap, *found.ap_50):
        assert one.a == one.b > 0
        assert one.difference == 0
        assert one.interval == (0, 0)
    assert sentence(found.map).startswith("A and B are equal")


def test_both_are_scored_on_the_same_resamples():
    a, b = finds(range(30)), finds(range(5, 45))
    found = compare(a, b, 2, resamples=80, seed=3, level=0.9)
    of_a, of_b = (bootstrap(one, 2, 80, 3) for one in (a, b))
    assert found.map.difference == of_b.point.map - of_a.point.map
    assert found.map.interval == interval(of_b.map - of_a.map, found.map.difference, 0.9, -1)
    assert found.map_50.interval == interval(
        of_b.map_50 - of_a.map_50, found.map_50.difference, 0.9, -1
    )
    for k in range(2):
        assert (found.ap[k].a, found.ap[k].b) == (of_a.point.ap[k], of_b.point.ap[k])
        assert found.ap[k].interval == interval(
            of_b.ap[:, k] - of_a.ap[:, k], found.ap[k].difference, 0.9, -1
        )
        assert found.ap_50[k].interval == interval(
            of_b.ap_50[:, k] - of_a.ap_50[:, k], found.ap_50[k].difference, 0.9, -1
        )
    assert found.map.level == 0.9


def test_one_that_finds_more_is_better_for_sure():
    found = compare(finds(range(30)), finds(range(50)), 2, resamples=200)
    assert found.map.interval[0] > 0
    assert sentence(found.map).startswith("B is better by ")


def test_the_order_of_images_and_truth_does_not_matter():
    back = GroundTruth(
        *(values[::-1] for values in (TRUTH.images, TRUTH.image, TRUTH.boxes)),
        TRUTH.labels[::-1],
        TRUTH.ignore,
    )
    a, b = finds(range(30)), finds(range(50))
    assert compare(a, finds(range(50), back), 2, 50) == compare(a, b, 2, 50)


def test_other_images_or_other_truth_are_refused():
    fewer = GroundTruth(
        TRUTH.images[1:],
        *(v[1:] for v in (TRUTH.image, TRUTH.boxes, TRUTH.labels)),
        TRUTH.ignore[1:],
    )
    with pytest.raises(ValueError, match="the same images"):
        compare(finds([3]), finds([3], fewer), 2)
    swapped = GroundTruth(TRUTH.images, TRUTH.image, TRUTH.boxes, 3 - TRUTH.labels, TRUTH.ignore)
    with pytest.raises(ValueError, match="the same ground truth"):
        compare(finds([3]), finds([3], swapped), 2)


def test_a_class_without_truth_has_no_difference():
    found = compare(finds([3]), finds([4]), 3, resamples=20)
    assert np.isnan(found.ap[2].difference)
    assert found.ap[2].interval is None


@pytest.mark.parametrize(
    ("a", "b", "bounds", "words"),
    [
        (0.4, 0.421, (0.004, 0.039),
         "B is better by 2.1 points of mAP, 95% interval 0.4 to 3.9."),
        (0.421, 0.4, (-0.039, -0.004),
         "A is better by 2.1 points of mAP, 95% interval 0.4 to 3.9."),
        (0.4, 0.403, (-0.010, 0.016),
         "No difference can be told: B is 0.3 points of mAP above A, "
         "95% interval -1.0 to 1.6, which includes 0."),
        (0.403, 0.4, (-0.016, 0.010),
         "No difference can be told: A is 0.3 points of mAP above B, "
         "95% interval -1.0 to 1.6, which includes 0."),
        # A bound that one decimal would make 0.
        (0.4, 0.421, (0.0003, 0.039),
         "B is better by 2.10 points of mAP, 95% interval 0.03 to 3.90."),
        (0.4, 0.4001, (0.00004, 0.0002),
         "B is better by 0.010 points of mAP, 95% interval 0.004 to 0.020."),
        # A bound below 0 that is shown as 0, without its minus.
        (0.4, 0.421, (-0.0003, 0.039),
         "No difference can be told: B is 2.1 points of mAP above A, "
         "95% interval 0.0 to 3.9, which includes 0."),
        (0.421, 0.4, (-0.039, 0.0),
         "No difference can be told: A is 2.1 points of mAP above B, "
         "95% interval 0.0 to 3.9, which includes 0."),
        # What rounding leaves is no difference.
        (0.4, 0.4 + 1e-12, (1e-13, 2e-12),
         "A and B are equal: both have 40.0 points of mAP."),
        (0.4, 0.4, (-0.01, 0.01),
         "No difference can be told: A and B are less than 0.1 points of mAP apart, "
         "95% interval -1.0 to 1.0, which includes 0."),
        # The score lies beyond its resamples.
        (0.4, 0.403, (-0.016, -0.002),
         "No difference can be told: B is 0.3 points of mAP above A, "
         "95% interval -1.6 to -0.2, which does not include it."),
        (0.4, 0.4, (0.002, 0.016),
         "No difference can be told: A and B are less than 0.1 points of mAP apart, "
         "95% interval 0.2 to 1.6, which does not include it."),
        (0.4, 0.6, None,
         "No difference can be told: B is 20.0 points of mAP above A, "
         "on too few images for an interval."),
        (np.nan, np.nan, None,
         "A and B cannot be compared in mAP: there are no true boxes."),
    ],
)  # fmt: skip
def test_a_difference_in_words(a, b, bounds, words):
    assert sentence(Difference(a, b, b - a, bounds)) == words


def test_settings_that_differ_are_those_of_either_configuration_by_their_whole_key():
    a = {"seed": 0, "optim": {"lr": 0.1, "ema": None}, "phases": [{"train": ["head"]}]}
    b = {"seed": 0, "optim": {"lr": 0.2}, "phases": [{"train": ["head"]}, {"train": ["stem"]}]}
    assert differing_settings(a, b) == [
        {"key": "optim.lr", "a": 0.1, "b": 0.2},
        {"key": "phases.1.train", "a": None, "b": ["stem"]},
    ]
    assert differing_settings(a, a) == []


def test_the_words_have_the_names_the_score_and_the_level_given():
    found = Difference(0.4, 0.5, 0.1, (0.05, 0.2), level=0.9)
    assert sentence(found, "AP50 of 'tree'", ("run 1", "run 2")) == (
        "run 2 is better by 10.0 points of AP50 of 'tree', 90% interval 5.0 to 20.0."
    )
