"""The one metric of validation, test and evaluation: packed, counted once under any sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from detector.core.structures import Prediction, Target
from detector.evaluation.arrays import Detections, Truth
from detector.evaluation.coco import NAMES, coco_scores


@dataclass(frozen=True)
class Evaluation:
    """A split that was scored.

    Attributes:
        detections: What was found.
        truth: What was there.
    """

    detections: Detections
    truth: Truth


class DetectionMetric(Metric):
    """COCO's numbers over a split.

    States are arrays, concatenated across processes once, when the scores are computed; an image
    that padding showed to several processes counts once. The first process computes, and tells the
    others the numbers.

    Args:
        classes: Number of classes, without background.

    Attributes:
        expected: How many images there must be in the end; None: any number.
        evaluation: All that the last `compute` had and found, on the first process alone.
    """

    full_state_update = False
    higher_is_better = True
    images: list[Tensor]
    found: list[Tensor]
    true: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.expected: int | None = None
        self.evaluation: Evaluation | None = None
        # Rows begin with the image and the visit, a number for every time an image was shown.
        # images: (n, 2); found: (D, 8), then box, label, score; true: (T, 8), box, label, ignore.
        for name in ("images", "found", "true"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Add a batch.

        Args:
            predictions: In original pixels.
            targets: In original pixels, of the same images.
        """
        if not targets:
            return
        rank = torch.distributed.get_rank() if _together() else 0
        # Process, batch and place in it as one number, exact in float64.
        visit = torch.arange(len(targets)) + (rank * 2**40 + len(self.images) * 2**20)
        image = torch.stack([target.image_id for target in targets])
        heads = torch.stack([x.to(self._home).to(torch.float64) for x in (image, visit)], 1)
        self.images.append(heads)
        self.found.append(_rows(heads, predictions, [p.scores for p in predictions]))
        self.true.append(_rows(heads, targets, [t.ignore for t in targets]))

    def compute(self) -> dict[str, float]:
        """COCO's twelve numbers, on every process alike; all else is left in `evaluation`.

        Raises:
            RuntimeError: If there are not as many images as expected.
        """
        detections, truth = self.arrays()
        seen = len(truth.images)
        if self.expected not in (None, seen):
            raise RuntimeError(f"{seen} images were evaluated, but the split has {self.expected}")
        numbers = torch.empty(len(NAMES), dtype=torch.float64, device=self._home)
        if not _together() or torch.distributed.get_rank() == 0:
            coco, _ = coco_scores(detections, truth, self.classes)
            self.evaluation = Evaluation(detections, truth)
            numbers.copy_(torch.tensor([coco[name] for name in NAMES], dtype=torch.float64))
        if _together():
            torch.distributed.broadcast(numbers, src=0)
        return dict(zip(NAMES, numbers.tolist(), strict=True))

    @property
    def _home(self) -> torch.device:
        """Where rows are kept: MPS has no float64."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def arrays(self) -> tuple[Detections, Truth]:
        """Everything added, each image once, in the images' order however they were dealt out."""
        images, found, true = (
            dim_zero_cat(rows).cpu().numpy() if len(rows) else np.zeros((0, 8))
            for rows in (self.images, self.found, self.true)
        )
        ids, first = np.unique(images[:, 0], return_index=True)
        visits = images[first, 1]
        found, true = (_of_visits(rows, visits) for rows in (found, true))
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


def _together() -> bool:
    """Whether there are several processes."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _of_visits(rows: NDArray[np.float64], visits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows of these visits, by image; those of an image stay in their order."""
    rows = rows[np.isin(rows[:, 1], visits)]
    return rows[np.argsort(rows[:, 0], kind="stable")]


def _rows(
    heads: Tensor, batch: Sequence[Prediction] | Sequence[Target], last: Sequence[Tensor]
) -> Tensor:
    """`(N, 8)` float64 for all boxes of a batch: image, visit, box, label, and the last column."""
    counts = torch.tensor([len(one.labels) for one in batch], device=heads.device)
    columns = (
        torch.cat([one.boxes for one in batch]),
        torch.cat([one.labels for one in batch])[:, None],
        torch.cat(list(last))[:, None],
    )
    body = [column.to(heads.device).to(torch.float64) for column in columns]
    return torch.cat((heads.repeat_interleave(counts, 0), *body), 1)
