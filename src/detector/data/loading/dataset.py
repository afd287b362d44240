"""Images and targets by index: decode once, augment, hand over as uint8."""

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
    """A split as samples.

    Args:
        images: The split.
        augmenter: Says how large images are and what is in them; changes those for training.
        training: Targets follow the augmented image and leave out what is to be ignored; else
            images are only resized, and targets stay the file's own, in original pixels, as
            evaluation needs them.
        seed: Of the augmentation.
        load_image: Where images come from; None decodes them each time.
        status: Where the image that is being loaded is noted, for the watchdog.
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
            key: Epoch and image index, from `KeyedSampler`.

        Raises:
            RequestError: If the file is unreadable or contradicts its annotation.
            WorkError: If the machine has no memory for it, or no more of something else.
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
    """A batch as two lists: images differ in size until the model pads them."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


class Packed(NamedTuple):
    """A batch as three tensors, as it crosses from a worker.

    Every tensor is a piece of shared memory of its own, and takes longer to hand over than to fill:
    six for each image cost more than decoding it.

    Attributes:
        pixels: uint8, `(H, W, C)` of every image, one after the other.
        images: `(n, 7)` float64: C, height, width, image id, scale x and y, number of boxes.
        boxes: `(T, 6)` float64: box, label, ignore; of all images, one after the other.
    """

    pixels: Tensor
    images: Tensor
    boxes: Tensor


def pack(samples: list[Sample]) -> Packed:
    """A batch for the way out of a worker, in shared memory; `unpack` is the way back, to the bit.

    Raises:
        WorkError: If there is no room for it. The queue would share it too, but in a thread, whose
            errors nobody hears of.
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
    """The batch that `collate` would have made; images are views of the packed pixels."""
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
