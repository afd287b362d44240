"""Box heads, which turn a pooled region into the features that its class and box come from."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn
from torchvision.ops import Conv2dNormActivation

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}
NORMS: dict[str, type[nn.Module] | None] = {"none": None, "batch": nn.BatchNorm2d}


@dataclass(frozen=True)
class HeadOptions:
    """A box head: convolutions, then flattening or averaging, then fully connected layers.

    The defaults are torchvision's `TwoMLPHead`; four convolutions of 256 channels with batch norms
    and one hidden layer of 1024 are the head of its `fasterrcnn_resnet50_fpn_v2`.

    Attributes:
        convs: Channels of each 3x3 convolution.
        conv_norm: Norm after each convolution: `none` or `batch`.
        pool: `flatten` keeps positions within the region; `average` takes the mean over it.
        hidden: Widths of the fully connected layers.
        dropout: Dropout probability after each fully connected layer.
        activation: Activation after each layer, a key of `ACTIVATIONS`.
    """

    convs: tuple[int, ...] = ()
    conv_norm: str = "none"
    pool: str = "flatten"
    hidden: tuple[int, ...] = (1024, 1024)
    dropout: float = 0.0
    activation: str = "relu"


def build_box_head(channels: int, side: int, options: HeadOptions) -> tuple[nn.Sequential, int]:
    """Build a box head.

    Its parameters have the names of torchvision's heads of the same shape, so that their weights
    can be loaded: `fc6`, `fc7`, ... if all layers are fully connected, else numbers.

    Args:
        channels: Channels of a pooled region.
        side: Cells along each side of a pooled region.
        options: Layers of the head.

    Returns:
        The head, which maps `(K, channels, side, side)` to `(K, width)`, and the width.
    """
    activation, norm = ACTIVATIONS[options.activation], NORMS[options.conv_norm]
    layers: list[tuple[str, nn.Module]] = []

    def add(layer: nn.Module, name: str = "") -> None:
        layers.append((name or str(len(layers)), layer))

    for width in options.convs:
        how = {"norm_layer": norm, "activation_layer": activation, "inplace": None}
        add(Conv2dNormActivation(channels, width, **how))
        channels = width
    if options.pool == "average":
        add(nn.AdaptiveAvgPool2d(1))
        side = 1
    add(nn.Flatten())
    width = channels * side * side
    for number, hidden in enumerate(options.hidden, start=6):
        add(nn.Linear(width, hidden), "" if options.convs else f"fc{number}")
        add(activation())
        if options.dropout:
            add(nn.Dropout(options.dropout))
        width = hidden
    head = nn.Sequential(OrderedDict(layers))
    _initialise(head)
    return head, width


def _initialise(head: nn.Module) -> None:
    """Initialise the convolutions of a head as torchvision does."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
