"""Pictures of boxes on images, by the library supervision."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import supervision as sv
from numpy.typing import NDArray

from detector.core.files import write_bytes

IGNORED = sv.Color(190, 190, 190)
FORMATS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".webp")  # that are written
PANEL_SIDE = 448  # pixels
PREVIEW_SIDE = 352  # pixels
HEADER = 22  # pixels, for the caption
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


@dataclass(frozen=True)
class Boxes:
    """Boxes to draw.

    Attributes:
        xyxy: `(N, 4)` corners, pixels.
        labels: `(N,)` int64, 1..K.
        scores: `(N,)`, written beside the class; None for ground truth.
        ignore: `(N,)` bool, ignored boxes, which are drawn in grey; None: no box is ignored.
    """

    xyxy: NDArray[np.floating[Any]]
    labels: NDArray[np.int64]
    scores: NDArray[np.floating[Any]] | None = None
    ignore: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Panel:
    """One image of a sheet.

    Attributes:
        name: Caption.
        image: `(H, W, 3)` uint8 RGB.
        ground_truth: Boxes on the left copy.
        predictions: Boxes on the right copy.
    """

    name: str
    image: NDArray[np.uint8]
    ground_truth: Boxes
    predictions: Boxes


def draw_boxes(
    image: NDArray[np.uint8], boxes: Boxes, names: Sequence[str], side: int | None = None
) -> NDArray[np.uint8]:
    """Draw boxes, each class in its own colour.

    Args:
        image: `(H, W, 3)` uint8 RGB, not modified.
        boxes: Boxes to draw.
        names: Class names; with a single class only scores are written.
        side: Longer side that the picture is scaled to first, pixels; None: no scaling.

    Returns:
        A new picture, RGB.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width) if side else 1.0
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scene: NDArray[Any] = cv2.resize(
        image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    thickness = max(1, round(max(size) / 220))
    ignore = boxes.ignore if boxes.ignore is not None else np.zeros(len(boxes.labels), bool)
    for chosen, color in ((ignore, IGNORED), (~ignore, None)):
        if not chosen.any():
            continue
        detections = sv.Detections(
            xyxy=np.asarray(boxes.xyxy[chosen] * scale, dtype=np.float32),
            class_id=boxes.labels[chosen] - 1,
        )
        look: dict[str, Any] = {"color": color} if color else {}
        scene = sv.BoxAnnotator(thickness=thickness, **look).annotate(scene, detections)
        texts = [
            " ".join(
                ([_drawable(names[label - 1])] if len(names) > 1 else [])
                + ([f"{score:.2f}"] if score is not None else [])
            )
            for label, score in zip(
                boxes.labels[chosen],
                boxes.scores[chosen] if boxes.scores is not None else [None] * chosen.sum(),
                strict=True,
            )
        ]
        if any(texts) and color is None:
            writer = sv.LabelAnnotator(
                text_scale=0.36, text_thickness=1, text_padding=2, smart_position=True
            )
            scene = writer.annotate(scene, detections, labels=texts)
    return np.asarray(scene, dtype=np.uint8)


def draw_sheet(panels: Sequence[Panel], names: Sequence[str], caption: str, file: Path) -> None:
    """Write a picture of images, two in a row, each with ground truth beside detections.

    Args:
        panels: At least one.
        names: Class names.
        caption: Which detections are drawn, such as "score >= 0.5".
        file: A `.png`.
    """
    write_image(file, _tile([_pair(panel, names, caption) for panel in panels], columns=2))


def draw_preview(
    images: Sequence[tuple[str, NDArray[np.uint8], Boxes]], names: Sequence[str], file: Path
) -> None:
    """Write a picture of images as the training gets them, four in a row, with their boxes.

    Args:
        images: At least one: a caption, `(H, W, C)` uint8, its boxes; of more than three channels,
            the first three are shown.
        names: Class names.
        file: A `.png`.
    """
    cells = []
    for caption, image, boxes in images:
        shown = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
        drawn = draw_boxes(np.ascontiguousarray(shown), boxes, names, PREVIEW_SIDE)
        height, width = drawn.shape[:2]
        cell = np.full((HEADER + height, PREVIEW_SIDE, 3), 255, dtype=np.uint8)
        cell[HEADER:, :width] = drawn
        _write(cell, 0, _shorten(caption, PREVIEW_SIDE))
        cells.append(cell)
    write_image(file, _tile(cells, columns=4))


def _tile(cells: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Arrange pictures in rows on a white background."""
    gap = 12
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    widths = [sum(cell.shape[1] + gap for cell in row) for row in rows]
    heights = [max(cell.shape[0] for cell in row) + gap for row in rows]
    sheet = np.full((sum(heights) + gap, max(widths) + gap, 3), 255, dtype=np.uint8)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for cell in row:
            sheet[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
            x += cell.shape[1] + gap
        y += height
    return sheet


def _pair(panel: Panel, names: Sequence[str], caption: str) -> NDArray[np.uint8]:
    """Ground truth of an image beside its detections, with captions."""
    left = draw_boxes(panel.image, panel.ground_truth, names, PANEL_SIDE)
    right = draw_boxes(panel.image, panel.predictions, names, PANEL_SIDE)
    gap = 4
    canvas = np.full((left.shape[0] + HEADER, left.shape[1] * 2 + gap, 3), 255, dtype=np.uint8)
    canvas[HEADER:, : left.shape[1]] = left
    canvas[HEADER:, left.shape[1] + gap :] = right
    _write(canvas, 0, f"truth: {_count(panel.ground_truth)}   {panel.name}")
    detected = f"detected: {len(panel.predictions.labels)} ({caption})"
    _write(canvas, left.shape[1] + gap, detected)
    return canvas


def _write(canvas: NDArray[np.uint8], x: int, text: str) -> None:
    """Write a caption into the header."""
    cv2.putText(canvas, _drawable(text), (x, 15), FONT, FONT_SCALE, (30, 30, 30), 1, cv2.LINE_AA)


def _shorten(text: str, width: int) -> str:
    """The end of a caption, which tells files apart, as far as it fits in `width` pixels."""
    short = text = _drawable(text)
    while short and cv2.getTextSize(short, FONT, FONT_SCALE, 1)[0][0] > width:
        text = text[1:]
        short = "..." + text
    return short


def _drawable(text: str) -> str:
    """Text that OpenCV can draw: file names need not be UTF-8."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _count(boxes: Boxes) -> str:
    """Number of boxes and of ignored boxes."""
    ignored = 0 if boxes.ignore is None else int(boxes.ignore.sum())
    return f"{len(boxes.labels)}" + (f" ({ignored} ignored, grey)" if ignored else "")


def write_image(file: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image in the format of its suffix.

    Raises:
        OSError: If that fails, with error number and file.
    """
    content = encoded(image, file.suffix)
    if content is None:
        raise OSError(errno.EINVAL, "the format cannot hold this picture", str(file))
    write_bytes(file, content)  # by Python, which accepts any file name


def encoded(image: NDArray[np.uint8], suffix: str) -> bytes | None:
    """An RGB image as the content of a file; None if the format is unknown or cannot hold it.

    Args:
        image: `(H, W, 3)` uint8.
        suffix: Suffix of the file, with its dot.
    """
    try:
        done, content = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        return None
    return content.tobytes() if done else None
