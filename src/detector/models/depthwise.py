"""Large depthwise convolutions, kept in float32 where bf16 is slow."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Float32OnCpu(nn.Conv2d):
    """Leaves autocast on a CPU: the weight gradient of such a layer is many times slower in bf16.

    Everything else of the layer, parameters and their names included, stays as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The convolution; `(N, C, H, W)` to the same, float32 under a CPU's autocast."""
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


def _variant(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """The class `kind` with `_Float32OnCpu` before it (timm pads in a subclass of its own)."""
    return type(f"Float32OnCpu{kind.__name__}", (_Float32OnCpu, kind), {})


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Switch every depthwise convolution larger than 3x3, in place.

    Args:
        network: Any; its weights and their names do not change.
    """
    for module in network.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        depthwise = module.groups == module.in_channels > 1
        if depthwise and max(module.kernel_size) > 3:
            module.__class__ = _variant(type(module))


def learns_in_float32(conv: nn.Conv2d) -> bool:
    """Whether `keep_depthwise_in_float32` has switched a convolution."""
    return isinstance(conv, _Float32OnCpu)
