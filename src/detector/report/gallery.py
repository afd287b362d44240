"""Pictures of the report: small enough for one file, with their boxes as plain data."""

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
BUDGET = 10 * 2**20  # characters of all pictures, so that a report stays below 15 MiB
SIDE = 800  # pixels, the longer side; lower where the budget requires it
QUALITIES = (85, 70, 55)


@dataclass(frozen=True)
class Picture:
    """One image of the gallery.

    Attributes:
        index: Index of the image in its split, which suspected label errors refer to.
        name: File name relative to the root of the data.
        reasons: Why it is shown, of `REASONS`.
        note: One line on its results, such as "F1 0.31: 4 missed, 7 wrong".
        image: `(h, w, 3)` uint8 RGB, may be smaller than the original.
        size: Height and width of the original, pixels.
        ground_truth: Ground truth boxes in pixels of the original.
        predictions: Detections with scores in pixels of the original.
        match_scores: `(G,)`, for every ground truth box the score of the detection matched with it
            at IoU 0.5, NaN without one.
        outcomes: `(D,)` int64, for every detection 1 if it is a true positive, 0 if it is a false
            positive, 2 if it counts as neither.
    """

    index: int
    name: str
    reasons: tuple[str, ...]
    note: str
    image: NDArray[np.uint8]
    size: tuple[int, int]
    ground_truth: Boxes
    predictions: Boxes
    match_scores: NDArray[np.floating[Any]]
    outcomes: NDArray[np.int64]


def encode_pictures(
    images: Sequence[NDArray[np.uint8]], budget: int = BUDGET
) -> list[tuple[str, int, int]]:
    """Encode JPEGs at the highest size and quality, the same for all, at which all of them fit.

    Args:
        images: `(H, W, 3)` RGB; smaller ones are not enlarged.
        budget: Largest number of characters of all data: URIs together.

    Returns:
        A data: URI for each image, its width and its height in pixels.
    """
    for side, quality in _rungs():
        encoded = _encode(images, side, quality, budget)
        if encoded is not None:
            return encoded
    raise ValueError(f"{len(images)} pictures do not fit into {budget} characters")


def describe(picture: Picture) -> dict[str, Any]:
    """The boxes of a picture as the page's script draws them.

    Args:
        picture: The picture.

    Returns:
        `width` and `height` of the image; `truth` and `found` (detections) with a row for each box:
        corners in pixels and label, then for ground truth whether it is ignored and the score of
        its match (-1 without one), for a detection its score and outcome.
    """
    height, width = picture.size
    ground_truth, predictions = picture.ground_truth, picture.predictions
    ignore = (
        np.zeros(len(ground_truth.labels), bool)
        if ground_truth.ignore is None
        else ground_truth.ignore
    )
    scores = np.ones(len(predictions.labels)) if predictions.scores is None else predictions.scores
    return {
        "width": width,
        "height": height,
        "truth": _rows(
            ground_truth,
            ignore.astype(int).tolist(),
            _short(np.nan_to_num(picture.match_scores, nan=-1.0)),
        ),
        "found": _rows(predictions, _short(scores), picture.outcomes.tolist()),
    }


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Scale an image down so that its longer side is at most `side` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def class_colors(count: int) -> list[str]:
    """A colour for each class, as `#rrggbb`: the palette, or hues far apart for neighbours."""
    if count <= len(PALETTE):
        return ["#{:02x}{:02x}{:02x}".format(*color) for color in PALETTE[:count]]
    golden = (5**0.5 - 1) / 2
    tones = (colorsys.hls_to_rgb(0.58 + i * golden, 0.5, 0.68) for i in range(count))
    return ["#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in rgb)) for rgb in tones]


def _rungs() -> Iterator[tuple[int, int]]:
    """Yield longer sides and qualities in descending order."""
    side = float(SIDE)
    while side >= 8:
        for quality in QUALITIES:
            yield round(side), quality
        side *= 0.8


def _encode(
    images: Sequence[NDArray[np.uint8]], side: int, quality: int, budget: int
) -> list[tuple[str, int, int]] | None:
    """All pictures at this size and quality; None if they exceed the budget."""
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
    """Scores with the fewest digits of their float32, so that 0.57 reaches a threshold of 0.57."""
    return [float(str(score)) for score in scores.astype(np.float32)]


def _rows(boxes: Boxes, *extra: Sequence[float]) -> list[list[float]]:
    """Corners, label and further numbers of each finite box."""
    corners = np.asarray(boxes.xyxy, np.float64).reshape(-1, 4)
    return [
        [
            *(round(float(v), 1) for v in corners[i]),
            int(boxes.labels[i]),
            *(values[i] for values in extra),
        ]
        for i in np.flatnonzero(np.isfinite(corners).all(axis=1)).tolist()
    ]
