"""A data set as its files say, packed but not validated yet: what every reader makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from detector.core.bar import over
from detector.data.formats.folder import Folder
from detector.data.validation.issues import Issues, Item


@dataclass
class RawSplit:
    """The images and boxes of one split, image by image.

    Attributes:
        images: Relative path of every image file; empty where there is none.
        sources: Relative path of the file that each image's boxes come from.
        sizes: Height and width that the annotation claims, pixels; zeros where it says nothing.
        counts: Boxes of every image.
        boxes: `(m, 4)` float64 xyxy, in the form of the file (see `Reader`).
        names: `(m,)` index into the reader's `names`.
        ignore: `(m,)` bool.
        rows: `(m,)` the box's number in its source, for messages.
        issues: What the reader found wrong; what it could not use is not in the arrays.
        ids: The data set's own numbers of the images, each once; None where it has none.
    """

    images: list[str]
    sources: list[str]
    sizes: NDArray[np.int32]
    counts: NDArray[np.int64]
    boxes: NDArray[np.float64]
    names: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    rows: NDArray[np.int64]
    issues: Issues = field(default_factory=Issues)
    ids: NDArray[np.int64] | None = None

    def owners(self) -> NDArray[np.int64]:
        """The image that each box belongs to, `(m,)`."""
        return np.repeat(np.arange(len(self.images)), self.counts)


Wanted = dict[str, Sequence[str] | None]  # names of each split; None: the usual ones; empty: none


def add_unclear(issues: Issues, files: Sequence[str]) -> None:
    """Name folders that could be the validation split, where training images are held out else.

    Args:
        issues: Gets them.
        files: What lies in no split, though others do.
    """
    for home in dict.fromkeys(file.rpartition("/")[0] or "." for file in files):
        message = (
            "annotated images, but the name speaks of no split, and nothing else is for val: say "
            f"data.splits.train=[FOLDER] and data.splits.val=[{home}], or [] to hold images out"
        )
        issues.add("unclear split", Item("", home, message))


def add_unclear_list(issues: Issues, file: str, name: str) -> None:
    """Name a list that could be the validation split, where training images are held out else.

    Args:
        issues: Gets it.
        file: The list.
        name: What `data.splits` calls it.
    """
    message = (
        "a list whose name speaks of no split, and nothing else is for val: say "
        f"data.splits.val=[{name}], or [] to hold images out"
    )
    issues.add("unclear split", Item("", file, message))


class RawBuilder:
    """Collects a split image by image, for formats with a file for each."""

    def __init__(self) -> None:
        self.issues = Issues()
        self._images: list[str] = []
        self._sources: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._counts: list[int] = []
        self._boxes: list[NDArray[np.float64]] = []
        self._names: list[int] = []
        self._ignore: list[bool] = []
        self._rows: list[int] = []

    def add(
        self,
        image: str,
        source: str,
        size: tuple[int, int],
        boxes: Sequence[Sequence[float]],
        names: Sequence[int],
        ignore: Sequence[bool],
        rows: Sequence[int],
    ) -> None:
        """Add an image; the arguments are those of `RawSplit`, for one image."""
        self._images.append(image)
        self._sources.append(source)
        self._sizes.append(size)
        self._counts.append(len(boxes))
        if boxes:
            self._boxes.append(np.asarray(boxes, dtype=np.float64))
        self._names += names
        self._ignore += ignore
        self._rows += rows

    def build(self) -> RawSplit:
        """Pack what was added."""
        return RawSplit(
            self._images,
            self._sources,
            np.array(self._sizes, dtype=np.int32).reshape(-1, 2),
            np.array(self._counts, dtype=np.int64),
            np.concatenate([np.zeros((0, 4)), *self._boxes]),
            np.array(self._names, dtype=np.int64),
            np.array(self._ignore, dtype=np.bool_),
            np.array(self._rows, dtype=np.int64),
            self.issues,
        )


class Reader(Protocol):
    """What reads one format.

    Attributes:
        root: The folder that all paths are relative to.
        folder: Its files.
        recognised: What was found, in one line.
        splits: The splits there are; only `pool` where the files do not say.
        names: Class names by number, those that `RawSplit.names` points to; grows while reading.
        ids: The data set's own category ids, for the same numbers; None: 1..K by order of classes.
        first_pixel: Number of the first pixel: 0; or 1, and then corners are inclusive (VOC).
        relative: Boxes are fractions of the image's sides (YOLO).
        groups: Names that group other categories (COCO's supercategories).
        where: How messages call a box by its number and its image, such as `object {}`.
    """

    root: Path
    folder: Folder
    recognised: str
    splits: tuple[str, ...]
    names: list[str]
    ids: list[int] | None
    first_pixel: int
    relative: bool
    groups: set[str]
    where: str

    def read(self, split: str) -> RawSplit:
        """Read one of the splits."""


class Sign(IntEnum):
    """How much the files of a folder look like a format; the strongest sign decides."""

    NONE = 0
    POSSIBLE = 1
    LIKELY = 2
    SURE = 3


def no_hint(_: Folder) -> str:
    """The `hint` of a format that has none."""
    return ""


@dataclass(frozen=True)
class Format:
    """A format of annotation files: what its module exports as `FORMAT`.

    Attributes:
        reader: Class of its reader, called with the files and the names of the splits.
        sign: How much the files of a folder look like this format.
        expected: The name of the format and the files that it is recognised by, for messages.
        hint: Where else a data set of this format is, for a message about a folder without one;
            empty if nowhere.
    """

    reader: Callable[[Folder, Wanted], Reader]
    sign: Callable[[Folder], Sign]
    expected: str
    hint: Callable[[Folder], str] = no_hint


def by_name(files: Sequence[str]) -> list[int]:
    """The order of images whatever list or folder they are in: by file name, then by path."""
    return sorted(range(len(files)), key=lambda i: (files[i].rpartition("/")[2], files[i]))


POOL = "pool"
_YES = frozenset(("true", "yes", "t", "y"))
_NO = frozenset(("false", "no", "f", "n", "", "none", "null"))
T = TypeVar("T")


def flag(value: object) -> bool | None:
    """Yes or no, as any tool writes it: a number, a word, nothing; None if it is neither."""
    word = "" if value is None else str(value).strip().casefold()
    if word in _YES or word in _NO:
        return word in _YES
    try:
        number = float(word)
    except ValueError:
        return None
    return None if math.isnan(number) else number != 0


def turn(degrees: object) -> float:
    """By how many radians a box is turned, of CVAT's attribute `rotation`.

    Half turns change no box: for them, and for what is no number, it is 0.
    """
    try:
        value = float(degrees) if isinstance(degrees, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return 0.0  # an attribute of that name that means something else
    return math.radians(value % 180) if math.isfinite(value) else 0.0


def show(what: Iterable[T], split: str) -> Iterator[T]:
    """Go through what is read, and show how far that is if it takes more than a moment."""
    return over(what, f"reading {split}", "file")
