"""Box heads, which turn a pooled region into the features that its class and box come from."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.ops import Conv2dNormActivation

from detector.models.options import HeadOptions

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}
NORMS: dict[str, type[nn.Module] | None] = {"none": None, "batch": nn.BatchNorm2d}


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
