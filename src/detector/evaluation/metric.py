"""The one metric of validation, test and evaluation: packed, counted once under any sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from detector.evaluation.arrays import Detections, Truth
from detector.evaluation.coco import coco_scores
from detector.types import Prediction, Target


@dataclass(frozen=True)
class Evaluation:
    """A scored split.

    Attributes:
        detections: What was found.
        truth: What was there.
        coco: COCO's twelve numbers; NaN where undefined.
        per_class: For each class `ap` and `ap_50`.
    """

    detections: Detections
    truth: Truth
    coco: dict[str, float]
    per_class: list[dict[str, float]]


class DetectionMetric(Metric):
    """COCO's numbers over a split.

    States are arrays, concatenated across processes; an image that padding showed to several
    processes counts once.

    Args:
        classes: Number of classes, without background.
    """

    full_state_update = False
    higher_is_better = True
    images: list[Tensor]
    found: list[Tensor]
    true: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.evaluation: Evaluation | None = None  # of the last `compute`
        # Rows begin with the image and the visit, a number for every time an image was shown.
        # images: (n, 2); found: (D, 8), then box, label, score; true: (T, 8), box, label, ignore.
        for name in ("images", "found", "true"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Add a batch.

        Args:
            predictions: In original pixels.
            targets: In original pixels.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            visit = rank * 2**40 + len(self.images)  # exact in float64
            head = torch.tensor([[float(target.image_id), float(visit)]], dtype=torch.float64)
            self.images.append(head.to(self.device))
            self.found.append(self._rows(head, prediction, prediction.scores))
            self.true.append(self._rows(head, target, target.ignore))

    def _rows(self, head: Tensor, boxes: Prediction | Target, last: Tensor) -> Tensor:
        """`(N, 8)` float64: image, visit, box, label, and the last column."""
        columns = (boxes.boxes, boxes.labels[:, None], last[:, None])
        body = torch.cat([c.to(self.device, torch.float64) for c in columns], 1)
        return torch.cat((head.to(self.device).expand(len(body), 2), body), 1)

    def compute(self) -> dict[str, float]:
        """COCO's twelve numbers, on every process alike; all else is left in `evaluation`."""
        detections, truth = self.arrays()
        coco, per_class = coco_scores(detections, truth, self.classes)
        self.evaluation = Evaluation(detections, truth, coco, per_class)
        return coco

    def arrays(self) -> tuple[Detections, Truth]:
        """Everything added, each image once."""
        images, found, true = (
            dim_zero_cat(rows).cpu().numpy() if len(rows) else np.zeros((0, 8))
            for rows in (self.images, self.found, self.true)
        )
        ids, first = np.unique(images[:, 0], return_index=True)
        visits = images[first, 1]
        found, true = (rows[np.isin(rows[:, 1], visits)] for rows in (found, true))
        return (
            Detections(
                found[:, 0].astype(np.int64),
                found[:, 2:6],
                found[:, 6].astype(np.int64),
                found[:, 7],
            ),
            Truth(
                ids.astype(np.int64),
                true[:, 0].astype(np.int64),
                true[:, 2:6],
                true[:, 6].astype(np.int64),
                true[:, 7].astype(bool),
            ),
        )
