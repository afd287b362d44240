"""The metric of validation, test and evaluation, in which every image counts once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from detector.core.structures import Target, TensorPrediction
from detector.evaluation.arrays import Detections, GroundTruth
from detector.evaluation.coco import NAMES, coco_scores


@dataclass(frozen=True)
class Evaluation:
    """A split that was scored.

    Attributes:
        detections: Detections of the split.
        ground_truth: Ground truth of the split.
    """

    detections: Detections
    ground_truth: GroundTruth


class DetectionMetric(Metric):
    """COCO's scores of a split.

    States are arrays that are gathered from all processes once, when the scores are computed. An
    image that sampler padding gave to several processes counts once. The first process computes the
    scores and broadcasts them.

    Args:
        classes: Number of classes, without background.

    Attributes:
        expected: Number of images that must have been added; None: any number.
        evaluation: Detections and ground truth of the last `compute`, on the first process only.
    """

    full_state_update = False
    higher_is_better = True
    images: list[Tensor]
    predictions: list[Tensor]
    ground_truth: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.expected: int | None = None
        self.evaluation: Evaluation | None = None
        # Rows begin with the image id and a number that differs each time an image was added.
        # images: (n, 2); predictions: (D, 8), then box, label, score; ground_truth: (T, 8), then
        # box, label, ignore.
        for name in ("images", "predictions", "ground_truth"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[TensorPrediction], targets: Sequence[Target]) -> None:
        """Add a batch.

        Args:
            predictions: Predictions in pixels of the original images.
            targets: Ground truth of the same images, in the same pixels.
        """
        if not targets:
            return
        rank = torch.distributed.get_rank() if _together() else 0
        # Process, batch and index in the batch as one number, exact in float64.
        visit = torch.arange(len(targets)) + (rank * 2**40 + len(self.images) * 2**20)
        image = torch.stack([target.image_id for target in targets])
        heads = torch.stack([x.to(self._home).to(torch.float64) for x in (image, visit)], 1)
        self.images.append(heads)
        self.predictions.append(_rows(heads, predictions, [p.scores for p in predictions]))
        self.ground_truth.append(_rows(heads, targets, [t.ignore for t in targets]))

    def compute(self) -> dict[str, float]:
        """Compute COCO's twelve scores, the same on every process, and set `evaluation`.

        Raises:
            RuntimeError: If the number of images is not the expected one.
        """
        detections, ground_truth = self.arrays()
        seen = len(ground_truth.images)
        if self.expected not in (None, seen):
            raise RuntimeError(f"{seen} images were evaluated, but the split has {self.expected}")
        numbers = torch.empty(len(NAMES), dtype=torch.float64, device=self._home)
        if not _together() or torch.distributed.get_rank() == 0:
            coco, _ = coco_scores(detections, ground_truth, self.classes)
            self.evaluation = Evaluation(detections, ground_truth)
            numbers.copy_(torch.tensor([coco[name] for name in NAMES], dtype=torch.float64))
        if _together():
            torch.distributed.broadcast(numbers, src=0)
        return dict(zip(NAMES, numbers.tolist(), strict=True))

    @property
    def _home(self) -> torch.device:
        """Device of the states: MPS has no float64."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def arrays(self) -> tuple[Detections, GroundTruth]:
        """Everything added, each image once, in the order of image ids for any sampler."""
        images, predicted, true = (
            dim_zero_cat(rows).cpu().numpy() if len(rows) else np.zeros((0, 8))
            for rows in (self.images, self.predictions, self.ground_truth)
        )
        ids, first = np.unique(images[:, 0], return_index=True)
        visits = images[first, 1]
        predicted, true = (_of_visits(rows, visits) for rows in (predicted, true))
        detections = Detections(
            predicted[:, 0].astype(np.int64),
            predicted[:, 2:6],
            predicted[:, 6].astype(np.int64),
            predicted[:, 7],
        )
        ground_truth = GroundTruth(
            ids.astype(np.int64),
            true[:, 0].astype(np.int64),
            true[:, 2:6],
            true[:, 6].astype(np.int64),
            true[:, 7].astype(bool),
        )
        return detections, ground_truth


def _together() -> bool:
    """Whether a distributed process group is initialised."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _of_visits(rows: NDArray[np.float64], visits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of these visits, sorted by image; rows of an image keep their order."""
    rows = rows[np.isin(rows[:, 1], visits)]
    return rows[np.argsort(rows[:, 0], kind="stable")]


def _rows(
    heads: Tensor, batch: Sequence[TensorPrediction] | Sequence[Target], last: Sequence[Tensor]
) -> Tensor:
    """`(N, 8)` float64, boxes of a batch: image, visit, box, label and the last column."""
    counts = torch.tensor([len(one.labels) for one in batch], device=heads.device)
    columns = (
        torch.cat([one.boxes for one in batch]),
        torch.cat([one.labels for one in batch])[:, None],
        torch.cat(list(last))[:, None],
    )
    body = [column.to(heads.device).to(torch.float64) for column in columns]
    return torch.cat((heads.repeat_interleave(counts, 0), *body), 1)
