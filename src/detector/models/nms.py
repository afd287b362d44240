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
    """Suppress boxes that overlap a better one of their group.

    Torchvision's kernel for a CPU uses one core, and takes a good part of a training step; so here
    the groups of all images share the cores. On other devices it is `batched_nms`.

    Args:
        boxes: Per image `(N, 4)` xyxy.
        scores: Per image `(N,)`.
        groups: Per image `(N,)` int64.
        threshold: IoU above which the weaker one goes.

    Returns:
        Per image the rows kept, int64, best first.
    """
    if not boxes or not on_cpu(boxes[0]):
        return [
            batched_nms(b, s, g, threshold) for b, s, g in zip(boxes, scores, groups, strict=True)
        ]
    rows = [[torch.where(group == one)[0] for one in torch.unique(group)] for group in groups]
    tasks = [(image, each) for image, of_image in enumerate(rows) for each in of_image]

    def keep(task: tuple[int, Tensor]) -> Tensor:
        image, each = task
        rows: Tensor = nms(boxes[image][each], scores[image][each], threshold)
        return each[rows]

    kept = list(_pool().map(keep, tasks)) if len(tasks) > 1 else [keep(task) for task in tasks]
    found = []
    for image, score in enumerate(scores):
        mine = [k for (of, _), k in zip(tasks, kept, strict=True) if of == image]
        all_of_it = torch.cat(mine) if mine else torch.zeros(0, dtype=torch.int64)
        found.append(all_of_it[score[all_of_it].argsort(descending=True, stable=True)])
    return found


@cache
def _pool() -> ThreadPoolExecutor:
    """As many threads as torch uses; the kernel lets go of Python's lock."""
    return ThreadPoolExecutor(torch.get_num_threads(), "nms")
