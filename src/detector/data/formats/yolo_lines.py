"""What the lines of YOLO's text files mean: boxes, polygons, or boxes with keypoints.

A line is a class and numbers, and only their count tells what they are. That is not always enough:
seven numbers are a class and a triangle, a box with a keypoint, or a box with the confidence and
the track that a detector found. So a split's lines are looked at together.

Formats: https://docs.ultralytics.com/datasets (detect, segment, obb and pose), and what
Ultralytics' `save_txt` writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from detector.core.errors import RequestError

# A split's lines are boxes with points if so many of them look like that. Drawn at random, 85 % and
# more of those with keypoints do, and up to 15 % of polygons.
MOST = 0.6
FEW = 3  # lines, of which fewer may look like something else by chance
SLACK = 0.1  # of a box's sides; keypoints may lie so far outside
LABEL = "class, centre x and y, width, height"


Corners = tuple[float, float, float, float]


class More(NamedTuple):
    """What a line says with more than four numbers after the class.

    Attributes:
        numbers: How many there are.
        around: The box around them as points, xyxy fractions; the line's box where data.yaml says
            that they are one and keypoints.
        with_points: Whether the first four can only be a box, by what follows.
        track: Whether they may end in a confidence and the number of a track.
    """

    numbers: int
    around: Corners
    with_points: bool = False
    track: bool = False


class Lines(NamedTuple):
    """The lines of one file that are not empty.

    Attributes:
        rows: Number of each line in the file, from 1.
        classes: The number that it begins with.
        boxes: xyxy fractions: the first four numbers after that as centre, width and height.
        more: Of the lines with further numbers, by their place in these lists.
    """

    rows: list[int]
    classes: list[float]
    boxes: list[Corners]
    more: dict[int, More]


class Keypoints(NamedTuple):
    """What data.yaml says of keypoints.

    Attributes:
        text: `kpt_shape`, for messages.
        numbers: How many follow the box.
    """

    text: str
    numbers: int


def read_keypoints(shape: object, file: str, root: Path) -> Keypoints | None:
    """What `kpt_shape` in data.yaml says; None where boxes have no keypoints.

    Args:
        shape: Its value, scalars as texts.
        file: The YAML file, relative to the root.
        root: Of the data set, for messages.

    Raises:
        RequestError: If it is malformed.
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
    """Read a text file's lines.

    Args:
        text: Its content.
        keypoints: Follow every box.

    Raises:
        RequestError: If a line can mean nothing; the message leaves the file's name out.
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
    """Why so many numbers, which are not four, can mean nothing; empty if they can."""
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
    """The box around points."""
    xs, ys = values[::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _has_points(box: Corners, values: Sequence[float]) -> bool:
    """Whether the first four numbers can only be a box, and those that follow points in it.

    The box must lie on the image and hold the points. So may a small polygon in the middle of the
    image; but its points fill no such box, and its second one, which would be width and height,
    lies near the others.
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
    """How the lines of a split are understood.

    Attributes:
        keypoints: Those that data.yaml says follow every box.
        with_points: The first four numbers are a box, whatever follows.
        tracks: Lines end in a confidence and the number of a track.
        polygons: Most lines are polygons.
        mixed: There are polygons and boxes.
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
        """The boxes, xyxy fractions."""
        boxes = list(lines.boxes)
        if not self.with_points:
            for i, more in lines.more.items():
                boxes[i] = more.around
        return boxes

    def remarks(self, lines: Lines) -> list[str]:
        """What is to be known of single lines."""
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
    """What the lines of a split are, validated by all of them.

    Args:
        files: The lines of every file.
        keypoints: Those that data.yaml says follow every box.
    """
    total = sum(len(lines.rows) for lines in files)
    long = [more for lines in files for more in lines.more.values()]
    polygons = 2 * len(long) > total
    looking = sum(m.with_points for m in long) >= MOST * len(long)
    with_points = looking and (polygons or len(long) >= FEW)
    # One or two polygons may end at the image's border, at 0 or 1.
    sure = len(long) >= FEW or all(more.numbers == 6 for more in long)
    return Meaning(
        keypoints,
        with_points=with_points,
        tracks=bool(long) and sure and not with_points and all(more.track for more in long),
        polygons=polygons,
        mixed=0 < len(long) < total,
    )
