"""The backbones by name, as plain data: nothing here imports torch.

A row names the classification network, the modules that make its stages, and the geometry of the
stages' outputs. Another backbone is another row: its name in the configuration and the checks of a
request follow from it. `build.py` builds the network of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detector.core.errors import RequestError
from detector.models.backbones.stages import NAMES, STRIDES, Stage, make_stages, numbered_layers

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
TIMM = "timm/"  # before the name of any of timm's models


@dataclass(frozen=True)
class BackboneSpec:
    """Description of a backbone, before it is built.

    Attributes:
        name: Its name in `backbone=NAME`.
        description: Description, in one line.
        network: Builder of the classification network with random weights: a module and a callable
            in it (`torchvision.models:resnet50`), or `timm:` and the name of one of timm's models.
        stages: The stages of the network, from the image upwards.
        imagenet: Source of its ImageNet weights: `torchvision:` or `timm:` and the model's name
            there; None if nobody has published any.
        coco: Whether torchvision has a whole detector with this backbone trained on COCO.
        arguments: Keyword arguments of the builder.
        mean: Mean of each channel, subtracted from images scaled to 0..1.
        std: Standard deviation of each channel, by which images are then divided.
        smallest: Smallest height and width, in pixels; smaller images are padded.
        channels_last: Whether the stages' outputs are `(N, H, W, C)`.
        settings: Other keys that choosing the backbone sets, as typed on the command line.
    """

    name: str
    description: str
    network: str
    stages: tuple[Stage, ...]
    imagenet: str | None = None
    coco: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    smallest: int = 32
    channels_last: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def _torchvision(name: str, text: str, stages: tuple[Stage, ...], **others: Any) -> BackboneSpec:
    """Make the row of a torchvision network with ImageNet weights."""
    network, imagenet = f"torchvision.models:{name}", f"torchvision:{name}"
    return BackboneSpec(name, text, network, stages, imagenet, **others)


def _resnet(name: str, text: str, width: int, **others: Any) -> BackboneSpec:
    """Make the row of a ResNet whose layer1 has `width` output channels."""
    modules = ("conv1 bn1 relu maxpool", *NAMES[1:])
    channels = (64, *(width * 2**i for i in range(4)))
    return _torchvision(name, text, make_stages(modules, channels, (4, 4, 8, 16, 32)), **others)


def _vgg(name: str, text: str, *ends: int) -> BackboneSpec:
    """Make the row of a VGG: a level is what comes before a pooling; the last pooling is one too.

    The fifth block is cut before its last convolution, which goes with that pooling.
    """
    channels, offsets = (128, 256, 512, 512, 512), [(stride - 1) / 2 for stride in STRIDES]
    return _torchvision(name, text, make_stages(numbered_layers(*ends), channels, offsets=offsets))


def _patches(name: str, text: str, **others: Any) -> BackboneSpec:
    """Make the row of a network of 4x4 patches that joins 2x2 cells between stages."""
    strides = (4, 4, 8, 16, 32)
    channels, offsets = (96, 96, 192, 384, 768), [(stride - 1) / 2 for stride in strides]
    stages = make_stages(numbered_layers(1, 2, 4, 6, 8), channels, strides, offsets)
    return _torchvision(name, text, stages, **others)


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
_LITE0_BLOCKS = (
    "conv_stem bn1 blocks.0",
    "blocks.1",
    "blocks.2",
    "blocks.3 blocks.4",
    "blocks.5 blocks.6",
)

_ROWS = (
    _torchvision(
        "alexnet",
        "AlexNet (2012, in torchvision's one-tower form): five convolutions, one a stage.",
        make_stages(
            numbered_layers(2, 5, 8, 10, 13),
            channels=(64, 192, 384, 256, 256),
            strides=(4, 8, 16, 16, 32),
            offsets=(3, 7, 15, 15, 31),
            missing=(1, 1, 1, 1, 1),
        ),
        smallest=64,
    ),
    BackboneSpec(
        "zfnet",
        "ZFNet (2013): AlexNet with a finer first layer, trained from scratch for want of weights.",
        "detector.models.backbones.zfnet:ZFNet",
        make_stages(
            numbered_layers(4, 6, 10, 12, 15),
            channels=(96, 256, 384, 384, 256),
            strides=(4, 8, 16, 16, 32),
            offsets=(2, 10, 10, 10, 26),
            missing=(1, 2, 1, 1, 1),
        ),
        smallest=64,
        # An experiment brings a schedule of its own: type finetune=scratch beside it.
        settings={"finetune": "scratch", "model.weights": "none"},
    ),
    _vgg("vgg16", "VGG16 (2014), without batch norms.", 9, 16, 23, 28, 31),
    _vgg("vgg16_bn", "VGG16 with batch norms.", 13, 23, 33, 40, 44),
    _torchvision(
        "googlenet",
        "GoogLeNet (2014): inception blocks.",
        make_stages(_INCEPTIONS, (64, 192, 480, 832, 1024), (4, 4, 8, 16, 32), (2, 2, 6, 14, 22)),
        arguments={"aux_logits": False, "init_weights": True},
        # Its weights, from TensorFlow, were trained so; torchvision converts ("transform_input").
        mean=HALF,
        std=HALF,
    ),
    _resnet("resnet18", "ResNet-18 (2015).", 64),
    _resnet("resnet34", "ResNet-34.", 64),
    _resnet("resnet50", "ResNet-50: the usual choice on a GPU.", 256, coco=True),
    _resnet("resnet101", "ResNet-101.", 256),
    _resnet("resnet152", "ResNet-152: the deepest here.", 256),
    _torchvision(
        "densenet121",
        "DenseNet-121 (2016).",
        make_stages(
            _DENSE_BLOCKS, (64, 256, 512, 1024, 1024), (4, 4, 8, 16, 32), offsets=(0, 0, 2, 6, 14)
        ),
    ),
    _torchvision(
        "mobilenet_v3_large",
        "MobileNetV3-Large (2019): made for phones.",
        make_stages(numbered_layers(2, 4, 7, 13, 17), (16, 24, 40, 112, 960)),
    ),
    _torchvision(
        "efficientnet_b0",
        "EfficientNet-B0 (2019).",
        make_stages(numbered_layers(2, 3, 4, 6, 9), (16, 24, 40, 112, 1280)),
    ),
    BackboneSpec(
        "efficientnet_lite0",
        "EfficientNet-Lite0 (2020), made for CPUs, with a slim pyramid and head.",
        "timm:tf_efficientnet_lite0",
        # TensorFlow pads a layer of stride 2 at the far side only.
        make_stages(_LITE0_BLOCKS, (16, 24, 40, 112, 320), offsets=(1, 3, 7, 15, 31)),
        "timm:tf_efficientnet_lite0",
        mean=HALF,
        std=HALF,
        settings={
            "model.fpn_channels": 64,
            "model.head.width": 256,
            "model.rpn_top_n_train": 500,
            "model.rpn_top_n_test": 500,
            "model.box_batch_per_image": 128,
        },
    ),
    _patches("convnext_tiny", "ConvNeXt-Tiny (2022): a modern convolutional network."),
    _patches("swin_t", "Swin-T (2021): a transformer over windows.", channels_last=True),
)
BACKBONES: dict[str, BackboneSpec] = {row.name: row for row in _ROWS}


def check_weights(weights: str, backbone: str) -> None:
    """Refuse weights that nobody has published for a backbone.

    Args:
        weights: `imagenet`, `coco`, or anything else, which is accepted.
        backbone: A key of `BACKBONES`, or `timm/` and a name, whose ImageNet weights timm knows.

    Raises:
        RequestError: If there are none; the message says what to choose instead.
    """
    row = BACKBONES.get(backbone)
    if weights == "imagenet" and row is not None and row.imagenet is None:
        raise RequestError(
            f"model.weights=imagenet: none are published for {backbone}; choose "
            "model.weights=none or the path of a file"
        )
    if weights == "coco" and (row is None or not row.coco):
        there = ", ".join(name for name, row in BACKBONES.items() if row.coco)
        raise RequestError(
            f"model.weights=coco: none are known for {backbone}, only for {there}; choose "
            "imagenet, none or a path"
        )
