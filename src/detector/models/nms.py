"""Non-maximum suppression within groups, such as classes or pyramid levels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from detector.models.device import on_cpu


def grouped_nms(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], groups: Sequence[Tensor], threshold: float
) -> list[Tensor]:
    """Suppress boxes that overlap a box of a higher score in their group.

    Torchvision's kernel for a CPU uses one core and takes a good part of a training step, so the
    groups of all images are spread over the cores. On other devices this is `batched_nms`.

    Args:
        boxes: Boxes of each image, `(N, 4)` xyxy.
        scores: Scores of each image's boxes, `(N,)`.
        groups: Groups of each image's boxes, `(N,)` int64.
        threshold: IoU above which the box of the lower score is suppressed.

    Returns:
        Indices of the boxes kept in each image, int64, highest score first.
    """
    if not boxes or not on_cpu(boxes[0]):
        return [
            batched_nms(b, s, g, threshold) for b, s, g in zip(boxes, scores, groups, strict=True)
        ]
    rows = [[torch.where(group == one)[0] for one in torch.unique(group)] for group in groups]
    tasks = [(image, each) for image, members in enumerate(rows) for each in members]

    def keep(task: tuple[int, Tensor]) -> Tensor:
        image, each = task
        rows: Tensor = nms(boxes[image][each], scores[image][each], threshold)
        return each[rows]

    kept = list(_pool().map(keep, tasks)) if len(tasks) > 1 else [keep(task) for task in tasks]
    results = []
    for image, score in enumerate(scores):
        parts = [k for (owner, _), k in zip(tasks, kept, strict=True) if owner == image]
        index = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
        results.append(index[score[index].argsort(descending=True, stable=True)])
    return results


@cache
def _pool() -> ThreadPoolExecutor:
    """Make as many threads as torch uses; the kernel releases Python's lock."""
    return ThreadPoolExecutor(torch.get_num_threads(), "nms")
