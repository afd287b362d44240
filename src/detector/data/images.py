"""Image files: what their headers say, their pixels, and the one resizing.

Files come from strangers. Whatever is in one, reading it gives a result or a RequestError that
names it. Torch is not imported here, so that a wrong request is answered at once.
"""

from __future__ import annotations

import io
import stat
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from detector.types import RequestError

# Of what Pillow reads, what OpenCV reads too; fewer decoders are also fewer ways in.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_KNOWN = ", ".join(FORMATS)
# Pillow's own limit. A small file can claim any size, and would fill the memory when decoded.
MAX_PIXELS = 178_956_970
# Where a JPEG or a PNG says that it is over; some programs write a little after it.
TAIL = 4096
ORIENTATION = 274  # EXIF 2.32, table 4
# `cv2.flip`'s codes that make an image upright, after a transposition for 5 to 8.
FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,  # with IMREAD_COLOR_RGB beside it, colour
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
}

# `warnings.catch_warnings` changes the whole process: one thread at a time.
_lock = threading.Lock()
# A file that OpenCV refuses is named by a RequestError; its own lines would only repeat that.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class Header:
    """What an image file says of itself, without its pixels being decoded.

    Attributes:
        width: Pixels, upright.
        height: Pixels, upright.
        orientation: EXIF's, 1 to 8; 1 is upright.
        format: Pillow's name: JPEG, PNG, WEBP, TIFF, BMP or GIF.
    """

    width: int
    height: int
    orientation: int
    format: str


class Resized(NamedTuple):
    """An image at the network's size.

    Attributes:
        image: `(h, w, 3)` uint8 RGB, its longer side as asked for.
        height: Of the original, upright, pixels.
        width: Of the original, upright, pixels.
    """

    image: NDArray[np.uint8]
    height: int
    width: int


def read_header(path: Path) -> Header:
    """Look at an image file without decoding it; milliseconds cheaper than `read_image`.

    Raises:
        RequestError: If the file is missing, empty, not an image, truncated (as far as its last
            bytes tell), an animation, or of more than `MAX_PIXELS`.
    """
    try:
        size = _file_size(path)
        with path.open("rb", buffering=1 << 16) as stream:
            # Fills the buffer: a slow drive is waited for here rather than under the lock.
            stream.seek(-len(stream.read(1)), io.SEEK_CUR)
            header = _inspect(stream, path)
            stream.seek(max(0, size - TAIL))
            tail = stream.read()
            if not _is_over(tail, header.format):
                stream.seek(0)
                _check_end(stream.read(), header.format, path)
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}") from error
    return header


def read_bytes(path: Path) -> bytes:
    """The content of a regular file that is not empty.

    Raises:
        RequestError: If it is none or cannot be read.
    """
    try:
        _file_size(path)
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}") from error


def read_image(path: Path, longest: int | None = None) -> NDArray[np.uint8]:
    """Decode an image file, upright (EXIF), greyscale and 16-bit converted, without transparency.

    Args:
        path: The file.
        longest: No more than so many pixels of the longer side are needed: a larger JPEG may be
            decoded at 1/2, 1/4 or 1/8 of its size, which is several times as fast.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        RequestError: As `read_header`; and if the file cannot be decoded.
    """
    content = read_bytes(path)
    return _decode(content, inspect(content, path), path, longest)


def read_resized(path: Path, size: int, content: bytes | None = None) -> Resized:
    """Decode an image file and bring it to the network's size.

    Args:
        path: The file.
        size: Longer side afterwards, pixels.
        content: The file's bytes, where they have been read.

    Raises:
        RequestError: As `read_image`.
    """
    content = read_bytes(path) if content is None else content
    header = inspect(content, path)
    image = _decode(content, header, path, size)
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
        image: `(H, W, 3)` uint8.
        size: Longer side afterwards, pixels.
        original: Height and width that the shape is computed from, where `image` was decoded at
            a reduced scale; None takes its own.

    Returns:
        `resized_shape(*original, size)` uint8; `image` itself where nothing is to be done.
    """
    before = (image.shape[0], image.shape[1])
    rows, columns = original or before
    height, width = resized_shape(rows, columns, size)
    if before == (height, width):
        return image
    # Averaging keeps small objects that sampling would step over.
    shrinks = max(height, width) <= max(before)
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def inspect(content: bytes, path: Path) -> Header:
    """As `read_header`, of a file's bytes.

    Args:
        content: The whole file.
        path: For messages.
    """
    header = _inspect(io.BytesIO(content), path)
    if not _is_over(content[-TAIL:], header.format):
        _check_end(content, header.format, path)
    return header


def _file_size(path: Path) -> int:
    """Size in bytes; a device or a pipe is refused before it is opened, which would not end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise RequestError(f"{path}: not a file")
    if not status.st_size:
        raise RequestError(f"{path}: the file is empty")
    return status.st_size


def _inspect(stream: IO[bytes], path: Path) -> Header:
    """The header, by Pillow, which reads no further than it must."""
    try:
        with _lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as image:
                kind = image.format
                orientation = _orientation(image)
                width, height = image.size
                # A phone's MPO holds a second picture or a depth map beside the photograph.
                frames = 1 if kind == "MPO" else _frames(image)
    except UnidentifiedImageError as error:
        raise RequestError(f"{path}: not a readable image (none of {_KNOWN})") from error
    except Image.DecompressionBombError as error:
        raise RequestError(f"{path}: more than {MAX_PIXELS} pixels, which is refused") from error
    except Exception as error:  # of any kind: Pillow promises nothing about damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"{path}: not a readable image ({reason})") from error
    if width * height > MAX_PIXELS or not width * height:
        raise RequestError(f"{path}: {width}x{height} pixels; expected 1 to {MAX_PIXELS}")
    if frames > 1:
        raise RequestError(f"{path}: an animation of {frames} frames; expected a single picture")
    # Pillow and OpenCV both hand over a TIFF that is turned already.
    if orientation > 4 and kind != "TIFF":
        width, height = height, width
    return Header(width, height, orientation, "JPEG" if kind == "MPO" else str(kind))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; what is not one of the eight means nothing."""
    value: Any = 1
    if "exif" in image.info:
        exif = Image.Exif()
        exif.load(image.info["exif"])
        value = exif.get(ORIENTATION, 1)
    elif image.format == "TIFF":
        value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _frames(image: Image.Image) -> int:
    """Number of pictures in a file; they are counted only where there are several."""
    return int(getattr(image, "n_frames", 1)) if getattr(image, "is_animated", False) else 1


def _is_over(tail: bytes, kind: str) -> bool:
    """Whether the end of a file shows its end marker; True for formats without one."""
    if kind == "JPEG":
        # A scan after the marker means that it was not the last: a thumbnail has its own.
        end = tail.rfind(b"\xff\xd9")
        return end >= 0 and tail.find(b"\xff\xda", end) < 0
    return kind != "PNG" or b"IEND" in tail


def _check_end(content: bytes, kind: str, path: Path) -> None:
    """Refuse a truncated file: the JPEG decoder fills up what is missing and says nothing."""
    if not _is_over(content, kind):
        raise RequestError(f"{path}: a truncated {kind}")


def _decode(content: bytes, header: Header, path: Path, longest: int | None) -> NDArray[np.uint8]:
    """The pixels of a file whose header has been looked at."""
    longer, factor = max(header.height, header.width), 1
    if longest and header.format == "JPEG":
        factor = next((f for f in REDUCED if longer >= f * longest), 1)
    # Turned below, by the header's own reading, so that the two never disagree.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | REDUCED.get(factor, 0)
    try:
        image: Any = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        image = None
    if image is not None and header.format != "TIFF":
        if header.orientation > 4:
            image = cv2.transpose(image)
        if header.orientation in FLIPS:
            image = cv2.flip(image, FLIPS[header.orientation])
    expected = (-(-header.height // factor), -(-header.width // factor), 3)
    if image is None or image.shape != expected:
        raise RequestError(f"{path}: not a readable image")
    return np.asarray(image, dtype=np.uint8)
