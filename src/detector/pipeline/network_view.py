"""What the network would see of a data set: how large boxes are, which are lost or missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.config.schema import Config
from detector.core.structures import AnnotatedImages
from detector.data.read import DataSet
from detector.evaluation.anchors import Anchors, best_iou, fit_anchors, recall
from detector.pipeline.fitting import (
    anchor_grid,
    boxes_per_image,
    boxes_to_learn,
    input_boxes,
    listed,
)

DRAWS = 256  # training images that are augmented to see which boxes that costs
SIZES = (0, 16, 32, 64, 128, 256)  # pixels of the network's input
ASPECTS = (0, 1 / 3, 2 / 3, 3 / 2, 3)  # height over width
GAIN = 0.02  # share of boxes, at IoU 0.5, that other anchors must add to be suggested


def histograms(config: Config, data: DataSet) -> dict[str, Any]:
    """Distributions over all splits."""
    parts = [input_boxes(images, config.data.side)[0] for images in data.splits.values()]
    boxes = np.concatenate(parts) if parts else np.zeros((0, 4), np.float32)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    counts = np.concatenate([np.diff(images.offsets) for images in data.splits.values()])
    longer = np.concatenate([images.sizes.max(1, initial=0) for images in data.splits.values()])
    all_of_them = {
        "box side in the network's input, pixels": _histogram(
            sides.prod(1) ** 0.5, 2 ** (np.arange(40) / 3), "square root of the area"
        ),
        "aspect ratio (height / width)": _histogram(
            sides[:, 1] / sides[:, 0], 2 ** (np.arange(-20, 21) / 5)
        ),
        "boxes per image": _histogram(counts, _even(counts)),
        "image longer side, pixels": _histogram(longer, _even(longer)),
    }
    return {name: found for name, found in all_of_them.items() if len(found["counts"]) > 1}


def _even(values: NDArray[Any]) -> NDArray[np.float64]:
    """Edges of at most 28 equal bins of whole numbers over the range of the values."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    step = max(1, -(-(high - low + 1) // 28))
    return np.arange(low, high + step + 1, step, dtype=np.float64)


def _histogram(
    values: NDArray[Any], edges: NDArray[np.float64], note: str | None = None
) -> dict[str, Any]:
    """Counts between edges; empty ends are left out, and what lies beyond counts with the ends."""
    # The last bin of numpy's has both its edges, so the limit stays just below.
    counts = np.histogram(values.clip(edges[0], np.nextafter(edges[-1], 0)), edges)[0]
    filled = np.flatnonzero(counts)
    first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, 0)
    return {
        "edges": [round(e, 3) for e in edges[first : last + 2].tolist()],
        "counts": counts[first : last + 1].tolist(),
        "note": note,
    }


def network_view(config: Config, data: DataSet) -> dict[str, Any] | None:
    """Boxes lost by resizing and augmentation, and how well the anchors fit."""
    train = data.splits.get("train")
    if train is None or not len(train.labels):
        return None
    size = config.data.side
    boxes, shapes = input_boxes(train, size)
    return {
        "image_size": size,
        "crowded": crowded(data.splits, config.model.most_detections),
        "lost": _lost(config, train, boxes, shapes),
        "anchors": _fit_anchors(config, *boxes_to_learn(train, size)),
    }


def crowded(splits: Mapping[str, AnnotatedImages], limit: int) -> str | None:
    """Say which splits have images with more boxes than are detected in one.

    Args:
        splits: By name.
        limit: Most detections in an image (`model.detections_per_image`).

    Returns:
        A sentence; None if there are none.
    """
    counts = {name: boxes_per_image(images) for name, images in splits.items()}
    over = {name: int((count > limit).sum()) for name, count in counts.items()}
    if not any(over.values()):
        return None
    most = max(int(count.max(initial=0)) for count in counts.values())
    where = ", ".join(f"{number} in {name}" for name, number in over.items() if number)
    return (
        f"images with more than {limit} boxes: {where} (up to {most} boxes); no more than {limit} "
        f"can be found, model.detections_per_image={-(-most // 50) * 50} allows more (COCO's "
        "scores count at most 100 of a class in an image)"
    )


def _lost(
    config: Config,
    train: AnnotatedImages,
    resized: NDArray[np.float32],
    shapes: NDArray[np.int32],
) -> dict[str, Any]:
    """Share of boxes that are lost by resizing, and then by augmentation."""
    from detector.data.loading.augment import Augmenter

    settings = config.augment
    size, channels = config.data.side, config.model.in_channels
    augment = Augmenter(settings.steps, size, settings.min_visibility, channels)
    small: NDArray[np.bool_] = np.any(resized[:, 2:] - resized[:, :2] < 1, axis=1)
    draws = np.linspace(0, len(train) - 1, min(DRAWS, len(train))).astype(int).tolist()
    before = after = 0
    for index in draws:
        rows = np.arange(train.offsets[index], train.offsets[index + 1])
        rows = rows[~train.ignore[rows] & ~small[rows]]
        if len(rows):
            height, width = shapes[rows[0]].tolist()
            blank = np.zeros(
                (height, width, channels), np.uint8
            )  # where boxes go depends on size alone
            before += len(rows)
            after += len(augment(blank, resized[rows], (config.seed, 0, index))[2])
    return {
        "draws": len(draws),
        "boxes": before,
        "by_resizing": float(small.mean()) if len(small) else 0.0,
        "by_augmentation": 1 - after / before if before else 0.0,
    }


def _fit_anchors(
    config: Config, boxes: NDArray[np.float32], shapes: NDArray[np.int32]
) -> dict[str, Any] | None:
    """The recall ceiling of the configured anchors, and those that fit better, if any."""
    if not len(boxes):
        return None
    grid, model = anchor_grid(config), config.model
    anchors = Anchors(grid, model.anchor_scales, model.anchor_ratios)
    overlaps = best_iou(boxes, shapes, anchors)
    at_50, at_70 = recall(overlaps)
    sides = boxes[:, 2:] - boxes[:, :2]
    found: dict[str, Any] = {
        "scales": list(anchors.scales),
        "ratios": list(anchors.ratios),
        "strides": list(grid.strides),
        "recall_50": at_50,
        "recall_70": at_70,
        "by_size": _by_range(overlaps, sides.prod(1) ** 0.5, SIZES, " px"),
        "by_aspect": _by_range(overlaps, sides[:, 1] / sides[:, 0], ASPECTS, ""),
        "suggestion": None,
    }
    better = fit_anchors(boxes, shapes, grid)
    better_50, better_70 = recall(best_iou(boxes, shapes, better))
    if better_50 > at_50 + GAIN:
        found["suggestion"] = {
            "override": f"model.anchor_scales={listed(better.scales)} "
            f"model.anchor_ratios={listed(better.ratios)}",
            "anchors_per_cell": better.per_cell,
            "recall_50": better_50,
            "recall_70": better_70,
        }
    return found


def _by_range(
    overlaps: NDArray[np.float64], values: NDArray[np.float32], edges: tuple[float, ...], unit: str
) -> list[dict[str, Any]]:
    """Recall for ranges of a value; the last one is open."""
    rows = []
    for low, high in zip(edges, (*edges[1:], np.inf), strict=True):
        inside = (values >= low) & (values < high)
        if inside.any():
            text = (
                f"{low:.3g} to {high:.3g}{unit}" if np.isfinite(high) else f"over {low:.3g}{unit}"
            )
            at_50, at_70 = recall(overlaps[inside])
            rows.append(
                {"range": text, "boxes": int(inside.sum()), "recall_50": at_50, "recall_70": at_70}
            )
    return rows
