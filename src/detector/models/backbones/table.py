"""The backbones by name: each is a row of data over `PyramidBackbone`.

A row names the modules of a classification network that make its stages, and what is known of each
stage's output. Another network is another row, its name in `config.py` and a file in conf/backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import timm
import torchvision.models as tv
from torch import nn

from detector.models.backbones.depthwise import keep_depthwise_in_float32
from detector.models.backbones.pyramid import NormMode, PyramidBackbone, Stage
from detector.models.backbones.zfnet import ZFNet
from detector.models.weights.channels import adapt_first_convolution
from detector.models.weights.files import State
from detector.models.weights.sources import efficientnet_lite_imagenet, torchvision_imagenet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
NAMES = ("stem", "layer1", "layer2", "layer3", "layer4")  # of every backbone's stages
STRIDES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class BackboneSpec:
    """What is known of a backbone before it is built.

    Attributes:
        build: Makes the classification network with random weights.
        imagenet: Gets the network's ImageNet weights; None: nobody has published any.
        stages: Its stages, from the image upwards.
        mean: Per channel, subtracted from images scaled to 0..1.
        std: Per channel, divided by after that.
        smallest: Images are padded to at least this height and width, pixels.
        channels_last: The stages pass `(N, H, W, C)`.
    """

    build: Callable[[], nn.Module]
    imagenet: Callable[[], State] | None
    stages: tuple[Stage, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    smallest: int = 32
    channels_last: bool = False


def make_stages(
    modules: Iterable[str],
    channels: Iterable[int],
    strides: Iterable[int] = STRIDES,
    offsets: Iterable[float] = (0,) * 5,
    missing: Iterable[int] = (0,) * 5,
) -> tuple[Stage, ...]:
    """Stages from the image upwards.

    Args:
        modules: Of each stage the dotted paths, with spaces between.
        channels: Of each stage's output.
        strides: Of each, pixels.
        offsets: As `Stage.offset`.
        missing: As `Stage.missing`.
    """
    rows = zip(NAMES, modules, strides, channels, offsets, missing, strict=True)
    return tuple(Stage(name, tuple(paths.split()), *numbers) for name, paths, *numbers in rows)


def _features(*ends: int) -> list[str]:
    """Of a network whose layers are numbered, those up to each end."""
    return [" ".join(f"features.{i}" for i in range(*cut)) for cut in pairwise((0, *ends))]


def _torchvision(name: str, stages: tuple[Stage, ...], **known: Any) -> BackboneSpec:
    """A network of torchvision's, with the first ImageNet weights that there are."""
    weights = tv.get_model_weights(name)["IMAGENET1K_V1"]
    known.setdefault("build", partial(tv.get_model, name))
    return BackboneSpec(imagenet=torchvision_imagenet(weights), stages=stages, **known)


def _resnet(name: str, width: int) -> BackboneSpec:
    """A ResNet whose layer1 has `width` output channels."""
    modules = ("conv1 bn1 relu maxpool", *NAMES[1:])
    channels = (64, *(width * 2**i for i in range(4)))
    return _torchvision(name, make_stages(modules, channels, (4, 4, 8, 16, 32)))


def _vgg(name: str, *ends: int) -> BackboneSpec:
    """A VGG: a level is what comes before a pooling, and the last pooling is one of its own.

    The fifth block is cut before its last convolution, which goes with that pooling.
    """
    offsets = [(stride - 1) / 2 for stride in STRIDES]
    return _torchvision(
        name, make_stages(_features(*ends), (128, 256, 512, 512, 512), offsets=offsets)
    )


def _patches(name: str, **known: Any) -> BackboneSpec:
    """A network that cuts the image into patches of 4x4, and joins 2x2 cells between stages."""
    strides = (4, 4, 8, 16, 32)
    channels, offsets = (96, 96, 192, 384, 768), [(stride - 1) / 2 for stride in strides]
    return _torchvision(
        name, make_stages(_features(1, 2, 4, 6, 8), channels, strides, offsets), **known
    )


_INCEPTIONS = (
    "conv1 maxpool1",
    "conv2 conv3",
    "maxpool2 inception3a inception3b",
    "maxpool3 inception4a inception4b inception4c inception4d inception4e",
    "maxpool4 inception5a inception5b",
)
_DENSE_BLOCKS = (
    "features.conv0 features.norm0 features.relu0 features.pool0",
    "features.denseblock1",
    "features.transition1 features.denseblock2",
    "features.transition2 features.denseblock3",
    "features.transition3 features.denseblock4 features.norm5",
)

_LITE0_UPPER = ("blocks.3 blocks.4", "blocks.5 blocks.6")

BACKBONES: dict[str, BackboneSpec] = {
    # Five convolutions, of which each stage has one.
    "alexnet": _torchvision(
        "alexnet",
        make_stages(
            _features(2, 5, 8, 10, 13),
            channels=(64, 192, 384, 256, 256),
            strides=(4, 8, 16, 16, 32),
            offsets=(3, 7, 15, 15, 31),
            missing=(1, 1, 1, 1, 1),
        ),
        smallest=64,
    ),
    "zfnet": BackboneSpec(
        build=ZFNet,
        imagenet=None,
        stages=make_stages(
            _features(4, 6, 10, 12, 15),
            channels=(96, 256, 384, 384, 256),
            strides=(4, 8, 16, 16, 32),
            offsets=(2, 10, 10, 10, 26),
            missing=(1, 2, 1, 1, 1),
        ),
        smallest=64,
    ),
    "vgg16": _vgg("vgg16", 9, 16, 23, 28, 31),
    "vgg16_bn": _vgg("vgg16_bn", 13, 23, 33, 40, 44),
    "googlenet": _torchvision(
        "googlenet",
        make_stages(_INCEPTIONS, (64, 192, 480, 832, 1024), (4, 4, 8, 16, 32), (2, 2, 6, 14, 22)),
        build=lambda: tv.googlenet(aux_logits=False, init_weights=True),
        # Its weights, from TensorFlow, were trained so; torchvision converts ("transform_input").
        mean=HALF,
        std=HALF,
    ),
    "resnet18": _resnet("resnet18", 64),
    "resnet34": _resnet("resnet34", 64),
    "resnet50": _resnet("resnet50", 256),
    "resnet101": _resnet("resnet101", 256),
    "resnet152": _resnet("resnet152", 256),
    "densenet121": _torchvision(
        "densenet121",
        make_stages(
            _DENSE_BLOCKS, (64, 256, 512, 1024, 1024), (4, 4, 8, 16, 32), offsets=(0, 0, 2, 6, 14)
        ),
    ),
    "mobilenet_v3_large": _torchvision(
        "mobilenet_v3_large", make_stages(_features(2, 4, 7, 13, 17), (16, 24, 40, 112, 960))
    ),
    "efficientnet_b0": _torchvision(
        "efficientnet_b0", make_stages(_features(2, 3, 4, 6, 9), (16, 24, 40, 112, 1280))
    ),
    "efficientnet_lite0": BackboneSpec(
        build=partial(timm.create_model, "tf_efficientnet_lite0"),
        imagenet=efficientnet_lite_imagenet(0),
        stages=make_stages(
            ("conv_stem bn1 blocks.0", "blocks.1", "blocks.2", *_LITE0_UPPER),
            (16, 24, 40, 112, 320),
            # TensorFlow pads a layer of stride 2 at the far side only.
            offsets=(1, 3, 7, 15, 31),
        ),
        mean=HALF,
        std=HALF,
    ),
    "convnext_tiny": _patches("convnext_tiny"),
    "swin_t": _patches("swin_t", channels_last=True),
}

TIMM = "timm/"  # before the name of any of timm's models


def backbone_spec(name: str) -> BackboneSpec:
    """The row of a backbone.

    Args:
        name: A key of `BACKBONES`, or `timm/` and the name of one of timm's models.

    Raises:
        RequestError: If timm has no such model, or a pyramid cannot stand on it.
    """
    from detector.models.backbones.timm_models import timm_spec

    return timm_spec(name.removeprefix(TIMM)) if name.startswith(TIMM) else BACKBONES[name]


def build_backbone(
    name: str,
    *,
    in_channels: int = 3,
    out_channels: int = 256,
    norm: NormMode = "frozen",
    neck_norm: Callable[..., nn.Module] | None = None,
) -> PyramidBackbone:
    """Build a backbone under its pyramid, with random weights (`loading.py` brings others).

    Args:
        name: As `backbone_spec` has it.
        in_channels: Of the images.
        out_channels: Channels of every pyramid level.
        norm: How batch norms behave (see `PyramidBackbone`).
        neck_norm: The norm of the pyramid's convolutions.

    Returns:
        The backbone, everything trainable.
    """
    spec = backbone_spec(name)
    body = spec.build()
    adapt_first_convolution(body, in_channels)
    keep_depthwise_in_float32(body)
    return PyramidBackbone(body, spec.stages, out_channels, norm, spec.channels_last, neck_norm)
