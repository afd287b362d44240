"""Large depthwise convolutions, computed in float32 where bf16 is slow."""

from __future__ import annotations

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn


class _Float32OnCpu(nn.Conv2d):
    """A convolution without autocast on a CPU: its weight gradient is many times slower in bf16.

    Parameters, their names and everything else about the layer stay the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `(N, C, H, W)`; the result is float32 under a CPU's autocast."""
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


class Float32OnCpuConv2d(_Float32OnCpu):
    """torch's own convolution, without autocast on a CPU."""


class Float32OnCpuConv2dSame(_Float32OnCpu, Conv2dSame):
    """timm's convolution with TensorFlow's padding, without autocast on a CPU."""


_VARIANTS = {nn.Conv2d: Float32OnCpuConv2d, Conv2dSame: Float32OnCpuConv2dSame}


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Take every depthwise convolution larger than 3x3 out of a CPU's autocast, in place.

    Args:
        network: Any network; its weights and their names do not change.
    """
    for module in network.modules():
        variant = _VARIANTS.get(type(module))
        if variant is None or not isinstance(module, nn.Conv2d):
            continue
        depthwise = module.groups == module.in_channels > 1
        if depthwise and max(module.kernel_size) > 3:
            module.__class__ = variant
