"""The Lightning side of the data: loaders over the splits."""

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
    """How batches are made.

    Attributes:
        image_size: Longer side of the network's input, pixels.
        batch_size: Images a step and process.
        workers: Loader processes; 0 loads in the training process.
        steps: The augmentation, as `Augmenter` takes it.
        min_visibility: As `Augmenter` takes it.
        seed: Of the order and the augmentation.
        channels: Of the images, as `read_image` takes them.
        pin_memory: Copy batches to page-locked memory, for a GPU.
        group_by_aspect: Training batches hold images of like shape, so that less is padded.
        repeat_threshold: As `repeat_factors` takes it; None draws every image once an epoch.
        cache: Keep decoded and resized images, in memory or in files.
        cache_folder: Of `cache="disk"`.
        stall_seconds: An image that takes longer to load is named in a warning.
        processes: Training processes on this machine; each has a memory cache of its own.
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
    """Loaders of uint8 batches, the same whatever the number of workers.

    Args:
        splits: `train`, `val` and perhaps `test`.
        options: How batches are made.

    Raises:
        RequestError: If the augmentation is wrong, or images cannot be kept as asked for.
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
            # Memory that is shared without a name is inherited by forked processes alone.
            multiprocessing_context="fork" if options.workers and options.cache == "ram" else None,
        )

    def _sampler(self, images: AnnotatedImages, *, training: bool) -> KeyedSampler:
        """This process' images, batch by batch."""
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
    """A worker is a process: threads inside it only fight the others for the cores.

    Torch sees to its own threads by itself.
    """
    cv2.setNumThreads(0)
