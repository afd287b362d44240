"""The multiply-adds of a training step, by group, and what freezing saves of them.

Counted are convolutions and products of matrices (linear layers, attention), which are nearly all
of the work. RoIAlign, NMS, norms, activations, losses and the optimiser count nothing.

A product costs its multiply-adds once in the forward pass, and once more for each of its two
factors that wants a gradient: weights that are trained, inputs that depend on some. Which inputs
do, autograd itself says: all that comes after a trained layer, also in a frozen group above it, and
nothing that comes before the lowest one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detector.models.faster_rcnn import FasterRCNN

aten = torch.ops.aten
# Where the two factors of a product are among an operation's arguments.
_PRODUCTS = {
    aten.convolution.default: 0,
    aten.mm.default: 0,
    aten.bmm.default: 0,
    aten.addmm.default: 1,
    aten.baddbmm.default: 1,
}


@dataclass
class MultiplyAdds:
    """Of one training step over one image.

    Attributes:
        forward: Of the forward pass.
        backward: Of the gradients with respect to weights and inputs.
    """

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        """Both passes."""
        return self.forward + self.backward


class StepCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is computed within it, and what its backward pass would compute.

    It sees the few operations that everything comes down to, whoever asks for it and in which
    words. torch's own `FlopCounterMode` has to run the backward pass, takes the weight gradient of
    a depthwise convolution for that of a dense one, and misses attention on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = MultiplyAdds()

    def __torch_dispatch__(  # noqa: D105
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            first = _PRODUCTS[func]
            x, y = args[first : first + 2]
            # Each output is a product with a kernel, or with a column.
            terms = y[0].numel() if func is aten.convolution.default else y.shape[-2]
            self._add(out.numel() * terms, x, y)
        elif func.__name__.startswith("_scaled_dot_product"):  # attention in one operation
            query, key, value = args[:3]
            # Queries with keys, and what comes of that with values; both want both gradients.
            self._add((query.numel() + out[0].numel()) * key.shape[-2], query, value)
        return out

    def _add(self, cost: int, x: Tensor, y: Tensor) -> None:
        """Count a product of two factors."""
        self.count.forward += cost
        if torch.is_grad_enabled():
            self.count.backward += cost * (x.requires_grad + y.requires_grad)


def step_compute(network: FasterRCNN, image_size: int) -> OrderedDict[str, MultiplyAdds]:
    """What a training step costs with what is trainable now.

    The image is taken to be square; one that is not, resized to the same longer side, costs less.
    The heads see as many anchors and proposals as training samples at most.

    Args:
        network: On the meta device nothing is computed but shapes.
        image_size: Height and width, pixels; padded as the network pads.

    Returns:
        By group, from the image upwards.
    """
    side = network.transform.padded(image_size)
    device = next(network.parameters()).device
    training = network.training
    network.eval()  # else norms refuse a map of one cell; which mode it is costs the same
    counts = OrderedDict[str, MultiplyAdds]()
    channels = len(network.transform.mean)
    x, levels = torch.empty(1, channels, side, side, device=device), OrderedDict[str, Tensor]()
    for stage in network.backbone.stages:
        with StepCounter() as counter:
            for module in network.backbone.stage_modules(stage.name):
                x = module(x)
        counts[stage.name] = counter.count
        if stage.name in network.backbone.levels:
            levels[stage.name] = x
    with StepCounter() as counter:
        levels.update((name, network.backbone.as_level(name, x)) for name, x in levels.items())
        maps = list(network.backbone.fpn(levels).values())
    counts["neck"] = counter.count
    with StepCounter() as counter:
        _run_heads(network, maps)
    counts["head"] = counter.count
    network.train(training)
    return counts


def _run_heads(network: FasterRCNN, maps: list[Tensor]) -> None:
    """What `SampledRPN` and the box head do in a training step, on values that mean nothing."""
    head, finest = network.rpn.head, maps[0]
    with torch.no_grad():
        head(maps)
    anchors = network.rpn.fg_bg_sampler.batch_size_per_image
    index = torch.zeros(anchors, dtype=torch.int64, device=finest.device)
    head.at(finest, index, index, index)  # a cell costs the same on every level
    roi = network.roi_heads
    proposals = min(roi.fg_bg_sampler.batch_size_per_image, network.rpn._post_nms_top_n["training"])
    shape = (proposals, finest.shape[1], *roi.box_roi_pool.output_size)
    pooled = torch.empty(shape, device=finest.device, requires_grad=finest.requires_grad)
    roi.box_predictor(roi.box_head(pooled))
