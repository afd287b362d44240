"""Adapts a network for RGB to images of another number of channels.

The pretrained kernels are kept. For one channel the three kernels are summed, so that a grey image
gives what the same image gave as RGB. For more channels each gets one of the three kernels in turn,
scaled so that the sum of the outputs keeps its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from timm.models import adapt_input_conv
from torch import Tensor, nn

RGB = 3


def first_convolution(network: nn.Module) -> str:
    """Return the dotted path of a network's first convolution.

    Raises:
        ValueError: If the network has no convolution.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            return str(name)
    raise ValueError("the network has no convolution")


def adapted_kernel(weight: Tensor, channels: int) -> Tensor:
    """Adapt the kernel of a first convolution over RGB to another number of channels.

    Args:
        weight: Kernel of the convolution, `(O, 3, H, W)`.
        channels: Channels of the images.

    Returns:
        The adapted kernel, `(O, channels, H, W)`.
    """
    adapted: Tensor = weight if channels == RGB else adapt_input_conv(channels, weight)
    return adapted


def adapt_first_convolution(network: nn.Module, channels: int) -> None:
    """Make a network for RGB accept images of another number of channels.

    Args:
        network: Changed in place; names of parameters stay the same.
        channels: Channels of the images.

    Raises:
        ValueError: If the first convolution of the network does not have three input channels.
    """
    if channels == RGB:
        return
    first = network.get_submodule(first_convolution(network))
    if not isinstance(first, nn.Conv2d) or first.weight.shape[1] != RGB:
        raise ValueError("the first convolution must be one over red, green and blue")
    first.in_channels = channels
    first.weight = nn.Parameter(
        adapted_kernel(first.weight.detach(), channels), first.weight.requires_grad
    )


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Adapt means or standard deviations of red, green and blue to another number of channels.

    Args:
        values: Values of the three channels.
        channels: Channels of the images.

    Returns:
        One value for each channel: the average for grey, else the three in turn.
    """
    return (sum(values) / len(values),) if channels == 1 else tuple(islice(cycle(values), channels))
