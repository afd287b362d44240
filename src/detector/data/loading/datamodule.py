"""Lightning's data module: loaders of the splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as pl
from torch.utils.data import DataLoader

from detector.core.structures import AnnotatedImages
from detector.data.loading.augment import Augmenter, Steps
from detector.data.loading.dataset import DetectionDataset, collate, pack, unpack
from detector.data.loading.image_cache import Kind, make_image_loaders
from detector.data.loading.sampler import KeyedSampler, aspect_groups, repeat_factors
from detector.data.loading.watchdog import LoaderStatus, WatchedLoader


@dataclass(frozen=True)
class LoaderOptions:
    """Options of the loaders.

    Attributes:
        image_size: Longer side of the input of the network, pixels.
        batch_size: Number of images in a step of one process.
        workers: Number of loader processes; 0 loads in the training process.
        steps: Steps of the augmentation, as `Augmenter` takes them.
        min_visibility: Smallest share of a box that is kept, as `Augmenter` takes it.
        seed: Seed of the order and of the augmentation.
        channels: Number of channels of the images, as `read_image` takes it.
        pin_memory: Copy batches to page-locked memory, for a GPU.
        group_by_aspect: Make training batches of images with similar aspect ratios, so that less
            padding is needed.
        repeat_threshold: Threshold of `repeat_factors`; None draws every image once an epoch.
        cache: Where decoded and resized images are kept: nowhere, in memory or in files.
        cache_folder: Folder of the files of `cache="disk"`.
        stall_seconds: Seconds after which an image that is still loading is named in a warning.
        processes: Number of training processes on this machine; each has its own memory cache.
    """

    image_size: int
    batch_size: int
    workers: int
    steps: Steps
    min_visibility: float
    seed: int
    channels: int = 3
    pin_memory: bool = False
    group_by_aspect: bool = True
    repeat_threshold: float | None = None
    cache: Kind = "none"
    cache_folder: Path | None = None
    stall_seconds: float = 60.0
    processes: int = 1


class DetectionDataModule(pl.LightningDataModule):
    """Loaders of uint8 batches, which do not depend on the number of workers.

    Args:
        splits: Images of `train`, `val` and perhaps `test`.
        options: Options of the loaders.

    Raises:
        RequestError: If the augmentation is wrong, or images cannot be cached as asked for.
    """

    def __init__(self, splits: dict[str, AnnotatedImages], options: LoaderOptions) -> None:
        super().__init__()
        self.splits = splits
        self.options = options
        self.augmenter = Augmenter(
            options.steps, options.image_size, options.min_visibility, options.channels
        )
        self.image_loaders = make_image_loaders(
            splits,
            options.image_size,
            options.cache,
            options.cache_folder,
            options.processes,
            options.channels,
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
        status = LoaderStatus(options.workers)
        data = DetectionDataset(
            images,
            self.augmenter,
            training=training,
            seed=options.seed,
            load_image=self.image_loaders[split],
            status=status,
        )
        return WatchedLoader(
            status,
            images.paths,
            options.stall_seconds,
            unpack if options.workers else None,
            dataset=data,
            batch_size=options.batch_size,
            sampler=self._sampler(images, training=training),
            num_workers=options.workers,
            collate_fn=pack if options.workers else collate,
            pin_memory=options.pin_memory,
            persistent_workers=options.workers > 0,
            worker_init_fn=_one_thread,
            # Only forked processes inherit anonymous shared memory.
            multiprocessing_context="fork" if options.workers and options.cache == "ram" else None,
        )

    def _sampler(self, images: AnnotatedImages, *, training: bool) -> KeyedSampler:
        """Sampler of the images of this process, batch by batch."""
        options = self.options
        grouped, threshold = training and options.group_by_aspect, options.repeat_threshold
        return KeyedSampler(
            len(images),
            shuffle=training,
            seed=options.seed,
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
