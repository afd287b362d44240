"""Issues of a data set: kinds with severity and advice, counted and listed file by file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from detector.core.structures import Box

Severity = Literal["error", "leakage", "warning"]

# Items of one kind that are listed; all are counted.
NAMED = 10_000
LONGEST = 500  # characters of a message

# Severity and advice of every kind, in the order of reports.
KINDS: dict[str, tuple[Severity, str]] = {
    "missing annotation": ("error", "Add the file, or take the image off the list."),
    "malformed annotation": ("error", "Correct the file; nothing in it can be used as it is."),
    "missing image": ("error", "Add the file, or take its annotation away."),
    "unreadable image": ("error", "Replace the file by one still picture that decodes."),
    "bands do not fit": ("error", "Convert the file, or choose model.in_channels as it is stored."),
    "duplicate image": ("error", "List every image once, under one id."),
    "size contradicts annotation": ("error", "Boxes may be on other pixels: annotate this file."),
    "unknown class": ("error", "Correct the name, or list all classes in data.classes."),
    "class spelt differently": ("error", "Use one spelling of the class."),
    "box not finite": ("error", "Coordinates must be numbers."),
    "inverted box": ("error", "The second corner must lie to the lower right of the first."),
    "box without area": ("error", "Draw it again: it has no width or no height."),
    "box outside the image": ("error", "Draw it again: no part of it is on the image."),
    "unclear split": ("error", "Say data.splits.train=[FOLDER] and data.splits.val=[FOLDER]."),
    "empty split": ("error", "Every split needs images."),
    "split without boxes": ("error", "Every split needs boxes to learn from or to find."),
    "picture in two splits": (
        "leakage",
        "Metrics of the later split are too good: keep it in one.",
    ),
    "seen in training": ("leakage", "Evaluate on images that the detector was not trained on."),
    "like a training image": ("leakage", "Look at them: of one scene, keep one split."),
    "similar pictures in two splits": ("leakage", "Look at them: of one scene, keep one split."),
    "box partly outside": ("warning", "It is clipped to the image."),
    "tiny box": ("warning", "Sides of under 3 pixels are slips of the mouse, or hard to learn."),
    "duplicate box": ("warning", "The same object twice teaches nothing and costs precision."),
    "image without boxes": ("warning", "Right for background images; else boxes are missing."),
    "image without labels": ("warning", "Right for background images; else the file is missing."),
    "annotation not used": (
        "warning",
        "Folders name splits: move it, or say data.splits.train=[.]",
    ),
    "image not used": ("warning", "No annotation or list has it; an empty one marks background."),
    "unsupported image": ("warning", "Convert it to PNG or JPEG: its format is not read."),
    "broken link": ("warning", "Restore what the link led to, or take it away."),
    "image listed twice": ("warning", "It is used once: take the second line away."),
    "split not there": ("warning", "What is named for it is missing: add it, or take it out."),
    "folder read once": (
        "warning",
        "Nothing is read twice: what a link is called says nothing of a split.",
    ),
    "file name disagrees": ("warning", "The file says another name than that of its image."),
    "class lists disagree": ("warning", "Take one list away, or make them the same."),
    "rotated box": ("warning", "The upright box around it is used; its angle is not."),
    "box given otherwise too": ("warning", "bbox is used: look whether it is the right one."),
    "flag not understood": ("warning", "Taken as no: write 1 or 0."),
    "unusual columns": ("warning", "Lines of one data set should be of one kind."),
    "image turned by EXIF": ("warning", "Boxes are taken to be on the upright picture."),
    "class absent from a split": ("warning", "Nothing can be learnt or measured of it there."),
    "class imbalance": ("warning", "Rare classes: more images, or data.repeat_threshold=0.05."),
    "same picture twice": ("warning", "Within a split, it counts double."),
}


@dataclass(frozen=True)
class Item:
    """One occurrence of an issue.

    Attributes:
        split: Name of the split; empty if it belongs to none.
        file: Path of the file to look at, relative to the root if it lies below.
        message: Description in a few words.
        image: Path of the image that shows it; empty if none does.
        box: Box in question, xyxy pixels, 0-based; None if it concerns no box.
        other: Path of a second image to compare with; empty if there is none.
    """

    split: str
    file: str
    message: str
    image: str = ""
    box: Box | None = None
    other: str = ""

    def __str__(self) -> str:
        """The item in one line."""
        return f"{_legible(self.file)}: {self.message}" if self.file else self.message


@dataclass
class Issue:
    """All occurrences of one kind.

    Attributes:
        kind: Name of the kind, a key of `KINDS`.
        count: Number of occurrences.
        items: The first `NAMED` occurrences.
    """

    kind: str
    count: int = 0
    items: list[Item] = field(default_factory=list)

    @property
    def severity(self) -> Severity:
        """Severity of this kind."""
        return KINDS[self.kind][0]

    @property
    def advice(self) -> str:
        """What the user can do about it."""
        return KINDS[self.kind][1]


class Issues:
    """Issues by kind, in the order of `KINDS`."""

    def __init__(self) -> None:
        self._kinds: dict[str, Issue] = {}

    def __iter__(self) -> Iterator[Issue]:
        """The kinds that occur."""
        return (self._kinds[kind] for kind in KINDS if kind in self._kinds)

    def __repr__(self) -> str:
        """The kinds that occur, and how often."""
        found = [f"{issue.count} x {issue.kind} ({issue.severity})" for issue in self]
        return f"Issues({', '.join(found)})"

    def add(self, kind: str, item: Item) -> None:
        """Add one item."""
        self.add_many(kind, [item], lambda i: i)

    def add_many(self, kind: str, those: Iterable[Any], describe: Callable[[Any], Item]) -> None:
        """Add many items, of which only those that are listed are described."""
        for one in those:
            issue = self._kinds.setdefault(kind, Issue(kind))
            issue.count += 1
            if len(issue.items) < NAMED:
                item = describe(one)
                issue.items.append(replace(item, message=_legible(item.message)))

    def update(self, others: Issues) -> None:
        """Add the issues of another collection."""
        for other in others:
            mine = self._kinds.setdefault(other.kind, Issue(other.kind))
            mine.count += other.count
            mine.items += other.items[: NAMED - len(mine.items)]

    def relabel(self, homes: Mapping[str, str]) -> None:
        """Set the split of every item, after images were split by ratio.

        Args:
            homes: Split of each image; items of other images belong to no split.
        """
        for issue in self._kinds.values():
            issue.items = [
                replace(item, split=homes.get(item.image or item.file, "")) for item in issue.items
            ]

    def count(self, severity: Severity) -> int:
        """Number of items of a severity."""
        return sum(issue.count for issue in self if issue.severity == severity)

    def of(self, severity: Severity) -> list[Issue]:
        """The kinds of a severity that occur."""
        return [issue for issue in self if issue.severity == severity]

    def plain(self) -> list[dict[str, Any]]:
        """The issues as check.json has them, under `findings`."""
        return [
            {
                "kind": f.kind,
                "severity": f.severity,
                "count": f.count,
                "advice": f.advice,
                "items": [
                    {"split": i.split, "file": i.file, "message": i.message} for i in f.items
                ],
            }
            for f in self
        ]


def _legible(text: str) -> str:
    """Text of an untrusted file for a terminal: shortened, invisible characters escaped."""
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)
