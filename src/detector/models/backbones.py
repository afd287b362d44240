"""The backbones by name: each is a row of data over `PyramidBackbone`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torchvision.models as tv
from torch import nn

from detector.models.channels import adapt_first_convolution
from detector.models.depthwise import keep_depthwise_in_float32
from detector.models.stages import NormMode, PyramidBackbone, Stage
from detector.models.weights import (
    State,
    efficientnet_lite0_imagenet,
    load_in_order,
    torchvision_imagenet,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneSpec:
    """What is known of a backbone before it is built.

    Attributes:
        build: Makes the classification network with random weights.
        imagenet: Gets the network's ImageNet weights.
        stages: Its stages, from the image upwards.
        mean: Per channel, subtracted from images scaled to 0..1.
        std: Per channel, divided by after that.
        in_order: The weights fit the network by order, not by name.
    """

    build: Callable[[], nn.Module]
    imagenet: Callable[[], State]
    stages: tuple[Stage, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    in_order: bool = False


def _resnet(width: int) -> tuple[Stage, ...]:
    """The stages of a ResNet whose layer1 has `width` output channels."""
    layers = tuple(
        Stage(f"layer{i + 1}", (f"layer{i + 1}",), 4 * 2**i, width * 2**i) for i in range(4)
    )
    return (Stage("stem", ("conv1", "bn1", "relu", "maxpool"), 4, 64), *layers)


_EFFICIENTNET_LITE0 = (
    Stage("stem", ("conv_stem", "bn1", "blocks.0"), 2, 16),
    Stage("layer1", ("blocks.1",), 4, 24),
    Stage("layer2", ("blocks.2",), 8, 40),
    Stage("layer3", ("blocks.3", "blocks.4"), 16, 112),
    Stage("layer4", ("blocks.5", "blocks.6"), 32, 320),
)

BACKBONES: dict[str, BackboneSpec] = {
    "resnet50": BackboneSpec(
        build=tv.resnet50,
        imagenet=torchvision_imagenet(tv.ResNet50_Weights.IMAGENET1K_V1),
        stages=_resnet(256),
    ),
    "efficientnet_lite0": BackboneSpec(
        build=lambda: timm.create_model("tf_efficientnet_lite0", pretrained=False),
        imagenet=efficientnet_lite0_imagenet,
        stages=_EFFICIENTNET_LITE0,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        in_order=True,
    ),
}


def build_backbone(
    name: str,
    *,
    imagenet: bool,
    out_channels: int = 256,
    norm: NormMode = "frozen",
    in_channels: int = 3,
) -> PyramidBackbone:
    """Build a backbone under its pyramid.

    Args:
        name: A key of `BACKBONES`.
        imagenet: Load ImageNet weights; else random ones.
        out_channels: Channels of every pyramid level.
        norm: How norm layers behave (see `PyramidBackbone`).
        in_channels: Of the images.

    Returns:
        The backbone, everything trainable.
    """
    spec = BACKBONES[name]
    body = spec.build()
    if imagenet:
        load = load_in_order if spec.in_order else nn.Module.load_state_dict
        load(body, spec.imagenet())
    adapt_first_convolution(body, in_channels)
    keep_depthwise_in_float32(body)
    return PyramidBackbone(body, spec.stages, out_channels, norm)
