"""Headers of image files, and the refusal of unsuitable files before they are decoded.

Files are not trusted: whatever one contains, reading its header returns a header or raises a
RequestError that names it. Torch is not imported here, so that wrong requests are refused at once.
"""

from __future__ import annotations

import io
import stat
import struct
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image, UnidentifiedImageError

from detector.core.errors import RequestError

# Formats that both Pillow and OpenCV read; fewer decoders are also fewer vulnerabilities.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
_KNOWN = ", ".join(FORMATS)
# Pillow's own limit. A small file can declare any size, and would fill the memory when decoded.
MAX_PIXELS = 178_956_970
# Bytes that contain the end marker of a JPEG or a PNG; some programs write a little after it.
TAIL = 4096
ORIENTATION = 274  # EXIF 2.32, table 4
# TIFF 6.0, sections 8, 18 and 19.
BITS, PHOTOMETRIC, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 277, 338, 339
PALETTE = 3  # a value of PHOTOMETRIC
_SAMPLES = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
MOST_BANDS = 4  # the largest number that OpenCV decodes
# Decoded bands where Pillow counts otherwise: palettes and inks become red, green, blue.
_BANDS = {"P": 3, "PA": 3, "CMYK": 3}
# By the version of a TIFF (42, or 43 for BigTIFF): offset of the pointer to the first tags, and the
# formats of that pointer, of the number of tags, and of a tag (tag, type, count of values, values).
_TIFFS = {42: (4, "I", "H", "HHI4s"), 43: (8, "Q", "Q", "HHQ8s")}
_SHORT, _MOST_TAGS = 3, 65_535

# `warnings.catch_warnings` changes the whole process: one thread at a time.
_lock = threading.Lock()


@dataclass(frozen=True)
class Header:
    """Header of an image file, read without decoding pixels.

    Attributes:
        width: Width of the upright image, pixels.
        height: Height of the upright image, pixels.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        format: Name of the format in Pillow: JPEG, PNG, WEBP, TIFF, BMP, GIF or AVIF.
        bands: Number of bands: 1 is grey, 2 grey and transparency, 3 RGB, 4 RGB and one more.
    """

    width: int
    height: int
    orientation: int
    format: str
    bands: int


def misfit(bands: int, channels: int) -> str:
    """Why an image cannot be read with a number of channels; empty if it can.

    Any image can be converted to grey or RGB, but a fourth band must be in the file.

    Args:
        bands: Number of bands of the file.
        channels: Number of channels that the network takes.
    """
    if channels < MOST_BANDS or bands == channels:
        return ""
    return (
        f"{_count(bands)}, but model.in_channels={channels} needs {channels}: RGB and one more, "
        "such as near infrared or transparency"
    )


def read_header(path: Path) -> Header:
    """Read the header of an image file, which takes milliseconds less than `read_image`.

    Raises:
        RequestError: If the file is missing, empty, not an image, truncated (as far as its last
            bytes tell), an animation, or of more than `MAX_PIXELS`.
    """
    try:
        size = _file_size(path)
        with path.open("rb", buffering=1 << 16) as stream:
            # Fills the buffer: a slow drive is waited for here and not while holding the lock.
            stream.seek(-len(stream.read(1)), io.SEEK_CUR)
            header = _parse(stream, path)
            stream.seek(max(0, size - TAIL))
            tail = stream.read()
            if not _is_over(tail, header.format):
                stream.seek(0)
                _check_end(stream.read(), header.format, path)
    except (OSError, ValueError) as error:  # ValueError if the name cannot be that of a file
        raise RequestError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return header


def parse_header(content: bytes, path: Path) -> Header:
    """Read the header from the content of a file, as `read_header` does.

    Args:
        content: Content of the whole file.
        path: Path of the file, for messages.
    """
    header = _parse(io.BytesIO(content), path)
    if not _is_over(content[-TAIL:], header.format):
        _check_end(content, header.format, path)
    return header


def read_bytes(path: Path) -> bytes:
    """The content of a regular file that is not empty.

    Raises:
        RequestError: If it is no such file or cannot be read.
    """
    try:
        _file_size(path)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError if the name cannot be that of a file
        raise RequestError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _file_size(path: Path) -> int:
    """Size in bytes; a device or a pipe is refused, since reading it might never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise RequestError(f"{path}: not a file")
    if not status.st_size:
        raise RequestError(f"{path}: the file is empty")
    return status.st_size


def _parse(stream: IO[bytes], path: Path) -> Header:
    """The header by Pillow, which reads no further than necessary."""
    samples = tiff_short(stream, SAMPLES)
    issue = _odd_samples(stream)
    stream.seek(0)
    unread = f"none of {_KNOWN}"
    if samples:
        unread = f"a TIFF of {_count(samples[1])}; expected grey, RGB, or RGB and one more, "
        unread += "pixel by pixel"
        if samples[1] > MOST_BANDS:
            raise RequestError(f"{path}: not a readable image ({unread})")
    if issue:
        raise RequestError(f"{path}: not a readable image ({issue})")
    try:
        with _lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as image:
                kind = image.format
                orientation = _orientation(image)
                width, height = image.size
                bands = _BANDS.get(image.mode, len(image.getbands()))
                if image.mode == "LAB":
                    raise ValueError("a TIFF in CIELAB colours; expected grey or RGB")
                if image.mode == "RGB" and samples:  # Pillow ignores the fourth band
                    bands = samples[1]
                # The MPO of a phone holds a second image or a depth map beside the photograph.
                frames = 1 if kind == "MPO" else _frames(image)
    except UnidentifiedImageError as error:
        raise RequestError(f"{path}: not a readable image ({unread})") from error
    except Image.DecompressionBombError as error:
        raise RequestError(f"{path}: more than {MAX_PIXELS} pixels, which is refused") from error
    except Exception as error:  # Pillow may raise anything for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"{path}: not a readable image ({reason})") from error
    if width * height > MAX_PIXELS:  # Pillow's own limit can be switched off by other libraries
        raise RequestError(f"{path}: more than {MAX_PIXELS} pixels, which is refused")
    if frames > 1:
        raise RequestError(f"{path}: an animation of {frames} frames; expected a single picture")
    # Pillow and OpenCV both return a TIFF upright already.
    if orientation > 4 and kind != "TIFF":
        width, height = height, width
    return Header(width, height, orientation, "JPEG" if kind == "MPO" else str(kind), bands)


def _odd_samples(stream: IO[bytes]) -> str:
    """The samples of a TIFF that cannot be converted to 8 bits, described; empty if they can."""

    def ask(tag: int, default: int) -> int:
        stream.seek(0)
        found = tiff_short(stream, tag)
        return default if found is None else found[1]

    bits, form = ask(BITS, 8), ask(SAMPLE_FORMAT, 1)
    kind = _SAMPLES.get(form, "unsigned")
    if kind == "unsigned" and (bits in (1, 8, 16) or (bits, ask(PHOTOMETRIC, 0)) == (4, PALETTE)):
        return ""
    return f"a TIFF of {bits}-bit {kind} samples; expected unsigned ones of 8 or 16 bits"


def bit_depth(content: bytes, kind: str) -> int:
    """Bits per sample of a PNG or a TIFF; 8 for other formats, which have no more.

    Args:
        content: Content of the file.
        kind: Format of the file, as in `Header.format`.
    """
    if kind == "PNG":
        return content[24]  # in IHDR, the first chunk (PNG, section 11.2.1)
    found = tiff_short(io.BytesIO(content), BITS) if kind == "TIFF" else None
    return 8 if found is None else found[1]


def tiff_short(stream: IO[bytes], tag: int) -> tuple[int, int] | None:
    """The first value of a two-byte tag of the first image in a TIFF.

    Args:
        stream: The file, at its beginning; its position is undefined afterwards.
        tag: Number of the tag.

    Returns:
        Offset of the value in the file, and the value; None if there is no such tag or no TIFF.
    """
    order = {b"II": "<", b"MM": ">"}.get(stream.read(2))
    if order is None:
        return None

    def take(form: str) -> tuple[Any, ...]:
        return struct.unpack(order + form, stream.read(struct.calcsize(order + form)))

    try:
        (version,) = take("H")
        place, address, number, entry = _TIFFS[version]
        stream.seek(place)
        stream.seek(*take(address))
        for _ in range(min(*take(number), _MOST_TAGS)):
            key, kind, count, values = take(entry)
            if (key, kind) == (tag, _SHORT) and count:
                start = stream.tell() - len(values)
                if 2 * count > len(values):  # the values do not fit into the tag
                    (start,) = struct.unpack(order + address, values)
                stream.seek(start)
                return start, *take("H")
    except (KeyError, struct.error, OSError, ValueError, OverflowError):
        pass  # a damaged file, which the decoder reports
    return None


def _count(bands: int) -> str:
    """A number of bands in words."""
    return f"{bands} band{'s' * (bands > 1)}"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 if it is none of the eight values."""
    value: Any = 1
    if "exif" in image.info:
        exif = Image.Exif()
        exif.load(image.info["exif"])
        value = exif.get(ORIENTATION, 1)
    elif image.format == "TIFF":
        value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _frames(image: Image.Image) -> int:
    """Number of frames of a file; only animations are counted, since counting takes time."""
    return int(getattr(image, "n_frames", 1)) if getattr(image, "is_animated", False) else 1


def _is_over(tail: bytes, kind: str) -> bool:
    """Whether the end of a file contains the end marker; True for formats without one."""
    if kind == "JPEG":
        # A scan after the marker means that the marker is that of a thumbnail.
        end = tail.rfind(b"\xff\xd9")
        return end >= 0 and tail.find(b"\xff\xda", end) < 0
    return kind != "PNG" or b"IEND" in tail


def _check_end(content: bytes, kind: str, path: Path) -> None:
    """Refuse a truncated file: the JPEG decoder fills in missing pixels without an error."""
    if not _is_over(content, kind):
        raise RequestError(f"{path}: a truncated {kind}")
