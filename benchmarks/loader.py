"""Milliseconds to load an image: ours beside torchvision's reference pipeline for detection.

Both read the same JPEGs and mirror half of them with their boxes. The peer is torchvision's
`references/detection/presets.py` with `data_augmentation="hflip"` and PIL: its images are float32;
ours are uint8, to be scaled on the device.

`loader` and `loader_ram_cache` (from the second epoch on, which does without decoding) are those of
one thread, as in a loader's worker; `loader_workers` is that of whole loaders with two workers,
collated batches as they arrive. Each is bounded by what is left if all else took no time: decoding
the bytes of a JPEG, or copying its pixels.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import Bound, Figure, Report, compare, one_thread, seconds
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from detector.core.structures import AnnotatedImage, AnnotatedImages
from detector.data.images.pixels import read_header, read_image, read_resized, resize
from detector.data.loading.augment import Augmenter
from detector.data.loading.datamodule import DetectionDataModule
from detector.data.loading.dataset import DetectionDataset
from detector.data.loading.image_cache import Kind, make_image_loaders
from detector.data.loading.sampler import SampleKey
from detector.data.options import AugmentOptions, DataOptions

BOXES = 7  # as many as COCO has an image
BATCH = 2  # the reference's
WORKERS = 2
FLIP = [{"name": "HorizontalFlip", "p": 0.5}]


def measure(quick: bool, folder: Path | None = None) -> Report:
    """All comparisons.

    Args:
        quick: Few images and rounds.
        folder: Your own JPEGs; smaller ones are enlarged, by ours alone. None generates some.
    """
    count, rounds = (6, 2) if quick else (40, 9)
    with tempfile.TemporaryDirectory() as name:
        if folder:
            paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
        else:
            paths = [Path(name) / f"{i}.jpg" for i in range(count)]
            for seed, path in enumerate(paths):
                write_photo(path, 480, 640, seed)
        images = annotate(paths)
        with one_thread():
            figures = {
                "loader": one_by_one(images, rounds, target=6),
                "loader_ram_cache": one_by_one(images, rounds, cache="ram"),
            }
            tables = large_image(Path(name), rounds)
        figures["loader_workers"] = whole_loaders(images, rounds, passes=2 if quick else 10)
    return Report(figures, tables)


def described(images: AnnotatedImages) -> str:
    """The images in words."""
    sizes = np.unique(images.sizes, axis=0)
    height, width = sizes[-1].tolist()
    kilobytes = sum(Path(str(path)).stat().st_size for path in images.paths) / len(images) / 1e3
    largest = "" if len(sizes) == 1 else "up to "
    return f"{largest}{width}x{height} JPEGs of {kilobytes:.0f} KB, half of them mirrored"


def write_photo(path: Path, height: int, width: int, seed: int) -> None:
    """A JPEG that compresses like a photograph: smooth fields of several scales, a little noise."""
    rng = np.random.default_rng(seed)
    photo = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 80), (16, 40), (64, 20), (160, 10)):
        field = rng.normal(0, strength, (cells * 3 // 4, cells, 3)).astype(np.float32)
        photo += cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    photo += rng.normal(120, 2, photo.shape)
    Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def annotate(paths: list[Path]) -> AnnotatedImages:
    """Some boxes for every image."""
    rng = np.random.default_rng(0)
    found = []
    for path in paths:
        header = read_header(path)
        width, height = header.width, header.height
        corners = rng.random((BOXES, 2, 2)) * (width - 20, height - 20)
        boxes = np.concatenate([corners.min(1), corners.max(1) + 20], 1).astype(np.float32)
        found.append(
            AnnotatedImage(
                path, (height, width), boxes, np.ones(BOXES, np.int64), np.zeros(BOXES, np.bool_)
            )
        )
    return AnnotatedImages.pack(found)


class Peer(Dataset[Any]):
    """torchvision's way."""

    def __init__(self, images: AnnotatedImages) -> None:
        self.images = images
        self.transforms = v2.Compose(
            [
                v2.RandomHorizontalFlip(p=0.5),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.ConvertBoundingBoxFormat(tv_tensors.BoundingBoxFormat.XYXY),
                v2.SanitizeBoundingBoxes(),
                v2.ToPureTensor(),
            ]
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> object:
        """One sample."""
        truth = self.images[index]
        image = Image.open(truth.path).convert("RGB")
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(truth.boxes.copy()),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=(image.height, image.width),
        )
        return self.transforms(image, {"boxes": boxes, "labels": torch.from_numpy(truth.labels)})


def one_by_one(
    images: AnnotatedImages, rounds: int, cache: Kind = "none", target: float | None = None
) -> Figure:
    """Sample by sample in this process; a round is an epoch, of which the first fills the cache."""
    longer = int(images.sizes.max())  # so that generated images are not resized
    load = make_image_loaders({"train": images}, longer, cache)["train"]
    data = DetectionDataset(images, Augmenter(FLIP, longer), training=True, seed=0, load_image=load)
    reference, epochs, count = Peer(images), itertools.count(), len(images)

    def ours() -> None:
        epoch = next(epochs)
        for index in range(count):
            data[SampleKey(epoch, index)]

    def peer() -> None:
        for index in range(count):
            reference[index]

    kept = ", `data.cache=ram`" if cache == "ram" else ""
    what = f"load an image, one thread{kept}: {described(images)}; torchvision's reference (PIL)"
    bound = Bound(decoding(images), "OpenCV's decoding of the JPEG, from memory")
    if cache == "ram":
        bound = Bound(copying(images), "a copy of the decoded pixels")
    return compare(ours, peer, rounds, what=what, target=target, count=count, bound=bound)


def decoding(images: AnnotatedImages) -> Callable[[], None]:
    """Decode every image once, and do nothing else; the files have been read."""
    contents = [np.fromfile(str(path), np.uint8) for path in images.paths]

    def work() -> None:
        for content in contents:
            cv2.imdecode(content, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)

    return work


def copying(images: AnnotatedImages) -> Callable[[], None]:
    """Copy the pixels of every image once; they have been decoded."""
    decoded = [read_image(Path(str(path))) for path in images.paths]

    def work() -> None:
        for pixels in decoded:
            pixels.copy()

    return work


def whole_loaders(images: AnnotatedImages, rounds: int, passes: int) -> Figure:
    """Batches of loaders with workers, which live on; an epoch has the images some times over."""
    many = images.subset(np.tile(np.arange(len(images)), passes))
    size = int(images.sizes.max())
    options = DataOptions(image_size=size, batch_size=BATCH, workers=WORKERS)
    augment = AugmentOptions(steps=FLIP)
    ours = DetectionDataModule({"train": many}, options, augment).train_dataloader()
    peer: DataLoader[Any] = DataLoader(
        Peer(many),
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        collate_fn=collate,
        persistent_workers=True,
    )
    what = f"load an image, batches of {BATCH} from {WORKERS} workers: {described(images)}"
    return compare(
        lambda: exhaust(ours),
        lambda: exhaust(peer),
        rounds,
        what=f"{what}; torchvision's reference (PIL) in a DataLoader",
        count=len(many),
        bound=Bound(
            decoding(images),
            f"OpenCV's decoding of the JPEG, from memory, by {WORKERS} processes at once",
            passes / WORKERS,
        ),
    )


def collate(samples: list[Any]) -> tuple[Any, ...]:
    """As the reference does."""
    return tuple(zip(*samples, strict=True))


def exhaust(loader: DataLoader[Any]) -> None:
    """Take an epoch's batches."""
    for _ in loader:
        pass


def large_image(folder: Path, rounds: int) -> str:
    """A table for a photograph of 12 megapixels, for a network that takes 640 pixels."""
    path = folder / "large.jpg"
    write_photo(path, 3000, 4000, 0)
    peer = Peer(annotate([path]))
    work: dict[str, Callable[[], object]] = {
        "decoded at 1/4 and resized": lambda: read_resized(path, 640),
        "decoded whole and resized": lambda: resize(read_image(path), 640),
        "torchvision's reference, not resized": lambda: peer[0],
    }
    lines = ["| a 4000x3000 JPEG to 640 pixels | ms |", "|---|--:|"]
    for name, load in work.items():
        load()
        took = statistics.median(seconds(load) for _ in range(rounds)) * 1e3
        lines.append(f"| {name} | {took:.0f} |")
    return "\n".join(lines)
