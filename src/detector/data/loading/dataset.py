"""Data set of images and targets: decoded once, augmented, uint8."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from detector.core.errors import RequestError, WorkError
from detector.core.structures import AnnotatedImage, AnnotatedImages, Target
from detector.data.loading.augment import Augmenter
from detector.data.loading.image_cache import ImageLoader, make_image_loaders
from detector.data.loading.sampler import SampleKey
from detector.data.loading.shared_memory import FOLDER, REMEDY, free_shared_memory, megabytes
from detector.data.loading.watchdog import LoaderStatus

Sample = tuple[Tensor, Target]
Batch = tuple[list[Tensor], list[Target]]


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """`(H, W, C)` uint8 array -> `(C, H, W)` uint8 tensor over the same memory."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


class DetectionDataset(Dataset[Sample]):
    """Samples of a split.

    Args:
        images: Images of the split.
        augmenter: Augmentation of training images; it also defines size and channels of all images.
        training: Augment images and their boxes, and leave out ignored boxes. If not, images are
            only resized, and targets are in original pixels, as evaluation needs them.
        seed: Seed of the augmentation.
        load_image: Function that loads an image; None decodes it each time.
        status: Status of the loader processes, in which the image being loaded is recorded.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        augmenter: Augmenter,
        *,
        training: bool,
        seed: int,
        load_image: ImageLoader | None = None,
        status: LoaderStatus | None = None,
    ) -> None:
        self.images = images
        self.augmenter = augmenter
        self.training = training
        self.seed = seed
        plain = make_image_loaders({"": images}, augmenter.image_size, channels=augmenter.channels)
        self.load_image = load_image or plain[""]
        self.status = status or LoaderStatus(0)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Decode and augment one image.

        Args:
            key: Epoch and index of the image, from `KeyedSampler`.

        Raises:
            RequestError: If the file is unreadable or contradicts its annotation.
            WorkError: If memory or another resource of the machine is exhausted.
        """
        with self.status.busy(key.image):
            annotated = self.images[key.image]
            try:
                return self._sample(key, annotated)
            except (OSError, MemoryError, cv2.error) as error:
                reason = " ".join(str(error).split()) or "not enough memory"
                raise WorkError(f"{annotated.path}: {reason}") from error

    def _sample(self, key: SampleKey, annotated: AnnotatedImage) -> Sample:
        """One image and its target."""
        image, height, width = self.load_image(key.image, annotated.path)
        if all(annotated.size) and annotated.size != (height, width):
            raise RequestError(
                f"{annotated.path}: the image is {width}x{height} when upright, but its annotation "
                f"says {annotated.size[1]}x{annotated.size[0]}"
            )
        boxes, rows = annotated.boxes, np.arange(len(annotated.boxes))
        scale = np.array([image.shape[1] / width, image.shape[0] / height], dtype=np.float32)
        if self.training:
            rows = np.flatnonzero(~annotated.ignore)
            seed = (self.seed, key.epoch, key.image) + (key.repeat,) * (key.repeat > 0)
            image, boxes, kept = self.augmenter(image, boxes[rows] * np.tile(scale, 2), seed)
            rows = rows[kept]
        target = Target(
            torch.from_numpy(np.array(boxes, dtype=np.float32)),
            torch.from_numpy(annotated.labels[rows]),
            torch.from_numpy(annotated.ignore[rows]),
            torch.tensor(key.image),
            torch.from_numpy(scale),
        )
        return to_tensor(image), target


def collate(samples: list[Sample]) -> Batch:
    """A batch as two lists; images differ in size until the model pads them."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


class Packed(NamedTuple):
    """A batch as three tensors, as a worker sends it to the main process.

    Every tensor has its own block of shared memory, which takes longer to send than to fill: six
    tensors for each image cost more than decoding it.

    Attributes:
        pixels: uint8 pixels `(H, W, C)` of all images, concatenated.
        images: `(n, 7)` float64: C, height, width, image id, scale x and y, number of boxes.
        boxes: `(T, 6)` float64: box, label and ignore of the boxes of all images.
    """

    pixels: Tensor
    images: Tensor
    boxes: Tensor


def pack(samples: list[Sample]) -> Packed:
    """Pack a batch into shared memory in a worker; `unpack` restores it bit by bit.

    Raises:
        WorkError: If there is no room for it. Torch's queue would also share the memory, but in a
            thread whose errors are lost.
    """
    pixels = torch.cat([image.permute(1, 2, 0).flatten() for image, _ in samples])
    images = [
        (*image.shape, int(t.image_id), *t.scale.tolist(), len(t.boxes)) for image, t in samples
    ]
    rows = [
        torch.cat((t.boxes.double(), t.labels[:, None], t.ignore[:, None]), 1) for _, t in samples
    ]
    packed = Packed(pixels, torch.tensor(images, dtype=torch.float64), torch.cat(rows))
    try:
        return Packed(*(t.share_memory_() for t in packed))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise WorkError(
            f"no room for a batch of {megabytes(pixels.numel())} in {FOLDER}, which has "
            f"{megabytes(free_shared_memory())} free ({str(error).splitlines()[0]}); {REMEDY}, a "
            "smaller data.workers= or data.batch_size=, or data.workers=0"
        ) from error


def unpack(packed: Packed) -> Batch:
    """Restore the batch that `collate` returns; images are views of the packed pixels."""
    images, targets = [], []
    shapes = packed.images[:, :3].long().tolist()
    counts = packed.images[:, 6].long().tolist()
    pixels = torch.split(packed.pixels, list(map(math.prod, shapes)))
    boxes = torch.split(packed.boxes, counts)
    for (channels, *sides), flat, row, box in zip(
        shapes, pixels, packed.images, boxes, strict=True
    ):
        images.append(flat.view(*sides, channels).permute(2, 0, 1))
        targets.append(
            Target(
                box[:, :4].float(),
                box[:, 4].long(),
                box[:, 5].bool(),
                row[3].long(),
                row[4:6].float(),
            )
        )
    return images, targets
