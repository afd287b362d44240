"""Torchvision's Faster R-CNN over the backbones of the table, for uint8 images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList

from detector.models.backbones.build import backbone_spec, build_backbone
from detector.models.backbones.pyramid import NormMode, PyramidBackbone
from detector.models.device import at_least_float32
from detector.models.heads import NORMS, build_box_head
from detector.models.options import ModelOptions
from detector.models.roi_align import PyramidRoIAlign
from detector.models.rpn import PlacedAnchors, PointwiseRPNHead, SampledRPN
from detector.models.weights.channels import for_channels

CELLS = 7  # cells along each side of a pooled region


@dataclass(frozen=True)
class SpeedOptions:
    """How the network is run; results stay the same up to rounding.

    Attributes:
        channels_last: Keep images and kernels in channels-last memory layout.
        compiled: Run the backbone and the box head through `torch.compile`, which compiles at the
            first use and for each new size of images.
    """

    channels_last: bool = True
    compiled: bool = False


class NormaliseAndBatch(nn.Module):
    """Scales, normalises and pads images, in place of torchvision's own transform.

    Images arrive resized (the data set resizes once), so that no pixel is resampled twice.

    Args:
        mean: Mean of each channel, on a scale of 0..1.
        std: Standard deviation of each channel, on a scale of 0..1.
        divisor: Heights and widths are padded to multiples of it, in pixels.
        layout: Memory layout of the batch.
        smallest: Smallest height and width after padding, in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        divisor: int,
        layout: torch.memory_format = torch.channels_last,
        smallest: int = 0,
    ) -> None:
        super().__init__()
        self.divisor = divisor
        self.smallest = smallest
        self.layout = layout
        # Not in the checkpoint: they follow from the backbone's name.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Batch images of different sizes.

        Args:
            images: Images, each `(C, H, W)` uint8.
            targets: Ground truth, which is returned unchanged.

        Returns:
            The batch, `(N, C, H', W')`, zero (the mean colour) where padded; and the targets.
        """
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (self.padded(max(side)) for side in zip(*sizes, strict=True))
        shape, like = (len(images), len(self.mean), height, width), self.mean
        batch = torch.empty(
            shape, device=like.device, dtype=like.dtype, memory_format=self.layout
        ).zero_()
        for row, image in zip(batch, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = (image.to(row) - self.mean) / self.std
        return ImageList(batch, sizes), targets

    def padded(self, side: int) -> int:
        """Return the size that a side of an image is padded to, in pixels."""
        return -(-max(side, self.smallest) // self.divisor) * self.divisor

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: object, original_sizes: object
    ) -> list[dict[str, Tensor]]:
        """Return detections as they are, in input pixels (torchvision undoes its resizing here)."""
        return result


class Float32BoxPredictor(FastRCNNPredictor):
    """The last layer of the box head; its outputs are float32, in which boxes are decoded."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute class logits `(N, K + 1)` and box offsets `(N, 4 * (K + 1))`."""
        logits, offsets = super().forward(x)
        return at_least_float32(logits), at_least_float32(offsets)


class FasterRCNN(TorchvisionFasterRCNN):
    """Faster R-CNN with parameter groups: `head`, `neck`, and the stages of the backbone.

    Args:
        backbone: Backbone with its pyramid.
        classes: Number of classes, without background.
        mean: Mean of each channel, on a scale of 0..1, that the backbone was pretrained with.
        std: Standard deviation of each channel, likewise.
        options: Settings of the network.
        speed: How the network is run.
        smallest: Smallest height and width after padding, in pixels.
    """

    backbone: PyramidBackbone

    def __init__(
        self,
        backbone: PyramidBackbone,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        options: ModelOptions,
        speed: SpeedOptions,
        smallest: int = 0,
    ) -> None:
        strides, offsets, channels = backbone.strides, backbone.offsets, backbone.out_channels
        # The pooled top level is for the RPN alone, as in torchvision's detectors.
        names = [str(i) for i in range(len(strides) - 1)]
        pool = PyramidRoIAlign(names, strides[:-1], CELLS, sampling_ratio=2, offsets=offsets[:-1])
        anchors = PlacedAnchors(options.anchor_scales, options.anchor_ratios, strides, offsets)
        per_cell = anchors.num_anchors_per_location()[0]
        head = PointwiseRPNHead(channels, per_cell, options.rpn_convs)
        box_head, width = build_box_head(channels, CELLS, options.head)
        super().__init__(
            backbone,
            num_classes=None,
            rpn_anchor_generator=anchors,
            rpn_head=head,
            box_batch_size_per_image=options.box_batch_per_image,
            box_score_thresh=options.score_threshold,
            box_nms_thresh=options.nms_threshold,
            box_detections_per_img=options.most_detections,
            box_roi_pool=pool,
            box_head=box_head,
            box_predictor=Float32BoxPredictor(width, classes + 1),
        )
        self.rpn = _build_rpn(anchors, head, options)
        layout = torch.channels_last if speed.channels_last else torch.contiguous_format
        self.transform = NormaliseAndBatch(mean, std, strides[-2], layout, smallest)
        self._frozen: list[nn.Module] = []  # frozen modules of neck and head
        self.to(memory_format=layout)
        if speed.compiled:  # in place: names of parameters do not change
            self.backbone.compile()
            self.roi_heads.box_head.compile()

    def groups(self) -> OrderedDict[str, list[nn.Module]]:
        """Return the modules of every parameter group, from the image upwards."""
        groups = OrderedDict[str, list[nn.Module]]()
        for stage in self.backbone.stages:
            groups[stage.name] = list(self.backbone.stage_modules(stage.name))
        groups["neck"] = self.backbone.neck_modules()
        groups["head"] = [self.rpn, self.roi_heads]
        return groups

    def set_trainable(self, names: Collection[str]) -> None:
        """Train the named groups and freeze all others.

        Args:
            names: Names of the groups, keys of `groups()`.
        """
        self.backbone.set_trainable([s.name for s in self.backbone.stages if s.name in names])
        # Torchvision's own classes compute losses in training mode: their mode must not change.
        roi = self.roi_heads
        layers = {"neck": self.backbone.neck_modules()}
        layers["head"] = [self.rpn.head, roi.box_head, roi.box_predictor]
        self._frozen = [m for name, group in layers.items() if name not in names for m in group]
        for name, group in layers.items():
            for parameter in (p for module in group for p in module.parameters()):
                parameter.requires_grad = name in names
                if name not in names:
                    parameter.grad = None
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, except for the norms and dropouts of frozen groups."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def _build_rpn(anchors: PlacedAnchors, head: PointwiseRPNHead, options: ModelOptions) -> SampledRPN:
    """Build the RPN with torchvision's thresholds."""
    top_n = {"training": options.rpn_top_n_train, "testing": options.rpn_top_n_test}
    return SampledRPN(
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


def build_faster_rcnn(
    backbone: str,
    classes: int,
    *,
    norm: NormMode = "frozen",
    options: ModelOptions | None = None,
    speed: SpeedOptions | None = None,
) -> FasterRCNN:
    """Build the detector with random weights, everything trainable.

    Args:
        backbone: A key of the table of backbones, or `timm/` and the name of a timm model.
        classes: Number of classes, without background.
        norm: How batch norms of the backbone behave (see `PyramidBackbone`).
        options: Settings of the network.
        speed: How the network is run.
    """
    options = options or ModelOptions()
    spec = backbone_spec(backbone)
    pyramid = build_backbone(
        backbone,
        in_channels=options.in_channels,
        out_channels=options.fpn_channels,
        norm=norm,
        neck_norm=NORMS[options.neck_norm],
        finest=options.strides[0],
    )
    mean, std = (for_channels(values, options.in_channels) for values in (spec.mean, spec.std))
    speed = speed or SpeedOptions()
    # A batch norm in training mode refuses a map of one cell.
    smallest = max(spec.smallest, 32 if options.neck_norm == "none" else 64)
    return FasterRCNN(pyramid, classes, mean, std, options, speed, smallest)
