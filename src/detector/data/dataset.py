"""Images and targets by index: decode once, augment, hand over as uint8."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from detector.data.augment import Augmenter
from detector.data.cache import Source, make_sources
from detector.data.sampler import Draw
from detector.data.watchdog import Desk
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
        augmenter: Says how large images are, and changes those for training.
        training: Targets follow the augmented image and leave out what is to be ignored; else
            images are only resized, and targets stay the file's own, in original pixels, as
            evaluation needs them.
        seed: Of the augmentation.
        source: Where images come from; None decodes them each time.
        desk: Where the image that is being loaded is noted, for the watchdog.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        augmenter: Augmenter,
        *,
        training: bool,
        seed: int,
        source: Source | None = None,
        desk: Desk | None = None,
    ) -> None:
        self.images = images
        self.augmenter = augmenter
        self.training = training
        self.seed = seed
        self.source = source or make_sources({"": images}, augmenter.image_size)[""]
        self.desk = desk or Desk(0)

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
        with self.desk.busy(draw.image):
            truth = self.images[draw.image]
            image, height, width = self.source(draw.image, truth.path)
        if all(truth.size) and truth.size != (height, width):
            raise RequestError(
                f"{truth.path}: the image is {width}x{height} when upright, but its annotation "
                f"says {truth.size[1]}x{truth.size[0]}"
            )
        boxes, rows = truth.boxes, np.arange(len(truth.boxes))
        scale = np.array([image.shape[1] / width, image.shape[0] / height], dtype=np.float32)
        if self.training:
            rows = np.flatnonzero(~truth.ignore)
            key = (self.seed, draw.epoch, draw.image) + (draw.repeat,) * (draw.repeat > 0)
            image, boxes, kept = self.augmenter(image, boxes[rows] * np.tile(scale, 2), key)
            rows = rows[kept]
        target = Target(
            torch.from_numpy(np.array(boxes, dtype=np.float32)),
            torch.from_numpy(truth.labels[rows]),
            torch.from_numpy(truth.ignore[rows]),
            torch.tensor(draw.image),
            torch.from_numpy(scale),
        )
        return to_tensor(image), target


def collate(samples: list[Sample]) -> Batch:
    """A batch as two lists: images differ in size until the model pads them."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
