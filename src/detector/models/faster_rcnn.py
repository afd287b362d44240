"""Torchvision's Faster R-CNN over our backbones, taking uint8 images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList

from detector.models.backbones import BACKBONES, build_backbone
from detector.models.channels import for_channels
from detector.models.device import at_least_float32
from detector.models.roi_align import PyramidRoIAlign
from detector.models.rpn import Float32Anchors, PointwiseRPNHead, SampledRPN
from detector.models.stages import NormMode, PyramidBackbone


@dataclass(frozen=True)
class FasterRCNNOptions:
    """The network's numbers; the defaults are torchvision's.

    Attributes:
        in_channels: Of the images: 1 is grey, 3 RGB.
        fpn_channels: Channels of every pyramid level.
        head_channels: Width of the box head's two hidden layers.
        anchor_scales: Anchor side over the level's stride; one anchor a cell for each.
        anchor_ratios: Anchor height over width.
        rpn_top_n_train: Proposals kept per image in training, before and after NMS.
        rpn_top_n_test: The same in evaluation.
        rpn_batch_per_image: Anchors sampled per image for the RPN's loss.
        box_batch_per_image: Proposals sampled per image for the box head's loss.
        score_threshold: Lowest score of a detection.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped.
        detections_per_image: At most so many detections an image.
    """

    in_channels: int = 3
    fpn_channels: int = 256
    head_channels: int = 1024
    anchor_scales: tuple[float, ...] = (8.0,)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_top_n_train: int = 2000
    rpn_top_n_test: int = 1000
    rpn_batch_per_image: int = 256
    box_batch_per_image: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100


@dataclass(frozen=True)
class SpeedOptions:
    """How the network is run; what it computes stays the same up to rounding.

    Attributes:
        channels_last: Keep images and kernels in the layout that convolutions are fastest in.
        fused: Fold norms that are asleep into their convolutions (see `fused.py`).
        compiled: Let `torch.compile` make the backbone and the box head, at their first use and
            for each new size of images; it fuses by itself, so `fused` does nothing then.
    """

    channels_last: bool = True
    fused: bool = True
    compiled: bool = False


class NormaliseAndBatch(nn.Module):
    """The one place where images are scaled, normalised and padded; stands in for torchvision's.

    Images arrive resized (the data set resizes once), so that no pixel is resampled twice.

    Args:
        mean: Per channel, on a scale of 0..1.
        std: Per channel, on a scale of 0..1.
        divisor: Heights and widths are padded to multiples of it, pixels.
        layout: Memory format of the batch.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        divisor: int,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        super().__init__()
        self.divisor = divisor
        self.layout = layout
        # Not in the checkpoint: they belong to the backbone's name, not to its training.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Batch images of different sizes.

        Args:
            images: Each `(C, H, W)` uint8.
            targets: Passed through.

        Returns:
            The batch `(N, C, H', W')`, zero (the mean colour) where padded.
        """
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (
            -(-max(side) // self.divisor) * self.divisor for side in zip(*sizes, strict=True)
        )
        shape, like = (len(images), len(self.mean), height, width), self.mean
        batch = torch.empty(
            shape, device=like.device, dtype=like.dtype, memory_format=self.layout
        ).zero_()
        for row, image in zip(batch, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = (image.to(row) - self.mean) / self.std
        return ImageList(batch, sizes), targets

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: object, original_sizes: object
    ) -> list[dict[str, Tensor]]:
        """Leave detections in input pixels (torchvision's hook to undo its own resizing)."""
        return result


class Float32BoxPredictor(FastRCNNPredictor):
    """The last layer of the box head, whose outputs leave autocast: boxes are made in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits `(N, K + 1)` and box offsets `(N, 4 * (K + 1))`."""
        logits, offsets = super().forward(x)
        return at_least_float32(logits), at_least_float32(offsets)


class FasterRCNN(TorchvisionFasterRCNN):
    """Faster R-CNN whose parameters are known by group: `head`, `neck`, and the backbone's stages.

    Args:
        backbone: The stages under their pyramid.
        classes: Number of classes, without background.
        mean: Of the backbone's training images, per channel, 0..1.
        std: The same.
        options: The network's numbers.
        speed: How it is run.
    """

    backbone: PyramidBackbone

    def __init__(
        self,
        backbone: PyramidBackbone,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        options: FasterRCNNOptions,
        speed: SpeedOptions,
    ) -> None:
        strides = backbone.strides
        sizes = tuple(tuple(s * stride for s in options.anchor_scales) for stride in strides)
        names = [str(i) for i in range(len(strides) - 1)]
        anchors = Float32Anchors(sizes, (options.anchor_ratios,) * len(sizes))
        head = PointwiseRPNHead(backbone.out_channels, anchors.num_anchors_per_location()[0])
        super().__init__(
            backbone,
            num_classes=None,
            rpn_anchor_generator=anchors,
            rpn_head=head,
            box_batch_size_per_image=options.box_batch_per_image,
            box_score_thresh=options.score_threshold,
            box_nms_thresh=options.nms_threshold,
            box_detections_per_img=options.detections_per_image,
            box_roi_pool=PyramidRoIAlign(names, strides[:-1], output_size=7, sampling_ratio=2),
            box_head=TwoMLPHead(backbone.out_channels * 49, options.head_channels),
            box_predictor=Float32BoxPredictor(options.head_channels, classes + 1),
        )
        top_n = {"training": options.rpn_top_n_train, "testing": options.rpn_top_n_test}
        self.rpn = SampledRPN(
            anchors,
            head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=options.rpn_batch_per_image,
            positive_fraction=0.5,
            pre_nms_top_n=top_n,
            post_nms_top_n=top_n,
            nms_thresh=0.7,
        )
        layout = torch.channels_last if speed.channels_last else torch.contiguous_format
        self.transform = NormaliseAndBatch(mean, std, max(32, strides[-2]), layout)
        self.to(memory_format=layout)
        self.backbone.fused = speed.fused and not speed.compiled
        if speed.compiled:  # in place: names of parameters do not change
            self.backbone.compile()
            self.roi_heads.box_head.compile()

    def groups(self) -> OrderedDict[str, list[nn.Module]]:
        """The modules of every parameter group, from the image upwards; together the network."""
        groups = OrderedDict[str, list[nn.Module]]()
        for stage in self.backbone.stages:
            groups[stage.name] = list(self.backbone.stage_modules(stage.name))
        groups["neck"] = [self.backbone.fpn]
        groups["head"] = [self.rpn, self.roi_heads]
        return groups

    def set_trainable(self, names: Collection[str]) -> None:
        """Train the named groups and freeze all others.

        Args:
            names: Group names, as `groups()` has them.
        """
        self.backbone.set_trainable([s.name for s in self.backbone.stages if s.name in names])
        for name in ("neck", "head"):
            for module in self.groups()[name]:
                for parameter in module.parameters():
                    parameter.requires_grad = name in names
                    if name not in names:
                        parameter.grad = None


def build_faster_rcnn(
    backbone: str,
    classes: int,
    *,
    imagenet: bool,
    norm: NormMode = "frozen",
    options: FasterRCNNOptions | None = None,
    speed: SpeedOptions | None = None,
) -> FasterRCNN:
    """Build the detector, everything trainable.

    Args:
        backbone: A key of `detector.models.backbones.BACKBONES`.
        classes: Number of classes, without background.
        imagenet: Start the backbone from ImageNet weights; else from random ones.
        norm: How the backbone's norm layers behave.
        options: The network's numbers.
        speed: How it is run.
    """
    options = options or FasterRCNNOptions()
    spec = BACKBONES[backbone]
    pyramid = build_backbone(
        backbone,
        imagenet=imagenet,
        out_channels=options.fpn_channels,
        norm=norm,
        in_channels=options.in_channels,
    )
    mean, std = (for_channels(values, options.in_channels) for values in (spec.mean, spec.std))
    return FasterRCNN(pyramid, classes, mean, std, options, speed or SpeedOptions())
