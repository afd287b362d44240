"""Thumbnails for the data check: ground truth in thin lines, the boxes in question in red."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]

SIDE = 320  # pixels, the longer side
RING = 9  # pixels, radius of the ring around a box that is too small to be seen
RED: Color = (225, 20, 30)
WHITE: Color = (255, 255, 255)
# No colour is near red, which marks the boxes in question.
PALETTE: tuple[Color, ...] = (
    (58, 134, 224),
    (22, 160, 112),
    (230, 184, 0),
    (150, 96, 216),
    (24, 180, 200),
    (130, 190, 40),
)


@dataclass(frozen=True)
class Thumbnail:
    """One image that illustrates a finding.

    Attributes:
        kind: Kind of the finding.
        name: File name, which is the caption.
        message: Description of the issue.
        image: `(H, W, 3)` RGB in its original size.
        boxes: `(N, 4)` xyxy, pixels, the ground truth of the image.
        labels: `(N,)` int64, 1..K.
        marked: `(M, 4)` xyxy, pixels, the boxes in question; they may be degenerate, outside the
            image or not finite.
    """

    kind: str
    name: str
    message: str
    image: NDArray[np.uint8]
    boxes: NDArray[np.floating[Any]]
    labels: NDArray[np.int64]
    marked: NDArray[np.floating[Any]]


def class_color(label: int, classes: int) -> Color:
    """Colour of class `label`, 1..K; the same for all if there are more than the palette has."""
    return PALETTE[label - 1] if classes <= len(PALETTE) else PALETTE[0]


def draw_thumbnail(thumbnail: Thumbnail, classes: int) -> NDArray[np.uint8]:
    """Draw the ground truth in the class colours and the boxes in question in red.

    Args:
        thumbnail: The thumbnail, not modified.
        classes: Number of classes.

    Returns:
        `(h, w, 3)` RGB with a longer side of `SIDE`; every box in question can be seen in it.
    """
    height, width = thumbnail.image.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    scene: NDArray[Any] = cv2.resize(thumbnail.image, size, interpolation=way)
    seen = np.isfinite(thumbnail.boxes).all(axis=1)
    corners = _corners(thumbnail.boxes[seen], scale, size)
    for (low, high), label in zip(corners, thumbnail.labels[seen], strict=True):
        cv2.rectangle(scene, low, high, class_color(int(label), classes), 1)
    marks = _corners(thumbnail.marked, scale, size)
    # A white edge keeps red visible on red; all edges are drawn first, lest they cover marks.
    for color, thickness in ((WHITE, 4), (RED, 2)):
        for low, high in marks:
            _mark(scene, low, high, color, thickness)
    return np.asarray(scene, dtype=np.uint8)


def data_uri(picture: NDArray[np.uint8]) -> str:
    """An RGB picture as a JPEG in a data: URI, its colour at full resolution."""
    full = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    return jpeg_uri(encode_jpeg(picture, 85, *full))


def encode_jpeg(picture: NDArray[np.uint8], quality: int, *options: int) -> bytes:
    """An RGB picture as a JPEG; `options` are pairs as OpenCV takes them."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, *options])
    if not done:
        raise OSError("cannot encode a picture")
    return bytes(code.tobytes())


def jpeg_uri(code: bytes) -> str:
    """A JPEG in a data: URI."""
    return "data:image/jpeg;base64," + base64.b64encode(code).decode("ascii")


def _corners(
    boxes: NDArray[np.floating[Any]], scale: float, size: tuple[int, int]
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Low and high corners in the picture, in order and clipped to it."""
    last = np.array([size[0] - 1, size[1] - 1])
    pairs = np.nan_to_num(boxes.astype(np.float64).reshape(-1, 2, 2), posinf=1e9, neginf=-1e9)
    with np.errstate(over="ignore"):  # of wrong coordinates, which are shown too
        pairs = np.clip(np.sort(pairs, axis=1) * scale, 0, last).round().astype(int)
    return [((int(a), int(b)), (int(c), int(d))) for (a, b), (c, d) in pairs]


def _mark(
    scene: NDArray[Any], low: tuple[int, int], high: tuple[int, int], color: Color, thickness: int
) -> None:
    """Draw a box, and a ring around it if one of its sides is too short to be seen."""
    cv2.rectangle(scene, low, high, color, thickness)
    if min(high[0] - low[0], high[1] - low[1]) < RING / 2:
        height, width = scene.shape[:2]
        center = [
            int(np.clip((a + b) // 2, min(RING, side // 2), max(side - 1 - RING, side // 2)))
            for a, b, side in zip(low, high, (width, height), strict=True)
        ]
        cv2.circle(scene, center, RING, color, thickness, cv2.LINE_AA)
