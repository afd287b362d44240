"""Reader of COCO: instances JSON (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.core.structures import SPLITS
from detector.data.formats.coco_fields import contradictions, groups_of, upright, without_roots
from detector.data.formats.coco_json import Category, Image, decode, read_json
from detector.data.formats.folder import Folder
from detector.data.formats.paths import fold, last_part, relative, split_named, split_of
from detector.data.formats.raw import POOL, Format, RawSplit, Sign, Wanted, show
from detector.data.validation.issues import Issues, Item

SNIFFED = 100  # JSON files that are opened to tell whether they are COCO instances
PARTS = frozenset(("images", "annotations", "categories"))
# Prefixes of COCO's own files that are no instances.
OTHERS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
PACKED = (".jsonl", ".ndjson", ".gz", ".zip", ".bz2", ".xz")
_TOP: msgspec.json.Decoder[Any] = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[msgspec.Raw])


class CocoReader:
    """Reader of COCO's instances JSON.

    Args:
        folder: Folder with the JSON files, perhaps in `annotations/` or in a folder for every
            split, and with the images anywhere below.
        wanted: JSON files of each split, relative to the root; None takes those of the usual names,
            empty none.

    Raises:
        RequestError: If there are none, or it is unclear which file is for which split.
    """

    first_pixel = 0
    relative = False
    where = "annotations[{}] of {}"

    def __init__(self, folder: Folder, wanted: Wanted) -> None:
        self.folder = folder
        self.root = folder.root
        self.names: list[str] = []
        self.groups: set[str] = set()
        self.ids: list[int] | None = []
        self._origin = ""
        self._unsorted: list[str] = []  # files whose names are of no split, beside others
        self._jsons = self._choose(wanted)
        self.splits = tuple(self._jsons)
        listed = "; ".join(f"{split} = {' + '.join(files)}" for split, files in self._jsons.items())
        self.recognised = f"COCO ({listed})"

    def _choose(self, wanted: Wanted) -> dict[str, list[str]]:
        """The JSON files of every split: those that are wanted, else those of the usual names."""
        chosen = self._named(wanted)
        if None not in wanted.values():
            return chosen
        taken = {file for files in chosen.values() for file in files}
        files, passed_over = find_jsons(self.folder)
        files = [file for file in files if file not in taken]
        by_split: dict[str | None, list[str]] = {}
        for file in files:
            by_split.setdefault(_split_of(file), []).append(file)
        for file, issue in passed_over.items():
            split = _split_of(file)
            if file in taken or (split and wanted[split] is not None):
                continue
            # Without this file, the images would be split otherwise than the files define.
            useless = not files and not chosen
            if useless or issue.unreadable or (split not in by_split and (split or not chosen)):
                raise RequestError(issue.message)
        if not files and not chosen:
            raise RequestError(
                f"data.root={self.root}: no COCO instances in it; expected a JSON file with "
                "images, annotations and categories, such as annotations/instances_train.json"
            )
        unsorted = by_split.pop(None, [])
        if len(files) == 1 and not chosen:
            return {next((name for name in by_split if name), POOL): files}
        for split in SPLITS:
            found = by_split.get(split, [])
            unclear = not found and (split == "train" or (split == "val" and unsorted))
            if (len(found) > 1 or unclear) and wanted[split] is None:
                raise RequestError(
                    f"data.root={self.root}: which JSON file is for {split}? There are "
                    f"{', '.join(found or files)}; say data.splits.{split}=[FILE]"
                )
            if found and wanted[split] is None:
                chosen[split] = found
        self._unsorted = unsorted
        return {split: chosen[split] for split in SPLITS if split in chosen}

    def _named(self, wanted: Wanted) -> dict[str, list[str]]:
        """The JSON files of each split that `data.splits` names."""
        chosen: dict[str, list[str]] = {}
        for split, files in wanted.items():
            for file in files or ():
                named = self.folder.find(file)
                if named is None:
                    there = ", ".join(self.folder.with_suffix(".json")[:10]) or "no JSON files"
                    raise RequestError(
                        f"data.splits.{split}: no file {file} in {self.root}; there: {there}"
                    )
                chosen.setdefault(split, []).append(named)
        return chosen

    def read(self, split: str) -> RawSplit:
        """Read the JSON files of one split."""
        parts = [self._read_one(file, split) for file in show(self._jsons[split], split)]
        for file in self._unsorted if split == "train" else ():
            item = Item("", file, "COCO instances, but its name is of no split")
            parts[0].issues.add("annotation not used", item)
        if len(parts) == 1:
            return parts[0]
        issues = Issues()
        for part in parts:
            issues.update(part.issues)
        return RawSplit(
            [i for p in parts for i in p.images],
            [s for p in parts for s in p.sources],
            np.concatenate([p.sizes for p in parts]),
            np.concatenate([p.counts for p in parts]),
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.names for p in parts]),
            np.concatenate([p.ignore for p in parts]),
            np.concatenate([p.rows for p in parts]),
            issues,
            _own_ids([i for p in parts for i in (p.ids if p.ids is not None else [-1])]),
        )

    def _read_one(self, file: str, split: str) -> RawSplit:
        """Read one JSON file."""
        content = decode(self.root / file)
        issues = Issues()
        issues.add_many("malformed annotation", content.issues, lambda m: Item(split, file, m))
        used = set(np.unique(content.category_ids[content.good]).tolist())
        numbers = self._number_categories(content.categories, used, file)
        known = {image.id for image in content.images.values()}
        images = self._locate(content.images, file, split, issues)
        owner = look_up(content.image_ids, [image.id for image in images])
        names = look_up(content.category_ids, list(numbers))
        for row in np.flatnonzero((owner < 0) & content.good).tolist():
            if content.image_ids[row] not in known:  # else its image has been reported
                message = f"annotations[{row}]: there is no image_id {content.image_ids[row]}"
                issues.add("malformed annotation", Item(split, file, message))
        for row in np.flatnonzero((names < 0) & content.good).tolist():
            message = f"annotations[{row}]: there is no category_id {content.category_ids[row]}"
            issues.add("malformed annotation", Item(split, file, message))
        usable = np.flatnonzero((owner >= 0) & (names >= 0) & content.good)
        order = usable[np.argsort(owner[usable], kind="stable")]
        sizes = np.array([(i.height, i.width) for i in images], dtype=np.int32).reshape(-1, 2)
        boxes = content.boxes[order]
        boxes[:, 2:] += boxes[:, :2]
        boxes, turned = upright(boxes, content.radians[order])
        degrees = np.degrees(content.radians)
        remarks = [
            ("rotated box", [(r, f"turned by {degrees[r]:g} degrees") for r in order[turned]]),
            (
                "box given otherwise too",
                contradictions(self.root / file, content, order, sizes[owner[order]]),
            ),
        ]
        for kind, rows in remarks:
            for row, message in rows:
                image = images[owner[row]].file_name
                where = self.where.format(row, last_part(image))
                issues.add(kind, Item(split, file, f"{where}: {message}", image))
        return RawSplit(
            [image.file_name for image in images],
            [file] * len(images),
            sizes,
            np.bincount(owner[order], minlength=len(images)).astype(np.int64),
            boxes,
            np.array(list(numbers.values()), dtype=np.int64)[names[order]],
            content.crowd[order],
            order,
            issues,
            _own_ids([image.id for image in images]),
        )

    def _number_categories(
        self, categories: Sequence[Category], used: Collection[int], file: str
    ) -> dict[int, int]:
        """Index in `names` of each category id; the same in all files."""
        assert self.ids is not None
        numbers: dict[int, int] = {}
        doubled = [i for i, n in Counter(c.id for c in categories).items() if n > 1]
        if doubled:
            raise RequestError(f"{self.root / file}: the category id {doubled[0]} is there twice")
        kept = without_roots(categories, used, {*zip(self.ids, self.names, strict=True)})
        for category in sorted(kept, key=lambda c: c.id):
            name = category.name.strip()
            if not name:
                raise RequestError(f"{self.root / file}: the category {category.id} has no name")
            here = (name in self.names, category.id in self.ids)
            if any(here):
                same = all(here) and self.names.index(name) == self.ids.index(category.id)
                if not same:
                    raise RequestError(
                        f"{self.root / file}: the category {category.id} is {name!r}, which "
                        f"contradicts {self._origin or 'an earlier category'}"
                    )
            else:
                self.names.append(name)
                self.ids.append(category.id)
            numbers[category.id] = self.names.index(name)
        self.groups |= groups_of(categories)
        self._origin = self._origin or str(self.root / file)
        return numbers

    def _locate(
        self, images: Mapping[int, Image], file: str, split: str, issues: Issues
    ) -> list[Image]:
        """The existing images, without repetitions, with the path below the root as `file_name`."""
        base = self._image_folder(list(images.values()), file)
        names = Counter(fold(last_part(image.file_name)) for image in images.values())
        ids: set[int] = set()
        paths: set[str] = set()
        located: list[Image] = []
        for i, image in images.items():
            name = relative(image.file_name)
            path = None if name is None else self.folder.find(f"{base}{name}")
            if path is None:
                # For paths of another machine, the last part is enough if only one image has it.
                last = last_part(image.file_name)
                path = self.folder.unique(last) if names[fold(last)] == 1 else None
            kind, message = "", ""
            if image.id in ids:
                kind, message = "duplicate image", f"the id {image.id} is there twice"
            elif path in paths:
                kind, message = "duplicate image", f"{image.file_name} is there twice"
            elif path is None:
                kind, message = "missing image", f"no file {image.file_name!r} below {self.root}"
            elif not (0 <= image.height < 2**31 and 0 <= image.width < 2**31):
                message = f"{image.width}x{image.height} is no size"
                kind = "malformed annotation"
            ids.add(image.id)
            if kind:
                issues.add(kind, Item(split, file, f"images[{i}]: {message}"))
                continue
            assert path is not None
            if last_part(path).casefold() != last_part(image.file_name).casefold():
                message = f"images[{i}]: file_name is {image.file_name!r}; {path} is used"
                issues.add("file name disagrees", Item(split, file, message, path))
            paths.add(path)
            image.file_name = path
            located.append(image)
        return located

    def _image_folder(self, images: Sequence[Image], file: str) -> str:
        """Prefix of the folder of a JSON file's images: where most of the first ones lie."""
        path = PurePosixPath(file)
        name = re.sub("^instances_", "", path.stem)
        homes = [path.parent.as_posix(), ".", "images", f"images/{name}", name]
        homes += [split_of(name) or ".", f"images/{split_of(name)}"]
        prefixes = ["" if h == "." else f"{h}/" for h in dict.fromkeys(homes)]
        first = [n for n in (relative(image.file_name) for image in images[:20]) if n]
        return max(prefixes, key=lambda p: sum(self.folder.find(p + n) is not None for n in first))


class JsonIssue(NamedTuple):
    """Why a JSON file that seems to be meant for a split holds no instances.

    Attributes:
        message: The reason in one line, with the name of the file.
        unreadable: Whether the content of the file is unknown.
        called: Whether the name of the file tells that it is COCO's.
    """

    message: str
    unreadable: bool
    called: bool


def find_jsons(folder: Folder) -> tuple[list[str], dict[str, JsonIssue]]:
    """The JSON files that hold instances, and those that seem to be meant to but do not.

    Files named after instances are not opened here: reading them reports what is wrong.
    """
    jsons = folder.with_suffix(".json")
    found = [f for f in jsons if _name(f).startswith("instances_")]
    others = [f for f in jsons if f not in found]
    if found:  # COCO's own files lie beside them
        others = [f for f in others if not _name(f).startswith(OTHERS)]
    if len(others) > SNIFFED:  # one file an image is the format of another tool
        others = [f for f in others if folder.unique(PurePosixPath(f).stem) is None]
        others.sort(key=lambda f: (f.count("/"), "annotations" not in f.lower(), f))
    issues, unclear = dict[str, JsonIssue](), dict[str, JsonIssue]()
    for file in others[:SNIFFED]:
        path = folder.root / file
        stat = path.stat()
        keys = _sniff(path, stat.st_size, stat.st_mtime_ns)
        called = "coco" in file.lower() or "instances" in file.lower()
        if isinstance(keys, str):
            issue = JsonIssue(keys, True, called)
            if called or _split_of(file):
                issues[file] = issue
            elif folder.unique(path.stem) is None:  # else it may be the annotation of one image
                unclear[file] = issue
        elif keys >= PARTS:
            found.append(file)
        elif split_of(path.stem) and (_is_split(path.stem) or keys & {"images", "annotations"}):
            lacks = ", ".join(sorted(PARTS - keys))
            issues[file] = JsonIssue(
                f"{path}: not COCO instances: it has no {lacks}", False, called
            )
    for file in folder.with_suffix(*PACKED):
        if _split_of(file) and "json" in file.lower():
            message = f"{folder.root / file}: expected a plain .json file: unpack or convert it"
            issues[file] = JsonIssue(message, False, False)
    return sorted(found), issues if found else {**issues, **unclear}


def _is_split(stem: str) -> bool:
    """Whether a name consists of nothing but a split, as `val2017`."""
    return all(map(split_named, re.findall("[a-z]+", stem.lower())))


def _name(file: str) -> str:
    return file.rpartition("/")[2]


def _split_of(file: str) -> str | None:
    """The split in the name of a JSON file, or else in that of its folder."""
    path = PurePosixPath(file)
    return split_of(path.stem) or split_of(path.parent.name)


@lru_cache(maxsize=SNIFFED)  # a format is read right after it is recognised
def _sniff(file: Path, size: int, time: int) -> frozenset[str] | str:
    """The top-level keys of a file of this size and time, or the reason why it has none."""
    try:
        top = read_json(file, _TOP.decode, "COCO instances")
    except RequestError as error:
        return str(error)
    return frozenset(top) if isinstance(top, dict) else frozenset()


def _own_ids(ids: Sequence[int]) -> NDArray[np.int64] | None:
    """The ids of the images; None if they stand for words, or are not unique in several files."""
    array = np.array(ids, dtype=np.int64)
    return array if len(set(ids)) == len(ids) and (array >= 0).all() else None


def look_up(wanted: NDArray[np.int64], ids: Sequence[int]) -> NDArray[np.int64]:
    """Index of each wanted id in a list of ids; -1 if it is not in the list."""
    if not ids:
        return np.full(len(wanted), -1)
    array = np.array(ids, dtype=np.int64)
    order = np.argsort(array)
    place = order[np.searchsorted(array[order], wanted).clip(max=len(ids) - 1)]
    return np.where(array[place] == wanted, place, -1)


def _sign(folder: Folder) -> Sign:
    jsons, issues = find_jsons(folder)
    if jsons or any(issue.unreadable and issue.called for issue in issues.values()):
        return Sign.SURE
    return Sign.POSSIBLE if issues else Sign.NONE


FORMAT = Format(CocoReader, _sign, "COCO (a JSON file with images, annotations and categories)")
