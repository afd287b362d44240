"""YOLO reader: a text file of boxes for each image, and data.yaml.

Format: https://docs.ultralytics.com/datasets/detect, also as Roboflow exports it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from detector.core.errors import RequestError
from detector.data.formats.folder import (
    CONVERT,
    SUFFIXES,
    UNREAD,
    Folder,
    in_split_folder,
    split_named,
    split_of,
    typed_root,
)
from detector.data.formats.raw import (
    POOL,
    Format,
    RawBuilder,
    RawSplit,
    Sign,
    Wanted,
    add_unclear,
    add_unclear_list,
    show,
)
from detector.data.formats.yolo_lines import Lines, read_keypoints, read_lines, understand
from detector.data.validation.issues import Issues, Item

# Files that list class names, in lower case: of LabelImg and Label Studio, Darknet, Roboflow.
NAME_LISTS = ("classes.txt", "obj.names", "_darknet.labels")


class YoloReader:
    """Reads YOLO's text files.

    The boxes of `.../images/.../a.jpg` are in `.../labels/.../a.txt`, or beside the image (see
    `Folder.annotations_for`); an image without such a file has none.

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

    def __init__(self, folder: Folder, wanted: Wanted) -> None:
        self.folder = folder
        self.root = root = folder.root
        said: dict[str, list[str]] = {}
        says: Mapping[str, Any] = {}
        self.yaml: str | None = None
        found = find_yamls(folder)
        if found:
            self.yaml = _choose(folder, found)
            says = _read_yaml(folder, self.yaml)
            self.names = _read_names(says, root / self.yaml)
            said = _read_splits(says, root / self.yaml)
        else:
            self.yaml = find_names(folder)
            if self.yaml is None:
                raise RequestError(
                    f"data.root={root}: no data.yaml in it, nor classes.txt; expected YOLO's: "
                    f"names, and perhaps train, val and test{hint(folder)}"
                )
            self.names = _check_names(folder.require_text(self.yaml).split("\n"), root / self.yaml)
        self._other_names = _compare_names(folder, self.names, self.yaml)
        self._keypoints = read_keypoints(says.get("kpt_shape"), str(self.yaml), root)
        self.groups: set[str] = set()
        self.ids: list[int] | None = list(range(len(self.names)))
        self._issues = Issues()  # of the whole set
        self._labels: dict[str, list[str]] = {}  # by image, once they are looked up
        lists = self._find_lists()
        unclear = lists.pop("", [])
        self._images = self._sort(wanted, {**lists, **said}, says.get("path"))
        if "train" in lists and "val" not in self._images and wanted["val"] is None:
            for file in unclear:
                add_unclear_list(self._issues, file, file)
        self.splits = tuple(self._images)
        count = sum(map(len, self._images.values()))
        others = [file for file in found if file != self.yaml]
        self.recognised = (
            f"YOLO by {self.yaml}{f' (not {others[0]})' if others else ''}: {count} images for "
            f"{', '.join(self.splits)}, {len(self.names)} classes"
        )

    def _find_lists(self) -> dict[str, list[str]]:
        """Lists of images that are called after splits, as Darknet has them; others under ``."""
        found: dict[str, list[str]] = {}
        for file in self.folder.with_suffix(".txt"):
            if file.count("/") > 1:
                continue
            if self._first_line(file).lower().endswith((*SUFFIXES, *UNREAD)):
                found.setdefault(split_of(PurePosixPath(file).stem) or "", []).append(file)
        return found

    def _sort(
        self, wanted: Wanted, said: dict[str, list[str]], base: object
    ) -> dict[str, list[str]]:
        """The images of every split.

        What the files say of a split is what it is: an entry that leads nowhere is no reason to
        divide the images otherwise.
        """
        images: dict[str, list[str]] = {}
        # Nothing but the names of folders says what the splits are.
        self._by_name = not said and not any(wanted.values()) and wanted.get("val") is None
        for split, given in wanted.items():
            named = given if given is not None else said.get(split) or []
            found = []
            for place in named:
                here = self._images_in(place, base if given is None else None)
                if not here:
                    self._refuse(split, place, given is not None)
                found += here
            if not found and given is None and not named:  # folders say it as well
                found = [f for f in self.folder.images if in_split_folder(f, split)]
            if found:
                images[split] = list(dict.fromkeys(found))
        if images or any(wanted.values()):
            return images
        labelled = [f for f in self.folder.images if self._label_file(f) is not None]
        homes = {file.rpartition("/")[0] for file in labelled}
        if not homes:
            raise RequestError(
                f"data.root={self.root}: no images with labels in it: none of "
                f"{len(self.folder.images)} images has a text file of its own name beside it, or "
                "in a folder labels/ beside images/"
            )
        return {POOL: [f for f in self.folder.images if f.rpartition("/")[0] in homes]}

    def _refuse(self, split: str, place: str, asked: bool) -> None:
        """Say that an entry for a split leads nowhere; only of a test split is that a remark."""
        if asked:
            raise RequestError(f"data.splits.{split}: no images in {place!r} below {self.root}")
        message = f"{split}: {place!r} is not there: no folder of images, nor a list, below"
        message = f"{message} {self.root}"
        home = place.strip("./").rstrip("/") + "/"
        others = [f for f in self.folder.files if f.startswith(home) and not f.endswith(".txt")]
        if others:
            kinds = ", ".join(sorted({PurePosixPath(f).suffix or "no suffix" for f in others})[:5])
            message = (
                f"{split}: {place!r} has {len(others)} files ({kinds}), but none that is read as "
            )
            message += f"an image; {CONVERT}"
        if split == "test" and not any(in_split_folder(f, split) for f in self.folder.images):
            self._issues.add("split not there", Item(split, str(self.yaml), message))
            return
        raise RequestError(
            f"{self.root / str(self.yaml)}: {message}; correct it, or say "
            f"data.splits.{split}=[FOLDER] ([] for none)"
        )

    def _images_in(self, place: str, base: object) -> list[str]:
        """The images of a folder or of a text file that lists them; none if it is not there."""
        for candidate in _candidates(place, base if isinstance(base, str) else "", self.root.name):
            found = self.folder.below(candidate)
            if found:
                return found
            file = self.folder.find(candidate)
            if file and not file.lower().endswith(SUFFIXES):
                return self._list(file)
        return []

    def _list(self, file: str) -> list[str]:
        """The images that a text file lists."""
        lines = filter(None, map(str.strip, self.folder.require_text(file).split("\n")))
        listed = [self._listed(line, file) for line in lines]
        for image, count in Counter(listed).items():
            if count > 1:
                item = Item("", file, f"{image} is there {count} times", image)
                self._issues.add("image listed twice", item)
        return listed

    def _listed(self, line: str, file: str) -> str:
        """The relative path of an image in a list; as it stands where there is no such file."""
        beside = PurePosixPath(file).parent.as_posix()
        name = self.root.name
        for candidate in [*_candidates(line, beside, name), *_candidates(f"/{line}", "", name)]:
            if found := self.folder.find(candidate):
                return found
        return line

    def read(self, split: str) -> RawSplit:
        """Read the labels of one split."""
        builder = RawBuilder()
        issues = builder.issues
        issues.add_many("class lists disagree", self._other_names, lambda item: item)
        self._other_names = []  # of all splits: named once
        labels: list[tuple[str, str, Lines | None]] = []
        missing = []
        for image in show(self._images[split], split):
            if not self.folder.has(image):
                item = Item(split, image, f"no such file below {self.root}, but a list has it")
                issues.add("missing image", item)
                continue
            label = self._label_file(image)
            if label is None:
                missing.append(image)
            else:
                self._compare(image, split, issues)
            try:
                lines = label and read_lines(self.folder.read_text(label), self._keypoints)
            except RequestError as error:
                issues.add("malformed annotation", Item(split, str(label), str(error)))
                continue
            labels.append((image, label or image, lines or None))
        meaning = understand([lines for _, _, lines in labels if lines], self._keypoints)
        for image, label, lines in labels:
            if lines is None:
                builder.add(image, label, (0, 0), [], [], [], [])
            elif issue := meaning.issue(lines):
                issues.add("malformed annotation", Item(split, label, issue))
            else:
                remarks = [Item(split, label, m, image) for m in meaning.remarks(lines)]
                issues.add_many("unusual columns", remarks, lambda item: item)
                self._add(image, label, split, lines, meaning.boxes(lines), builder)
        raw = builder.build()
        there = sum(map(self.folder.has, self._images[split]))
        if there and len(missing) == there:
            message = (
                f"none of the {there} images has labels: a text file of its own name beside it, "
                "or in a folder labels/ beside images/"
            )
            if split != "train":
                message += f"; data.splits.{split}=[] does without them"
            home = missing[0].rpartition("/")[0]
            raw.issues.add("missing annotation", Item(split, home, message, missing[0]))
        else:
            raw.issues.add_many(
                "image without labels",
                missing,
                lambda f: Item(split, f, "no text file: background", f),
            )
        self._find_orphans(split, raw.issues)
        if split == self.splits[0]:
            raw.issues.update(self._issues)
        return raw

    def _add(
        self,
        image: str,
        label: str,
        split: str,
        lines: Lines,
        boxes: Sequence[Sequence[float]],
        builder: RawBuilder,
    ) -> None:
        """Add an image with those of its boxes whose class there is."""
        known = []
        for i, (number, row) in enumerate(zip(lines.classes, lines.rows, strict=True)):
            if number in range(len(self.names)):
                known.append(i)
                continue
            message = f"line {row}: no class {number:g}; {self.yaml} has 0 to"
            item = Item(split, label, f"{message} {len(self.names) - 1}")
            builder.issues.add("unknown class", item)
        names, rows = ([int(column[i]) for i in known] for column in (lines.classes, lines.rows))
        boxes = [boxes[i] for i in known]
        builder.add(image, label, (0, 0), boxes, names, [False] * len(names), rows)

    def _compare(self, image: str, split: str, issues: Issues) -> None:
        """Name other label files of an image that contradict the one that is used."""
        first, *others = self._labels[image]
        for other in others:
            try:
                same = self.folder.read_text(other).split() == self.folder.read_text(first).split()
            except RequestError:
                continue
            if not same and self._is_label(other):
                message = f"its image, {image}, is also that of {first}, which says otherwise"
                issues.add("duplicate image", Item(split, other, message, image))

    def _find_orphans(self, split: str, issues: Issues) -> None:
        """Name label files that no image has, beside those of a split; with the first, all others.

        Args:
            split: The split.
            issues: Gets them.
        """
        homes: dict[str, str] = {}
        used = set()
        sorted_out = {image for images in self._images.values() for image in images}
        for name, images in self._images.items():
            for label in (label for image in images for label in self._find(image)):
                used.add(label)
                homes.setdefault(label.rpartition("/")[0], name)
        unsorted = []
        for file in self.folder.with_suffix(".txt"):
            home = file.rpartition("/")[0]
            if file in used or homes.get(home, self.splits[0]) != split or not self._is_label(file):
                continue
            images = self.folder.namesakes(file)
            beside = home in homes and self.folder.image_for(file) is None
            if beside or (not images and any(map(split_of, home.split("/")))):
                issues.add("missing image", Item(split, file, "no image of that name"))
                continue
            message = "no image of that name"
            if images:
                message = f"its folder does not correspond to that of {images[0]}"
                if self._find(images[0]):
                    message = f"{images[0]} has other labels"
            if images and not sorted_out.issuperset(images):
                message = f"{images[0]} is in no split"
                unsorted += images
            issues.add("annotation not used", Item("", file, message))
        if self._by_name and split == "train" and "val" not in self._images:
            add_unclear(issues, unsorted)

    def _is_label(self, file: str) -> bool:
        """Whether a text file has boxes rather than something else, as classes.txt does."""
        words = self._first_line(file).split()
        return len(words) >= 5 and all(map(_is_number, words))

    def _first_line(self, file: str) -> str:
        """The first line that is not empty; none where the file cannot be read."""
        try:
            return self.folder.read_text(file).lstrip().partition("\n")[0].rstrip()
        except RequestError:
            return ""

    def _label_file(self, image: str) -> str | None:
        """The text file of an image's boxes."""
        found = self._find(image)
        return found[0] if found else None

    def _find(self, image: str) -> list[str]:
        """The text files of an image's name."""
        if image not in self._labels:
            self._labels[image] = self.folder.annotations_for(image, ".txt")
        return self._labels[image]


def find_yamls(folder: Folder, depth: int = 0) -> list[str]:
    """The YAML files with class names, so many folders down; those called data.yaml first."""
    found = [f for f in folder.with_suffix(".yaml", ".yml") if f.count("/") == depth]
    return sorted(filter(partial(_has_names, folder), found), key=lambda f: not _is_main(f))


def _is_main(file: str) -> bool:
    return PurePosixPath(file).stem.lower() == "data"


def _has_names(folder: Folder, file: str) -> bool:
    """Whether a YAML file has class names, or should and cannot be read."""
    try:
        text = folder.read_text(file)
    except RequestError:
        return _is_main(file)
    return re.search(r"^['\"]?names['\"]?\s*:", text, re.MULTILINE) is not None


def _choose(folder: Folder, files: Sequence[str]) -> str:
    """Of several YAML files the one called data.yaml, or any if they say the same."""
    mains = [file for file in files if _is_main(file)] or files
    if len(mains) > 1 and len({str(_read_yaml(folder, file)) for file in mains}) > 1:
        raise RequestError(
            f"data.root={folder.root}: which of {', '.join(mains)} is meant? Call it data.yaml, "
            "or move the others away"
        )
    return mains[0]


def find_names(folder: Folder) -> str | None:
    """A list of class names that does without data.yaml, as Label Studio and Darknet write it."""
    return next(filter(None, map(folder.find, ("classes.txt", "obj.names"))), None)


def hint(folder: Folder) -> str:
    """Where below a folder a YOLO data set is, in words; empty if there is none."""
    files = [*find_yamls(folder, 1), *find_yamls(folder, 2)]
    homes = list(dict.fromkeys(file.rpartition("/")[0] for file in files))
    meant = " or ".join(typed_root(folder.root / home) for home in homes[:3])
    return f"; {files[0]} is there: say {meant}" if files else ""


def _compare_names(folder: Folder, names: Sequence[str], used: str) -> list[Item]:
    """Where lists of class names say something else than the file that is used."""
    items = []
    for file in folder.with_suffix(".txt", ".names", ".labels"):
        if file.rpartition("/")[2].lower() not in NAME_LISTS:
            continue
        try:
            lines = folder.read_text(file).split("\n")
        except RequestError:
            continue
        listed = [line.strip() for line in lines if line.strip()]
        for number, (theirs, ours) in enumerate(zip_longest(listed, names)):
            if theirs != ours:
                here, there = (repr(n) if n is not None else "no class" for n in (theirs, ours))
                message = f"class {number} is {here}, but {there} in {used}, which is used"
                items.append(Item("", file, message))
    return items


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
    return {key: value for key, value in content.items() if not _is_nothing(value)}


def _is_nothing(value: object) -> bool:
    """Whether a value in YAML is null."""
    return isinstance(value, str) and value.lower() in ("", "null", "~")


def _read_splits(says: Mapping[str, Any], file: Path) -> dict[str, list[str]]:
    """What data.yaml says of every split: folders, or lists of images."""
    said: dict[str, tuple[str, list[str]]] = {}
    for key, places in says.items():
        split = split_named(str(key))
        if split is None:
            continue
        listed = [places] if isinstance(places, str) else places
        if not isinstance(listed, list) or not all(isinstance(p, str) for p in listed):
            raise RequestError(f"{file}: {key}: expected a folder or a list of them")
        if listed and said.setdefault(split, (str(key), listed))[1] != listed:
            raise RequestError(f"{file}: {said[split][0]} and {key} are one split: keep only one")
    return {split: listed for split, (_, listed) in said.items()}


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


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _candidates(place: str, base: str, root: str) -> list[str]:
    """Where below the root a path in data.yaml may mean; what leads out of it never counts.

    Exports are full of paths of the machine that wrote them: `../train/images` beside data.yaml is
    Roboflow's for `train/images`, and `path:` is often a folder that was unpacked elsewhere. Of
    such a path the longest end that is here counts, but not without the folder that tells
    splits apart: `images` is not what `/data/val/images` means.

    Args:
        place: The path.
        base: What it is relative to, also perhaps of another machine.
        root: The root's name: what is above it may be anything.
    """
    foreign, parts = _parts(place)
    _, above = _parts(base)
    ends = ["/".join([*above[i:], *parts]) for i in range(len(above) + 1)]
    for i, part in enumerate(parts[:-1] if foreign else ()):
        if split_of(part) and part != root and not any(map(split_of, parts[i + 1 :])):
            break
        ends.append("/".join(parts[i + 1 :]))
    return [end or "." for end in dict.fromkeys(ends)]


def _parts(path: str) -> tuple[bool, list[str]]:
    """The parts of a path of any system, and whether it may be one of another machine."""
    plain = re.sub(r"^file:/*(?=/|[A-Za-z]:)", "", path.strip().replace("\\", "/"))
    foreign = re.match(r"/|[A-Za-z]:|~|\$|%|\.\.", plain) is not None
    return foreign, [p for p in plain.split("/") if not re.fullmatch(r"|\.|\.\.|~|[A-Za-z]:", p)]


def _sign(folder: Folder) -> Sign:
    if find_yamls(folder):
        return Sign.SURE
    return Sign.NONE if find_names(folder) is None else Sign.LIKELY


FORMAT = Format(YoloReader, _sign, "YOLO (data.yaml with names)", hint)
