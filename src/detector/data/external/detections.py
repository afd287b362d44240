"""Reader of COCO results, the detections of any tool (https://cocodataset.org/#format-results).

Entries are decoded in chunks, so that a large file never becomes Python objects as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.data.formats.coco_json import CHUNK, read_json, short

FARTHEST = 1e9  # pixels; corners may not lie farther from the image's own corner
WANTED = "[{image_id, category_id, bbox: [x, y, width, height], score}, ...]"

ImageKey = tuple[int | str, str | None]
CategoryKey = tuple[int, str | None]


@dataclass(frozen=True)
class Results:
    """A results file as packed arrays.

    Attributes:
        file: Path of the file.
        part: Name of an entry in messages, such as `entry` or `annotations`.
        images: Distinct pairs of `image_id` and `file_name` (None where there is none).
        image: `(D,)` int64 index into `images`.
        categories: Distinct pairs of `category_id` and `category` (None where there is none).
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
        """The error to raise about an entry."""
        return RequestError(f"{self.file}: {self.part}[{row}]: {message}")


class _Entry(msgspec.Struct, gc=False):
    """An entry of a results file; names of another type than text are left alone."""

    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
    file_name: Any = None
    category: Any = None


# What each key is decoded as, and what messages say that it should be.
_KEYS: dict[str, tuple[Any, str]] = {
    "image_id": (int | str, "a whole number without point, or a name"),
    "category_id": (int, "a whole number, without point or quotes"),
    "bbox": (tuple[float, float, float, float], "[x, y, width, height], finite numbers"),
    "score": (float, "a finite number"),
}
_ENTRIES = msgspec.json.Decoder(list[_Entry])
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])


def read_results(file: Path) -> Results:
    """Read a results file: a list of detections, or a dictionary with such under `annotations`.

    Args:
        file: A JSON file. Every entry has `image_id`, `category_id`, `bbox` and `score`, and may
            have `file_name` and `category`, which say the same as the ids; nothing else is read.

    Raises:
        RequestError: If it is not a results file, or an entry cannot be used; the message gives the
            index of the entry.
    """

    def decode(raw: bytes) -> Results:
        rows, part = _split(raw)
        return _pack(file, part, rows)

    return read_json(file, decode, f"COCO results, {WANTED}")


def _split(raw: bytes) -> tuple[list[msgspec.Raw], str]:
    """The text of every entry, and the name of an entry in messages."""
    try:
        return _RAWS.decode(raw), "entry"
    except msgspec.ValidationError:
        top = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        if "annotations" not in top:
            raise
        return _RAWS.decode(top["annotations"]), "annotations"


def _pack(file: Path, part: str, rows: list[msgspec.Raw]) -> Results:
    """Pack entries as arrays; every image and category is kept once."""
    count = len(rows)
    images: dict[ImageKey, int] = {}
    categories: dict[CategoryKey, int] = {}
    image, category = np.empty(count, np.int64), np.empty(count, np.int64)
    boxes, scores = np.empty((count, 4)), np.empty(count)
    for start in range(0, count, CHUNK):
        entries = _decode(file, part, start, rows[start : start + CHUNK])
        here = slice(start, start + len(entries))
        places = ((e.image_id, _text(e.file_name)) for e in entries)
        image[here] = [images.setdefault(key, len(images)) for key in places]
        classes = ((e.category_id, _text(e.category)) for e in entries)
        category[here] = [categories.setdefault(key, len(categories)) for key in classes]
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


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _decode(file: Path, part: str, start: int, rows: list[msgspec.Raw]) -> list[_Entry]:
    """Decode some entries; RequestError names the first that cannot be used."""
    try:
        return _ENTRIES.decode(b"[" + b",".join(rows) + b"]")
    except msgspec.MsgspecError:
        for i, row in enumerate(rows, start):
            if issue := _issue(row):
                raise RequestError(f"{file}: {part}[{i}]: {issue}") from None
        raise


def _issue(row: msgspec.Raw) -> str:
    """Why an entry cannot be used; empty if it can."""
    try:
        entry = msgspec.json.decode(row)
    except msgspec.MsgspecError as error:
        return f"cannot be decoded: {str(error).partition(' - at')[0]}"
    if not isinstance(entry, dict):
        return f"is {short(entry)}, expected an object: {WANTED}"
    if "score" not in entry:
        return (
            "has no score; expected a number in every entry of results (a file without is a ground "
            "truth, which goes to truth=)"
        )
    for key, (kind, wanted) in _KEYS.items():
        try:
            msgspec.convert(entry.get(key), kind)
        except msgspec.ValidationError:
            return f"{key} is {short(entry.get(key))}, expected {wanted}"
    return ""
