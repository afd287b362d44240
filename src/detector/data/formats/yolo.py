"""Reader of YOLO: a text file of boxes for each image, and data.yaml.

Format: https://docs.ultralytics.com/datasets/detect, also as Roboflow exports it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from detector.core.errors import RequestError
from detector.data.formats.folder import Folder
from detector.data.formats.paths import (
    CONVERT,
    SUFFIXES,
    UNREAD,
    in_split_folder,
    split_of,
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
from detector.data.formats.yolo_yaml import (
    check_names,
    choose,
    compare_names,
    find_names,
    find_yamls,
    hint,
    read_names,
    read_splits,
    read_yaml,
)
from detector.data.validation.issues import Issues, Item


class YoloReader:
    """Reader of YOLO's text files.

    The boxes of `.../images/.../a.jpg` are in `.../labels/.../a.txt`, or beside the image (see
    `Folder.annotations_for`); an image without such a file has no boxes.

    Args:
        folder: Folder of `data.yaml`.
        wanted: Folders of images, or text files that list images, of each split, relative to the
            root; None takes those in data.yaml, else folders of the usual names; empty takes none.

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
            self.yaml = choose(folder, found)
            says = read_yaml(folder, self.yaml)
            self.names = read_names(says, root / self.yaml)
            said = read_splits(says, root / self.yaml)
        else:
            self.yaml = find_names(folder)
            if self.yaml is None:
                raise RequestError(
                    f"data.root={root}: no data.yaml in it, nor classes.txt; expected YOLO's: "
                    f"names, and perhaps train, val and test{hint(folder)}"
                )
            self.names = check_names(folder.require_text(self.yaml).split("\n"), root / self.yaml)
        self._other_names = compare_names(folder, self.names, self.yaml)
        self._keypoints = read_keypoints(says.get("kpt_shape"), str(self.yaml), root)
        self.groups: set[str] = set()
        self.ids: list[int] | None = list(range(len(self.names)))
        self._issues = Issues()  # of the whole data set
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
        """Lists of images by the split in their names, as Darknet has them; others are under ``."""
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

        An entry of data.yaml that leads nowhere is refused: to split the images by ratio instead
        would not be what the files say.
        """
        images: dict[str, list[str]] = {}
        # Only the names of folders tell what the splits are.
        self._by_name = not said and not any(wanted.values()) and wanted.get("val") is None
        for split, given in wanted.items():
            named = given if given is not None else said.get(split) or []
            found = []
            for place in named:
                above = base if given is None else None
                here = self._images_in(place, above)
                if not here:
                    self._refuse(split, place, above, given is not None)
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

    def _refuse(self, split: str, place: str, base: object, asked: bool) -> None:
        """Refuse an entry of a split that leads nowhere; for a test split, only report it."""
        if asked:
            raise RequestError(f"data.splits.{split}: no images in {place!r} below {self.root}")
        message = (
            f"{split}: {place!r} is not there: no folder of images, nor a list, below {self.root}"
        )
        others = self._files_in(place, base)
        if others:
            kinds = ", ".join(sorted({PurePosixPath(f).suffix or "no suffix" for f in others})[:5])
            message = (
                f"{split}: {place!r} has {len(others)} files ({kinds}), but none that is read as "
                f"an image; {CONVERT}"
            )
        if split == "test" and not any(in_split_folder(f, split) for f in self.folder.images):
            self._issues.add("split not there", Item(split, str(self.yaml), message))
            return
        raise RequestError(
            f"{self.root / str(self.yaml)}: {message}; correct it, or say "
            f"data.splits.{split}=[FOLDER] ([] for none)"
        )

    def _images_in(self, place: str, base: object) -> list[str]:
        """The images of a folder, or of a text file that lists them; empty if there is neither."""
        for candidate in self._candidates(place, base):
            found = self.folder.below(candidate)
            if found:
                return found
            file = self.folder.find(candidate)
            if file and not file.lower().endswith(SUFFIXES):
                return self._list(file)
        return []

    def _files_in(self, place: str, base: object) -> list[str]:
        """The files of a folder, except text files; empty if there is none."""
        for candidate in self._candidates(place, base):
            if found := [f for f in self.folder.files if f.startswith(f"{candidate}/")]:
                return [f for f in found if not f.endswith(".txt")]
        return []

    def _candidates(self, place: str, base: object) -> list[str]:
        """The paths below the root that an entry of data.yaml may stand for."""
        return _candidates(place, base if isinstance(base, str) else "", self.root.name)

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
        """The relative path of an image in a list; the line itself if there is no such file."""
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
        self._other_names = []  # they concern all splits and are reported once
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
        self._report_missing(split, missing, raw.issues)
        self._find_orphans(split, raw.issues)
        if split == self.splits[0]:
            raw.issues.update(self._issues)
        return raw

    def _report_missing(self, split: str, missing: Sequence[str], issues: Issues) -> None:
        """Report the images without labels; if no image has labels, as an error."""
        there = sum(map(self.folder.has, self._images[split]))
        if there and len(missing) == there:
            message = (
                f"none of the {there} images has labels: a text file of its own name beside it, "
                "or in a folder labels/ beside images/"
            )
            if split != "train":
                message += f"; data.splits.{split}=[] does without them"
            home = missing[0].rpartition("/")[0]
            issues.add("missing annotation", Item(split, home, message, missing[0]))
        else:
            issues.add_many(
                "image without labels",
                missing,
                lambda f: Item(split, f, "no text file: background", f),
            )

    def _add(
        self,
        image: str,
        label: str,
        split: str,
        lines: Lines,
        boxes: Sequence[Sequence[float]],
        builder: RawBuilder,
    ) -> None:
        """Add an image with its boxes; boxes of unknown classes are reported and left out."""
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
        """Report other label files of an image that contradict the one that is used."""
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
        """Report label files without an image in the folders of a split's label files.

        Label files in other folders are reported with the first split.

        Args:
            split: Name of the split.
            issues: The issues found are added to it.
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
        """Whether a text file holds boxes, and not something else as classes.txt does."""
        words = self._first_line(file).split()
        return len(words) >= 5 and all(map(_is_number, words))

    def _first_line(self, file: str) -> str:
        """The first line that is not empty; an empty text if the file cannot be read."""
        try:
            return self.folder.read_text(file).lstrip().partition("\n")[0].rstrip()
        except RequestError:
            return ""

    def _label_file(self, image: str) -> str | None:
        """The text file of the boxes of an image; None if there is none."""
        found = self._find(image)
        return found[0] if found else None

    def _find(self, image: str) -> list[str]:
        """The text files that belong to an image."""
        if image not in self._labels:
            self._labels[image] = self.folder.annotations_for(image, ".txt")
        return self._labels[image]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _candidates(place: str, base: str, root: str) -> list[str]:
    """The paths below the root that a path in data.yaml may stand for, the likeliest first.

    Exports often hold paths of the machine that wrote them: Roboflow writes `../train/images` for
    `train/images`, and `path:` is often a folder that was unpacked elsewhere. The longest end of
    such a path that exists is taken, but it must contain the folder that is named after a split:
    `/data/val/images` does not stand for `images`.

    Args:
        place: Path in data.yaml.
        base: Path that it is relative to, perhaps of another machine.
        root: Name of the root folder; folders above it may have any name.
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
    """Whether a path may be of another machine, and its parts; for paths of any system."""
    plain = re.sub(r"^file:/*(?=/|[A-Za-z]:)", "", path.strip().replace("\\", "/"))
    foreign = re.match(r"/|[A-Za-z]:|~|\$|%|\.\.", plain) is not None
    return foreign, [p for p in plain.split("/") if not re.fullmatch(r"|\.|\.\.|~|[A-Za-z]:", p)]


def _sign(folder: Folder) -> Sign:
    if find_yamls(folder):
        return Sign.SURE
    return Sign.NONE if find_names(folder) is None else Sign.LIKELY


FORMAT = Format(YoloReader, _sign, "YOLO (data.yaml with names)", hint)
