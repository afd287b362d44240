"""Validation of every image and box of a split: what can be used, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.structures import AnnotatedImages, ClassMap
from detector.data.formats.paths import fold
from detector.data.formats.raw import RawSplit, Reader, by_name
from detector.data.images.headers import misfit
from detector.data.validation.image_info import ImageInfo
from detector.data.validation.issues import Issues, Item

TINY = 3  # pixels
SLACK = 0.5  # pixels by which rounded coordinates may lie outside


@dataclass(frozen=True)
class Validated:
    """A validated split.

    Attributes:
        images: Usable images with their usable boxes.
        issues: Issues of the split.
    """

    images: AnnotatedImages
    issues: Issues


def choose_classes(
    reader: Reader, raws: Mapping[str, RawSplit], given: Sequence[str] | None
) -> ClassMap:
    """The classes of a data set, sorted by name, so that results do not depend on the format.

    Args:
        reader: Reader with the class names, and with their ids if the format has ids.
        raws: Splits that were read; if the format lists no classes, those of the first split count.
        given: Class names in order; None takes those of the data.
    """
    if given is not None:
        ids = dict(zip(reader.names, reader.ids or (), strict=False))
        numbers = [ids.get(name, -1) for name in given]
        good = reader.ids is not None and -1 not in numbers
        return ClassMap(tuple(given), tuple(numbers)) if good else ClassMap.from_names(given)
    used: Counter[str] = Counter()
    for raw in raws.values() if reader.ids is not None else [next(iter(raws.values()))]:
        for number, count in zip(*np.unique(raw.names, return_counts=True), strict=True):
            used[reader.names[int(number)]] += int(count)
    if reader.ids is not None:
        # Some exports also list groups of categories, which no box has, as categories.
        listed = zip(reader.names, reader.ids, strict=True)
        kept = sorted((n, i) for n, i in listed if used[n] or n not in reader.groups)
        return ClassMap(tuple(n for n, _ in kept), tuple(i for _, i in kept))
    # Of several spellings, the most frequent is the class.
    spelt: dict[str, str] = {}
    for name, _ in sorted(used.items(), key=lambda pair: (-pair[1], pair[0])):
        spelt.setdefault(fold(name), name)
    return ClassMap.from_names(sorted(spelt.values()))


@dataclass
class Validator:
    """Validator of the splits of a data set.

    Args:
        reader: Reader that knows the convention of boxes.
        infos: What is known of every image file.
        classes: Allowed classes.
        classes_from: Where the classes come from, for messages.
        channels: Number of channels of the images that the network takes.
    """

    reader: Reader
    infos: Mapping[str, ImageInfo]
    classes: ClassMap
    classes_from: str
    channels: int

    @np.errstate(over="ignore", invalid="ignore")  # non-finite coordinates are reported
    def validate(self, split: str, raw: RawSplit) -> Validated:
        """Validate one split."""
        issues = Issues()
        issues.update(raw.issues)
        good = self._validate_images(split, raw, issues)
        shapes = [(f.height, f.width) for f in map(self.infos.__getitem__, raw.images)]
        sizes = np.array(shapes, dtype=np.int32).reshape(-1, 2)
        owner = raw.owners()
        sides = np.tile(sizes[owner][:, ::-1], 2)  # width, height, width, height
        written = raw.boxes * sides if self.reader.relative else raw.boxes
        # To 0-based and half-open: only the upper-left corner moves.
        pixels = written - np.array([1, 1, 0, 0]) * self.reader.first_pixel
        name_box = _Namer(self.reader, split, raw, owner, written, pixels)
        labels = self._validate_classes(raw, good[owner], name_box, issues)
        usable = good[owner] & (labels > 0)
        for kind, wrong, why in _box_issues(written, pixels, sides):
            rows = np.flatnonzero(usable & wrong)
            issues.add_many(kind, rows, partial(name_box, why=why))
            usable &= ~wrong
        keep = np.flatnonzero(usable)
        _warn_of_boxes(keep, pixels, sides, labels, name_box, issues)
        kept = np.flatnonzero(good)
        counts = np.bincount(owner[keep], minlength=len(good))[kept]
        for i in kept[counts == 0]:
            image = raw.images[i]
            issues.add("image without boxes", Item(split, image, "no boxes", image))
        images = AnnotatedImages(
            paths=np.array([f"{self.reader.root}/{raw.images[i]}" for i in kept], dtype=np.str_),
            sizes=sizes[kept],
            offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            boxes=np.clip(pixels[keep], 0, sides[keep]).astype(np.float32),
            labels=labels[keep],
            ignore=raw.ignore[keep],
            ids=None if raw.ids is None else raw.ids[kept],
        )
        # Results must not depend on the order of a list or a JSON file.
        return Validated(images.subset(by_name(images.paths.tolist())), issues)

    def _validate_images(self, split: str, raw: RawSplit, issues: Issues) -> NDArray[np.bool_]:
        """Report unusable images; `(n,)` bool, whether each image can be used."""
        good = np.ones(len(raw.images), dtype=bool)
        seen: dict[str, str] = {}
        for i, (image, source) in enumerate(zip(raw.images, raw.sources, strict=True)):
            info = self.infos[image]
            claimed = int(raw.sizes[i, 0]), int(raw.sizes[i, 1])
            first = seen.setdefault(image, source)
            if first != source:
                good[i] = False
                message = f"its image, {image}, is also that of {first}"
                issues.add("duplicate image", Item(split, source, message, image))
            elif info.issue:
                good[i] = False
                issues.add("unreadable image", Item(split, image, info.issue))
            elif issue := misfit(info.bands, self.channels):
                good[i] = False
                issues.add("bands do not fit", Item(split, image, issue, image))
            elif any(c and c != s for c, s in zip(claimed, (info.height, info.width), strict=True)):
                good[i] = False
                message = (
                    f"the image is {info.width}x{info.height} when upright, "
                    f"but {source} says {claimed[1]}x{claimed[0]}"
                )
                if info.orientation >= 5 and claimed == (info.width, info.height):
                    message += f", as before the turn by EXIF orientation {info.orientation}"
                issues.add("size contradicts annotation", Item(split, image, message, image))
            elif info.orientation != 1 and (info.orientation < 5 or not all(claimed)):
                message = f"EXIF orientation {info.orientation}"
                issues.add("image turned by EXIF", Item(split, image, message, image))
        return good

    def _validate_classes(
        self, raw: RawSplit, good: NDArray[np.bool_], name_box: _Namer, issues: Issues
    ) -> NDArray[np.int64]:
        """The label of every box; 0 for unknown classes, which are reported."""
        names, classes = self.reader.names, self.classes
        known_labels = {name: i for i, name in enumerate(classes.names, start=1)}
        table = np.array([known_labels.get(name, 0) for name in names] or [0], dtype=np.int64)
        labels: NDArray[np.int64] = table[raw.names]
        spelt = {fold(name): name for name in classes.names}
        known = ", ".join(classes.names[:20]) + (", ..." if len(classes) > 20 else "")
        for number in np.unique(raw.names[(labels == 0) & good]).tolist():
            name = names[number]
            other = spelt.get(fold(name))
            kind = "class spelt differently" if other else "unknown class"
            why = f"the class {name!r} is not among {self.classes_from}: {known}"
            if other:
                why = f"the class {name!r} is {other!r} in {self.classes_from}"
            rows = np.flatnonzero((raw.names == number) & good)
            issues.add_many(kind, rows, partial(name_box, why=why))
        return labels


@dataclass(frozen=True)
class _Namer:
    """Describes a box as an item; the fields are variables of `Validator.validate`."""

    reader: Reader
    split: str
    raw: RawSplit
    owner: NDArray[np.int64]
    written: NDArray[np.float64]
    pixels: NDArray[np.float64]

    def __call__(self, row: int, why: str) -> Item:
        raw, image = self.raw, int(self.owner[row])
        corners = ", ".join(f"{c:.6g}" for c in self.written[row].tolist())
        where = self.reader.where.format(int(raw.rows[row]), raw.images[image].rpartition("/")[2])
        name = self.reader.names[int(raw.names[row])]
        x1, y1, x2, y2 = self.pixels[row].tolist()
        message = f"{where} ({name} {corners}): {why}"
        return Item(self.split, raw.sources[image], message, raw.images[image], (x1, y1, x2, y2))


def _box_issues(
    written: NDArray[np.float64], pixels: NDArray[np.float64], sides: NDArray[np.int32]
) -> list[tuple[str, NDArray[np.bool_], str]]:
    """Unusable boxes by kind of issue: kind, which boxes, reason."""
    x1, y1, x2, y2 = written.T  # as written: tools write xmin = xmax for an accidental click
    left, top, right, bottom = pixels.T
    width, height = sides.T[:2]
    outside = (right <= 0) | (bottom <= 0) | (left >= width) | (top >= height)
    inverted = (x2 < x1) | (y2 < y1)
    return [
        ("box not finite", ~np.isfinite(written).all(1), "a coordinate is not a finite number"),
        ("inverted box", inverted, "the second corner is left of or above the first"),
        ("box without area", (x2 == x1) | (y2 == y1), "no width or no height"),
        ("box outside the image", outside, "no part of it is on the image"),
    ]


def _warn_of_boxes(
    rows: NDArray[np.int64],
    pixels: NDArray[np.float64],
    sides: NDArray[np.int32],
    labels: NDArray[np.int64],
    name_box: _Namer,
    issues: Issues,
) -> None:
    """Report boxes that can be used but should be looked at; `rows` are the usable boxes."""
    boxes, limits = pixels[rows], sides[rows]
    over = np.maximum(-boxes[:, :2], boxes[:, 2:] - limits[:, 2:]).max(1, initial=0)
    inside = np.minimum(boxes[:, 2:], limits[:, 2:]) - np.maximum(boxes[:, :2], 0)
    shorter = inside.min(1, initial=1e9)
    again = _repeats([name_box.owner[rows], labels[rows], *boxes.round().T])
    for kind, chosen, why in (
        ("box partly outside", over > SLACK, "partly outside the image"),
        ("tiny box", shorter < TINY, f"a side of under {TINY} pixels"),
        ("duplicate box", again, "the same as an earlier one"),
    ):
        issues.add_many(kind, rows[chosen], partial(name_box, why=why))


def _repeats(columns: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Which rows of a table are repetitions of earlier rows; sorted by a hash to save memory."""
    weights = np.random.default_rng(0).random(len(columns))
    value = sum(w * column for w, column in zip(weights, columns, strict=True))
    order = np.argsort(value, kind="stable")
    same = np.ones(max(0, len(order) - 1), dtype=bool)
    for column in columns:
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    repeats = np.zeros(len(order), dtype=bool)
    repeats[order[1:][same]] = True
    return repeats
