"""Decoder of COCO's JSON: fast for valid files, entry by entry for others.

A valid file is decoded straight into the few fields that are used. If an entry is invalid, the file
is decoded again without a schema and every entry is checked by itself, so that one annotation
without a box does not make the others unusable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.data.formats.paths import encoding_of
from detector.data.formats.raw import flag, turn

CHUNK = 20_000  # boxes that are decoded at a time, so that they never all are Python objects
SAMPLED = 5_000  # annotations whose polygons are decoded
LIMIT = 2**63
T = TypeVar("T")
Id = Annotated[int, msgspec.Meta(ge=-LIMIT, le=LIMIT - 1)]


_NOTHING = msgspec.Raw(b"null")


class Image(msgspec.Struct, gc=False):
    """Entry of an image; a side is 0 if it is not given."""

    id: Id
    file_name: str
    height: int = 0
    width: int = 0


class Category(msgspec.Struct, gc=False):
    """Entry of a category."""

    id: Id
    name: str
    supercategory: str | None = None


class _Note(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: msgspec.Raw  # its text; a tuple of floats would take four times the memory
    iscrowd: int | bool = 0
    area: float | None = None
    segmentation: msgspec.Raw = _NOTHING
    attributes: msgspec.Raw = _NOTHING


class _Regular(msgspec.Struct, gc=False):
    images: list[Image]
    annotations: list[_Note]
    categories: list[Category]


class _Odd(msgspec.Struct, gc=False):
    images: list[Any]
    annotations: list[Any]
    categories: list[Any]


class _Categories(msgspec.Struct, gc=False):
    categories: list[Category]


@dataclass
class Instances:
    """Content of a file, with annotations as arrays.

    Attributes:
        images: Usable entries of images by their index in the file.
        categories: Entries of all categories.
        image_ids: `(m,)` int64 image id of each annotation.
        category_ids: `(m,)` int64 category id of each annotation.
        boxes: `(m, 4)` float64 x, y, width, height.
        crowd: `(m,)` bool, whether an annotation is of a crowd.
        radians: `(m,)` float64 rotation of each box about its centre, below pi, as CVAT writes it
            in `attributes.rotation`.
        areas: `(m,)` float64 `area`; NaN where there is none, -1 where it is no number.
        outlines: `(m, 4)` float64 x, y, width, height around the polygons in `segmentation`; NaN
            where there are none or they were not decoded.
        good: `(m,)` bool; annotations that are not good are described in `issues`.
        issues: What is wrong with single entries, one line each.
        words: Numbers that stand for ids of images that are words.
    """

    images: dict[int, Image]
    categories: list[Category]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    radians: NDArray[np.float64]
    areas: NDArray[np.float64]
    outlines: NDArray[np.float64]
    good: NDArray[np.bool_]
    issues: list[str]
    words: dict[str, int] = field(default_factory=dict)


_Box = tuple[float | None, float | None, float | None, float | None]
_BOXES = msgspec.json.Decoder(list[_Box])


def decode(file: Path, outlines: int = SAMPLED) -> Instances:
    """Decode an instances JSON.

    Args:
        file: Path of the file.
        outlines: Number of annotations, evenly spread, whose polygons are decoded; a few more may
            be. Polygons take long to decode.

    Raises:
        RequestError: If the file holds no COCO instances.
    """
    return read_json(file, lambda raw: _decode(raw, outlines), "COCO instances")


def read_json(file: Path, decoder: Callable[[bytes], T], what: str) -> T:
    """Read a JSON file, with or without a byte-order mark, and with Python's NaN and Infinity.

    Args:
        file: Path of the file.
        decoder: Function that decodes the bytes of the file; it may raise the errors of msgspec.
        what: Description of the expected content, for messages.

    Raises:
        RequestError: If the file has another content or cannot be read.
    """
    try:
        raw = file.read_bytes()
        if encoding := encoding_of(raw):
            raise RequestError(f"{file}: not {what}: {encoding} text, expected UTF-8")
        if raw.startswith(b"\x1f\x8b"):
            raise RequestError(f"{file}: not {what}: compressed by gzip; unpack it")
        if raw.startswith(b"\xef\xbb\xbf"):  # a byte-order mark
            raw = raw[3:]
        try:
            return decoder(raw)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # Python writes NaN and Infinity, which are not JSON: they become null and are reported
            # box by box.
            mended = re.sub(rb"(?<=[\[,:\s])-?(?:NaN|Infinity)(?=[\],}\s])", b"null", raw)
            if mended == raw:
                raise
            return decoder(mended)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RequestError(f"{file}: not {what}: {error}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{file}: not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise RequestError(f"{file}: {error.strerror or error}") from error


def _decode(raw: bytes, outlines: int) -> Instances:
    try:
        content = msgspec.json.decode(raw, type=_Regular)
        notes = content.annotations
        boxes = _read_boxes(notes)
    except msgspec.ValidationError:
        return _decode_odd(raw)
    count = len(notes)
    step = max(1, count // outlines)
    around = np.full((count, 4), np.nan)
    for i in range(0, count, step):
        around[i] = _around(msgspec.json.decode(notes[i].segmentation)) or np.nan
    return Instances(
        dict(enumerate(content.images)),
        content.categories,
        np.fromiter((a.image_id for a in notes), np.int64, count),
        np.fromiter((a.category_id for a in notes), np.int64, count),
        boxes,
        np.fromiter((a.iscrowd != 0 for a in notes), np.bool_, count),
        _read_turns([a.attributes for a in notes]),
        np.array([a.area for a in notes], np.float64),  # NaN for null
        around,
        np.ones(count, dtype=bool),
        [],
    )


def _read_boxes(notes: Sequence[_Note]) -> NDArray[np.float64]:
    """`(m, 4)` boxes as written; NaN for null."""
    boxes = np.empty((len(notes), 4))
    for start, end in pairwise([*range(0, len(notes), CHUNK), len(notes)]):
        text = b"[" + b",".join([bytes(a.bbox) for a in notes[start:end]]) + b"]"
        boxes[start:end] = _BOXES.decode(text)
    return boxes


def _decode_odd(raw: bytes) -> Instances:
    """Decode a file entry by entry."""
    content = msgspec.json.decode(raw, type=_Odd)
    # Ids may be written in quotes.
    said = {"categories": content.categories}
    categories = msgspec.convert(said, _Categories, strict=False).categories
    issues: list[str] = []
    ids: dict[str, int] = {}  # of images whose ids are words
    images: dict[int, Image] = {}
    for i, entry in enumerate(content.images):
        found = _image(entry, ids)
        if isinstance(found, str):
            issues.append(f"images[{i}]: {found}")
        else:
            images[i] = found
    count = len(content.annotations)
    numbers = np.zeros((count, 2), dtype=np.int64)
    boxes = np.full((count, 4), np.nan)
    crowd, good = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    radians, areas = np.zeros(count), np.full(count, np.nan)
    outlines = np.full((count, 4), np.nan)
    for i, entry in enumerate(content.annotations):
        note = _annotation(entry, ids)
        if isinstance(note, str):
            issues.append(f"annotations[{i}]: {note}")
            continue
        numbers[i], boxes[i], crowd[i] = note
        radians[i] = _turn(entry.get("attributes"))
        areas[i] = _area(entry.get("area"))
        outlines[i] = _around(entry.get("segmentation")) or np.nan
        good[i] = True
    return Instances(
        images,
        categories,
        numbers[:, 0],
        numbers[:, 1],
        boxes,
        crowd,
        radians,
        areas,
        outlines,
        good,
        issues,
        ids,
    )


def _read_turns(attributes: Sequence[msgspec.Raw]) -> NDArray[np.float64]:
    """The rotation of every annotation; only attributes with the key `rotation` are decoded."""
    radians = np.zeros(len(attributes))
    for i, raw in enumerate(attributes):
        if raw is not _NOTHING and b'"rotation"' in bytes(raw):
            radians[i] = _turn(msgspec.json.decode(raw))
    return radians


def _turn(attributes: Any) -> float:
    """The rotation of a box in radians, by its attributes."""
    return turn(attributes.get("rotation")) if isinstance(attributes, dict) else 0.0


def _area(value: Any) -> float:
    """An `area`: NaN where there is none, -1 where it is no number."""
    if value is None:
        return np.nan
    return float(value) if type(value) in (int, float) else -1


def _image(entry: Any, ids: dict[str, int]) -> Image | str:
    """The entry of an image, or why it cannot be used."""
    if not isinstance(entry, dict):
        return f"expected an object, got {short(entry)}"
    found = number(entry.get("id"), ids)
    if found is None:
        return f"id is {short(entry.get('id'))}, expected a number"
    if not isinstance(entry.get("file_name"), str):
        return f"file_name is {short(entry.get('file_name'))}, expected text"
    height, width = (number(entry.get(key) or 0, {}) for key in ("height", "width"))
    return Image(found, entry["file_name"], -1 if height is None else height, width or 0)


def _annotation(entry: Any, ids: dict[str, int]) -> tuple[tuple[int, int], Any, bool] | str:
    """The ids of image and category, box and crowd of an annotation, or why it cannot be used."""
    if not isinstance(entry, dict):
        return f"expected an object, got {short(entry)}"
    image, category = number(entry.get("image_id"), ids), number(entry.get("category_id"), {})
    for key, value in (("image_id", image), ("category_id", category)):
        if value is None:
            return f"{key} is {short(entry.get(key))}, expected a number"
    assert image is not None
    assert category is not None
    box = entry.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_coordinate, box))):
        around = _around(entry.get("segmentation"))
        if around is None:
            return f"bbox is {short(box)}, expected [x, y, width, height]"
        box = around
    crowd = flag(entry.get("iscrowd"))
    if crowd is None:
        return f"iscrowd is {short(entry['iscrowd'])}, expected 0 or 1"
    return (image, category), box, crowd


def number(value: Any, words: dict[str, int]) -> int | None:
    """A whole number, also if written as 1.0 or "1"; other words are numbered; else None."""
    if isinstance(value, str):
        if not re.fullmatch(r"-?\d{1,18}", value):
            # These numbers lie below all likely ids.
            return words.setdefault(value, -LIMIT + len(words)) if value else None
        value = int(value)
    if not isinstance(value, int | float) or value != value // 1:  # true and false are 1 and 0
        return None
    return int(value) if -LIMIT <= value < LIMIT else None


def _is_coordinate(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _around(segmentation: Any) -> list[float] | None:
    """The box around polygons: x, y, width, height; None if there are no polygons."""
    if not isinstance(segmentation, list):
        return None
    flat = [v for polygon in segmentation if isinstance(polygon, list) for v in polygon]
    if len(flat) < 6 or len(flat) % 2 or not all(isinstance(v, int | float) for v in flat):
        return None
    xs, ys = flat[::2], flat[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def short(value: Any) -> str:
    """A value for a message."""
    return "missing, null or NaN" if value is None else repr(value)[:40]
