"""COCO's twelve scores by pycocotools, the reference implementation, which is slow.

The final scores of a run are checked with it; validation uses hotcoco alone (`coco.py`).
"""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.evaluation.arrays import Detections, GroundTruth, Scores, xywh
from detector.evaluation.coco import coco_scores, named

TOLERANCE = 1e-9  # largest difference from pycocotools that rounding explains


def checked_coco_scores(detections: Detections, ground_truth: GroundTruth, classes: int) -> Scores:
    """Score detections by pycocotools, and check that hotcoco gives the same scores.

    Arguments and result are those of `coco_scores`.

    Raises:
        RuntimeError: If a score differs; the message gives its name and both values.
    """
    ours, _ = coco_scores(detections, ground_truth, classes)
    expected = pycocotools_scores(detections, ground_truth, classes)
    for name, value in expected[0].items():
        same = math.isclose(ours[name], value, rel_tol=0, abs_tol=TOLERANCE)
        if not same and not (math.isnan(ours[name]) and math.isnan(value)):
            raise RuntimeError(
                f"{name} is {ours[name]!r}, but {value!r} by pycocotools; no metrics were written"
            )
    return expected


def pycocotools_scores(detections: Detections, ground_truth: GroundTruth, classes: int) -> Scores:
    """Score detections by pycocotools; arguments and result are those of `coco_scores`."""
    images = [{"id": image} for image in ground_truth.images.tolist()]
    categories = [{"id": label} for label in range(1, classes + 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        indices = []
        area = {} if ground_truth.areas is None else {"area": ground_truth.areas}
        for annotations in (
            _annotations(ground_truth, iscrowd=ground_truth.ignore.astype(np.int64), **area),
            _annotations(detections, score=detections.scores),
        ):
            index = COCO()
            index.dataset = {
                "images": images,
                "categories": categories,
                "annotations": annotations,
            }
            index.createIndex()
            indices.append(index)
        evaluation = COCOeval(*indices, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return named(evaluation.stats, evaluation.eval["precision"])


def _annotations(
    boxes: Detections | GroundTruth, **columns: NDArray[np.int64] | NDArray[np.float64]
) -> list[dict[str, object]]:
    """Boxes as COCO annotations, with further columns."""
    bbox = xywh(boxes)
    everything = {
        "id": np.arange(1, len(bbox) + 1),
        "image_id": boxes.image,
        "category_id": boxes.labels,
        "bbox": bbox,
        "area": bbox[:, 2:].prod(1),
        "iscrowd": np.zeros(len(bbox), np.int64),
        **columns,
    }
    rows = zip(*(values.tolist() for values in everything.values()), strict=True)
    return [dict(zip(everything, row, strict=True)) for row in rows]
