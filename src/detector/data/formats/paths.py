"""What the names of files and folders say: kinds of files, splits, and what belongs together."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

# Formats that are read. Of several files of one name, the earlier suffix is more likely the photo.
_JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo")
SUFFIXES = (*_JPEGS, ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".avif")
# Image formats that are not supported, which are reported.
UNREAD = frozenset((".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".svg"))
UNREAD |= {".psd", ".xcf", ".ai", ".eps", ".tga", ".ico", ".pcx", ".pbm", ".pgm", ".ppm", ".pnm"}
UNREAD |= {".pfm", ".exr", ".hdr", ".dds", ".dcm", ".nii", ".fits", ".apng", ".raw", ".dng"}
UNREAD |= {".arw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"}
CONVERT = "convert to PNG or JPEG"

# Words in the name of a folder that only tell which kind of files it holds.
IMAGE_WORDS = frozenset(("jpegimages", "images", "image", "imgs", "img", "pictures", "photos"))
LABEL_WORDS = frozenset(("annotations", "annotation", "anns", "ann", "annots", "xmls", "xml"))
LABEL_WORDS |= {"labels", "label", "txts", "txt", "bboxes", "bbox"}
KINDS_OF_FILES = IMAGE_WORDS | LABEL_WORDS
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks
# VOC's folders of pixel masks, which are no images of the data set.
MASKS = frozenset(("segmentationclass", "segmentationobject"))

_SPLIT_NAMES = {
    "train": ("train", "training", "trainval", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout"),
}


def split_of(name: str) -> str | None:
    """The split in the name of a file or folder, as `train` in `instances_train2017`; else None."""
    words = re.findall("[a-z]+", name.lower())
    found = [split for split, names in _SPLIT_NAMES.items() if set(names) & set(words)]
    return found[0] if len(found) == 1 else None


def split_named(key: str) -> str | None:
    """The split that a word is the whole name of; None if there is none."""
    return next((split for split, names in _SPLIT_NAMES.items() if key.lower() in names), None)


def fold(name: str) -> str:
    """A name without differences of case and of the encoding of accents, for comparisons.

    macOS writes an accent as a character of its own (NFD), most others do not (NFC).
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def encoding_of(content: bytes) -> str:
    """`UTF-16` or `UTF-32` if the first bytes of a text are of that encoding; else empty."""
    for name, marks in (("UTF-32", (b"\xff\xfe\0\0", b"\0\0\xfe\xff")), ("UTF-16", _UTF_16)):
        if content.startswith(marks):
            return name
    # Without a mark: of ASCII's characters, every second byte is zero.
    pair = content[:2]
    return "UTF-16" if len(pair) == 2 and (pair[0] == 0) != (pair[1] == 0) else ""


def cache_folder() -> Path:
    """The folder of downloaded and prepared data: `DETECTOR_CACHE`, or one in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DETECTOR_CACHE") or Path(base) / "detector")


def base_name(file: str) -> str:
    """The last part of a relative path."""
    return file.rpartition("/")[2]


def bare_name(file: str) -> str:
    """The name of a file without folders and suffix."""
    name = base_name(file)
    return name.rpartition(".")[0] or name


def suffix_of(file: str) -> str:
    """The suffix of a file in lower case, with its dot."""
    return file[file.rfind(".") :].lower()


def stem_of(file: str) -> str:
    """The name of a file without folders and suffix, as `fold` gives it."""
    return fold(bare_name(file))


def group_by(files: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """Files by their key."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in files:
        found[key(file)].append(file)
    return dict(found)


def home_of(file: str) -> tuple[str, ...]:
    """The folders of a path, without words such as `images` and `labels`."""
    return _home_of(file.rpartition("/")[0])


@lru_cache(maxsize=10_000)
def _home_of(folder: str) -> tuple[str, ...]:
    return tuple(filter(None, map(_without_kind, folder.split("/"))))


def _without_kind(name: str) -> str:
    """A folder's name without the kind of its files: `train_images` -> `train`, `labels` -> ``."""
    words = re.findall(r"[^\W\d_]+|\d+", fold(name))
    rest = [word for word in words if word not in KINDS_OF_FILES]
    return fold(name) if len(rest) == len(words) else "".join(rest)


def without_top(file: str, tops: Collection[str]) -> str:
    """A path without its first folder, if that is one of the given folders."""
    top, _, rest = file.partition("/")
    return rest if top in tops else file


def has_folder_called(file: str, words: Collection[str]) -> bool:
    """Whether one of the folders of a file has one of the given names."""
    return any(part.lower() in words for part in file.split("/")[:-1])


@lru_cache(maxsize=10_000)
def _marks(folder: str) -> frozenset[str]:
    """The splits and years of VOC that the folders of a path are named after."""
    parts = folder.split("/")
    years = {part for part in parts if re.fullmatch(r"VOC\d{4}", part)}
    return frozenset(filter(None, map(split_of, parts))) | years


def may_belong(image: str, annotation: str) -> bool:
    """Whether an image and an annotation lie in folders of the same split and year, if of any."""
    ours, theirs = _marks(annotation.rpartition("/")[0]), _marks(image.rpartition("/")[0])
    return not ours or not theirs or ours == theirs


def preference(image: str, stem: str, named: str) -> tuple[bool, bool, bool, int]:
    """Sort key of images that may belong to an annotation; the largest is the likeliest."""
    folder = image.split("/")[-2:-1]
    for_images = bool(folder) and folder[0].lower() in KINDS_OF_FILES
    rank = SUFFIXES.index(image[image.rfind(".") :].lower())
    is_named = image.rpartition("/")[2].casefold() == named
    return is_named, PurePosixPath(image).stem == stem, for_images, -rank


def in_split_folder(file: str, split: str) -> bool:
    """Whether one of the folders of a path is named after a split."""
    return any(split_of(part) == split for part in file.split("/")[:-1])


def typed_root(root: Path) -> str:
    """`data.root=` with a path as it is typed in a shell, quoted where necessary."""
    text = f"data.root={root}"
    plain = re.fullmatch(r"[\w./:=-]+", text, re.ASCII)
    return text if plain else f"\"data.root='{root}'\""


def last_part(path: str) -> str:
    """The last part of a path of any operating system."""
    return re.split(r"[/\\]", path)[-1]


def relative(name: str) -> str | None:
    """A path that a file gives, as a path below the root; None if it leads out of the root."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[:1]:
        return None
    return path.as_posix()
