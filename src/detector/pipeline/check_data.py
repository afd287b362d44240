"""The check of a data set: everything that can be found before it costs a training run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detector.config.schema import Config
from detector.core.errors import RequestError
from detector.core.structures import AnnotatedImages
from detector.core.version import __version__
from detector.data.images.pixels import read_image
from detector.data.read import DataSet
from detector.data.validation.issues import Issues
from detector.pipeline.network_view import histograms, network_view

if TYPE_CHECKING:
    from detector.report.page import Thumbnail

PICTURED = 4  # of every kind
PREVIEWED = 16  # images


def inspect(
    config: Config, data: DataSet, fitted: Sequence[str] = ()
) -> tuple[dict[str, Any], list[Thumbnail]]:
    """Check a data set.

    Args:
        config: Also says what the network would see of it.
        data: As read.
        fitted: What training would fit to the data, a line each.

    Returns:
        What check.json holds, and pictures of what was found.
    """
    started = time.perf_counter()
    issues = data.issues
    content = {
        "root": str(data.root),
        "format": data.format,
        "recognised": data.recognised,
        "division": list(data.division),
        "summary": {
            "errors": issues.count("error"),
            "leakage": issues.count("leakage"),
            "warnings": issues.count("warning"),
        },
        "classes": list(data.classes.names),
        "splits": {name: _describe(images, data) for name, images in data.splits.items()},
        "findings": issues.plain(),
        "histograms": histograms(config, data),
        "model": network_view(config, data),
        "fitted": list(fitted),
        "environment": {"detector": __version__},
        "seconds": round(time.perf_counter() - started, 2),
    }
    return content, _pictures(data, issues)


def _describe(images: AnnotatedImages, data: DataSet) -> dict[str, Any]:
    """Counts of one split."""
    counts = np.bincount(images.labels, minlength=len(data.classes) + 1)[1:]
    return {
        "images": len(images),
        "boxes": len(images.labels),
        "ignored": int(images.ignore.sum()),
        "without_boxes": int((np.diff(images.offsets) == 0).sum()),
        "per_class": dict(zip(data.classes.names, counts.tolist(), strict=True)),
    }


def _pictures(data: DataSet, issues: Issues) -> list[Thumbnail]:
    """A few images of every kind of issue, with their boxes, and those in question marked."""
    from detector.report.page import Thumbnail

    place = {
        path: (images, i)
        for images in data.splits.values()
        for i, path in enumerate(images.paths.tolist())
    }
    pictures = []
    for issue in issues:
        for item in [item for item in issue.items if item.image][:PICTURED]:
            for file, message in ((item.image, item.message), (item.other, "the other one")):
                pixels = _pixels(data.root / file) if file else None
                if pixels is None:
                    continue
                images, i = place.get(f"{data.root}/{file}", (None, 0))
                truth = images[i] if images is not None else None
                marked = [item.box] if item.box is not None else []
                pictures.append(
                    Thumbnail(
                        kind=issue.kind,
                        name=file,
                        message=message,
                        image=pixels,
                        boxes=truth.boxes if truth else np.zeros((0, 4), np.float32),
                        labels=truth.labels if truth else np.zeros(0, np.int64),
                        marked=np.array(marked, dtype=np.float64).reshape(-1, 4),
                    )
                )
    return pictures


def _pixels(path: Path) -> NDArray[np.uint8] | None:
    """An image to be shown; None if it cannot be read, which is an issue of its own."""
    try:
        return read_image(path)
    except RequestError:
        return None


def write_preview(config: Config, data: DataSet, file: Path) -> None:
    """Write a sheet of training images as the network would get them.

    Args:
        config: Configuration in force.
        data: The data set, with a training split.
        file: A PNG file.
    """
    from detector.data.loading.sampler import SampleKey
    from detector.pipeline.build import build_datamodule
    from detector.report.draw import Boxes, draw_preview

    samples = build_datamodule(config, data.splits).train_dataloader().dataset
    train = data.splits["train"]
    pictures = []
    chosen = np.linspace(0, len(train) - 1, min(PREVIEWED, len(train))).astype(int)
    for index in chosen.tolist():
        image, target = samples[SampleKey(0, index)]
        name = Path(str(train.paths[index])).name
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        pictures.append((name, pixels, Boxes(target.boxes.numpy(), target.labels.numpy())))
    draw_preview(pictures, data.classes.names, file)
