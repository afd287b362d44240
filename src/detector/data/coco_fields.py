"""What entries of COCO's JSON say twice, or in the way of one tool: categories, boxes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from detector.boxes import around_turned
from detector.data.coco_json import Category, Instances

LOOKED_AT = 20_000  # polygons of a file, at first
# A box is another one than its polygons' if it is off by more pixels, and they overlap by less.
FEW, ALIKE = 3, 0.6


def without_roots(
    categories: Sequence[Category], used: Collection[int], known: Collection[tuple[int, str]] = ()
) -> list[Category]:
    """The categories, but of several of one name those that no annotation has.

    Roboflow exports the project as a category above all others; it may be called as one of them.

    Args:
        categories: As a file lists them.
        used: Ids that annotations have.
        known: Ids and names of other files, which decide where no annotation does.
    """
    namesakes: dict[str, list[Category]] = defaultdict(list)
    for category in categories:
        namesakes[category.name.strip()].append(category)
    kept: list[Category] = []
    for name, same in namesakes.items():
        if len(same) > 1:
            # The one below the other names it; Roboflow's root is the first.
            same = (
                [c for c in same if c.id in used]
                or [c for c in same if (c.id, name) in known]
                or [c for c in same if (c.supercategory or "").strip() == name][-1:]
                or same[-1:]
            )
        kept += same
    return kept


def groups_of(categories: Sequence[Category]) -> set[str]:
    """The names that other categories have above them; a name that is there twice is a class."""
    names = Counter(c.name.strip() for c in categories)
    above = {(c.supercategory or "").strip() for c in categories if c.supercategory != c.name}
    return {name for name in above if names[name] < 2}


def upright(
    boxes: NDArray[np.float64], radians: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The boxes around turned ones, xyxy, and which ones these are."""
    turned = np.flatnonzero(radians)
    boxes[turned] = around_turned(boxes[turned], radians[turned])
    return boxes, turned


def contradictions(
    content: Instances, rows: NDArray[np.int64], sizes: NDArray[np.int32]
) -> list[tuple[int, str]]:
    """Annotations whose `bbox` is another box than that of their polygons, or of their `area`.

    Polygons take long to decode: of a large file they are looked at evenly spread, and all of them
    only where one of those contradicts.

    Args:
        content: The file's.
        rows: The annotations that are used.
        sizes: Height and width of each one's image, pixels; 0 where the file has none.

    Returns:
        Row and message of each.
    """
    rows, places = rows[content.radians[rows] == 0], np.flatnonzero(content.radians[rows] == 0)
    step = max(1, len(rows) // LOOKED_AT)
    found = _unlike_outline(content, rows[::step], sizes[places[::step]])
    if step > 1 and found:
        found = _unlike_outline(content, rows, sizes[places])
    x, y, w, h = content.boxes[rows].T
    area, named = content.areas[rows], {row for row, _ in found}
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.isclose(area, (w - x) * (h - y), rtol=1e-3) & ~np.isclose(area, w * h, rtol=0.05)
        near &= (w > x) & (h > y)
    if near.sum() * 2 > len(rows):  # a few fit by chance
        why = "area {:g} is that of two corners, x1, y1, x2, y2; expected x, y, width, height"
        found += [(r, why.format(content.areas[r])) for r in rows[near].tolist() if r not in named]
    return found


def _unlike_outline(
    content: Instances, rows: NDArray[np.int64], sizes: NDArray[np.int32]
) -> list[tuple[int, str]]:
    """Annotations whose box is not that of their polygons; arguments as of `contradictions`."""
    theirs = content.outlines(rows.tolist())
    limits = np.where(sizes > 0, sizes, np.inf)[:, [1, 0, 1, 0]]
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = (
            np.clip(np.concatenate((one[:, :2], one[:, :2] + one[:, 2:]), 1), 0, limits)
            for one in (content.boxes[rows], theirs)
        )
        sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
        both = np.clip(sides, 0, None).prod(1)
        union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
        wrong = (np.abs(a - b).max(1) > FEW) & (both < ALIKE * union)
    messages = []
    for i in np.flatnonzero(wrong).tolist():
        around = ", ".join(f"{v:.6g}" for v in theirs[i].tolist())
        box = ", ".join(f"{v:.6g}" for v in content.boxes[rows[i]].tolist())
        messages.append((int(rows[i]), f"bbox is {box}, but the box of its polygons is {around}"))
    return messages
