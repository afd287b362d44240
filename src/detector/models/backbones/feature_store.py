"""Outputs of frozen stages, kept in memory for images that come again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Stages = Callable[[Tensor], Sequence[Tensor]]


class FeatureStore:
    """Keeps what frozen stages compute of each image of a batch.

    Images are known by their pixels, so that nothing here depends on how they were loaded, padded
    or augmented. Each is computed by itself: what comes out does not depend on the images beside
    it, nor on what was kept before, such as before an interruption.

    Args:
        most: Greatest size of what is kept, bytes; what comes after that is computed every time.

    Attributes:
        found: Number of images that were not computed again.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.found = 0
        self._kept: dict[bytes, Sequence[Tensor]] = {}
        self._left = most

    def outputs(self, images: Tensor, compute: Stages) -> list[Tensor]:
        """The outputs of the stages for a batch, as copies: autograd may use them.

        Args:
            images: `(N, C, H, W)`, on the CPU.
            compute: Runs the stages.
        """
        rows = [self._row(images[i : i + 1], compute) for i in range(len(images))]
        return [torch.cat(level) for level in zip(*rows, strict=True)]

    def clear(self) -> None:
        """Forget everything, as when a stage is unfrozen."""
        self._kept.clear()
        self._left = self.most

    def _row(self, image: Tensor, compute: Stages) -> Sequence[Tensor]:
        """The outputs for one image, `(1, C, H, W)`."""
        key = _digest(image)
        if key in self._kept:
            self.found += 1
            return self._kept[key]
        outputs = compute(image)
        size = sum(output.nbytes for output in outputs)
        if size <= self._left:
            self._left -= size
            self._kept[key] = outputs
        return outputs


def _digest(image: Tensor) -> bytes:
    """A digest of an image's shape and numbers."""
    numbers = np.ascontiguousarray(image.permute(0, 2, 3, 1).numpy())  # no copy if channels last
    digest = hashlib.blake2b(numbers.data, digest_size=16)
    digest.update(repr(image.shape).encode())
    return digest.digest()
