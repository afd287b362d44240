"""Milliseconds to load an image: ours beside torchvision's reference pipeline for detection.

    python benchmarks/loader.py [--json FILE] [--images DIR] [--rounds N]

Both read the same JPEGs and mirror half of them with their boxes, in this process; round by round
in turn, so that what else the machine does meets both. The peer is torchvision's
`references/detection/presets.py` with `data_augmentation="hflip"` and PIL: its images are float32;
ours are uint8, to be scaled on the device.

The figure is that of one thread, as in a loader's worker. Decoding is the larger part of ours and
takes the same time in both libraries, so it bounds the ratio. Beside it: with torch's own number of
threads, as when the training process loads, which on an idle machine is hardly another figure, but
on a busy one any (the peer's conversion to float32 waits for threads that get no core, and ours has
no such step); and with `data.cache=ram`, which from the second epoch on does without decoding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from detector.data.augment import Augmenter
from detector.data.cache import Kind, make_sources
from detector.data.dataset import DetectionDataset
from detector.data.images import read_header, read_image, read_resized, resize
from detector.data.sampler import Draw
from detector.types import AnnotatedImage, AnnotatedImages

BOXES = 7  # as many as COCO has an image


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


class Peer:
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


def seconds(work: Callable[[int], object], count: int) -> float:
    """Mean over the images of one round."""
    start = time.perf_counter()
    for index in range(count):
        work(index)
    return (time.perf_counter() - start) / count


def compare(images: AnnotatedImages, rounds: int, cache: Kind = "none") -> dict[str, float]:
    """Ours and the peer's, in turn; medians over the rounds, and how far the ratios spread."""
    longer = int(images.sizes.max())  # so that generated images are not resized
    steps = [{"name": "HorizontalFlip", "p": 0.5}]
    source = make_sources({"train": images}, longer, cache)["train"]
    data = DetectionDataset(images, Augmenter(steps, longer), training=True, seed=0, source=source)
    peer, count = Peer(images), len(images)
    ours_s, peer_s = [], []
    for turn in range(rounds + 1):
        ours_s.append(seconds(lambda i, epoch=turn: data[Draw(epoch, i)], count))  # type: ignore[misc]
        peer_s.append(seconds(peer.__getitem__, count))
    ours_s, peer_s = ours_s[1:], peer_s[1:]  # the first round warms up, and fills the cache
    ratios = sorted(b / a for a, b in zip(ours_s, peer_s, strict=True))
    return {
        "ratio": statistics.median(ratios),
        "ours_s": statistics.median(ours_s),
        "peer_s": statistics.median(peer_s),
        "spread": (ratios[-1] - ratios[0]) / statistics.median(ratios),
    }


def compare_large(folder: Path, rounds: int) -> None:
    """A photograph of 12 megapixels, for a network that takes 640 pixels."""
    path = folder / "large.jpg"
    write_photo(path, 3000, 4000, 0)
    peer = Peer(annotate([path]))
    work = {
        "decoded at 1/4 and resized": lambda _: read_resized(path, 640),
        "decoded whole and resized": lambda _: resize(read_image(path), 640),
        "peer, not resized": lambda _: peer[0],
    }
    for name, load in work.items():
        took = statistics.median(seconds(load, 1) for _ in range(rounds + 1)) * 1e3
        print(f"4000x3000 -> 640, {name}: {took:.1f} ms")


def report(what: str, found: dict[str, float]) -> None:
    """Print one comparison."""
    ours, peer = found["ours_s"] * 1e3, found["peer_s"] * 1e3
    spread = f"rounds differ by {found['spread']:.0%}"
    print(f"{what}: ours {ours:.2f} ms, peer {peer:.2f} ms, ratio {found['ratio']:.2f} ({spread})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--images",
        type=Path,
        help="your own folder of JPEGs; smaller ones are enlarged, by ours alone",
    )
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.images:
            paths = sorted(
                p for p in arguments.images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg")
            )
        else:
            paths = [folder / f"{i}.jpg" for i in range(40)]
            for seed, path in enumerate(paths):
                write_photo(path, 480, 640, seed)
        images = annotate(paths)
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
        print(f"{len(paths)} JPEGs of {kilobytes:.0f} KB, {arguments.rounds} rounds")
        own = compare(images, arguments.rounds)
        report(f"torch's {threads} threads", own)
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        found = {
            "loader": compare(images, arguments.rounds),
            "loader_torch_threads": own,
            "loader_ram_cache": compare(images, arguments.rounds, "ram"),
        }
        report("one thread", found["loader"])
        report("one thread, data.cache=ram", found["loader_ram_cache"])
        compare_large(folder, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
