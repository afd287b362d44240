"""RoIAlign over a feature pyramid, with a CPU path far faster than torchvision's kernel.

On a CPU every output bin is a weighted sum of feature-map rows: the corners of its sampling points
are row indices into the channels-last map, the bilinear coefficients are the weights. That is an
embedding bag, which torch runs at memory speed, forward and backward. Elsewhere torchvision's own
kernel is used. Definition: He et al., Mask R-CNN (arXiv 1703.06870), as torchvision implements it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

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
    """Corner indices and coefficients of all sampling points along one axis.

    Args:
        start: `(K,)` first coordinate of each RoI, feature cells.
        length: `(K,)` length of each RoI, feature cells.
        extent: `(K,)` int64 size of the feature map each RoI is pooled from.
        bins: Output bins along the axis.
        samples: Sampling points per bin.

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
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool = False,
) -> Tensor:
    """Pool boxes from several feature maps at once, as one embedding bag.

    Args:
        features: Per level `(N, C, H, W)`; fastest in channels-last layout.
        boxes: `(K, 4)` xyxy, input pixels.
        image: `(K,)` int64, the batch index of each box.
        level: `(K,)` int64, the level of each box.
        strides: Per level, input pixels per feature cell.
        output_size: Bins along each side.
        sampling_ratio: Sampling points per bin and axis, at least 1.
        aligned: Shift by half a cell, as torchvision's `aligned=True`.

    Returns:
        `(K, C, output_size, output_size)` in the features' dtype.
    """
    table = torch.cat([f.permute(0, 2, 3, 1).flatten(0, 2) for f in features])  # (rows, C)
    device = boxes.device
    heights = torch.tensor([f.shape[2] for f in features], device=device)[level]
    widths = torch.tensor([f.shape[3] for f in features], device=device)[level]
    rows = torch.tensor([0] + [f.shape[0] * f.shape[2] * f.shape[3] for f in features[:-1]])
    first = rows.cumsum(0).to(device)[level] + image * heights * widths  # (K,)

    # At least float32: coordinates of large images and sums of many terms need it.
    dtype = torch.promote_types(table.dtype, torch.float32)
    scale = 1.0 / torch.tensor(list(strides), dtype=dtype, device=device)[level]
    x1, y1, x2, y2 = (boxes.to(dtype) * scale[:, None] - (0.5 if aligned else 0.0)).unbind(1)
    width, height = x2 - x1, y2 - y1
    if not aligned:  # the historical convention: a RoI is at least one cell
        width, height = width.clamp(min=1), height.clamp(min=1)
    column, wx = _axis_corners(x1, width, widths, output_size, sampling_ratio)
    row, wy = _axis_corners(y1, height, heights, output_size, sampling_ratio)

    row = first[:, None, None] + row * widths[:, None, None]
    bags = row[:, :, None, :, None] + column[:, None, :, None, :]  # (K, P, P, 2S, 2S)
    weights = wy[:, :, None, :, None] * wx[:, None, :, None, :]
    size = 4 * sampling_ratio * sampling_ratio
    pooled = F.embedding_bag(
        bags.reshape(-1, size),
        table.to(dtype),
        per_sample_weights=weights.reshape(-1, size).to(dtype),
        mode="sum",
    )
    shape = (len(boxes), output_size, output_size, table.shape[1])
    pooled = pooled.reshape(shape).permute(0, 3, 1, 2)
    return pooled.to(table.dtype)


class PyramidRoIAlign(MultiScaleRoIAlign):
    """Torchvision's multi-scale RoIAlign; on a CPU, as one embedding bag over all levels.

    Args:
        names: Keys of the pyramid levels to pool from, finest first.
        strides: Their strides, pixels; each twice the one before.
        output_size: Bins along each side.
        sampling_ratio: Sampling points per bin and axis; 0 chooses by size (torchvision's kernel).
    """

    def __init__(
        self, names: Sequence[str], strides: Sequence[int], output_size: int, sampling_ratio: int
    ) -> None:
        super().__init__(list(names), output_size, sampling_ratio)
        self.strides = list(strides)
        # Torchvision would infer them from image and map sizes, and err where much is padded.
        self.scales = [1 / stride for stride in strides]
        finest, coarsest = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
        self.map_levels = initLevelMapper(finest, coarsest)

    def forward(
        self,
        x: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Pool each image's boxes from the level that fits their size.

        Args:
            x: Level name -> `(N, C, H, W)`.
            boxes: Per image `(K_i, 4)` xyxy, input pixels.
            image_shapes: Per image height and width, pixels.

        Returns:
            `(sum K_i, C, P, P)`, in the order of the boxes.
        """
        if not on_cpu(boxes[0]) or self.sampling_ratio <= 0:
            pooled: Tensor = super().forward(x, boxes, image_shapes)
            return pooled
        maps = [x[name] for name in self.featmap_names]
        image = torch.cat([torch.full((len(b),), i) for i, b in enumerate(boxes)])
        flat = torch.cat(boxes)
        level = assign_levels(flat, len(maps), self.strides[0])
        size = self.output_size[0]
        return roi_align_bag(maps, flat, image, level, self.strides, size, self.sampling_ratio)
