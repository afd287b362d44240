"""Decoding of image files, and the only resizing.

Files are not trusted: whatever one contains, reading it returns an image or raises a RequestError
that names it. Torch is not imported here, so that wrong requests are refused at once.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.data.images.headers import (
    EXTRA_SAMPLES,
    MAX_PIXELS,
    Header,
    bit_depth,
    misfit,
    parse_header,
    read_bytes,
    read_header,
    tiff_short,
)

__all__ = [
    "MAX_PIXELS",
    "Header",
    "Resized",
    "read_bytes",
    "read_header",
    "read_image",
    "read_resized",
    "resize",
    "resized_shape",
]

# `cv2.flip`'s codes that make an image upright, after a transposition for 5 to 8.
FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,  # with IMREAD_COLOR_RGB beside it, colour
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
}
# Bit depths of files of 16 bits: the smallest that holds the largest value is taken.
DEPTHS = (8, 10, 12, 14, 16)
# Flags by the number of channels wanted.
MODES = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR_RGB, 4: cv2.IMREAD_UNCHANGED}
# Flags for 16 bits. In the order BGR, since OpenCV 5.0 returns noise for TIFFs decoded as RGB.
DEEP_MODES = {
    1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH,
    3: cv2.IMREAD_COLOR_BGR | cv2.IMREAD_ANYDEPTH,
    4: cv2.IMREAD_UNCHANGED,
}

# Files that OpenCV refuses are reported by a RequestError; its own log would only repeat that.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Resized(NamedTuple):
    """An image at the input size of the network.

    Attributes:
        image: `(h, w, C)` uint8, with the longer side that was asked for.
        height: Height of the upright original, pixels.
        width: Width of the upright original, pixels.
    """

    image: NDArray[np.uint8]
    height: int
    width: int


def read_image(
    path: Path, longest: int | None = None, content: bytes | None = None, channels: int = 3
) -> NDArray[np.uint8]:
    """Decode an image file, upright (EXIF), in 8 bits.

    Args:
        path: Path of the file.
        longest: Number of pixels of the longer side that are needed; a larger JPEG may be decoded
            at 1/2, 1/4 or 1/8 of its size, which is several times as fast. Sides are rounded up, so
            objects near the right and lower edges may be off by less than a pixel of that scale.
        content: Content of the file, if it has been read already.
        channels: 1 is grey and 3 is RGB without transparency, whatever the file has; 4 is RGB and
            the fourth band as stored.

    Returns:
        `(H, W, channels)` uint8.

    Raises:
        RequestError: In the cases of `read_header`; if the file cannot be decoded, or lacks the
            fourth band.
    """
    content = read_bytes(path) if content is None else content
    return _decode(content, parse_header(content, path), path, longest, channels)


def read_resized(path: Path, size: int, content: bytes | None = None, channels: int = 3) -> Resized:
    """Decode an image file and resize it to the input size of the network.

    Args:
        path: Path of the file.
        size: Longer side afterwards, pixels.
        content: Content of the file, if it has been read already.
        channels: Number of channels, as for `read_image`.

    Raises:
        RequestError: In the cases of `read_image`.
    """
    content = read_bytes(path) if content is None else content
    header = parse_header(content, path)
    image = _decode(content, header, path, size, channels)
    original = (header.height, header.width)
    return Resized(resize(image, size, original), *original)


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after `resize`, pixels.

    Args:
        height: Height of the original, pixels.
        width: Width of the original, pixels.
        size: Longer side afterwards, pixels.
    """
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(
    image: NDArray[np.uint8], size: int, original: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Resize an image to a longer side; the only place where images are resized.

    Args:
        image: `(H, W, C)` uint8.
        size: Longer side afterwards, pixels.
        original: Height and width of the original, if `image` was decoded at a reduced scale; None
            takes those of `image`.

    Returns:
        `(*resized_shape(*original, size), C)` uint8; `image` itself if it has that shape.
    """
    before = (image.shape[0], image.shape[1])
    rows, columns = original or before
    height, width = resized_shape(rows, columns, size)
    if before == (height, width):
        return image
    # Averaging keeps small objects that sampling would miss.
    shrinks = max(height, width) <= max(before)
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Any = cv2.resize(image, (width, height), interpolation=method)
    # OpenCV drops the dimension of a single channel.
    return np.asarray(resized, dtype=np.uint8).reshape(height, width, image.shape[2])


def _decode(
    content: bytes, header: Header, path: Path, longest: int | None, channels: int
) -> NDArray[np.uint8]:
    """Decode the content of a file whose header has been read."""
    if issue := misfit(header.bands, channels):
        raise RequestError(f"{path}: {issue}")
    longer, factor = max(header.height, header.width), 1
    if longest and header.format == "JPEG":
        factor = next((f for f in REDUCED if longer >= f * longest), 1)
    # Rotated below by the orientation in the header, so that the two never disagree.
    deep = bit_depth(content, header.format) > 8
    mode = (DEEP_MODES if deep else MODES)[channels]
    flags = mode | cv2.IMREAD_IGNORE_ORIENTATION | REDUCED.get(factor, 0)
    stored = _name_no_alpha(content) if channels == 4 and header.format == "TIFF" else content
    try:
        image: Any = cv2.imdecode(np.frombuffer(stored, np.uint8), flags)
    except cv2.error:
        image = None
    if image is not None and header.format != "TIFF":
        if header.orientation > 4:
            image = cv2.transpose(image)
        if header.orientation in FLIPS:
            image = cv2.flip(image, FLIPS[header.orientation])
    expected = (-(-header.height // factor), -(-header.width // factor), channels)
    if image is None or np.atleast_3d(image).shape != expected:
        raise RequestError(f"{path}: not a readable image")
    if channels == 4:  # IMREAD_UNCHANGED returns BGRA
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    elif deep and channels == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if image.dtype == np.uint16:
        image = _in_eight_bits(image.reshape(expected))
    return np.asarray(image, dtype=np.uint8).reshape(expected)


def _in_eight_bits(image: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """The upper 8 bits of the bits in use: 12 bits of a sensor are the lower ones of the 16.

    The fourth band may use more bits than the colours, as transparency does, but not fewer.
    """
    depth = 8
    parts = []
    for part in (image[..., :3], image[..., 3:]):
        largest = int(part.max(initial=0))
        depth = next(bits for bits in DEPTHS if bits >= depth and largest < 1 << bits)
        parts.append((part >> (depth - 8)).astype(np.uint8))
    return np.concatenate(parts, axis=2)


def _name_no_alpha(content: bytes) -> bytes:
    """Declare the fourth band of a TIFF as no transparency, by which OpenCV darkens colours."""
    found = tiff_short(io.BytesIO(content), EXTRA_SAMPLES)
    if found is None:
        return content
    return content[: found[0]] + bytes(2) + content[found[0] + 2 :]
