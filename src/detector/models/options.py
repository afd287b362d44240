"""Options of the network (conf/backbone, conf/model)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from detector.core.errors import RequestError, one_of, require
from detector.core.options import STRICT, TYPED, Count, Int, Positive, Real, Wanted, fixed
from detector.models.backbones.table import BACKBONES, TIMM

WEIGHTS = ("imagenet", "coco", "none")
AnchorSet = tuple[tuple[float, ...], tuple[float, ...]]  # scales and ratios
FEWEST_DETECTIONS = 100  # in an image, where detections_per_image is auto
LEVELS = (4, 8, 16, 32, 64)  # strides of the pyramid's levels, pixels
LEVEL_CHOICES = LEVELS, LEVELS[1:], LEVELS[2:]  # fine ones may be left out
LEVELS_WANTED = "auto, [4,8,16,32,64], [8,16,32,64] or [16,32,64]"
STANDARD_ANCHORS: AnchorSet = ((8.0,), (0.5, 1.0, 2.0))  # torchvision's
# Larger layers would not fit into memory.
MAX_CHANNELS, MAX_WIDTH = 4096, 16384

Norm = Literal["none", "batch"]
Channels = Annotated[Int, Field(ge=1, le=MAX_CHANNELS)]
Width = Annotated[Int, Field(ge=1, le=MAX_WIDTH)]
Fraction = Annotated[Real, Field(ge=0, le=1)]


@dataclass(config=STRICT, frozen=True, kw_only=True)
class BackboneOptions:
    """The pretrained network below the detector; backbone=NAME chooses it."""

    name: Annotated[str | None, fixed("network")]
    """Name of the backbone; with backbone=timm, of one of timm's models."""
    library: Annotated[Literal["detector", "timm"], fixed("network")] = "detector"
    """Where the name is looked up."""

    def __post_init__(self) -> None:
        """Check the name; timm's names are checked by timm."""
        if self.library == "detector":
            one_of("backbone.name", str(self.name), BACKBONES)
        if not self.name:
            raise RequestError(
                "backbone=timm needs the name of a model, such as backbone.name=convnext_atto"
            )

    @property
    def key(self) -> str:
        """The name that `detector.models.backbones.build.backbone_spec` takes."""
        return f"{TIMM}{self.name}" if self.library == "timm" else f"{self.name}"


@dataclass(config=STRICT, frozen=True, kw_only=True)
class HeadOptions:
    """A box head: convolutions, then flattening or averaging, then fully connected layers.

    The defaults are torchvision's `TwoMLPHead`; four convolutions of 256 channels with batch norms
    and one hidden layer of 1024 are the head of its `fasterrcnn_resnet50_fpn_v2`.
    """

    width: Annotated[Width, fixed("network")] = 1024
    """Width that the lists of the shipped heads refer to; the network has only the lists."""
    convs: Annotated[tuple[Channels, ...], fixed("network")] = ()
    """Channels of each 3x3 convolution."""
    conv_norm: Annotated[Norm, fixed("network")] = "none"
    """Norm after each convolution."""
    pool: Annotated[Literal["flatten", "average"], fixed("network")] = "flatten"
    """flatten keeps the positions in a region; average takes the mean over it."""
    hidden: Annotated[tuple[Width, ...], fixed("network")] = (1024, 1024)
    """Width of each fully connected layer."""
    dropout: Annotated[Real, Field(ge=0, lt=1), fixed("network")] = 0.0
    """Share of the outputs of each fully connected layer that is dropped in training."""
    activation: Annotated[
        Literal["relu", "leaky_relu", "elu", "gelu", "silu", "hardswish"], fixed("network")
    ] = "relu"
    """Activation after each layer."""

    def __post_init__(self) -> None:
        """Check that norms and dropout have layers to act on."""
        wanted = "none, as model.head.convs=[] has nothing to norm"
        good = bool(self.convs) or self.conv_norm == "none"
        require(good, "model.head.conv_norm", self.conv_norm, wanted)
        wanted = "0, as it acts on the layers of model.head.hidden, which is []"
        require(bool(self.hidden) or not self.dropout, "model.head.dropout", self.dropout, wanted)


@dataclass(config=STRICT, frozen=True, kw_only=True)
class ModelOptions:
    """Faster R-CNN; the defaults are those of torchvision's `fasterrcnn_resnet50_fpn`."""

    weights: Annotated[str, Wanted("imagenet, coco, none, or the path of a file or of a run")] = (
        "imagenet"
    )
    """Weights that training starts from."""
    in_channels: Annotated[
        Literal[1, 3, 4],
        Wanted("1 (grey), 3 (RGB) or 4 (RGB and one more band); other files are not read"),
        fixed("network"),
    ] = 3
    """Channels of the images."""
    fpn_channels: Annotated[Channels, fixed("network")] = 256
    """Channels of every level of the feature pyramid."""
    levels: Annotated[
        Literal["auto"] | tuple[Int, ...],
        Wanted(LEVELS_WANTED),
        fixed("network"),
    ] = LEVELS
    """Strides of the feature pyramid's levels, pixels; auto: without fine ones that the training
    boxes do not need, if anchors are fitted, too."""
    neck_norm: Annotated[Norm, fixed("network")] = "none"
    """Norm of the pyramid's convolutions."""
    rpn_convs: Annotated[Count, fixed("network")] = 1
    """Convolutions of the RPN before its outputs."""
    head: HeadOptions = HeadOptions()
    anchors: Literal["auto", "fixed"] = "fixed"
    """auto: scales and ratios are fitted to the training boxes; fixed: as the next two keys say,
    also where one of them is typed."""
    anchor_scales: Annotated[tuple[Positive, ...], Field(min_length=1), fixed("network")] = (
        STANDARD_ANCHORS[0]
    )
    """Anchor side over the level's stride; one anchor per cell for each."""
    anchor_ratios: Annotated[tuple[Positive, ...], Field(min_length=1), fixed("network")] = (
        STANDARD_ANCHORS[1]
    )
    """Anchor height over width."""
    rpn_top_n_train: Annotated[Count, fixed("resume")] = 2000
    """Proposals kept per image in training, before and after NMS."""
    rpn_top_n_test: Annotated[Count, fixed("resume")] = 1000
    """Proposals kept per image in evaluation, before and after NMS."""
    rpn_batch_per_image: Annotated[Count, fixed("resume")] = 256
    """Anchors sampled per image for the RPN's loss."""
    box_batch_per_image: Annotated[Count, fixed("resume")] = 512
    """Proposals sampled per image for the box head's loss."""
    score_threshold: Annotated[Fraction, fixed("resume")] = 0.05
    """Lowest score of a detection."""
    nms_threshold: Annotated[Fraction, fixed("resume")] = 0.5
    """IoU above which the weaker of two detections of a class is dropped."""
    detections_per_image: Annotated[
        Literal["auto"] | Count, Wanted("auto or at least 1"), fixed("resume")
    ] = FEWEST_DETECTIONS
    """Most detections per image; auto: twice the most boxes in a training image, at least 100."""
    summary: Annotated[
        Literal["false", "true", "profile"],
        TYPED,
        fixed("command"),
    ] = "false"
    """Print a table of the network by stage when training begins; profile: with times."""

    @property
    def strides(self) -> tuple[int, ...]:
        """`levels` as numbers, also before they are fitted to the data."""
        return LEVELS if self.levels == "auto" else self.levels

    @property
    def most_detections(self) -> int:
        """`detections_per_image` as a number, also before it is fitted to the data."""
        most = self.detections_per_image
        return FEWEST_DETECTIONS if most == "auto" else most

    def __post_init__(self) -> None:
        """Check the levels, and that nobody gave numbers that fitting would replace."""
        good = self.strides in LEVEL_CHOICES
        require(good, "model.levels", list(self.strides), LEVELS_WANTED)
        numbers = {"scales": self.anchor_scales, "ratios": self.anchor_ratios}
        for (name, given), standard in zip(numbers.items(), STANDARD_ANCHORS, strict=True):
            wanted = "nothing beside model.anchors=auto, which fits it; or model.anchors=fixed"
            good = self.anchors == "fixed" or given == standard
            require(good, f"model.anchor_{name}", list(given), wanted)
