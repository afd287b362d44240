"""Lightning's data module: loaders of the splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from detector.core.structures import AnnotatedImages
from detector.data.formats.paths import cache_folder
from detector.data.loading.augment import Augmenter
from detector.data.loading.dataset import DetectionDataset, collate, pack, unpack
from detector.data.loading.image_cache import make_image_loaders
from detector.data.loading.sampler import KeyedSampler, aspect_groups, repeat_factors
from detector.data.loading.watchdog import LoaderStatus, WatchedLoader
from detector.data.options import AugmentOptions, DataOptions


class DetectionDataModule(pl.LightningDataModule):
    """Loaders of uint8 batches, which do not depend on the number of workers.

    Args:
        splits: `train`, `val` and perhaps `test`.
        options: How they are loaded; `workers` of None is 0.
        augment: Augmentation of the training images.
        seed: Seed of the order and of the augmentation.
        channels: Channels of the images, as `read_image` takes them.
        processes: Training processes on this machine; each has a memory cache of its own.
        cache: Folder of decoded images for `cache=disk`; None: the user's cache folder.

    Raises:
        RequestError: If the augmentation is wrong, or images cannot be cached as asked for.
    """

    def __init__(
        self,
        splits: dict[str, AnnotatedImages],
        options: DataOptions,
        augment: AugmentOptions,
        *,
        seed: int = 0,
        channels: int = 3,
        processes: int = 1,
        cache: Path | None = None,
    ) -> None:
        super().__init__()
        self.splits = splits
        self.options = options
        self.workers = options.workers or 0
        self.seed = seed
        size, shares = options.side, augment.min_visibility
        self.augmenter = Augmenter(augment.steps, size, shares, channels)
        folder = cache or cache_folder() / "images"
        self.image_loaders = make_image_loaders(
            splits, size, options.cache, folder, processes, channels
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented training batches in a new order every epoch."""
        return self.loader("train", training=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation split, in order."""
        return self.loader("val", training=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test split, in order."""
        return self.loader("test", training=False)

    def loader(self, split: str, *, training: bool) -> DataLoader[Any]:
        """A loader of one split.

        Args:
            split: Name of the split, a key of `splits`.
            training: Shuffle and augment the images.
        """
        images, options = self.splits[split], self.options
        status = LoaderStatus(self.workers)
        data = DetectionDataset(
            images,
            self.augmenter,
            training=training,
            seed=self.seed,
            load_image=self.image_loaders[split],
            status=status,
        )
        return WatchedLoader(
            status,
            images.paths,
            options.stall_seconds,
            unpack if self.workers else None,
            dataset=data,
            batch_size=options.batch_size,
            sampler=self._sampler(images, training=training),
            num_workers=self.workers,
            collate_fn=pack if self.workers else collate,
            pin_memory=options.pin_memory and torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
            worker_init_fn=_one_thread,
            # Only forked processes inherit anonymous shared memory.
            multiprocessing_context="fork" if self.workers and options.cache == "ram" else None,
        )

    def _sampler(self, images: AnnotatedImages, *, training: bool) -> KeyedSampler:
        """Sampler of the images of this process, batch by batch."""
        options = self.options
        grouped, threshold = training and options.group_by_aspect, options.repeat_threshold
        return KeyedSampler(
            len(images),
            shuffle=training,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world=self.trainer.world_size if self.trainer else 1,
            batch_size=options.batch_size,
            groups=aspect_groups(images.sizes) if grouped else None,
            factors=repeat_factors(images, threshold) if training and threshold else None,
        )


def _one_thread(_: int) -> None:
    """Limit OpenCV to one thread in a worker: more would compete for the cores with other workers.

    Torch limits its own threads in workers.
    """
    cv2.setNumThreads(0)
