"""COCO's instances JSON as the ground truth of detections, with or without images.

A data set for training is read by `formats/coco.py` and validated. Here, the file is taken as
pycocotools takes it: boxes are not clipped, and areas are those of the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.core.structures import AnnotatedImages, ClassMap
from detector.data.formats.coco import look_up
from detector.data.formats.coco_fields import contradictions, upright, without_roots
from detector.data.formats.coco_json import Category, Image, Instances, decode, read_json
from detector.data.formats.folder import Folder
from detector.data.formats.paths import last_part, relative, split_of


@dataclass(frozen=True)
class CocoGroundTruth:
    """Ground truth of a COCO file as packed arrays.

    Attributes:
        file: Path of the file.
        images: Images sorted by id, with boxes for drawing; the path of an image is empty if its
            file was not found.
        names: `file_name` of every image.
        boxes: `(m, 4)` float64 x, y, width, height as in the file, image by image.
        areas: `(m,)` float64 areas of the file, or of the boxes where the file has none.
        classes: All categories, sorted by name.
        words: Numbers that stand for ids of images that are words.
        issues: Entries that cannot be used and are left out, one line each.
        notes: Further notes for the user, one line each.
    """

    file: Path
    images: AnnotatedImages
    names: list[str]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    classes: ClassMap
    words: dict[str, int]
    issues: list[str]
    notes: list[str]


class _Annotation(msgspec.Struct, gc=False):
    id: Any = None


class _Annotations(msgspec.Struct, gc=False):
    annotations: list[_Annotation | list[Any] | str | int | float | bool | None]


def read_coco_ground_truth(file: Path, root: Path | None) -> CocoGroundTruth:
    """Read a ground-truth file.

    Args:
        file: Path of COCO's instances JSON.
        root: Folder with the images anywhere below; None searches beside the file. Images that are
            not found cannot be drawn, but scores do not need them.

    Raises:
        RequestError: If the file holds no COCO instances, or no objects to be found.
    """
    content = decode(file)
    used = set(np.unique(content.category_ids[content.good]).tolist())
    classes = _read_classes(file, without_roots(content.categories, used))
    issues = list(content.issues)
    images = _usable_images(content, issues)
    if not images:
        raise RequestError(f"{file}: {issues[0] if issues else 'images is empty'}")
    owner = look_up(content.image_ids, [image.id for image in images])
    label = look_up(content.category_ids, list(classes.ids)) + 1
    good = content.good & _usable_boxes(content, owner, label, issues)
    usable = np.flatnonzero(good)
    order = usable[np.argsort(owner[usable], kind="stable")]
    boxes, crowd, areas = content.boxes[order], content.crowd[order], content.areas[order]
    if crowd.all():
        why = f" ({issues[0]})" if issues else ""
        raise RequestError(f"{file}: no annotations of objects to be found{why}")
    areas = np.where(np.isnan(areas), boxes[:, 2:].prod(1), areas)
    counts = np.bincount(owner[order], minlength=len(images))
    packed = AnnotatedImages(
        paths=np.array(_find_files(images, file, root), dtype=np.str_),
        sizes=np.array([(i.height, i.width) for i in images], dtype=np.int32).reshape(-1, 2),
        offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        boxes=np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1).astype(np.float32),
        labels=label[order],
        ignore=crowd,
        ids=np.array([image.id for image in images], dtype=np.int64),
    )
    names = [image.file_name for image in images]
    notes = _notes(boxes, _read_ids(file))
    _, turned = upright(packed.boxes.astype(np.float64), content.radians[order])
    if len(turned):
        notes.append(
            f"{len(turned)} boxes of the ground truth are turned by attributes.rotation, as CVAT "
            "has it: as pycocotools does, they are taken as they were before the turn"
        )
    if others := contradictions(file, content, order, packed.sizes[owner[order]]):
        row, message = others[0]
        notes.append(
            f"{len(others)} boxes of the ground truth are given otherwise too; bbox is used: "
            f"annotations[{row}]: {message}"
        )
    return CocoGroundTruth(file, packed, names, boxes, areas, classes, content.words, issues, notes)


def _read_ids(file: Path) -> list[float | str | None]:
    """The ids of annotations, which are not needed for reading a data set."""
    decoder = msgspec.json.Decoder(_Annotations)
    entries = read_json(file, decoder.decode, "COCO instances").annotations
    ids = (getattr(entry, "id", None) for entry in entries)
    return [i if isinstance(i, int | float | str) else None for i in ids]


def _read_classes(file: Path, categories: Sequence[Category]) -> ClassMap:
    """The classes of all categories, sorted by name."""
    if not categories:
        raise RequestError(f"{file}: categories is empty, expected the classes by id and name")
    rows = sorted((c.name.strip(), c.id) for c in categories)
    for key, values in (("name", [n for n, _ in rows]), ("id", [i for _, i in rows])):
        value, times = Counter(values).most_common(1)[0] if values else ("", 0)
        if times != 1 or value == "":
            wanted = f"every category with {'an' if key == 'id' else 'a'} {key} of its own"
            raise RequestError(
                f"{file}: categories: {value!r} is there {times} x, expected {wanted}"
            )
    return ClassMap(tuple(n for n, _ in rows), tuple(i for _, i in rows))


def _usable_images(content: Instances, issues: list[str]) -> list[Image]:
    """The usable images by id, as in pycocotools: the order of equal scores depends on it."""
    images: dict[int, Image] = {}
    for row, image in content.images.items():
        if image.id in images:
            issues.append(f"images[{row}]: the id {image.id} is there twice")
        elif not (0 <= image.height < 2**31 and 0 <= image.width < 2**31):
            issues.append(f"images[{row}]: {image.width}x{image.height} is no size")
        else:
            images[image.id] = image
    return [images[key] for key in sorted(images)]


def _usable_boxes(
    content: Instances,
    owner: NDArray[np.int64],
    label: NDArray[np.int64],
    issues: list[str],
) -> NDArray[np.bool_]:
    """Which annotations can be used; the others are described in `issues`."""
    usable = np.ones(len(owner), dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(content.boxes[:, :2] + content.boxes[:, 2:]).all(1)
        negative = (content.boxes[:, 2:] < 0).any(1)
    for wrong, values, why in (
        (owner < 0, content.image_ids, "there is no image_id {}"),
        (label < 1, content.category_ids, "there is no category_id {}"),
        (~finite, content.boxes, "bbox is {}, expected finite numbers"),
        (negative, content.boxes, "bbox is {}, expected no negative width or height"),
        (content.areas < 0, content.areas, "area is no number, or a negative one"),
    ):
        rows = np.flatnonzero(wrong & usable & content.good).tolist()
        issues += [f"annotations[{row}]: {why.format(values[row].tolist())}" for row in rows]
        usable &= ~wrong
    return usable


def _notes(boxes: NDArray[np.float64], ids: Sequence[float | str | None]) -> list[str]:
    """Notes on what does not prevent scoring, but should be known."""
    notes = []
    empty = int((boxes[:, 2:] == 0).any(1).sum())
    if empty:
        notes.append(f"boxes of the ground truth without area, which nothing can find: {empty}")
    twice = [i for i, times in Counter(ids).items() if i is not None and times > 1]
    if twice or 0 in ids or "0" in ids:
        what = f"an annotation id twice ({twice[0]})" if twice else "an annotation with id 0"
        notes.append(
            f"the ground truth has {what}, with which pycocotools itself miscounts: read from this "
            "file, its numbers would be other ones"
        )
    return notes


def _find_files(images: Sequence[Image], file: Path, root: Path | None) -> list[str]:
    """The path of every image; empty if it was not found."""
    names = [relative(image.file_name) for image in images]
    # Where COCO and similar data sets keep images, relative to annotations/instances_val.json. Only
    # a root that is given is searched as a whole.
    stem = re.sub("^instances_", "", file.stem)
    parts = ("", "images", stem, f"images/{stem}", split_of(stem) or "")
    bases = (file.parent, file.parent.parent) if root is None else (root,)
    homes = [base / part for base in bases for part in parts]
    first = [name for name in names[:20] if name]
    home = max(homes, key=lambda h: sum((h / name).is_file() for name in first))
    paths = [home / name if name else None for name in names]
    found = [str(path) if path is not None and path.is_file() else "" for path in paths]
    if root is None or all(found):
        return found
    folder = Folder(root)
    lasts = [last_part(image.file_name) for image in images]
    times = Counter(lasts)
    anywhere = [folder.unique(last) if times[last] == 1 else None for last in lasts]
    return [
        path or (f"{root}/{name}" if name else "")
        for path, name in zip(found, anywhere, strict=True)
    ]
