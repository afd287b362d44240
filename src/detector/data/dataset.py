"""Images and targets by index: decode once, augment, hand over as uint8."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from detector.data.augment import Augmenter
from detector.data.images import read_image
from detector.data.sampler import Draw
from detector.types import AnnotatedImages, RequestError, Target

Sample = tuple[Tensor, Target]
Batch = tuple[list[Tensor], list[Target]]


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """`(H, W, 3)` uint8 array -> `(3, H, W)` uint8 tensor over the same memory."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


class DetectionDataset(Dataset[Sample]):
    """A split as samples.

    Args:
        images: The split.
        augmenter: Changes and resizes images.
        training: Targets follow the augmented image and leave out what is to be ignored; else they
            stay the file's own, in original pixels, as evaluation needs them.
        seed: Of the augmentation.
    """

    def __init__(
        self, images: AnnotatedImages, augmenter: Augmenter, *, training: bool, seed: int
    ) -> None:
        self.images = images
        self.augmenter = augmenter
        self.training = training
        self.seed = seed

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Sample:
        """Decode and augment one image.

        Args:
            draw: Epoch and image index, from `KeyedSampler`.

        Raises:
            RequestError: If the file is unreadable or contradicts its annotation.
        """
        epoch, index, repeat = draw
        key = (self.seed, epoch, index) + (repeat,) * (repeat > 0)
        truth = self.images[index]
        image = read_image(truth.path)
        height, width = image.shape[:2]
        if all(truth.size) and truth.size != (height, width):
            raise RequestError(
                f"{truth.path}: the image is {width}x{height} when upright, but its annotation "
                f"says {truth.size[1]}x{truth.size[0]}"
            )
        boxes = truth.boxes
        rows = np.flatnonzero(~truth.ignore) if self.training else np.arange(len(boxes))
        image, moved, kept = self.augmenter(image, boxes[rows], key)
        if self.training:
            boxes, rows = moved, rows[kept]
        scale = (image.shape[1] / width, image.shape[0] / height)
        target = Target(
            torch.from_numpy(np.array(boxes, dtype=np.float32)),
            torch.from_numpy(truth.labels[rows]),
            torch.from_numpy(truth.ignore[rows]),
            torch.tensor(index),
            torch.tensor(scale, dtype=torch.float32),
        )
        return to_tensor(image), target


def collate(samples: list[Sample]) -> Batch:
    """A batch as two lists: images differ in size until the model pads them."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
