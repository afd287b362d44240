"""RoIAlign over a feature pyramid, on a CPU far faster than torchvision's kernel.

Every output bin is a weighted sum of rows of the channels-last feature map: the corners of its
sampling points are the row indices, the bilinear coefficients the weights. That is an embedding
bag, which torch computes on a CPU at the speed of memory, forward and backward. On other devices
torchvision's own kernel is used. Definition: He et al., Mask R-CNN (arXiv 1703.06870), with the
conventions of torchvision's implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import _multiscale_roi_align

from detector.models.device import on_cpu


def assign_levels(boxes: Tensor, levels: int, finest_stride: int) -> Tensor:
    """Choose the pyramid level each box is pooled from (FPN, arXiv 1612.03144, equation 1).

    Args:
        boxes: `(K, 4)` xyxy, input pixels.
        levels: Number of levels, finest first.
        finest_stride: Stride of level 0, pixels (a power of two).

    Returns:
        `(K,)` int64 in `0..levels - 1`: a 224-pixel box belongs to stride 16.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    k = torch.floor(4 + torch.log2(side / 224) + 1e-6) - (finest_stride.bit_length() - 1)
    return k.clamp(0, levels - 1).to(torch.int64)


def _axis_corners(
    start: Tensor, length: Tensor, extent: Tensor, bins: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Compute corner indices and coefficients of all sampling points along one axis.

    Args:
        start: First coordinate of each RoI, in cells, `(K,)`.
        length: Length of each RoI, in cells, `(K,)`.
        extent: Size of the feature map that each RoI is pooled from, in cells, `(K,)` int64.
        bins: Number of output bins along the axis.
        samples: Number of sampling points per bin.

    Returns:
        Indices (int64) and coefficients (float32), both `(K, bins, 2 * samples)`.
    """
    steps = (torch.arange(bins * samples, device=start.device) + 0.5) / samples
    points = start[:, None] + steps * (length / bins)[:, None]  # (K, bins * samples)
    last = (extent - 1)[:, None]
    inside = (points >= -1) & (points <= extent[:, None])
    points = torch.minimum(points.clamp(min=0), last)
    low = points.to(torch.int64)
    upper = points - low
    weights = torch.stack((1 - upper, upper), -1) * inside[..., None] / samples
    corners = torch.stack((low, torch.minimum(low + 1, last)), -1)
    shape = (start.shape[0], bins, 2 * samples)
    return corners.reshape(shape), weights.reshape(shape)


def roi_align_bag(
    features: Sequence[Tensor],
    boxes: Sequence[Tensor],
    levels: Sequence[Tensor],
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool = False,
) -> Tensor:
    """Pool boxes from several feature maps at once, with one embedding bag per image.

    Args:
        features: Feature map of each level, `(N, C, H, W)`; fastest in channels-last layout.
        boxes: Boxes of each image, `(K_i, 4)` xyxy, in input pixels.
        levels: Level of each box, for each image, `(K_i,)` int64.
        strides: Stride of each level, in input pixels.
        output_size: Bins along each side.
        sampling_ratio: Sampling points per bin and axis, at least 1.
        aligned: Whether to shift by half a cell, as torchvision's `aligned=True`.

    Returns:
        `(sum K_i, C, output_size, output_size)` in the features' dtype.
    """
    # At least float32: coordinates of large images and sums of many terms need it.
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    device = features[0].device
    height, width = (torch.tensor([f.shape[d] for f in features], device=device) for d in (2, 3))
    first = (height * width).cumsum(0) - height * width  # the levels of an image are joined
    scale = 1.0 / torch.tensor(list(strides), dtype=dtype, device=device)
    reads = []
    for box, level in zip(boxes, levels, strict=True):
        corners = box.to(dtype) * scale[level, None] - (0.5 if aligned else 0.0)
        x1, y1, x2, y2 = corners.unbind(1)
        sides = x2 - x1, y2 - y1
        if not aligned:  # the older convention: a RoI has at least one cell
            sides = sides[0].clamp(min=1), sides[1].clamp(min=1)
        column, wx = _axis_corners(x1, sides[0], width[level], output_size, sampling_ratio)
        row, wy = _axis_corners(y1, sides[1], height[level], output_size, sampling_ratio)
        row = first[level][:, None, None] + row * width[level][:, None, None]
        cells = row[:, :, None, :, None] + column[:, None, :, None, :]  # (K, P, P, 2S, 2S)
        weights = wy[:, :, None, :, None] * wx[:, None, :, None, :]
        size = 4 * sampling_ratio * sampling_ratio
        # A map has fewer than 2^31 cells, and short indices are read faster.
        reads.append((cells.reshape(-1, size).int(), weights.reshape(-1, size).to(dtype)))
    pooled: Tensor = _WeightedCells.apply(reads, *features)
    shape = (sum(map(len, boxes)), output_size, output_size, features[0].shape[1])
    return pooled.view(shape).permute(0, 3, 1, 2)


class _WeightedCells(torch.autograd.Function):
    """Weighted sums of a pyramid's cells, with a gradient of the same form.

    The gradient of a cell is a weighted sum over the bins that read it, so sorting the reads by
    cell turns the backward pass into another embedding bag, several times as fast as torch's own.
    Images are processed one by one, so that the float32 copy of the maps stays small.
    """

    @staticmethod
    def forward(ctx: Any, reads: list[tuple[Tensor, Tensor]], *maps: Tensor) -> Tensor:
        """Compute the sums.

        Args:
            ctx: Autograd's context.
            reads: For each image, the indices of the cells that each bin reads, `(B_i, S)` int32,
                into the image's joined maps; and their weights, at least float32.
            maps: Feature map of each level, `(N, C, H, W)`.

        Returns:
            The sums of all images, `(sum B_i, C)`.
        """
        ctx.reads, ctx.layouts = reads, [torch.empty_like(m, device="meta") for m in maps]
        cells = [m.shape[2] * m.shape[3] for m in maps]
        dtype = reads[0][1].dtype
        table = torch.empty(sum(cells), maps[0].shape[1], dtype=dtype, device=maps[0].device)
        pooled = []
        for image, (cell, weights) in enumerate(reads):
            for part, x in zip(torch.split(table, cells), maps, strict=True):
                here = x[image].permute(1, 2, 0)
                part.view(here.shape).copy_(here)
            summed = F.embedding_bag(cell, table, per_sample_weights=weights, mode="sum")
            pooled.append(summed.to(maps[0].dtype))
        return torch.cat(pooled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the maps; positions of the boxes get none."""
        grads = [torch.empty_like(m, dtype=grad.dtype, device=grad.device) for m in ctx.layouts]
        cells = [g.shape[2] * g.shape[3] for g in grads]
        each = torch.split(grad, [len(cell) for cell, _ in ctx.reads])
        for image, ((cell, weights), part) in enumerate(zip(ctx.reads, each, strict=True)):
            cell, read = cell.flatten().sort()
            start = torch.searchsorted(cell, torch.arange(sum(cells), dtype=cell.dtype))
            summed = F.embedding_bag(
                read // weights.shape[1],
                part.to(weights.dtype),
                start,
                per_sample_weights=weights.flatten()[read],
                mode="sum",
            )
            for g, s in zip(grads, torch.split(summed, cells), strict=True):
                here = g[image].permute(1, 2, 0)
                here.copy_(s.view(here.shape))
        return None, *grads


class PyramidRoIAlign(MultiScaleRoIAlign):
    """Torchvision's multi-scale RoIAlign; on a CPU, as one embedding bag over all levels.

    Args:
        names: Keys of the pyramid levels to pool from, finest first.
        strides: Stride of each level, in pixels, twice that of the level before.
        offsets: Centre of the first cell's receptive field of each level, in pixels; None: 0.
        output_size: Bins along each side.
        sampling_ratio: Sampling points per bin and axis; 0 chooses by size (torchvision's kernel).
    """

    def __init__(
        self,
        names: Sequence[str],
        strides: Sequence[int],
        output_size: int,
        sampling_ratio: int,
        offsets: Sequence[float] | None = None,
    ) -> None:
        super().__init__(list(names), output_size, sampling_ratio)
        self.strides = list(strides)
        self.offsets = [0.0] * len(self.strides) if offsets is None else list(offsets)
        # Torchvision would infer them from image and map sizes, wrongly with much padding.
        self.scales = [1 / stride for stride in strides]

    def forward(
        self,
        x: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Pool each image's boxes from the level that fits their size.

        Args:
            x: Feature map of each level by name, `(N, C, H, W)`.
            boxes: Boxes of each image, `(K_i, 4)` xyxy, in input pixels.
            image_shapes: Height and width of each image, in pixels.

        Returns:
            Pooled regions in the order of the boxes, `(sum K_i, C, P, P)`.
        """
        maps = [x[name] for name in self.featmap_names]
        levels = [assign_levels(b, len(self.strides), self.strides[0]) for b in boxes]
        if any(self.offsets):  # a shift does not change a box's size, and so not its level
            shift = torch.tensor(self.offsets, dtype=boxes[0].dtype, device=boxes[0].device)
            boxes = [b - shift[level, None] for b, level in zip(boxes, levels, strict=True)]
        if not on_cpu(boxes[0]) or self.sampling_ratio <= 0:
            chosen = torch.cat(levels)
            pooled: Tensor = _multiscale_roi_align(
                maps, boxes, self.output_size, self.sampling_ratio, self.scales, lambda _: chosen
            )
            return pooled
        size = self.output_size[0]
        return roi_align_bag(maps, boxes, levels, self.strides, size, self.sampling_ratio)
