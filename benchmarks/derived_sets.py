"""Data sets made of others: fewer training images, and test images that look different.

Both are written as COCO, with links to the images that stay as they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from detector import DataSet, read_data
from detector.core.structures import AnnotatedImages

Change = Callable[[Image.Image], Image.Image]


def darker(image: Image.Image) -> Image.Image:
    """Two fifths as bright, as in poor light."""
    return image.point(lambda value: round(0.4 * value))


def blurred(image: Image.Image) -> Image.Image:
    """Out of focus, by a hundred and fiftieth of the longer side."""
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 150))


def other_colours(image: Image.Image) -> Image.Image:
    """Hues moved by a third of the circle: red is green, green is blue."""
    red, green, blue = image.split()
    return Image.merge("RGB", (blue, red, green))


SHIFTS: dict[str, Change] = {"darker": darker, "blurred": blurred, "other colours": other_colours}


def smaller(data: DataSet, images: int, root: Path) -> Path:
    """Write a data set with fewer training images, evenly spaced; other splits are the same.

    Args:
        data: The whole data set.
        images: How many are left for training.
        root: Where to; a finished one is kept.

    Raises:
        ValueError: If there are not so many.
    """
    train = data.splits["train"]
    if not 1 <= images <= len(train):
        raise ValueError(f"{images} training images: expected 1..{len(train)}")
    chosen = train.subset(np.linspace(0, len(train) - 1, images).round().astype(int))
    return _write(data, {**data.splits, "train": chosen}, root)


def shifted(data: DataSet, shift: str, root: Path) -> Path:
    """Write a data set whose test images are changed, or those of validation if it has no others.

    Args:
        data: The data set.
        shift: A key of `SHIFTS`.
        root: Where to; a finished one is kept.
    """
    split = "test" if "test" in data.splits else "val"
    return _write(data, data.splits, root, {split: SHIFTS[shift]})


def read(root: Path | None) -> DataSet:
    """Read a data set, or the embedded one, without what is wrong with it."""
    where = ["data=trees"] if root is None else []
    return read_data(root, [*where, "data.on_bad=skip"])


def _write(
    data: DataSet,
    splits: Mapping[str, AnnotatedImages],
    root: Path,
    changes: Mapping[str, Change] | None = None,
) -> Path:
    """Write a data set in one step: an interrupted one is no data set."""
    if root.is_dir():
        return root
    draft = root.with_name(f"{root.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    for name, split in splits.items():
        folder = draft / name
        folder.mkdir(parents=True)
        content, change = _coco(data, split), (changes or {}).get(name)
        for entry, path in zip(content["images"], split.paths.tolist(), strict=True):
            target = folder / entry["file_name"]
            if change is None:
                target.symlink_to(Path(path).resolve())
            else:
                with Image.open(path) as image:
                    change(image.convert("RGB")).save(target, quality=95)
        file = draft / "annotations" / f"instances_{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    draft.rename(root)
    return root


def _coco(data: DataSet, split: AnnotatedImages) -> dict[str, Any]:
    """A split as COCO's annotations, with numbers for names of files."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(split):
        height, width = image.size
        name = f"{number:05d}{image.path.suffix.lower()}"
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        rows = zip(image.boxes.tolist(), image.labels.tolist(), image.ignore.tolist(), strict=True)
        for (x1, y1, x2, y2), label, ignore in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(ignore),
                }
            )
    categories = [{"id": i, "name": n} for i, n in enumerate(data.classes.names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}
