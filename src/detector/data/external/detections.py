"""Reading COCO's results: what any detector found (https://cocodataset.org/#format-results).

Entries are decoded some at a time, so that a large file is never all Python objects. Where one is
odd, it is looked at alone and named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.data.formats.coco_json import CHUNK, number, read_json, short

FARTHEST = 1e9  # pixels, of a corner from that of its image
WANTED = "[{image_id, category_id, bbox: [x, y, width, height], score}, ...]"

ImageKey = tuple[int | str, str | None]
CategoryKey = tuple[int, str | None]


@dataclass(frozen=True)
class Results:
    """A results file, packed.

    Attributes:
        file: Where it is.
        part: What messages call an entry, such as `entry` or `annotations`.
        images: What entries say of their image, each once: `image_id`, and `file_name` or None.
        image: `(D,)` int64 index into `images`.
        categories: What entries say of their category: `category_id`, and `category` or None.
        category: `(D,)` int64 index into `categories`.
        boxes: `(D, 4)` float64: x, y, width, height, pixels; finite, no side negative.
        scores: `(D,)` float64, finite.
    """

    file: Path
    part: str
    images: list[ImageKey]
    image: NDArray[np.int64]
    categories: list[CategoryKey]
    category: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.scores)

    def error(self, row: int, message: str) -> RequestError:
        """What to raise about an entry."""
        return RequestError(f"{self.file}: {self.part}[{row}]: {message}")


class _Entry(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
    file_name: str | None = None
    category: str | None = None


_ENTRIES = msgspec.json.Decoder(list[_Entry])
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])


class _EntryError(Exception):
    """What is wrong with an entry."""


def read_results(file: Path) -> Results:
    """Read a results file: a list of detections, or a dictionary with such under `annotations`.

    Args:
        file: JSON. Every entry has `image_id`, `category_id`, `bbox` and `score`, and may have
            `file_name` and `category`, which say the same as the ids; all else is not read.

    Raises:
        RequestError: If it is none, or an entry cannot be used; the message gives its index.
    """

    def decode(raw: bytes) -> Results:
        rows, part = _split(raw)
        return _pack(file, part, rows)

    return read_json(file, decode, f"COCO results, {WANTED}")


def _split(raw: bytes) -> tuple[list[msgspec.Raw], str]:
    """The text of every entry, and what messages call one."""
    try:
        return _RAWS.decode(raw), "entry"
    except msgspec.ValidationError:
        top = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        if "annotations" not in top:
            raise
        return _RAWS.decode(top["annotations"]), "annotations"


def _pack(file: Path, part: str, rows: list[msgspec.Raw]) -> Results:
    """Entries as arrays; every image and category is kept once."""
    count = len(rows)
    images: dict[ImageKey, int] = {}
    categories: dict[CategoryKey, int] = {}
    image, category = np.empty(count, np.int64), np.empty(count, np.int64)
    boxes, scores = np.empty((count, 4)), np.empty(count)
    for start in range(0, count, CHUNK):
        entries = _decode(file, part, start, rows[start : start + CHUNK])
        here = slice(start, start + len(entries))
        image[here] = [images.setdefault((e.image_id, e.file_name), len(images)) for e in entries]
        category[here] = [
            categories.setdefault((e.category_id, e.category), len(categories)) for e in entries
        ]
        boxes[here] = [e.bbox for e in entries]
        scores[here] = [e.score for e in entries]
    results = Results(file, part, [*images], image, [*categories], category, boxes, scores)
    with np.errstate(over="ignore"):
        ends = boxes[:, :2] + boxes[:, 2:]
    for wrong, wanted in (
        (~(np.abs(ends) < FARTHEST).all(1), f"corners nearer than {FARTHEST:g} pixels"),
        ((boxes[:, 2:] < 0).any(1), "[x, y, width, height] with no negative width or height"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise results.error(row, f"bbox is {boxes[row].tolist()}, expected {wanted}")
    return results


def _decode(file: Path, part: str, start: int, rows: list[msgspec.Raw]) -> list[_Entry]:
    """Some entries: all at once, or one by one if any of them is odd."""
    try:
        return _ENTRIES.decode(b"[" + b",".join(rows) + b"]")
    except msgspec.ValidationError:
        entries = []
        for i, row in enumerate(rows, start):
            try:
                entries.append(_look_at(row))
            except _EntryError as issue:
                raise RequestError(f"{file}: {part}[{i}]: {issue}") from issue
        return entries


def _look_at(row: msgspec.Raw) -> _Entry:
    """One entry, patiently: whole numbers may be written as 1.0, and categories as "1"."""
    try:
        entry = msgspec.json.decode(row)
    except msgspec.MsgspecError as error:
        raise _EntryError(f"cannot be decoded: {str(error).partition(' - at')[0]}") from error
    if not isinstance(entry, dict):
        raise _EntryError(f"is {short(entry)}, expected an object: {WANTED}")
    if "score" not in entry:
        raise _EntryError(
            "has no score; expected a number in every entry of results (a file without is a truth, "
            "which goes to truth=)"
        )
    image, category = entry.get("image_id"), _whole(entry.get("category_id"))
    image = image if isinstance(image, str) and image else _whole(image)
    if image is None:
        raise _EntryError(
            f"image_id is {short(entry.get('image_id'))}, expected a number or a name"
        )
    if category is None:
        raise _EntryError(
            f"category_id is {short(entry.get('category_id'))}, expected a whole number"
        )
    box, score = entry.get("bbox"), entry["score"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        wanted = "[x, y, width, height], finite numbers"
        raise _EntryError(f"bbox is {short(box)}, expected {wanted}")
    if not _is_number(score):
        raise _EntryError(f"score is {short(score)}, expected a finite number")
    texts = (entry.get(key) for key in ("file_name", "category"))
    x, y, width, height = map(float, box)
    return _Entry(
        image,
        category,
        (x, y, width, height),
        float(score),
        *(text if isinstance(text, str) else None for text in texts),
    )


def _whole(value: Any) -> int | None:
    """A whole number, also where it is written as 1.0 or "1"."""
    words: dict[str, int] = {}
    found = None if isinstance(value, bool) else number(value, words)
    return None if words else found


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; NaN and Infinity have become null in reading."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308
