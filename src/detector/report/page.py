"""The page of the data check: one self-contained HTML file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.core.files import write_text
from detector.report.render import environment
from detector.report.thumbnail import PALETTE, Thumbnail, class_color, data_uri, draw_thumbnail

__all__ = ["Thumbnail", "write_check_page"]

SHOWN_ITEMS = 50  # items of one kind of finding; check.json has all
SHOWN_CLASSES = 20  # classes that are not folded


@dataclass(frozen=True)
class Share:
    """Boxes of one class in one split.

    Attributes:
        boxes: Number of boxes.
        share: Share of the boxes of the split, 0..1.
        bar: Length of the bar that shows it, percent.
    """

    boxes: int
    share: float
    bar: float


def write_check_page(file: Path, content: dict[str, Any], thumbnails: Sequence[Thumbnail]) -> None:
    """Write the page in one step: on failure nothing is left, and an older page stays.

    Args:
        file: An `.html` in a folder that exists.
        content: Content of check.json; `histograms`, `model` and single values may be missing.
        thumbnails: Thumbnails in their order; each is shown beside the finding of its kind.

    Raises:
        ValueError: If a thumbnail belongs to no finding of `content`.
    """
    write_text(file, _render(content, thumbnails))


def _render(content: dict[str, Any], thumbnails: Sequence[Thumbnail]) -> str:
    """The page as text."""
    classes = content["classes"]
    pictures: dict[str, list[tuple[Thumbnail, str, tuple[int, ...]]]] = {
        finding["kind"]: [] for finding in content["findings"]
    }
    for thumbnail in thumbnails:
        if thumbnail.kind not in pictures:
            raise ValueError(f"{thumbnail.name}: no finding is called {thumbnail.kind!r}")
        picture = draw_thumbnail(thumbnail, len(classes))
        pictures[thumbnail.kind].append((thumbnail, data_uri(picture), picture.shape))
    colors = [
        "#{:02x}{:02x}{:02x}".format(*class_color(i + 1, len(classes)))
        for i in range(len(classes) if thumbnails and len(classes) <= len(PALETTE) else 0)
    ]
    template = environment().get_template("check.html")
    return template.render(
        check=content,
        pictures=pictures,
        colors=colors,
        balance=class_balance(classes, content["splits"]),
        shown_items=SHOWN_ITEMS,
        shown_classes=SHOWN_CLASSES,
    )


def class_balance(
    classes: Sequence[str], splits: Mapping[str, Mapping[str, Any]]
) -> list[tuple[int, str, list[Share]]]:
    """Boxes of every class and their share in every split, the most frequent class first.

    Args:
        classes: Class names in the order of their labels.
        splits: Name of a split -> its counts; `per_class` has the boxes by class name.

    Returns:
        Label, name and one `Share` for each split; bars compare over the whole table.
    """
    counts = [
        [int((split.get("per_class") or {}).get(name) or 0) for split in splits.values()]
        for name in classes
    ]
    totals = [max(1, sum(column)) for column in zip(*counts, strict=True)]
    shares = [[n / total for n, total in zip(row, totals, strict=True)] for row in counts]
    most = max((share for row in shares for share in row), default=0) or 1
    rows = []
    for i, name in enumerate(classes):
        pairs = zip(counts[i], shares[i], strict=True)
        rows.append((i + 1, name, [Share(n, share, 100 * share / most) for n, share in pairs]))
    return sorted(rows, key=lambda row: -sum(cell.boxes for cell in row[2]))
