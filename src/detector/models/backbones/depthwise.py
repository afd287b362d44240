"""Large depthwise convolutions, kept in float32 where bf16 is slow."""

from __future__ import annotations

import torch
from timm.layers.conv2d_same import Conv2dSame
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


class Float32OnCpuConv2d(_Float32OnCpu):
    """Of torch's own."""


class Float32OnCpuConv2dSame(_Float32OnCpu, Conv2dSame):
    """Of timm's that pads by itself."""


_VARIANTS = {nn.Conv2d: Float32OnCpuConv2d, Conv2dSame: Float32OnCpuConv2dSame}


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Switch every depthwise convolution larger than 3x3, in place.

    Args:
        network: Any; its weights and their names do not change.
    """
    for module in network.modules():
        variant = _VARIANTS.get(type(module))
        if variant is None or not isinstance(module, nn.Conv2d):
            continue
        depthwise = module.groups == module.in_channels > 1
        if depthwise and max(module.kernel_size) > 3:
            module.__class__ = variant
