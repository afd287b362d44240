"""Build the network of a row of the table, under its feature pyramid."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import timm
from torch import nn

from detector.models.backbones.depthwise import keep_depthwise_in_float32
from detector.models.backbones.pyramid import NormMode, PyramidBackbone
from detector.models.backbones.table import BACKBONES, TIMM, BackboneSpec
from detector.models.backbones.timm_models import timm_spec
from detector.models.weights.channels import adapt_first_convolution


def backbone_spec(name: str) -> BackboneSpec:
    """Return the row of a backbone.

    Args:
        name: A key of `BACKBONES`, or `timm/` and the name of one of timm's models.

    Raises:
        RequestError: If timm has no such model, or its features make no pyramid.
    """
    return timm_spec(name.removeprefix(TIMM)) if name.startswith(TIMM) else BACKBONES[name]


def build_network(row: BackboneSpec) -> nn.Module:
    """Build the classification network of a row, with random weights."""
    module, _, name = row.network.partition(":")
    if module == "timm":
        network: Any = timm.create_model(name, **row.arguments)
    else:
        network = getattr(import_module(module), name)(**row.arguments)
    assert isinstance(network, nn.Module)
    return network


def build_backbone(
    name: str,
    *,
    in_channels: int = 3,
    out_channels: int = 256,
    norm: NormMode = "frozen",
    neck_norm: Callable[..., nn.Module] | None = None,
    finest: int = 4,
) -> PyramidBackbone:
    """Build a backbone under its pyramid, with random weights and everything trainable.

    Args:
        name: A key of `BACKBONES`, or `timm/` and the name of one of timm's models.
        in_channels: Channels of the images.
        out_channels: Channels of every pyramid level.
        norm: How batch norms of the backbone behave (see `PyramidBackbone`).
        neck_norm: Norm after the pyramid's convolutions; None gives them biases instead.
        finest: Stride of the pyramid's finest level, in pixels.
    """
    row = backbone_spec(name)
    network = build_network(row)
    adapt_first_convolution(network, in_channels)
    keep_depthwise_in_float32(network)
    return PyramidBackbone(
        network, row.stages, out_channels, norm, row.channels_last, neck_norm, finest
    )
