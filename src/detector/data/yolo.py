"""YOLO reader: a text file of boxes for each image, and data.yaml.

Format: https://docs.ultralytics.com/datasets/detect, also as Roboflow exports it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from detector.data.findings import Item
from detector.data.folder import Folder, in_split_folder, relative
from detector.data.raw import POOL, RawBuilder, RawSplit, show
from detector.types import RequestError


class YoloReader:
    """Reads YOLO's text files.

    The boxes of `.../images/.../a.jpg` are in `.../labels/.../a.txt`, or beside the image; an
    image without such a file has none.

    Args:
        folder: That of `data.yaml`.
        wanted: Split -> folders of images, or text files that list images, relative to the root;
            None: those that data.yaml says, else by the usual names; empty: none.

    Raises:
        RequestError: If it is not such a folder, or data.yaml is malformed.
    """

    first_pixel = 0
    relative = True
    where = "line {}"

    def __init__(self, folder: Folder, wanted: dict[str, Sequence[str] | None]) -> None:
        self.folder = folder
        self.root = root = folder.root
        self.yaml = find_yaml(folder)
        says: Mapping[str, Any] = {}
        if self.yaml is not None:
            says = _read_yaml(folder, self.yaml)
            self.names = _read_names(says, root / self.yaml)
        else:
            self.yaml = find_names(folder)
            if self.yaml is None:
                raise RequestError(
                    f"data.root={root}: no data.yaml in it, nor classes.txt; expected YOLO's: "
                    "names, and perhaps train, val and test"
                )
            self.names = _check_names(folder.require_text(self.yaml).split("\n"), root / self.yaml)
        self.groups: set[str] = set()
        self.ids: list[int] | None = list(range(len(self.names)))
        said = {"train": says.get("train"), "val": says.get("val", says.get("valid"))}
        said["test"] = says.get("test")
        self._images = self._sort(wanted, said, says.get("path"))
        self.splits = tuple(self._images)
        count = sum(map(len, self._images.values()))
        self.recognised = (
            f"YOLO by {self.yaml}: {count} images for {', '.join(self.splits)}, "
            f"{len(self.names)} classes"
        )

    def _sort(
        self, wanted: dict[str, Sequence[str] | None], said: dict[str, Any], base: object
    ) -> dict[str, list[str]]:
        """The images of every split."""
        images: dict[str, list[str]] = {}
        for split, given in wanted.items():
            places = given if given is not None else said[split]
            places = [places] if isinstance(places, str) else (places or [])
            if not isinstance(places, list | tuple) or not all(isinstance(p, str) for p in places):
                raise RequestError(
                    f"{self.root / str(self.yaml)}: {split}: expected a folder or a list of them"
                )
            found = [image for place in places for image in self._images_in(place, base)]
            if not found and given is None:  # folders say it as well
                found = [f for f in self.folder.images if in_split_folder(f, split)]
            elif not found and given:
                raise RequestError(f"data.splits.{split}={list(given)}: no images in {self.root}")
            if found:
                images[split] = list(dict.fromkeys(found))
        if "train" not in images and not any(wanted.values()):
            labelled = [f for f in self.folder.images if self._label_file(f) is not None]
            homes = {file.rpartition("/")[0] for file in labelled}
            if not homes:
                raise RequestError(f"data.root={self.root}: no images with labels in it")
            return {POOL: [f for f in self.folder.images if f.rpartition("/")[0] in homes]}
        return images

    def _images_in(self, place: str, base: object) -> list[str]:
        """The images of a folder or of a text file that lists them; none if it is not there."""
        for candidate in _candidates(place, base if isinstance(base, str) else ""):
            prefix = "" if candidate == "." else candidate + "/"
            found = [f for f in self.folder.images if f.startswith(prefix)]
            if found:
                return found
            if candidate.endswith(".txt") and self.folder.has(candidate):
                lines = self.folder.require_text(candidate).split("\n")
                return [self._listed(line.strip(), candidate) for line in lines if line.strip()]
        return []

    def _listed(self, line: str, file: str) -> str:
        """The relative path of an image in a list; as it stands where there is no such file."""
        beside = PurePosixPath(file).parent.as_posix()
        for candidate in [*_candidates(line, beside), *_candidates(f"/{line}", "")]:
            if self.folder.has(candidate):
                return candidate
        return line

    def read(self, split: str) -> RawSplit:
        """Read the labels of one split."""
        builder = RawBuilder()
        for image in show(self._images[split], split):
            if not self.folder.has(image):
                item = Item(split, image, f"no such file below {self.root}, but a list has it")
                builder.findings.add("missing image", item)
                continue
            label = self._label_file(image)
            if label is None:
                builder.add(image, image, (0, 0), [], [], [], [])
                continue
            try:
                boxes, names, rows = self._read_lines(label, split, builder)
            except RequestError as error:
                builder.findings.add("malformed annotation", Item(split, label, str(error)))
                continue
            builder.add(image, label, (0, 0), boxes, names, [False] * len(names), rows)
        raw = builder.build()
        self._find_orphans(split, raw)
        return raw

    def _find_orphans(self, split: str, raw: RawSplit) -> None:
        """Name label files, beside those in use, that no image is there for."""
        used = set(raw.sources)
        homes = {source.rpartition("/")[0] for source in used if source.endswith(".txt")}
        for file in self.folder.with_suffix(".txt"):
            beside = file not in used and file.rpartition("/")[0] in homes
            if beside and self.folder.image_for(file) is None and not self._is_list(file):
                raw.findings.add("missing image", Item(split, file, "no image of that name"))

    def _is_list(self, file: str) -> bool:
        """Whether a text file that lies among labels says something else, as classes.txt does."""
        try:
            first = self.folder.read_text(file).split(maxsplit=1)[:1]
            return not first or not first[0].isdigit()
        except RequestError:
            return True

    def _label_file(self, image: str) -> str | None:
        """The text file of an image's boxes."""
        stem = image[: image.rfind(".")]
        parts = stem.split("/")
        places = [stem]
        if "images" in parts:  # the last one, as Ultralytics has it
            at = len(parts) - 1 - parts[::-1].index("images")
            places.insert(0, "/".join([*parts[:at], "labels", *parts[at + 1 :]]))
        files = [f"{place}{suffix}" for place in places for suffix in (".txt", ".TXT")]
        return next((file for file in files if self.folder.has(file)), None)

    def _read_lines(
        self, label: str, split: str, builder: RawBuilder
    ) -> tuple[list[list[float]], list[int], list[int]]:
        """Boxes as x1, y1, x2, y2 in fractions, class numbers, and line numbers."""
        boxes, names, rows = [], [], []
        lines = self.folder.read_text(label).split("\n")
        for row, line in enumerate(lines, start=1):
            words = line.split()
            if not words:
                continue
            try:
                first, *values = map(float, words)
            except ValueError as error:
                raise RequestError(
                    f"line {row} is {line.strip()[:60]!r}, expected numbers"
                ) from error
            if len(values) != 4 and (len(values) < 6 or len(values) % 2):
                raise RequestError(
                    f"line {row} has {len(words)} numbers, expected 5 "
                    "(class, centre x and y, width, height) or a class and a polygon"
                )
            if first != first // 1 or not 0 <= first < len(self.names):
                message = f"line {row}: no class {words[0][:20]}; {self.yaml} has 0 to"
                item = Item(split, label, f"{message} {len(self.names) - 1}")
                builder.findings.add("unknown class", item)
                continue
            if len(values) == 4:
                x, y, w, h = values
                boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            else:
                xs, ys = values[::2], values[1::2]
                boxes.append([min(xs), min(ys), max(xs), max(ys)])
            names.append(int(first))
            rows.append(row)
        return boxes, names, rows


def find_yaml(folder: Folder) -> str | None:
    """The YAML file at the top that has class names."""
    found = [f for f in folder.with_suffix(".yaml", ".yml") if "/" not in f]
    found.sort(key=lambda f: not f.startswith("data."))
    for file in found:
        try:
            text = folder.read_text(file)
        except RequestError:
            continue
        if re.search(r"^['\"]?names['\"]?\s*:", text, re.MULTILINE):
            return file
    return None


def find_names(folder: Folder) -> str | None:
    """The list of class names that some tools write instead of data.yaml."""
    names = ("classes.txt", "labels/classes.txt", "obj.names")
    return next((f for f in names if folder.has(f)), None)


def _read_yaml(folder: Folder, file: str) -> Mapping[str, Any]:
    """What data.yaml says, every scalar as the text it is.

    So `no` stays a class name, tags mean nothing, and merge keys, which can grow without bound,
    are not followed.
    """
    path = folder.root / file
    text = folder.require_text(file)
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path}: expected keys such as names, train, val")
    return {key: value for key, value in content.items() if value not in ("", "null", "~")}


def _read_names(says: Mapping[str, Any], file: Path) -> list[str]:
    """Class names by number."""
    names = says.get("names")
    if isinstance(names, dict):
        numbers = {str(i): i for i in range(len(names))}
        if names.keys() != numbers.keys():
            raise RequestError(
                f"{file}: names: expected the numbers 0..{len(names) - 1}, each once"
            )
        names = [names[number] for number in numbers]
    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise RequestError(f"{file}: names: expected a list of class names")
    count = str(says.get("nc", len(names)))
    if count != str(len(names)):
        raise RequestError(f"{file}: nc is {count[:20]}, but there are {len(names)} names")
    return _check_names(names, file)


def _check_names(names: Sequence[str], file: Path) -> list[str]:
    """Class names without blanks around them, each there once."""
    texts = [name.strip() for name in names if name.strip()]
    twice = [name for name, count in Counter(texts).items() if count > 1]
    if twice or not texts:
        what = f"{twice[0]!r} is there twice" if twice else "there are none"
        raise RequestError(f"{file}: names: {what}")
    return texts


def _candidates(place: str, base: str) -> list[str]:
    """Where below the root a path in data.yaml may mean; what leads out of it never counts.

    Exports are full of paths of the machine that wrote them: `../train/images` beside data.yaml is
    Roboflow's for `train/images`, and `path:` is often a folder that was unpacked elsewhere.
    """
    parts = place.replace("\\", "/").split("/")
    plain = "/".join(p for p in parts if p not in ("..", ".", ""))
    if place.startswith("/"):  # the longest end of an absolute path that is here
        ends = plain.split("/")
        return ["/".join(ends[i:]) for i in range(len(ends))]
    below = relative(base) or ""
    joined = PurePosixPath(below, plain).as_posix()
    return list(dict.fromkeys([joined, plain or "."]))
