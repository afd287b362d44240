"""A network made for RGB, for images of another number of channels.

What it has learnt of red, green and blue is kept. The sum of the three kernels sees in grey what
they saw in the same grey as RGB; of more channels, each gets one of the three kernels in turn, all
scaled so that the sum of what they see stays as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from timm.models import adapt_input_conv
from torch import Tensor, nn

RGB = 3


def first_convolution(network: nn.Module) -> str:
    """The dotted path of a network's first convolution; of none, ValueError."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            return str(name)
    raise ValueError("the network has no convolution")


def adapted_kernel(weight: Tensor, channels: int) -> Tensor:
    """The kernel of a first convolution over RGB, for another number of channels.

    Args:
        weight: `(O, 3, H, W)`.
        channels: Of the images.

    Returns:
        `(O, channels, H, W)`.
    """
    adapted: Tensor = weight if channels == RGB else adapt_input_conv(channels, weight)
    return adapted


def adapt_first_convolution(network: nn.Module, channels: int) -> None:
    """Let a network for RGB take images of another number of channels; its names stay.

    Args:
        network: With its weights, which are adapted; changed in place.
        channels: Of the images.

    Raises:
        ValueError: If the first convolution of the network is not one over three channels.
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
    """Means or deviations of red, green and blue, for another number of channels.

    Args:
        values: Of the three.
        channels: Of the images.

    Returns:
        One for each channel: their average for grey; else they are repeated.
    """
    return (sum(values) / len(values),) if channels == 1 else tuple(islice(cycle(values), channels))
