"""PASCAL VOC reader: `{Annotations,ImageSets/Main,JPEGImages}`, alone or as a devkit of years.

Format: the VOC development kit (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf).
Torch is not imported here, so that a wrong request is answered at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse
from tqdm import tqdm

from detector import boxes as box_ops
from detector.types import AnnotatedImage, AnnotatedImages, ClassMap, RequestError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LAYOUT = "expected there: Annotations/*.xml, ImageSets/Main/<split>.txt and JPEGImages/"


def read_voc(
    root: Path,
    splits: dict[str, Sequence[str]],
    classes: Sequence[str] | None = None,
    classes_from: str = "data.classes",
) -> tuple[dict[str, AnnotatedImages], ClassMap]:
    """Read the splits of a VOC tree.

    Args:
        root: A folder with the three VOC folders, or a devkit of `VOC<year>` folders, or the
            parent of `VOCdevkit`.
        splits: Our split names -> names of files in `ImageSets/Main` without `.txt`, which are
            concatenated; in a devkit with the year's folder before it (`VOC2007/trainval`).
        classes: Class names in order; None takes those of the first split, sorted.
        classes_from: Where given classes come from, for messages.

    Returns:
        The splits, and the classes. Unusable boxes are left out and named in `dropped`.

    Raises:
        RequestError: If a folder, split file, image or XML is missing or malformed, or a class
            is unknown; the message names it.
    """
    root = _find_devkit(root)
    # Everything that may be missing is looked for before the first file is parsed.
    files = {name: _locate(_list_ids(root, parts)) for name, parts in splits.items()}
    raw = {name: [_RawImage(*pair) for pair in _show(name, found)] for name, found in files.items()}
    if classes is None:
        first = next(iter(raw))
        found = {name for image in raw[first] for name in image.names}
        if not found:
            raise RequestError(f"{root}: the split {first!r} has no boxes, so no classes either")
        classes = sorted(found)
        classes_from = f"the classes of the split {first!r}"
    class_map = ClassMap.from_names(classes)
    return {name: _pack(images, class_map, classes_from) for name, images in raw.items()}, class_map


def _show(name: str, files: list[tuple[Path, Path]]) -> Iterable[tuple[Path, Path]]:
    """A progress bar that appears only when reading takes more than a second or two."""
    bar: Iterable[tuple[Path, Path]] = tqdm(
        files, desc=f"reading {name}", unit="xml", delay=2, leave=False, disable=None
    )
    return bar


def _find_devkit(root: Path) -> Path:
    """The folder that split names are relative to."""
    if not root.is_dir():
        raise RequestError(f"data.root={root}: no such folder; {LAYOUT}")
    for candidate in (root, root / "VOCdevkit"):
        if (candidate / "ImageSets" / "Main").is_dir() or any(candidate.glob("VOC*/ImageSets")):
            return candidate
    raise RequestError(f"data.root={root}: not a VOC tree; {LAYOUT}")


def _list_ids(devkit: Path, parts: Sequence[str]) -> list[tuple[Path, str]]:
    """The (folder, image id) pairs that the split files list."""
    pairs: list[tuple[Path, str]] = []
    for part in parts:
        year, _, name = part.rpartition("/")
        file = devkit / year / "ImageSets" / "Main" / f"{name}.txt"
        if not file.is_file():
            years = sorted(p.parent.parent.name for p in devkit.glob("VOC*/ImageSets/Main"))
            there = sorted(p.stem for p in file.parent.glob("*.txt") if "_" not in p.stem) or [
                f"{y}/..." for y in years
            ]
            raise RequestError(
                f"no split file {file}; there: {', '.join(there) or 'none'} (set data.splits)"
            )
        try:
            lines = file.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise RequestError(f"{file}: not a text file ({error.reason})") from error
        # Per-class split files carry a second column: 1, 0 or -1.
        ids = [re.sub(r"\s+-?[01]$", "", line.strip()) for line in lines if line.strip()]
        if not ids:
            raise RequestError(f"{file}: the split is empty")
        for image_id in ids:
            if os.path.basename(image_id) != image_id or image_id in (".", ".."):
                raise RequestError(f"{file}: {image_id!r} is not a plain file name")
        pairs += [(devkit / year, image_id) for image_id in ids]
    return list(dict.fromkeys(pairs))  # an image listed twice is one image


def _locate(pairs: list[tuple[Path, str]]) -> list[tuple[Path, Path]]:
    """The annotation and the image file of every (folder, image id), whatever its suffix."""
    images: dict[Path, dict[str, Path]] = {}
    annotations: dict[Path, set[str]] = {}
    for folder in {folder for folder, _ in pairs}:
        # A folder is listed once: asking for every file takes minutes on a network drive.
        listed = _list_folder(folder / "JPEGImages")
        known = [path for path in listed if path.suffix.lower() in SUFFIXES]
        # Of two files of one name, such as a photograph and its mask, the first suffix wins.
        known.sort(key=lambda path: SUFFIXES.index(path.suffix.lower()), reverse=True)
        images[folder] = {path.stem: path for path in known}
        annotations[folder] = {path.name for path in _list_folder(folder / "Annotations")}
    found = []
    for folder, listed_id in pairs:
        # Some lists have file names where ids belong.
        as_file = Path(listed_id)
        image_id = as_file.stem if as_file.suffix.lower() in SUFFIXES else listed_id
        xml = folder / "Annotations" / f"{image_id}.xml"
        if xml.name not in annotations[folder]:
            raise RequestError(f"no annotation {xml}; the split lists {image_id}")
        if image_id not in images[folder]:
            image = folder / "JPEGImages" / image_id
            raise RequestError(f"no image {image}.jpg (or .png, ...); the split lists it")
        if not images[folder][image_id].stat().st_size:
            raise RequestError(f"{images[folder][image_id]}: the file is empty")
        found.append((xml, images[folder][image_id]))
    return found


def _list_folder(folder: Path) -> list[Path]:
    """What is in a folder that must be there."""
    if not folder.is_dir():
        raise RequestError(f"no folder {folder}; {LAYOUT}")
    return sorted(folder.iterdir())


class _RawImage:
    """One annotation file as it stands, before class names become labels."""

    def __init__(self, xml: Path, image: Path) -> None:
        self.xml = xml
        self.path = image
        root = _parse(self.xml)
        self.size = (
            _number(root, "size/height", self.xml, 0),
            _number(root, "size/width", self.xml, 0),
        )
        objects = root.findall("object")
        self.names = [(o.findtext("name") or "").strip() for o in objects]
        if "" in self.names:
            raise RequestError(f"{xml}: object {self.names.index('') + 1} has no <name>")
        self.difficult = [(o.findtext("difficult") or "0").strip() == "1" for o in objects]
        self.boxes = np.array(  # 1-based and inclusive, as in the file
            [
                [
                    _number(o, f"bndbox/{k}", self.xml, None, i)
                    for k in ("xmin", "ymin", "xmax", "ymax")
                ]
                for i, o in enumerate(objects)
            ],
            dtype=np.float32,
        ).reshape(-1, 4)


def _parse(xml: Path) -> Element:
    """The root element; never resolves an entity."""
    try:
        root: Element = parse(xml, forbid_dtd=True).getroot()
    except (ParseError, DefusedXmlException, OSError, ValueError, LookupError) as error:
        reason = "it declares a DTD" if isinstance(error, DefusedXmlException) else error
        raise RequestError(f"{xml}: not a readable XML annotation ({reason})") from error
    if root.tag != "annotation":
        raise RequestError(f"{xml}: the root element is <{root.tag}>, expected <annotation>")
    return root


def _number(
    node: Element, path: str, xml: Path, default: float | None, index: int | None = None
) -> float:
    """The number in a child element."""
    text = node.findtext(path)
    where = "" if index is None else f"object {index + 1}: "
    if text is None:
        if default is None:
            raise RequestError(f"{xml}: {where}<{path}> is missing")
        return default
    try:
        return float(text)
    except ValueError as error:
        raise RequestError(f"{xml}: {where}<{path}> is {text!r}, expected a number") from error


def _pack(images: Sequence[_RawImage], classes: ClassMap, classes_from: str) -> AnnotatedImages:
    """Turn names into labels and leave out what is unusable."""
    packed, dropped = [], []
    for image in images:
        keep, labels = [], []
        for i, (name, box) in enumerate(zip(image.names, image.boxes, strict=True)):
            if name not in classes:
                raise RequestError(
                    f"{image.xml}: object {i + 1} has the class {name!r}, which is not among "
                    f"{classes_from}: {', '.join(classes.names)}"
                )
            # Judged as it stands in the file, where xmin = xmax is what tools write for a slip of
            # the mouse, though to the letter it is one pixel wide.
            reason = box_ops.fault(box, (int(image.size[0]), int(image.size[1])))
            if reason:
                corners = ", ".join(f"{c:g}" for c in box.tolist())
                dropped.append(f"{image.xml}: object {i + 1} ({name} {corners}): {reason}")
                continue
            keep.append(i)
            labels.append(classes.label(name))
        height, width = (int(s) for s in image.size)
        # To 0-based and half-open: only the upper-left corner moves.
        boxes = image.boxes[keep] - np.array([1, 1, 0, 0], dtype=np.float32)
        if height and width:
            boxes = box_ops.clip(boxes, (0, 0, width, height))
        packed.append(
            AnnotatedImage(
                image.path,
                (height, width),
                boxes,
                np.array(labels, dtype=np.int64),
                np.array(image.difficult, dtype=np.bool_)[keep],
            )
        )
    return AnnotatedImages.pack(packed, dropped)
