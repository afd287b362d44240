"""COCO's twelve numbers by pycocotools, the reference; what it prints is left out.

Slow, so it is not for every epoch: it is what the final scores of a run are checked against.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.evaluation.arrays import Detections, Truth, xywh
from detector.evaluation.coco import Scores, named


def pycocotools_scores(detections: Detections, truth: Truth, classes: int) -> Scores:
    """Score detections; arguments and result are those of `coco_scores`."""
    images = [{"id": image} for image in truth.images.tolist()]
    categories = [{"id": label} for label in range(1, classes + 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        indices = []
        area = {} if truth.areas is None else {"area": truth.areas}
        for annotations in (
            _annotations(truth, iscrowd=truth.ignore.astype(np.int64), **area),
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
    those: Detections | Truth, **columns: NDArray[np.int64] | NDArray[np.float64]
) -> list[dict[str, object]]:
    """Boxes as COCO annotations, with the further columns given."""
    bbox = xywh(those)
    everything = {
        "id": np.arange(1, len(bbox) + 1),
        "image_id": those.image,
        "category_id": those.labels,
        "bbox": bbox,
        "area": bbox[:, 2:].prod(1),
        "iscrowd": np.zeros(len(bbox), np.int64),
        **columns,
    }
    rows = zip(*(values.tolist() for values in everything.values()), strict=True)
    return [dict(zip(everything, row, strict=True)) for row in rows]
