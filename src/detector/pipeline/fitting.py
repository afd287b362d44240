"""`auto` becomes numbers: what is fitted to the data set when a training begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.config.schema import C, Config
from detector.core.structures import AnnotatedImages
from detector.data.images.pixels import resized_shape
from detector.data.options import USUAL_SIDE
from detector.data.read import DataSet
from detector.evaluation.anchors import Anchors, Grid, Level, best_iou, fit_anchors, recall
from detector.models.options import (
    FEWEST_DETECTIONS,
    LEVEL_CHOICES,
    STANDARD_ANCHORS,
    AnchorSet,
    ModelOptions,
)

# Share of boxes, at IoU 0.5, that a fitted set must add to the anchors that pretrained weights
# know: with others, their RPN begins anew.
WORTH = 0.05
# Shares of boxes, at IoU 0.5 and 0.7, that anchors may lose where fine levels are left out.
MOST_LOST = 0.015, 0.25
# Sizes of the input that are chosen, pixels: multiples of STEP.
LEAST_SIDE, MOST_SIDE, STEP = 192, 1024, 32
LEGIBLE = 16  # pixels on the shorter side of a box
NEARLY_ALL = 0.95  # share of boxes that are to be legible


def fit(config: C, data: DataSet) -> tuple[C, list[str]]:
    """Fit what is `auto` to the training images.

    Every process comes to the same numbers, as all read the same data.

    Args:
        config: Configuration in force.
        data: As read.

    Returns:
        The configuration with numbers in place of `auto`, and a line for each thing that was
        fitted.
    """
    config, lines = fit_image_size(config, data)
    train = _train(data)
    if "auto" in (config.model.anchors, config.model.levels):
        model, found = _fit_grid(config, train)
        config = replace(config, model=model)
        lines += found
    if config.model.detections_per_image == "auto":
        boxes = int(boxes_per_image(train).max(initial=0))
        most = max(FEWEST_DETECTIONS, 2 * boxes)
        config = replace(config, model=replace(config.model, detections_per_image=most))
        if most > FEWEST_DETECTIONS:
            lines.append(
                f"at most {most} detections per image, as a training image has up to {boxes} boxes"
            )
    return config, lines


def fit_image_size(config: C, data: DataSet) -> tuple[C, list[str]]:
    """Fit the size of the network's input alone; arguments and results as those of `fit`."""
    if config.data.image_size != "auto":
        return config, []
    train = _train(data)
    seen = ~train.ignore
    shorter = np.maximum((train.boxes[:, 2:] - train.boxes[:, :2]).min(1)[seen], 1)
    longer = train.sizes.max(1)
    if not len(shorter):
        said = f"images of {USUAL_SIDE} pixels: no training box to fit their size to"
        return replace(config, data=replace(config.data, image_size=USUAL_SIDE)), [said]
    # Size of the input for each box, without the errors of float32.
    needed = np.round(LEGIBLE * longer[train.owners()[seen]] / shorter, 2)
    wanted = float(np.quantile(needed, NEARLY_ALL, method="inverted_cdf"))
    largest = min(MOST_SIDE, -(-int(longer.max()) // STEP) * STEP)
    size = max(LEAST_SIDE, min(largest, math.ceil(wanted / STEP) * STEP))
    said = (
        f"images of {size} pixels, fitted to the data: {100 * float((needed <= size).mean()):.1f} "
        f"% of the training boxes have at least {LEGIBLE} pixels on their shorter side there"
    )
    return replace(config, data=replace(config.data, image_size=size)), [said]


def input_boxes(
    images: AnnotatedImages, size: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Boxes in pixels of the network's input, and the size of each one's image there."""
    shapes = np.array(
        [resized_shape(int(h), int(w), size) for h, w in images.sizes], dtype=np.int32
    ).reshape(-1, 2)
    scale = shapes / np.maximum(images.sizes, 1)
    owner = images.owners()
    boxes = images.boxes * np.tile(scale[owner][:, ::-1], 2)
    return boxes.astype(np.float32), shapes[owner]


def boxes_per_image(images: AnnotatedImages) -> NDArray[np.int64]:
    """How many boxes each image has, without those that are ignored."""
    return np.bincount(images.owners()[~images.ignore], minlength=len(images))


def boxes_to_learn(
    images: AnnotatedImages, size: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """As `input_boxes`, without boxes that are ignored or have less than a pixel there."""
    boxes, shapes = input_boxes(images, size)
    kept = ~images.ignore & (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    return boxes[kept], shapes[kept]


def anchor_grid(config: Config) -> Grid:
    """Positions of the anchors of the backbone."""
    from detector.models.backbones.build import backbone_spec
    from detector.models.backbones.stages import pyramid_levels

    spec = backbone_spec(config.backbone.key)
    stages = pyramid_levels(spec.stages, config.model.strides[0])
    return Grid(tuple(Level(s.stride, s.offset, s.missing) for s in stages), spec.smallest)


def listed(values: Sequence[float]) -> str:
    """Numbers as a list is typed."""
    return f"[{','.join(f'{value:g}' for value in values)}]"


def _train(data: DataSet) -> AnnotatedImages:
    """The training images; none where there is no such split."""
    return data.splits.get("train", AnnotatedImages.pack([]))


@dataclass(frozen=True)
class _Fit:
    """Anchors chosen for some levels of the pyramid.

    Attributes:
        levels: Strides of the levels, pixels.
        anchors: Scales and ratios.
        reach: Shares of the training boxes that they reach at IoU 0.5 and 0.7.
        line: What to say about the choice.
    """

    levels: tuple[int, ...]
    anchors: AnchorSet
    reach: tuple[float, float]
    line: str

    def is_nearly(self, other: _Fit) -> bool:
        """Whether the anchors reach nearly as many boxes as others."""
        losses = (b - a for a, b in zip(self.reach, other.reach, strict=True))
        return all(loss <= most for loss, most in zip(losses, MOST_LOST, strict=True))


def _fit_grid(config: Config, train: AnnotatedImages) -> tuple[ModelOptions, list[str]]:
    """Fit the levels of the pyramid and the anchors on them, as far as they are `auto`.

    Returns:
        The model's options with numbers, and a line for each thing that was fitted.
    """
    model = config.model
    if model.anchors == "fixed":  # typed anchors are meant for all levels
        return replace(model, levels=model.strides), []
    boxes = boxes_to_learn(train, config.data.side)
    own = _own_anchors(model.weights)
    fitted = model.levels == "auto" and len(boxes[0])
    fits = [
        _choose_anchors(replace(config, model=replace(model, levels=levels)), own, *boxes)
        for levels in (LEVEL_CHOICES if fitted else [model.strides])
    ]
    everything = fits[0]
    fit = next(fit for fit in reversed(fits) if fit.is_nearly(everything))
    (scales, ratios), lines = fit.anchors, [fit.line]
    if fit is not everything:
        lines.append(
            f"levels of strides {listed(fit.levels)}: with finer ones anchors would reach "
            f"{_shares(everything.reach)}"
        )
    fixed = replace(model, anchors="fixed", anchor_scales=scales, anchor_ratios=ratios)
    return replace(fixed, levels=fit.levels), lines


def _choose_anchors(
    config: Config,
    own: AnchorSet | None,
    boxes: NDArray[np.float32],
    shapes: NDArray[np.int32],
) -> _Fit:
    """Choose anchors on the levels of a configuration for the training boxes; describe the choice.

    Args:
        config: Configuration in force, with levels as numbers.
        own: Anchors that the RPN of the pretrained weights was trained with, if any.
        boxes: Boxes of `boxes_to_learn`.
        shapes: Sizes of their images.
    """
    levels, weights = config.model.strides, f"model.weights={config.model.weights}"
    before = own or STANDARD_ANCHORS
    if not len(boxes):
        line = f"{_named(before)}: no training box to fit them to"
        return _Fit(levels, before, (0.0, 0.0), line)
    grid = anchor_grid(config)

    def reach(anchors: AnchorSet) -> tuple[float, float]:
        return recall(best_iou(boxes, shapes, Anchors(grid, *anchors)))

    found = fit_anchors(boxes, shapes, grid)
    fitted = found.scales, found.ratios
    reached, could = reach(before), reach(fitted)
    others = f"those of {weights}" if own else "the standard ones"
    if own and reached[0] + WORTH >= could[0]:
        line = f"{_named(own)}, {others}: {_compared(reached, 'fitted ones', could)}"
        return _Fit(levels, own, reached, line)
    anew = f"; the RPN's outputs are new, as {others} are for other anchors" if own else ""
    line = f"{_named(fitted)}, fitted to the data: {_compared(could, others, reached)}{anew}"
    return _Fit(levels, fitted, could, line)


def _compared(one: tuple[float, float], others: str, two: tuple[float, float]) -> str:
    """What anchors reach beside others, in words; shares of boxes at IoU 0.5 and 0.7."""
    return (
        f"reach IoU 0.5 (0.7) for {_shares(one)} of the training boxes, {others} for {_shares(two)}"
    )


def _shares(reach: tuple[float, float]) -> str:
    """What anchors reach, in words."""
    return "{:.1f} % ({:.1f} %)".format(*(100 * share for share in reach))


def _named(anchors: AnchorSet) -> str:
    """A set of anchors, in words."""
    scales, ratios = map(listed, anchors)
    return f"anchors of scales {scales} and ratios {ratios}"


def _own_anchors(weights: str) -> AnchorSet | None:
    """The anchors that the RPN of pretrained weights was trained with; None if they have none."""
    if weights == "coco":
        return STANDARD_ANCHORS
    if weights in ("imagenet", "none"):
        return None
    from detector.models.weights.files import read_weights

    return read_weights(Path(weights)).anchors
