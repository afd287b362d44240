"""What every format provides: a reader, and splits as the files state them, not validated."""

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
    """Images and boxes of one split as packed arrays, in the order of the images.

    Attributes:
        images: Relative path of every image file.
        sources: Relative path of the file that the boxes of each image come from.
        sizes: `(n, 2)` height and width given by the annotation, in pixels; zeros if not given.
        counts: `(n,)` number of boxes of every image.
        boxes: `(m, 4)` float64 xyxy, in the convention of the file (see `Reader`).
        names: `(m,)` index into `names` of the reader.
        ignore: `(m,)` bool, boxes that are neither trained on nor counted in evaluation.
        rows: `(m,)` number of the box in its source, for messages.
        issues: Issues that the reader found; entries that it cannot use are not in the arrays.
        ids: `(n,)` unique ids of the images in the data set; None if it has no ids.
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
        """Index of the image of each box, `(m,)`."""
        return np.repeat(np.arange(len(self.images)), self.counts)


Wanted = dict[str, Sequence[str] | None]  # names of each split; None: the usual ones; empty: none


def add_unclear(issues: Issues, files: Sequence[str]) -> None:
    """Report folders that may be the validation split, which a split by ratio would replace.

    Args:
        issues: The issues found are added to it.
        files: Relative paths of annotated images that lie in no split.
    """
    for home in dict.fromkeys(file.rpartition("/")[0] or "." for file in files):
        message = (
            "annotated images, but its name is of no split, and nothing else is for val: say "
            f"data.splits.train=[FOLDER] and data.splits.val=[{home}], or [] to hold images out"
        )
        issues.add("unclear split", Item("", home, message))


def add_unclear_list(issues: Issues, file: str, name: str) -> None:
    """Report a list that may be the validation split, which a split by ratio would replace.

    Args:
        issues: The issue is added to it.
        file: Relative path of the list.
        name: Name of the list in `data.splits`.
    """
    message = (
        "a list whose name is of no split, and nothing else is for val: say "
        f"data.splits.val=[{name}], or [] to hold images out"
    )
    issues.add("unclear split", Item("", file, message))


class RawBuilder:
    """Builder of a `RawSplit`, image by image."""

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
        """Pack the images that were added."""
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
    """Reader of one format.

    Attributes:
        root: Folder that all paths are relative to.
        folder: Files below it.
        recognised: Description of the files found, in one line.
        splits: Names of the splits; only `pool` where the files define no splits.
        names: Class names that `RawSplit.names` points to; more may be added while reading.
        ids: Category ids of the data set, for the same classes; None stands for 1..K.
        first_pixel: Number of the first pixel: 0, or 1 with inclusive corners (VOC).
        relative: Whether boxes are fractions of the sides of the image (YOLO).
        groups: Names that group other categories (supercategories of COCO).
        where: Pattern of a box in messages, for its number and its image, such as `object {}`.
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
        """Read one of `splits`."""


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
    """The order of images by file name, then by path, whatever list or folder they are in."""
    return sorted(range(len(files)), key=lambda i: (files[i].rpartition("/")[2], files[i]))


POOL = "pool"
_YES = frozenset(("true", "yes", "t", "y"))
_NO = frozenset(("false", "no", "f", "n", "", "none", "null"))
T = TypeVar("T")


def flag(value: object) -> bool | None:
    """A truth value as tools write it: a number, a word or nothing; None if it is no such value."""
    word = "" if value is None else str(value).strip().casefold()
    if word in _YES or word in _NO:
        return word in _YES
    try:
        number = float(word)
    except ValueError:
        return None
    return None if math.isnan(number) else number != 0


def turn(degrees: object) -> float:
    """The rotation of a box in radians, from CVAT's attribute `rotation` in degrees.

    Multiples of 180 degrees do not change a box and give 0, as values do that are no numbers.
    """
    try:
        value = float(degrees) if isinstance(degrees, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return 0.0  # an attribute of that name that means something else
    return math.radians(value % 180) if math.isfinite(value) else 0.0


def show(what: Iterable[T], split: str) -> Iterator[T]:
    """Iterate with a progress bar, which appears if reading takes more than a moment."""
    return over(what, f"reading {split}", "file")
