"""The Lightning side of the data: loaders over the splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from detector.data.augment import Augmenter, Steps
from detector.data.dataset import DetectionDataset, collate
from detector.data.sampler import KeyedSampler
from detector.types import AnnotatedImages


@dataclass(frozen=True)
class LoaderOptions:
    """How batches are made.

    Attributes:
        image_size: Longer side of the network's input, pixels.
        batch_size: Images a step and process.
        workers: Loader processes; 0 loads in the training process.
        steps: The augmentation, as `Augmenter` takes it.
        min_visibility: As `Augmenter` takes it.
        seed: Of the order and the augmentation.
        pin_memory: Copy batches to page-locked memory, for a GPU.
    """

    image_size: int
    batch_size: int
    workers: int
    steps: Steps
    min_visibility: float
    seed: int
    pin_memory: bool = False


class DetectionDataModule(pl.LightningDataModule):
    """Loaders of uint8 batches, the same whatever the number of workers.

    Args:
        splits: `train`, `val` and perhaps `test`.
        options: How batches are made.
    """

    def __init__(self, splits: dict[str, AnnotatedImages], options: LoaderOptions) -> None:
        super().__init__()
        self.splits = splits
        self.options = options
        self.augmenter = Augmenter(options.steps, options.image_size, options.min_visibility)
        self.resizer = Augmenter((), options.image_size)

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented training batches, shuffled anew every epoch."""
        return self.loader("train", training=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation split, in order."""
        return self.loader("val", training=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test split, in order."""
        return self.loader("test", training=False)

    def loader(self, split: str, *, training: bool) -> DataLoader[Any]:
        """A loader over one split.

        Args:
            split: A key of `splits`.
            training: Shuffle and augment.
        """
        images, options = self.splits[split], self.options
        augmenter = self.augmenter if training else self.resizer
        data = DetectionDataset(images, augmenter, training=training, seed=options.seed)
        world = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        sampler = KeyedSampler(
            len(images), shuffle=training, seed=options.seed, rank=rank, world=world
        )
        return DataLoader(
            data,
            batch_size=options.batch_size,
            sampler=sampler,
            num_workers=options.workers,
            collate_fn=collate,
            pin_memory=options.pin_memory,
            persistent_workers=options.workers > 0,
            worker_init_fn=_one_thread,
        )


def _one_thread(_: int) -> None:
    """A worker is a process: threads inside it only fight the others for the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
