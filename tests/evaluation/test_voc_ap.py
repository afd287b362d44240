"""VOC's AP against an implementation written here, box by box, from the development kit's rules."""

import numpy as np
import pytest

from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.voc import voc_scores

ONE = (np.ones(1, int),)


def as_in_files(box: np.ndarray) -> np.ndarray:
    """Half-open corners from 0 as the kit's files have them: inclusive, counted from 1."""
    return box + np.array([1, 1, 0, 0])


def devkit_ap(detections: Detections, ground_truth: GroundTruth, label: int) -> tuple[float, float]:
    """VOCevaldet.m and VOCap.m, followed literally; 11-point and area form."""
    objects = [
        {"image": i, "box": as_in_files(b), "difficult": d, "taken": False}
        for i, b, c, d in zip(
            ground_truth.image,
            ground_truth.boxes,
            ground_truth.labels,
            ground_truth.ignore,
            strict=True,
        )
        if c == label
    ]
    npos = sum(not o["difficult"] for o in objects)
    if npos == 0:
        return float("nan"), float("nan")
    rows = [r for r in range(len(detections.labels)) if detections.labels[r] == label]
    rows.sort(key=lambda r: -detections.scores[r])
    tp, fp = [], []
    for r in rows:
        bb = as_in_files(detections.boxes[r])
        best, match = -np.inf, None
        for o in objects:
            if o["image"] != detections.image[r]:
                continue
            bg = o["box"]
            iw = min(bb[2], bg[2]) - max(bb[0], bg[0]) + 1
            ih = min(bb[3], bg[3]) - max(bb[1], bg[1]) + 1
            if iw > 0 and ih > 0:
                union = (
                    (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1)
                    + (bg[2] - bg[0] + 1) * (bg[3] - bg[1] + 1)
                    - iw * ih
                )
                if iw * ih / union > best:
                    best, match = iw * ih / union, o
        hit = miss = 0
        if best >= 0.5:
            if not match["difficult"]:
                hit, miss = (0, 1) if match["taken"] else (1, 0)
                match["taken"] = True
        else:
            miss = 1
        tp.append(hit)
        fp.append(miss)
    tp, fp = np.cumsum(tp), np.cumsum(fp)
    recall = tp / npos
    precision = np.divide(tp, tp + fp, out=np.zeros(len(tp)), where=tp + fp > 0)
    eleven = 0.0
    for t in np.linspace(0, 1, 11):
        above = [p for p, r in zip(precision, recall, strict=True) if r >= t - 1e-12]
        eleven += (max(above) if above else 0.0) / 11
    mrec = [0.0, *recall, 1.0]
    mpre = [0.0, *precision, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    area = sum(
        (mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1]
    )
    return eleven, area


def random_case(seed: int) -> tuple[Detections, GroundTruth]:
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 40)), int(rng.integers(0, 120))
    corner = rng.uniform(0, 60, (n, 2))
    ground_truth = GroundTruth(
        np.arange(4),
        rng.integers(0, 4, n),
        np.concatenate((corner, corner + rng.uniform(5, 40, (n, 2))), 1),
        rng.integers(1, 4, n),
        rng.random(n) < 0.25,
    )
    source = rng.integers(0, n, d)
    boxes = ground_truth.boxes[source] + rng.normal(0, 3, (d, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    scores = rng.permutation(d) / max(d, 1)  # no ties: the kit's sort does not order them
    return Detections(
        ground_truth.image[source], boxes, ground_truth.labels[source], scores
    ), ground_truth


@pytest.mark.parametrize("seed", range(12))
def test_both_forms_equal_the_development_kits(seed):
    detections, ground_truth = random_case(seed)
    means, per_class = voc_scores(detections, ground_truth, classes=4)
    expected = np.array([devkit_ap(detections, ground_truth, label) for label in range(1, 5)])
    found = [[row["voc_ap_50_11point"], row["voc_ap_50"]] for row in per_class]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(
        [means["ap_50_11point"], means["ap_50"]], np.nanmean(expected, 0), atol=1e-12
    )


def test_a_box_is_as_wide_as_it_has_pixels():
    # In the kit's files: 11,11,20,20, ten by ten pixels, and 13,14,20,22, eight by nine. They share
    # eight by seven: 56 of 116, which is no hit; a pixel more on every side would be 0.51.
    ground_truth = GroundTruth(
        *(np.zeros(1, int),) * 2, np.array([[10.0, 10, 20, 20]]), *ONE, np.zeros(1, bool)
    )
    detections = Detections(np.zeros(1, int), np.array([[12.0, 13, 20, 22]]), *ONE, np.ones(1))
    assert voc_scores(detections, ground_truth, 1)[0]["ap_50"] == 0
    found = Detections(np.zeros(1, int), np.array([[12.0, 12, 20, 22]]), *ONE, np.ones(1))
    assert voc_scores(found, ground_truth, 1)[0]["ap_50"] == 1  # 64 of 116


def test_a_detection_of_a_difficult_object_counts_neither_way():
    boxes = np.array([[0.0, 0, 20, 20], [40, 40, 60, 60]])
    ground_truth = GroundTruth(
        np.zeros(1, int), np.zeros(2, int), boxes, np.ones(2, int), np.array([True, False])
    )
    detections = Detections(np.zeros(2, int), boxes, np.ones(2, int), np.array([0.9, 0.8]))
    means, _ = voc_scores(detections, ground_truth, 1)
    assert means == {"ap_50_11point": 1.0, "ap_50": 1.0}


def test_a_second_detection_of_an_object_is_wrong():
    box = np.array([[0.0, 0, 20, 20]])
    ground_truth = GroundTruth(
        np.zeros(1, int),
        np.zeros(2, int),
        np.vstack((box, box + 50)),
        np.ones(2, int),
        np.zeros(2, bool),
    )
    detections = Detections(
        np.zeros(3, int),
        np.vstack((box, box, box + 50)),
        np.ones(3, int),
        np.array([0.9, 0.8, 0.7]),
    )
    means, _ = voc_scores(detections, ground_truth, 1)
    # Precision 1 at recall 1/2, then 2/3 at recall 1.
    assert means["ap_50"] == pytest.approx((1 + 2 / 3) / 2)
    assert means["ap_50_11point"] == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_nothing_found_scores_zero_and_nothing_to_find_is_undefined():
    none = Detections(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    ground_truth = GroundTruth(
        np.zeros(1, int),
        np.zeros(1, int),
        np.array([[0.0, 0, 9, 9]]),
        np.ones(1, int),
        np.zeros(1, bool),
    )
    means, per_class = voc_scores(none, ground_truth, 2)
    assert means == {"ap_50_11point": 0.0, "ap_50": 0.0}
    assert np.isnan(per_class[1]["voc_ap_50"])
