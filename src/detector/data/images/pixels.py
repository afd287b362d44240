"""Image files as pixels, and the one resizing.

Files come from strangers. Whatever is in one, reading it gives an image or a RequestError that
names it. Torch is not imported here, so that a wrong request is answered at once.
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
# What there is in files of 16 bits: the fewest that hold the largest value are taken.
DEPTHS = (8, 10, 12, 14, 16)
# By the number of channels wanted.
MODES = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR_RGB, 4: cv2.IMREAD_UNCHANGED}
# For 16 bits; from blue to red, since OpenCV 5.0 gives noise for TIFFs asked for in RGB.
DEEP_MODES = {
    1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH,
    3: cv2.IMREAD_COLOR_BGR | cv2.IMREAD_ANYDEPTH,
    4: cv2.IMREAD_UNCHANGED,
}

# A file that OpenCV refuses is named by a RequestError; its own lines would only repeat that.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Resized(NamedTuple):
    """An image at the network's size.

    Attributes:
        image: `(h, w, C)` uint8, its longer side as asked for.
        height: Of the original, upright, pixels.
        width: Of the original, upright, pixels.
    """

    image: NDArray[np.uint8]
    height: int
    width: int


def read_image(
    path: Path, longest: int | None = None, content: bytes | None = None, channels: int = 3
) -> NDArray[np.uint8]:
    """Decode an image file, upright (EXIF), in 8 bits.

    Args:
        path: The file.
        longest: No more than so many pixels of the longer side are needed: a larger JPEG may be
            decoded at 1/2, 1/4 or 1/8 of its size, which is several times as fast. Sides are
            rounded up, so things near the far edges may lie off by less than a pixel of those.
        content: The file's bytes, where they have been read.
        channels: 1 is grey, 3 RGB without transparency, whatever the file has; 4 RGB and the band
            that the file has beside, as stored.

    Returns:
        `(H, W, channels)` uint8.

    Raises:
        RequestError: As `read_header`; if the file cannot be decoded, or has no fourth band.
    """
    content = read_bytes(path) if content is None else content
    return _decode(content, parse_header(content, path), path, longest, channels)


def read_resized(path: Path, size: int, content: bytes | None = None, channels: int = 3) -> Resized:
    """Decode an image file and bring it to the network's size.

    Args:
        path: The file.
        size: Longer side afterwards, pixels.
        content: The file's bytes, where they have been read.
        channels: As `read_image` takes them.

    Raises:
        RequestError: As `read_image`.
    """
    content = read_bytes(path) if content is None else content
    header = parse_header(content, path)
    image = _decode(content, header, path, size, channels)
    original = (header.height, header.width)
    return Resized(resize(image, size, original), *original)


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after `resize`, pixels.

    Args:
        height: Of the original, pixels.
        width: Of the original, pixels.
        size: Longer side afterwards, pixels.
    """
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(
    image: NDArray[np.uint8], size: int, original: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Bring the longer side to a size; the only place where images are resized.

    Args:
        image: `(H, W, C)` uint8.
        size: Longer side afterwards, pixels.
        original: Height and width that the shape is computed from, where `image` was decoded at
            a reduced scale; None takes its own.

    Returns:
        `(*resized_shape(*original, size), C)` uint8; `image` itself where nothing is to be done.
    """
    before = (image.shape[0], image.shape[1])
    rows, columns = original or before
    height, width = resized_shape(rows, columns, size)
    if before == (height, width):
        return image
    # Averaging keeps small objects that sampling would step over.
    shrinks = max(height, width) <= max(before)
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Any = cv2.resize(image, (width, height), interpolation=method)
    # OpenCV leaves out a single channel's dimension.
    return np.asarray(resized, dtype=np.uint8).reshape(height, width, image.shape[2])


def _decode(
    content: bytes, header: Header, path: Path, longest: int | None, channels: int
) -> NDArray[np.uint8]:
    """The pixels of a file whose header has been looked at."""
    if issue := misfit(header.bands, channels):
        raise RequestError(f"{path}: {issue}")
    longer, factor = max(header.height, header.width), 1
    if longest and header.format == "JPEG":
        factor = next((f for f in REDUCED if longer >= f * longest), 1)
    # Turned below, by the header's own reading, so that the two never disagree.
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
    if channels == 4:  # unchanged is also from blue to red
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    elif deep and channels == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if image.dtype == np.uint16:
        image = _in_eight_bits(image.reshape(expected))
    return np.asarray(image, dtype=np.uint8).reshape(expected)


def _in_eight_bits(image: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """The upper 8 of the bits in use: a sensor's 12 bits, say, lie at the lower end of the 16.

    The fourth band may use more than the colours do, as transparency does, but never fewer.
    """
    depth = 8
    parts = []
    for part in (image[..., :3], image[..., 3:]):
        largest = int(part.max(initial=0))
        depth = next(bits for bits in DEPTHS if bits >= depth and largest < 1 << bits)
        parts.append((part >> (depth - 8)).astype(np.uint8))
    return np.concatenate(parts, axis=2)


def _name_no_alpha(content: bytes) -> bytes:
    """A TIFF whose fourth band is not said to be transparency: OpenCV darkens the colours by it."""
    found = tiff_short(io.BytesIO(content), EXTRA_SAMPLES)
    if found is None:
        return content
    return content[: found[0]] + bytes(2) + content[found[0] + 2 :]
