"""Torchvision's region proposal network, with less computation for the same losses.

The loss depends on a few hundred sampled anchors, yet in torchvision its gradient is computed at
every cell of every level. Here the head runs over all cells without autograd, for the proposals,
and once more, with autograd, at the cells of the sampled anchors: the same losses and gradients for
a small part of the work. Proposals are selected by score before they are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import _topk_min
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from detector.models.device import at_least_float32
from detector.models.nms import grouped_nms


class PlacedAnchors(AnchorGenerator):
    """Anchors around the centres of the cells' receptive fields.

    Torchvision places a level's anchors image size // map size pixels apart, starting at the
    corner. In a network with layers that are not padded, the receptive fields are elsewhere: at 448
    pixels AlexNet's 13 cells are 32 pixels apart, not 34, and the first is 31 pixels inside.

    Anchors are float32 also for bf16 maps, since bf16 has no whole numbers above 256.

    Args:
        scales: Anchor sides divided by the level's stride.
        ratios: Anchor heights divided by widths.
        strides: Stride of every level, in pixels.
        offsets: Centre of the first cell's receptive field of every level, in pixels.
    """

    def __init__(
        self,
        scales: Sequence[float],
        ratios: Sequence[float],
        strides: Sequence[int],
        offsets: Sequence[float],
    ) -> None:
        sizes = tuple(tuple(s * stride for s in scales) for stride in strides)
        super().__init__(sizes, (tuple(ratios),) * len(sizes))
        self.chosen = tuple(scales), tuple(ratios)
        self.strides = tuple(strides)
        self.offsets = tuple(offsets)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of each image, `(A, 4)` xyxy; maps give their shapes and dtype."""
        like = at_least_float32(feature_maps[0][:1, :1, :1, :1])
        self.set_cell_anchors(like.dtype, like.device)
        levels = zip(self.cell_anchors, feature_maps, self.strides, self.offsets, strict=True)
        anchors = []
        for shapes, feature_map, stride, offset in levels:
            rows, columns = (
                torch.arange(size, dtype=like.dtype, device=like.device) * stride + offset
                for size in feature_map.shape[2:]
            )
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            centres = torch.stack((x, y, x, y), dim=-1)  # (H, W, 4)
            anchors.append((centres[:, :, None] + shapes).reshape(-1, 4))
        return [torch.cat(anchors)] * len(image_list.image_sizes)


class PointwiseRPNHead(RPNHead):
    """The RPN's head, over whole maps or at selected cells.

    Its outputs are float32, in which boxes are decoded and compared.
    """

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute objectness `(N, A, H, W)` and box offsets `(N, 4 * A, H, W)` of every level."""
        objectness, offsets = super().forward(x)
        return [at_least_float32(o) for o in objectness], [at_least_float32(o) for o in offsets]

    def at(self, x: Tensor, image: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the outputs at selected cells of one level, from the cells around them.

        Args:
            x: Feature map of the level, `(N, C, H, W)`; fastest in channels-last layout.
            image: Index of each cell's image, `(n,)` int64.
            row: Row of each cell, `(n,)` int64.
            column: Column of each cell, `(n,)` int64.

        Returns:
            Objectness `(n, A)` and box offsets `(n, 4 * A)`.
        """
        reach = len(self.conv)  # each convolution is 3x3
        around = torch.arange(-reach, reach + 1, device=x.device)
        rows = row[:, None, None] + around[:, None]  # (n, K, 1)
        columns = column[:, None, None] + around  # (n, 1, K)
        height, width = x.shape[2:]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)  # (n, K, K)
        cells = (image[:, None, None] * height + rows.clamp(0, height - 1)) * width
        cells = cells + columns.clamp(0, width - 1)
        patch = F.embedding(cells, x.permute(0, 2, 3, 1).flatten(0, 2))  # (n, K, K, C)
        patch = patch.permute(0, 3, 1, 2)
        for step, (convolution, activation) in enumerate(self.conv):
            # Outside of the map the input of every layer is zero, as with padding.
            mask = inside[:, None, step : 2 * reach + 1 - step, step : 2 * reach + 1 - step]
            patch = activation(F.conv2d(patch * mask, convolution.weight, convolution.bias))
        out = self.cls_logits(patch), self.bbox_pred(patch)
        return at_least_float32(out[0].flatten(1)), at_least_float32(out[1].flatten(1))


class SampledRPN(RegionProposalNetwork):
    """Torchvision's RPN, with gradients at the sampled anchors alone."""

    head: PointwiseRPNHead

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes; in training mode, also compute the losses.

        Args:
            images: The batch; only the sizes of its images are used.
            features: Feature map of each level, `(N, C, H, W)`.
            targets: Ground truth of each image, with `boxes` `(T, 4)`; needed in training mode.

        Returns:
            Proposals of each image, `(P, 4)` xyxy; and the losses `loss_objectness` and
            `loss_rpn_box_reg`, or no losses in eval mode.
        """
        maps = list(features.values())
        anchors = self.anchor_generator(images, maps)
        with torch.no_grad():
            objectness, offsets = self.head(maps)
            proposals = self._propose(objectness, offsets, anchors, images.image_sizes)
        if not self.training:
            return proposals, {}
        assert targets is not None
        return proposals, self._losses(maps, anchors, targets)

    def _losses(
        self, maps: Sequence[Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the losses at sampled anchors."""
        labels, matched = self.assign_targets_to_anchors(anchors, targets)
        # Indices into the anchors of all images, one after the other.
        positive, negative = (
            torch.where(torch.cat(masks))[0] for masks in self.fg_bg_sampler(labels)
        )
        sampled = torch.cat((positive, negative))
        logits, deltas = self._predict(maps, sampled, len(anchors[0]))
        wanted = self.box_coder.encode_single(
            torch.cat(matched)[positive], torch.cat(anchors)[positive]
        )
        box_loss = F.smooth_l1_loss(deltas[: len(positive)], wanted, beta=1 / 9, reduction="sum")
        return {
            "loss_objectness": F.binary_cross_entropy_with_logits(
                logits, torch.cat(labels)[sampled].to(logits)
            ),
            "loss_rpn_box_reg": box_loss / len(sampled),
        }

    def _propose(
        self,
        objectness: Sequence[Tensor],
        offsets: Sequence[Tensor],
        anchors: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """Select the best boxes of every image, `(P, 4)` xyxy, highest score first."""
        boxes, scores, level = self._decode_best(objectness, offsets, anchors)
        large, good, where = [], [], []
        for box, score, size in zip(boxes, scores, sizes, strict=True):
            box = clip_boxes_to_image(box, size)
            rows = remove_small_boxes(box, self.min_size)
            large.append(box[rows])
            good.append(score[rows])
            where.append(level[rows])
        kept = grouped_nms(large, good, where, self.nms_thresh)
        return [box[rows[: self.post_nms_top_n()]] for box, rows in zip(large, kept, strict=True)]

    def _decode_best(
        self, objectness: Sequence[Tensor], offsets: Sequence[Tensor], anchors: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the boxes with the highest scores of every level.

        Returns:
            Boxes `(N, M, 4)` xyxy, their scores `(N, M)` and levels `(M,)`.
        """
        first = 0
        boxes, scores, levels = [], [], []
        for i, (logits, deltas) in enumerate(zip(objectness, offsets, strict=True)):
            images, count, height, width = logits.shape
            logits = logits.permute(0, 2, 3, 1).flatten(1)  # (N, H * W * A)
            logits, best = logits.topk(_topk_min(logits, self.pre_nms_top_n(), 1), dim=1)
            deltas = deltas.view(images, count, 4, height, width).permute(0, 3, 4, 1, 2)
            deltas = deltas.flatten(1, 3).gather(1, best[..., None].expand(-1, -1, 4))
            around = torch.stack([a[first + b] for a, b in zip(anchors, best, strict=True)])
            decoded = self.box_coder.decode_single(deltas.flatten(0, 1), around.flatten(0, 1))
            boxes.append(decoded.view(images, -1, 4))
            scores.append(logits.sigmoid())
            levels.append(torch.full_like(best[0], i))
            first += height * width * count
        return torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels)

    def _predict(
        self, maps: Sequence[Tensor], sampled: Tensor, per_image: int
    ) -> tuple[Tensor, Tensor]:
        """Compute the head's outputs at some anchors, with autograd.

        Args:
            maps: Feature map of each level.
            sampled: Indices into the anchors of all images, one after the other, `(n,)` int64.
            per_image: Number of anchors of an image.

        Returns:
            Objectness `(n,)` and box offsets `(n, 4)`.
        """
        shapes = self.anchor_generator.num_anchors_per_location()
        image, place = sampled // per_image, sampled % per_image
        logits, deltas, order, first = [], [], [], 0
        for x, count in zip(maps, shapes, strict=True):
            height, width = x.shape[2:]
            size = height * width * count
            (here,) = torch.where((place >= first) & (place < first + size))
            cell = place[here] - first
            anchor, cell = cell % count, cell // count
            objects, offsets = self.head.at(x, image[here], cell // width, cell % width)
            each = torch.arange(len(here), device=x.device)
            logits.append(objects[each, anchor])
            deltas.append(offsets.view(-1, count, 4)[each, anchor])
            order.append(here)
            first += size
        back = torch.cat(order).argsort()
        return torch.cat(logits)[back], torch.cat(deltas)[back]
