"""TIDE's errors, confusion and calibration by hotcoco, beside hand and definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_matching import random_split

from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.coco import calibration, coco_scores, confusion, evaluated, tide
from detector.evaluation.matching import match

A, B, C = ([x, 0.0, x + 10, 10] for x in (0, 100, 200))
NOWHERE = [500.0, 500, 510, 510]
HALF = 51 / 101  # average precision of one of two found without a fault: recalls 0 to 0.5


def part(box, share=0.4):
    """The left part of a box: its IoU with the box is its share."""
    x1, y1, x2, y2 = box
    return [x1, y1, x1 + share * (x2 - x1), y2]


def matched(found, truths, images=1):
    """Found: score, class, box. Truths: class, box and perhaps "ignored". All in image 0."""
    ground_truth = GroundTruth(
        np.arange(images),
        np.zeros(len(truths), np.int64),
        np.array([row[1] for row in truths], np.float64).reshape(-1, 4),
        np.array([row[0] for row in truths], np.int64),
        np.array([len(row) > 2 for row in truths], bool),
    )
    detections = Detections(
        np.zeros(len(found), np.int64),
        np.array([box for *_, box in found], np.float64).reshape(-1, 4),
        np.array([label for _, label, _ in found], np.int64),
        np.array([score for score, *_ in found], np.float64),
    )
    return match(detections, ground_truth)


CASES = {
    "a badly placed detection of truth not found becomes a hit": (
        [(0.9, 1, part(A)), (0.5, 1, B)],
        [(1, A), (1, B)],
        HALF / 2,
        {"localisation": (1, 1 - HALF / 2)},
    ),
    "a badly placed detection of truth that is found goes": (
        [(0.9, 1, part(A)), (0.5, 1, A)],
        [(1, A), (1, B)],
        HALF / 2,
        {"localisation": (1, HALF / 2), "missed": (1, 1 / 2 - HALF / 2)},
    ),
    "of two badly placed detections of one truth one becomes a hit": (
        [(0.9, 1, part(A)), (0.8, 1, part(A, 0.3))],
        [(1, A), (1, B)],
        0,
        {"localisation": (2, HALF), "missed": (1, 0)},
    ),
    "a detection of the wrong class becomes a hit of the class that is there": (
        [(0.9, 2, A), (0.5, 2, C)],
        [(1, A), (2, C)],
        (0 + 1 / 2) / 2,
        {"classification": (1, 3 / 4)},
    ),
    "a detection of the wrong class on truth that is found goes": (
        [(0.9, 2, A), (0.8, 1, A), (0.5, 2, C)],
        [(1, A), (2, C)],
        (1 + 1 / 2) / 2,
        {"classification": (1, 1 / 4)},
    ),
    "a duplicate goes": (
        [(0.9, 1, A), (0.8, 1, part(A, 0.9)), (0.7, 1, B)],
        [(1, A), (1, B)],
        HALF + (1 - HALF) * 2 / 3,
        {"duplicate": (1, (1 - HALF) / 3)},
    ),
    "a detection of nothing goes": (
        [(0.9, 1, NOWHERE), (0.8, 1, A)],
        [(1, A)],
        1 / 2,
        {"background": (1, 1 / 2)},
    ),
    "a detection with an IoU below 0.1 is of nothing": (
        [(0.9, 1, part(A, 0.09)), (0.8, 1, A)],
        [(1, A)],
        1 / 2,
        {"background": (1, 1 / 2)},
    ),
    "a detection of the wrong class and place goes": (
        [(0.9, 2, part(A)), (0.8, 2, C)],
        [(1, A), (2, C)],
        1 / 4,
        {"both": (1, 1 / 4), "missed": (1, 0)},
    ),
    "missed truth need not be found": (
        [(0.9, 1, A)],
        [(1, A), (1, B)],
        HALF,
        {"missed": (1, 1 - HALF)},
    ),
    "what is matched with ignored truth is no error": (
        [(0.9, 1, B), (0.8, 1, B), (0.7, 1, A)],
        [(1, A), (1, B, "ignored")],
        1,
        {},
    ),
    "what touches ignored truth is not badly placed": (
        [(0.9, 1, [94.0, 0, 104, 10]), (0.8, 1, A)],  # 0.4 of it inside
        [(1, A), (1, B, "ignored")],
        1 / 2,
        {"background": (1, 1 / 2)},
    ),
    "ignored truth is not missed": (
        [(0.8, 1, A)],
        [(1, A), (1, B, "ignored"), (2, C, "ignored")],
        1,
        {},
    ),
    "a class without truth costs nothing": (
        [(0.9, 2, NOWHERE), (0.8, 1, A)],
        [(1, A)],
        1,
        {"background": (1, 0)},
    ),
    "without detections all is missed": ([], [(1, A), (2, B)], 0, {"missed": (2, 0)}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_counts_and_costs_are_those_worked_out_by_hand(case):
    found, truths, ap_50, errors = case
    result = tide(matched(found, truths), 2)
    assert result["ap_50"] == pytest.approx(ap_50)
    got = {row["name"]: (row["count"], row["cost"]) for row in result["types"]}
    assert {name: count for name, (count, _) in got.items() if count} == {
        name: count for name, (count, _) in errors.items()
    }
    for name, (_, cost) in got.items():
        assert cost == pytest.approx(errors.get(name, (0, 0.0))[1]), name


def test_the_kinds_stand_in_the_papers_order_with_their_meaning():
    rows = tide(matched([], [(1, A)]), 1)["types"]
    assert [row["name"] for row in rows] == [
        *("classification", "localisation", "both", "duplicate", "background", "missed")
    ]
    assert all(row["meaning"] for row in rows)


@pytest.mark.parametrize("truths", [[], [(1, B, "ignored")]])
def test_without_truth_costs_are_undefined_and_errors_still_counted(truths):
    result = tide(matched([(0.9, 1, A)], truths), 1)
    assert np.isnan(result["ap_50"])
    assert [row["count"] for row in result["types"]] == [0, 0, 0, 0, 1, 0]
    assert all(np.isnan(row["cost"]) for row in result["types"])


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inside = np.prod(np.clip(high - low, 0, None))
    return inside / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inside)


def average_precision(points, truths):
    """From (score, right), by the definition: the mean over 101 recalls of the best beyond."""
    if not truths:
        return 0.0
    hits, steps = 0, []
    for n, (_, right) in enumerate(sorted(points, key=lambda point: -point[0]), 1):
        hits += right
        steps.append((hits / truths, hits / n))
    recalls = np.linspace(0, 1, 101)
    return np.mean([max((p for r, p in steps if r >= x), default=0.0) for x in recalls])


def tide_by_definition(matches, classes):
    """Counts and costs, a detection at a time, by the paper and tidecv's main_errors.py."""
    detections, ground_truth = matches.detections, matches.ground_truth
    ignored, right = matches.ignored()[0], matches.right()[0]
    real = np.flatnonzero(~ground_truth.ignore).tolist()
    used = set(matches.matched[0, right].tolist())
    kind, target = {}, {}
    for m in np.flatnonzero(~right & ~ignored).tolist():
        d = matches.rows[m]
        pairs = [
            (iou(detections.boxes[d], ground_truth.boxes[t]), t)
            for t in real
            if ground_truth.image[t] == detections.image[d]
        ]
        label = detections.labels[d]
        # Of equal overlaps the first truth; `nothing` where there is none.
        nothing = [(0.0, -1)]
        own = max(
            [p for p in pairs if ground_truth.labels[p[1]] == label] or nothing, key=lambda p: p[0]
        )
        other = max(
            [p for p in pairs if ground_truth.labels[p[1]] != label] or nothing, key=lambda p: p[0]
        )
        if 0.1 <= own[0] < 0.5:
            kind[m], target[m] = "localisation", own[1]
        elif other[0] >= 0.5:
            kind[m], target[m] = "classification", other[1]
        elif own[0] >= 0.5:
            kind[m] = "duplicate"
        else:
            kind[m] = "background" if other[0] < 0.1 else "both"
    missed = set(real) - used - set(target.values())
    best = {}
    for m, t in target.items():  # falling scores
        if t not in used:
            best.setdefault(t, m)

    def mean_ap(mended):
        values = []
        for k in sorted({int(ground_truth.labels[t]) for t in real}):
            points = []
            for m in np.flatnonzero(~ignored).tolist():
                label, good = int(matches.labels[m]), bool(right[m])
                if kind.get(m) == mended:
                    if best.get(target.get(m)) != m:
                        continue
                    label, good = int(ground_truth.labels[target[m]]), True
                if label == k:
                    points.append((matches.scores[m], good))
            wanted = [t for t in real if ground_truth.labels[t] == k]
            if mended == "missed":
                wanted = [t for t in wanted if t not in missed]
            values.append(average_precision(points, len(wanted)))
        return np.mean(values)

    base = mean_ap("nothing")
    result = {}
    for name in ("classification", "localisation", "both", "duplicate", "background", "missed"):
        count = len(missed) if name == "missed" else list(kind.values()).count(name)
        result[name] = (count, max(mean_ap(name) - base, 0))
    return base, result


def noisy_split(seed):
    """Boxes shaken enough, and classes changed often enough, that all kinds of error are in it."""
    detections, ground_truth = random_split(seed, classes=3, most=6, ignored=0.15, round_to=9)
    rng = np.random.default_rng(seed)
    boxes = detections.boxes + rng.normal(0, 4, detections.boxes.shape)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    other = rng.integers(1, 4, len(boxes))
    labels = np.where(rng.random(len(boxes)) < 0.4, other, detections.labels)
    return Detections(detections.image, boxes, labels, detections.scores), ground_truth


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_counts_and_costs_are_those_of_the_definitions(seed):
    detections, ground_truth = noisy_split(seed)
    if ground_truth.ignore.all():
        return
    matches = match(detections, ground_truth)
    base, expected = tide_by_definition(matches, 3)
    result = tide(matches, 3)
    assert result["ap_50"] == pytest.approx(base)
    assert result["ap_50"] == pytest.approx(coco_scores(detections, ground_truth, 3)[0]["map_50"])
    for row in result["types"]:
        count, cost = expected[row["name"]]
        assert row["count"] == count, row["name"]
        assert row["cost"] == pytest.approx(cost, abs=1e-9), row["name"]


def test_confusion_is_what_is_counted_by_hand():
    matches = matched(
        [
            (0.9, 1, A),  # a hit
            (0.8, 1, part(A, 0.9)),  # once more: nothing is left for it
            (0.7, 2, B),  # the wrong class
            (0.6, 2, NOWHERE),
        ],
        [(1, A), (1, B), (2, C)],
    )
    matrix = confusion(matches, np.ones(4, bool), 2)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]


def test_confusion_counts_only_what_is_kept():
    matches = matched([(0.9, 1, A), (0.4, 2, B)], [(1, A), (2, B)])
    matrix = confusion(matches, np.array([True, False]), 2)
    assert matrix.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_a_hit_of_its_class_goes_before_a_surer_detection_of_another():
    matches = matched([(0.9, 2, A), (0.8, 1, A)], [(1, A)])
    assert confusion(matches, np.ones(2, bool), 2).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_ignored_truth_and_what_is_found_on_it_are_not_confused():
    matches = matched([(0.9, 1, B), (0.8, 1, A)], [(1, A), (1, B, "ignored")])
    assert confusion(matches, np.ones(2, bool), 1).tolist() == [[1, 0], [0, 0]]


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_confusion_adds_up_to_truths_detections_and_hits(seed):
    matches = match(*noisy_split(seed))
    kept = matches.scores >= 0.3
    matrix = confusion(matches, kept, 3)
    wanted = ~matches.ground_truth.ignore
    counted = kept & ~matches.ignored()[0]
    for k in (1, 2, 3):
        assert matrix[k - 1].sum() == (wanted & (matches.ground_truth.labels == k)).sum()
        assert matrix[:, k - 1].sum() == (counted & (matches.labels == k)).sum()
        assert matrix[k - 1, k - 1] == (matches.right()[0] & kept & (matches.labels == k)).sum()


def test_more_detections_than_cocos_hundred_are_confused():
    found = [(0.5, 1 + n % 2, NOWHERE) for n in range(150)]
    assert confusion(matched(found, [(1, A)]), np.ones(150, bool), 2)[2].tolist() == [75, 75, 0]


@pytest.mark.parametrize(
    ("found", "truths", "expected"),
    [
        ([], [], [[0, 0], [0, 0]]),
        ([(0.9, 1, A)], [], [[0, 0], [1, 0]]),
        ([], [(1, A)], [[0, 1], [0, 0]]),
    ],
)
def test_nothing_is_confused_with_background_alone(found, truths, expected):
    matches = matched(found, truths)
    assert confusion(matches, np.ones(len(found), bool), 1).tolist() == expected


def calibrated(found, truths, bins=10):
    matches = matched(found, truths)
    return calibration(evaluated(matches.detections, matches.ground_truth, 2), bins)


def test_calibration_is_the_weighted_distance_of_score_and_precision():
    result = calibrated(
        [(0.95, 1, A), (0.91, 1, NOWHERE), (0.93, 2, C), (0.15, 1, NOWHERE)], [(1, A), (2, C)]
    )
    high, low = result["bins"][9], result["bins"][1]
    assert high == {
        "low": 0.9,
        "high": 1.0,
        "confidence": pytest.approx(0.93),
        "precision": pytest.approx(2 / 3),
        "count": 3,
    }
    assert (low["confidence"], low["precision"], low["count"]) == (pytest.approx(0.15), 0, 1)
    assert result["d_ece"] == pytest.approx((3 * (0.93 - 2 / 3) + 0.15) / 4)


def test_empty_bins_are_undefined_not_zero():
    empty = calibrated([(0.95, 1, A)], [(1, A)])["bins"][3]
    assert empty["count"] == 0
    assert np.isnan(empty["confidence"])
    assert np.isnan(empty["precision"])


def test_bins_have_their_lower_end_and_the_last_also_one():
    scores = [0.0, 0.25, 0.5, 0.75, 1.0]
    result = calibrated([(score, 1, NOWHERE) for score in scores], [(1, A)], bins=4)
    assert [one["count"] for one in result["bins"]] == [1, 1, 1, 2]


def test_what_is_matched_with_ignored_truth_is_not_calibrated():
    result = calibrated([(0.9, 1, B), (0.8, 1, A)], [(1, A), (1, B, "ignored")])
    assert sum(one["count"] for one in result["bins"]) == 1


@pytest.mark.parametrize("truths", [[], [(1, A)]])
def test_without_detections_calibration_is_undefined(truths):
    result = calibrated([], truths)
    assert np.isnan(result["d_ece"])
    assert sum(one["count"] for one in result["bins"]) == 0


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_calibration_is_that_of_the_matches(seed):
    detections, ground_truth = noisy_split(seed)
    matches = match(detections, ground_truth)
    counted = ~matches.ignored()[0]
    scores, right = matches.scores[counted], matches.right()[0][counted]
    result = calibration(evaluated(detections, ground_truth, 3))
    distance = 0.0
    for n, one in enumerate(result["bins"]):
        mine = np.minimum(np.floor(scores * 10), 9) == n
        assert one["count"] == mine.sum()
        if mine.any():
            assert one["precision"] == pytest.approx(right[mine].mean())
            distance += abs(scores[mine].mean() - right[mine].mean()) * mine.mean()
    if len(scores):
        assert result["d_ece"] == pytest.approx(distance)
