"""Validation of whole splits, and of files that belong to none."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.core.structures import AnnotatedImages, ClassMap
from detector.data.formats.folder import Folder
from detector.data.formats.paths import CONVERT, MASKS, fold
from detector.data.validation.issues import Issues, Item


def validate_splits(
    splits: Mapping[str, AnnotatedImages], classes: ClassMap, root: Path, issues: Issues
) -> None:
    """Report what concerns whole splits: empty ones, shared images, missing and rare classes.

    Args:
        splits: Images by the name of their split.
        classes: Classes of the data set.
        root: Root of the data set.
        issues: The issues found are added to it.
    """
    for name, images in splits.items():
        if not len(images):
            issues.add("empty split", Item(name, "", f"the split {name!r} has no usable image"))
        elif not (~images.ignore).any():
            message = f"the split {name!r} has no boxes to learn or to find"
            issues.add("split without boxes", Item(name, "", message))
    _compare_spelling(classes, issues)
    files = {name: set(images.files(root)) for name, images in splits.items()}
    for a, b in itertools.combinations(splits, 2):
        for file in sorted(files[a] & files[b]):
            issues.add("picture in two splits", Item(b, file, f"is in {a} too", file))
    counts = {
        name: np.bincount(s.labels[~s.ignore], minlength=len(classes) + 1)[1:]
        for name, s in splits.items()
    }
    _count_classes(counts, classes, issues)


def _compare_spelling(classes: ClassMap, issues: Issues) -> None:
    """Report classes whose names differ only in case or in the encoding of accents."""
    spelt: dict[str, str] = {}
    for name in classes.names:
        first = spelt.setdefault(fold(name), name)
        if first != name:
            alike = first.casefold() != name.casefold()
            how = "how accents are encoded (Unicode's NFC and NFD)" if alike else "case"
            message = f"the classes {first!r} and {name!r} differ only in {how}"
            issues.add("class spelt differently", Item("", "", message))


def _count_classes(
    counts: Mapping[str, NDArray[np.int64]], classes: ClassMap, issues: Issues
) -> None:
    """Report classes that a split lacks, and those that are rare in training."""
    for name, count in counts.items():
        if count.any():
            for label in np.flatnonzero(count == 0).tolist():
                message = f"no box of {classes.names[label]!r} in {name}"
                issues.add("class absent from a split", Item(name, "", message))
    train = counts.get("train", np.zeros(len(classes)))
    most = int(train.max(initial=0))
    for label in np.flatnonzero((train > 0) & (train * 100 < most)).tolist():
        message = f"{int(train[label])} boxes of {classes.names[label]!r}, but {most} of "
        other = classes.names[int(train.argmax())]
        issues.add("class imbalance", Item("train", "", f"{message}{other!r}"))


def find_unused(folder: Folder, used: Collection[str], issues: Issues) -> None:
    """Report pictures that no annotation or list names, and files that are not read at all.

    Args:
        folder: Files of the data set.
        used: Relative paths of the images that annotations or lists name.
        issues: The issues found are added to it; malformed annotations in it name images too.
    """
    malformed = [i.file for one in issues if one.kind == "malformed annotation" for i in one.items]
    known = {*used, *filter(None, map(folder.image_for, malformed))}
    rest = [f for f in folder.images if f not in known and not MASKS & {*f.lower().split("/")}]
    unused = "no annotation or list has it"
    issues.add_many("image not used", rest, lambda f: Item("", f, unused, f))
    issues.add_many("unsupported image", folder.unread, lambda f: Item("", f, CONVERT))
    nowhere = "a link that leads nowhere, or no file"
    issues.add_many("broken link", folder.broken_images, lambda f: Item("", f, nowhere))
    once = "a link to a folder that is read by its own name"
    issues.add_many("folder read once", folder.again, lambda f: Item("", f, once))
