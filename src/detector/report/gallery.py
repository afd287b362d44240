"""The pictures of a report: small enough for one file, their boxes beside them as plain data."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.report.draw import Boxes
from detector.report.thumbnail import PALETTE, encode_jpeg, jpeg_uri

REASONS = ("best", "worst", "most wrong", "suspect")
BUDGET = 10 * 2**20  # characters, of all pictures; a report stays below 15 MiB
SIDE = 800  # pixels, the longer side, unless the budget asks for less
QUALITIES = (85, 70, 55)


@dataclass(frozen=True)
class Picture:
    """One image of the gallery.

    Attributes:
        index: The image's number in its split, which suspects refer to.
        name: File, relative to the data's root.
        reasons: Why it is shown, of `REASONS`.
        note: One line, such as "F1 0.31: 4 missed, 7 wrong".
        image: `(h, w, 3)` RGB, may be smaller than the original.
        size: Height and width of the original, pixels.
        truth: Original pixels.
        found: Original pixels; with scores.
        found_by: `(G,)`, of every truth the score of the detection that found it at IoU 0.5, NaN
            if none did.
        outcomes: `(D,)`, of every detection 1 where it is right, 0 where it is wrong, 2 where it
            counts neither way.
    """

    index: int
    name: str
    reasons: tuple[str, ...]
    note: str
    image: NDArray[np.uint8]
    size: tuple[int, int]
    truth: Boxes
    found: Boxes
    found_by: NDArray[np.floating[Any]]
    outcomes: NDArray[np.int64]


def encode_pictures(
    images: Sequence[NDArray[np.uint8]], budget: int = BUDGET
) -> list[tuple[str, int, int]]:
    """JPEGs at the best size and quality, the same for all, at which all of them fit.

    Args:
        images: `(H, W, 3)` RGB each; smaller ones are not enlarged.
        budget: Characters of all data: URIs together.

    Returns:
        A data: URI, its width and its height each, in pixels.
    """
    for side, quality in _rungs():
        encoded = _encode(images, side, quality, budget)
        if encoded is not None:
            return encoded
    raise ValueError(f"{len(images)} pictures do not fit into {budget} characters")


def describe(picture: Picture) -> dict[str, Any]:
    """The boxes of a picture as a script draws them.

    Args:
        picture: Original pixels.

    Returns:
        `width` and `height` of the image; `truth` and `found`, a row a box: four corners in pixels,
        the label, then whether it is ignored and the score that found it, -1 if none did (truth),
        or its score and outcome (found).
    """
    height, width = picture.size
    truth, found = picture.truth, picture.found
    ignore = np.zeros(len(truth.labels), bool) if truth.ignore is None else truth.ignore
    scores = np.ones(len(found.labels)) if found.scores is None else found.scores
    return {
        "width": width,
        "height": height,
        "truth": _rows(
            truth, ignore.astype(int).tolist(), _short(np.nan_to_num(picture.found_by, nan=-1.0))
        ),
        "found": _rows(found, _short(scores), picture.outcomes.tolist()),
    }


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image whose longer side is at most `side` pixels; smaller ones stay as they are."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def class_colors(count: int) -> list[str]:
    """A colour a class, as `#rrggbb`: the palette's, or hues far apart from their neighbours."""
    if count <= len(PALETTE):
        return ["#{:02x}{:02x}{:02x}".format(*color) for color in PALETTE[:count]]
    golden = (5**0.5 - 1) / 2
    tones = (colorsys.hls_to_rgb(0.58 + i * golden, 0.5, 0.68) for i in range(count))
    return ["#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in rgb)) for rgb in tones]


def _rungs() -> Iterator[tuple[int, int]]:
    """Longer sides and qualities, downwards."""
    side = float(SIDE)
    while side >= 8:
        for quality in QUALITIES:
            yield round(side), quality
        side *= 0.8


def _encode(
    images: Sequence[NDArray[np.uint8]], side: int, quality: int, budget: int
) -> list[tuple[str, int, int]] | None:
    """All pictures at this size and quality; None as soon as they are too much."""
    encoded, total = [], 0
    for image in images:
        small = shrink(image, side)
        uri = jpeg_uri(encode_jpeg(small, quality))
        total += len(uri)
        if total > budget:
            return None
        encoded.append((uri, small.shape[1], small.shape[0]))
    return encoded


def _short(scores: NDArray[np.floating[Any]]) -> list[float]:
    """Shortest digits that give the same float32: 0.57 is drawn at a threshold of 0.57."""
    return [float(str(score)) for score in scores.astype(np.float32)]


def _rows(boxes: Boxes, *extra: Sequence[float]) -> list[list[float]]:
    """Corners, label and more numbers a box; what is not finite cannot be drawn."""
    corners = np.asarray(boxes.xyxy, np.float64).reshape(-1, 4)
    return [
        [
            *(round(float(v), 1) for v in corners[i]),
            int(boxes.labels[i]),
            *(values[i] for values in extra),
        ]
        for i in np.flatnonzero(np.isfinite(corners).all(axis=1)).tolist()
    ]
