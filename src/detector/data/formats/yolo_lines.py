"""Interpretation of the lines of YOLO's text files: boxes, polygons, or boxes with keypoints.

A line consists of a class and further numbers, and only their count tells their meaning. It is
ambiguous: seven numbers may be a class and a triangle, a box with a keypoint, or a box with the
confidence and the track of a detection. So all lines of a split are interpreted together.

Formats: https://docs.ultralytics.com/datasets (detect, segment, obb and pose), and what
Ultralytics' `save_txt` writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from detector.core.errors import RequestError

# Lines of a split are boxes with points if this share of them looks like that. In random data, 85 %
# or more of boxes with keypoints do, and up to 15 % of polygons.
MOST = 0.6
FEW = 3  # fewer lines may look like something else by chance
SLACK = 0.1  # keypoints may lie outside of a box by this share of its sides
LABEL = "class, centre x and y, width, height"


Corners = tuple[float, float, float, float]


class More(NamedTuple):
    """A line with more than four numbers after the class.

    Attributes:
        numbers: Count of the numbers after the class.
        around: Box around the numbers taken as points, xyxy fractions; the box that the line begins
            with where data.yaml declares keypoints.
        with_points: Whether, by what follows, the first four numbers can only be a box.
        track: Whether the numbers may end in a confidence and the number of a track.
    """

    numbers: int
    around: Corners
    with_points: bool = False
    track: bool = False


class Lines(NamedTuple):
    """The non-empty lines of one file.

    Attributes:
        rows: Number of each line in the file, from 1.
        classes: First number of each line.
        boxes: Box of each line, xyxy fractions: its next four numbers as centre, width and height.
        more: Lines with further numbers, by their index in these lists.
    """

    rows: list[int]
    classes: list[float]
    boxes: list[Corners]
    more: dict[int, More]


class Keypoints(NamedTuple):
    """The keypoints that data.yaml declares.

    Attributes:
        text: Value of `kpt_shape`, for messages.
        numbers: Count of the numbers that follow each box.
    """

    text: str
    numbers: int


def read_keypoints(shape: object, file: str, root: Path) -> Keypoints | None:
    """The keypoints that `kpt_shape` in data.yaml declares; None if boxes have no keypoints.

    Args:
        shape: Value of `kpt_shape`, with scalars as texts.
        file: Path of the YAML file, relative to the root.
        root: Root of the data set, for messages.

    Raises:
        RequestError: If the value is malformed.
    """
    if shape is None:
        return None
    texts = shape if isinstance(shape, list) else []
    numbers = [int(n) for n in texts if isinstance(n, str) and re.fullmatch("[0-9]{1,5}", n)]
    if not len(texts) == len(numbers) == 2 or numbers[1] not in (2, 3):
        raise RequestError(
            f"{root / file}: kpt_shape: expected the number of keypoints and 2 or 3 numbers for "
            "each, such as [17, 3]"
        )
    count = numbers[0] * numbers[1]
    return Keypoints(f"kpt_shape: {numbers} in {file}", count) if count else None


def read_lines(text: str, keypoints: Keypoints | None) -> Lines:
    """Read the lines of a text file.

    Args:
        text: Content of the file.
        keypoints: Keypoints that follow every box, if any.

    Raises:
        RequestError: If a line has no valid interpretation; the message does not name the file.
    """
    lines = Lines([], [], [], {})
    for row, line in enumerate(text.split("\n"), start=1):
        words = line.split()
        if not words:
            continue
        try:
            first, *values = map(float, words)
        except ValueError as error:
            raise RequestError(f"line {row} is {line.strip()[:60]!r}, expected numbers") from error
        if len(values) != 4 and (issue := _misfit(values, keypoints)):
            raise RequestError(f"line {row} has {issue}")
        x, y, w, h = values[:4]
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        count = len(values)
        if count > 4:
            more = More(count, box)
            if keypoints is None:
                track = words[-1].isdecimal() and not words[-2].isdecimal()
                more = More(count, _around(values), _has_points(box, values), track)
            lines.more[len(lines.rows)] = more
        lines.rows.append(row)
        lines.classes.append(first)
        lines.boxes.append(box)
    return lines


def _misfit(values: Sequence[float], keypoints: Keypoints | None) -> str:
    """Why numbers, which are not four, have no valid interpretation; empty if they have one."""
    count = len(values)
    if keypoints is not None:
        if count == 4 + keypoints.numbers:
            return ""
        return (
            f"{count + 1} numbers, expected {5 + keypoints.numbers}: a box ({LABEL}) and keypoints "
            f"({keypoints.text})"
        )
    if count < 6 or count % 2:
        found = f"{count + 1} numbers, expected 5 ({LABEL}) or a class and a polygon"
        if count > 4:
            found += "; a box with a confidence, a track or an angle is no label, and one with "
            found += "keypoints needs kpt_shape in data.yaml"
        return found
    far = next((v for v in values if v <= -1 or v >= 2), None)
    if far is None:
        return ""
    return (
        f"{count + 1} numbers, of which {far:g} is no fraction of the image's sides, so that they "
        f"are no class and polygon; expected 5 ({LABEL}), or kpt_shape in data.yaml if keypoints "
        "follow the box"
    )


def _around(values: Sequence[float]) -> Corners:
    """The box around points, given as x, y, x, y, ..."""
    xs, ys = values[::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _has_points(box: Corners, values: Sequence[float]) -> bool:
    """Whether the first four numbers can only be a box, and those that follow points in it.

    The box must lie on the image and contain the points. A small polygon in the middle of the image
    may look like that too, but its points do not fill such a box, and its second point, which would
    be width and height, lies near the others.
    """
    x1, y1, x2, y2 = box
    w, h = values[2:4]
    if min(x1, y1) < -0.01 or max(x2, y2) > 1.01 or min(w, h) <= 0:
        return False
    rest = values[4:]
    for step in (2, 3):  # x and y; or also visibility
        if len(rest) % step:
            continue
        points = [(x, y) for x, y in zip(rest[::step], rest[1::step], strict=True) if x or y]
        if not points:  # none is visible
            return True
        left, top, right, bottom = _around([v for point in points for v in point])
        over = max((x1 - left) / w, (right - x2) / w, (y1 - top) / h, (bottom - y2) / h)
        if over > SLACK:
            continue
        if step == 3 and set(rest[2::3]) <= {0, 1}:
            return True
        # A polygon lies to one side of its first point, which would be the centre of the box.
        if (right - left) / w > 0.5 + SLACK and (bottom - top) / h > 0.5 + SLACK:
            return True
        left, right = min(left, values[0]), max(right, values[0])
        top, bottom = min(top, values[1]), max(bottom, values[1])
        if max(left - w, w - right, top - h, h - bottom) > max(right - left, bottom - top) / 2:
            return True
    return False


class Meaning(NamedTuple):
    """The interpretation of the lines of a split.

    Attributes:
        keypoints: Keypoints that data.yaml declares to follow every box, if any.
        with_points: Whether the first four numbers are a box, whatever follows.
        tracks: Whether lines end in a confidence and the number of a track.
        polygons: Whether most lines are polygons.
        mixed: Whether there are both polygons and boxes.
    """

    keypoints: Keypoints | None
    with_points: bool
    tracks: bool
    polygons: bool
    mixed: bool

    def issue(self, lines: Lines) -> str:
        """Why a file cannot be used; empty if it can."""
        if not self.tracks or not lines.more:
            return ""
        i, more = next(iter(lines.more.items()))
        return (
            f"line {lines.rows[i]} has {more.numbers + 1} numbers, of which the last are a "
            "confidence and a track, as detectors write them; expected labels: 5 numbers "
            f"({LABEL}), or a class and a polygon"
        )

    def boxes(self, lines: Lines) -> list[Corners]:
        """The boxes of a file, xyxy fractions."""
        boxes = list(lines.boxes)
        if not self.with_points:
            for i, more in lines.more.items():
                boxes[i] = more.around
        return boxes

    def remarks(self, lines: Lines) -> list[str]:
        """Descriptions of unusual lines of a file."""
        odd: Iterable[int] = lines.more
        short = (i for i in range(len(lines.rows)) if i not in lines.more)
        if self.keypoints is not None:
            odd, why = short, f"a box without its keypoints ({self.keypoints.text})"
        elif self.with_points:
            why = "read as a box and points in it, not as a polygon; kpt_shape in data.yaml says so"
        elif not self.mixed:
            return []
        elif self.polygons:
            odd, why = short, "a box, but most lines of the split are polygons"
        else:
            why = "a polygon, but most lines of the split are boxes"
        return [
            f"line {lines.rows[i]} has {lines.more[i].numbers + 1 if i in lines.more else 5} "
            f"numbers: {why}"
            for i in odd
        ]


def understand(files: Sequence[Lines], keypoints: Keypoints | None) -> Meaning:
    """Interpret the lines of a split by all of them together.

    Args:
        files: Lines of every file.
        keypoints: Keypoints that data.yaml declares to follow every box, if any.
    """
    total = sum(len(lines.rows) for lines in files)
    long = [more for lines in files for more in lines.more.values()]
    polygons = 2 * len(long) > total
    looking = sum(m.with_points for m in long) >= MOST * len(long)
    with_points = looking and (polygons or len(long) >= FEW)
    # One or two polygons may end at the border of the image, at 0 or 1.
    sure = len(long) >= FEW or all(more.numbers == 6 for more in long)
    return Meaning(
        keypoints,
        with_points=with_points,
        tracks=bool(long) and sure and not with_points and all(more.track for more in long),
        polygons=polygons,
        mixed=0 < len(long) < total,
    )
