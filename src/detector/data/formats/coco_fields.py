"""Special cases of COCO's JSON: root categories, rotated boxes, and boxes that contradict."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.core.boxes import around_turned
from detector.data.formats.coco_json import SAMPLED, Category, Instances, decode

# A box contradicts its polygons if it differs by more than `FEW` pixels and their IoU is lower than
# `ALIKE`.
FEW, ALIKE = 3, 0.6


def without_roots(
    categories: Sequence[Category], used: Collection[int], known: Collection[tuple[int, str]] = ()
) -> list[Category]:
    """The categories without unused namesakes.

    Roboflow exports the project as a category above all others, which may have the name of one of
    them.

    Args:
        categories: Categories of a file.
        used: Category ids of its annotations.
        known: Ids and names of the categories of other files, which decide where no annotation
            does.
    """
    namesakes: dict[str, list[Category]] = defaultdict(list)
    for category in categories:
        namesakes[category.name.strip()].append(category)
    kept: list[Category] = []
    for name, same in namesakes.items():
        if len(same) > 1:
            # The child names its parent as supercategory; Roboflow's root comes first.
            same = (
                [c for c in same if c.id in used]
                or [c for c in same if (c.id, name) in known]
                or [c for c in same if (c.supercategory or "").strip() == name][-1:]
                or same[-1:]
            )
        kept += same
    return kept


def groups_of(categories: Sequence[Category]) -> set[str]:
    """The names of supercategories, except names that more than one category has."""
    names = Counter(c.name.strip() for c in categories)
    above = {(c.supercategory or "").strip() for c in categories if c.supercategory != c.name}
    return {name for name in above if names[name] < 2}


def upright(
    boxes: NDArray[np.float64], radians: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The upright boxes around rotated boxes, xyxy, and the rows of those; changes `boxes`."""
    turned = np.flatnonzero(radians)
    boxes[turned] = around_turned(boxes[turned], radians[turned])
    return boxes, turned


def contradictions(
    file: Path, content: Instances, rows: NDArray[np.int64], sizes: NDArray[np.int32]
) -> list[tuple[int, str]]:
    """Annotations whose `bbox` contradicts their polygons or their `area`.

    Args:
        file: The JSON file; it is read again with all polygons if one of the sample contradicts.
        content: Content of the file.
        rows: Rows of the annotations that are used.
        sizes: Height and width of the image of each, pixels; 0 where the file does not give it.

    Returns:
        Row and message of each such annotation.
    """
    plain = content.radians[rows] == 0
    rows, sizes = rows[plain], sizes[plain]
    found = _unlike_outline(content, rows, sizes)
    if found and len(content.outlines) > SAMPLED:
        found = _unlike_outline(decode(file, len(content.outlines)), rows, sizes)
    x, y, w, h = content.boxes[rows].T
    area, named = content.areas[rows], {row for row, _ in found}
    with np.errstate(over="ignore", invalid="ignore"):
        near = (np.abs((w - x) * (h - y) - area) < 1e-3 * area) & (w > x) & (h > y)
        near &= np.abs(w * h - area) > 0.05 * area
    if near.sum() * 2 > len(rows):  # a few fit by chance
        why = "area {:g} is that of two corners, x1, y1, x2, y2; expected x, y, width, height"
        found += [(r, why.format(content.areas[r])) for r in rows[near].tolist() if r not in named]
    return found


def _unlike_outline(
    content: Instances, rows: NDArray[np.int64], sizes: NDArray[np.int32]
) -> list[tuple[int, str]]:
    """Annotations whose box contradicts their polygons; arguments as those of `contradictions`."""
    known = ~np.isnan(content.outlines[rows, 0])
    rows, limits = rows[known], np.where(sizes > 0, sizes, np.inf)[known][:, [1, 0, 1, 0]]
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = (
            np.clip(np.concatenate((one[:, :2], one[:, :2] + one[:, 2:]), 1), 0, limits)
            for one in (content.boxes[rows], content.outlines[rows])
        )
        sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
        both = np.clip(sides, 0, None).prod(1)
        union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
        wrong = (np.abs(a - b).max(1, initial=0) > FEW) & (both < ALIKE * union)
    messages = []
    for row in rows[wrong].tolist():
        box, around = (
            ", ".join(f"{v:.6g}" for v in boxes[row].tolist())
            for boxes in (content.boxes, content.outlines)
        )
        messages.append((row, f"bbox is {box}, but the box of its polygons is {around}"))
    return messages
