"""Multiply-adds of a training step, by parameter group, and what freezing saves of them.

Convolutions and products of matrices (linear layers, attention) are counted; they are nearly all of
the work. RoIAlign, NMS, norms, activations, losses and the optimiser are not.

A product costs its multiply-adds once in the forward pass, and once more for each of its two
factors that needs a gradient: trained weights, and inputs that depend on trained weights. Autograd
tells which inputs do: all that come after a trained layer, also in a frozen group above it, and
none that come before the lowest trained layer.
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
# Index of the first of the two factors among an operation's arguments.
_PRODUCTS = {
    aten.convolution.default: 0,
    aten.mm.default: 0,
    aten.bmm.default: 0,
    aten.addmm.default: 1,
    aten.baddbmm.default: 1,
}


@dataclass
class MultiplyAdds:
    """Multiply-adds of one training step over one image.

    Attributes:
        forward: Multiply-adds of the forward pass.
        backward: Multiply-adds of the gradients with respect to weights and inputs.
    """

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        """Multiply-adds of both passes."""
        return self.forward + self.backward


class StepCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds computed in this context, and those of its backward pass.

    It sees the few basic operations that all others are made of. torch's own `FlopCounterMode`
    has to run the backward pass, counts the weight gradient of a depthwise convolution as that of a
    dense one, and misses attention on a CPU.
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
            # Queries with keys, and the result with values; both products need both gradients.
            self._add((query.numel() + out[0].numel()) * key.shape[-2], query, value)
        return out

    def _add(self, cost: int, x: Tensor, y: Tensor) -> None:
        """Count a product of two factors that takes `cost` multiply-adds."""
        self.count.forward += cost
        if torch.is_grad_enabled():
            self.count.backward += cost * (x.requires_grad + y.requires_grad)


def step_compute(network: FasterRCNN, image_size: int) -> OrderedDict[str, MultiplyAdds]:
    """Count the multiply-adds of a training step, with the parameters that are trainable now.

    The image is assumed to be square; another one with the same longer side costs less. The heads
    are counted for the largest number of anchors and proposals that training samples.

    Args:
        network: The detector; on the meta device only shapes are computed.
        image_size: Height and width of the image, in pixels, before the network pads it.

    Returns:
        Multiply-adds of each parameter group, from the image upwards.
    """
    side = network.transform.padded(image_size)
    device = next(network.parameters()).device
    training = network.training
    network.eval()  # in training mode norms refuse a map of one cell; the cost is the same
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
    """Run what `SampledRPN` and the box head do in a training step, on arbitrary values."""
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
