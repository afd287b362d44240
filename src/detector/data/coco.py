"""COCO reader: instances JSON (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.data.coco_json import Category, Image, decode
from detector.data.findings import Findings, Item
from detector.data.folder import Folder, last_part, relative, split_of
from detector.data.raw import POOL, RawSplit, show
from detector.types import RequestError

SNIFFED = 100  # JSON files that are opened to see whether they are COCO's


class CocoReader:
    """Reads COCO's instances JSON.

    Args:
        folder: Has the JSON files, perhaps in `annotations/` or in a folder for every split, and
            the images, anywhere below.
        wanted: Split -> JSON files, relative to the root; None: by the usual names; empty: none.

    Raises:
        RequestError: If there are none, or it is unclear which is which.
    """

    first_pixel = 0
    relative = False
    where = "annotations[{}] of {}"

    def __init__(self, folder: Folder, wanted: dict[str, Sequence[str] | None]) -> None:
        self.folder = folder
        self.root = folder.root
        self.names: list[str] = []
        self.groups: set[str] = set()
        self.ids: list[int] | None = []
        self._origin = ""
        self._jsons = self._choose(wanted)
        self.splits = tuple(self._jsons)
        listed = "; ".join(f"{split} = {' + '.join(files)}" for split, files in self._jsons.items())
        self.recognised = f"COCO ({listed})"

    def _choose(self, wanted: dict[str, Sequence[str] | None]) -> dict[str, list[str]]:
        """The JSON files of every split."""
        chosen: dict[str, list[str]] = {}
        if any(wanted.values()):
            for split, files in wanted.items():
                for file in files or ():
                    if not self.folder.has(file):
                        there = ", ".join(self.folder.with_suffix(".json")[:10]) or "no JSON files"
                        raise RequestError(
                            f"data.splits.{split}: no file {file} in {self.root}; there: {there}"
                        )
                    chosen.setdefault(split, []).append(file)
            return chosen
        files = find_instances(self.folder)
        if not files:
            raise RequestError(
                f"data.root={self.root}: no COCO instances in it; expected a JSON file with "
                "images, annotations and categories, such as annotations/instances_train.json"
            )
        by_split: dict[str | None, list[str]] = {}
        for file in files:
            path = PurePosixPath(file)
            by_split.setdefault(split_of(path.stem) or split_of(path.parent.name), []).append(file)
        if len(files) == 1:
            return {"train" if "train" in by_split else POOL: files}
        for split in ("train", "val", "test"):
            found = by_split.get(split, [])
            if (len(found) > 1 or (split == "train" and not found)) and wanted[split] is None:
                raise RequestError(
                    f"data.root={self.root}: which JSON file is for {split}? There are "
                    f"{', '.join(found or files)}; say data.splits.{split}=[FILE]"
                )
            if found and wanted[split] is None:
                chosen[split] = found
        return chosen

    def read(self, split: str) -> RawSplit:
        """Read the JSON files of one split."""
        parts = [self._read_one(file, split) for file in show(self._jsons[split], split)]
        if len(parts) == 1:
            return parts[0]
        findings = Findings()
        for part in parts:
            findings.update(part.findings)
        return RawSplit(
            [i for p in parts for i in p.images],
            [s for p in parts for s in p.sources],
            np.concatenate([p.sizes for p in parts]),
            np.concatenate([p.counts for p in parts]),
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.names for p in parts]),
            np.concatenate([p.ignore for p in parts]),
            np.concatenate([p.rows for p in parts]),
            findings,
            _own_ids([i for p in parts for i in (p.ids if p.ids is not None else [-1])]),
        )

    def _read_one(self, file: str, split: str) -> RawSplit:
        """Read one JSON file."""
        content = decode(self.root / file)
        findings = Findings()
        findings.add_many("malformed annotation", content.faults, lambda m: Item(split, file, m))
        numbers = self._number_categories(content.categories, file)
        known = {image.id for image in content.images.values()}
        images = self._locate(content.images, file, split, findings)
        owner = look_up(content.image_ids, [image.id for image in images])
        names = look_up(content.category_ids, list(numbers))
        for row in np.flatnonzero((owner < 0) & content.good).tolist():
            if content.image_ids[row] not in known:  # else its image has been named
                message = f"annotations[{row}]: there is no image_id {content.image_ids[row]}"
                findings.add("malformed annotation", Item(split, file, message))
        for row in np.flatnonzero((names < 0) & content.good).tolist():
            message = f"annotations[{row}]: there is no category_id {content.category_ids[row]}"
            findings.add("malformed annotation", Item(split, file, message))
        usable = np.flatnonzero((owner >= 0) & (names >= 0) & content.good)
        order = usable[np.argsort(owner[usable], kind="stable")]
        boxes = content.boxes[order]
        boxes[:, 2:] += boxes[:, :2]
        return RawSplit(
            [image.file_name for image in images],
            [file] * len(images),
            np.array([(i.height, i.width) for i in images], dtype=np.int32).reshape(-1, 2),
            np.bincount(owner[order], minlength=len(images)).astype(np.int64),
            boxes,
            np.array(list(numbers.values()), dtype=np.int64)[names[order]],
            content.crowd[order],
            order,
            findings,
            _own_ids([image.id for image in images]),
        )

    def _number_categories(self, categories: Sequence[Category], file: str) -> dict[int, int]:
        """Category id -> number in `names`; the same in all files."""
        assert self.ids is not None
        numbers: dict[int, int] = {}
        doubled = [i for i, n in Counter(c.id for c in categories).items() if n > 1]
        if doubled:
            raise RequestError(f"{self.root / file}: the category id {doubled[0]} is there twice")
        for category in sorted(categories, key=lambda c: c.id):
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
            self.groups.add(category.supercategory or "")
        self._origin = self._origin or str(self.root / file)
        return numbers

    def _locate(
        self, images: Mapping[int, Image], file: str, split: str, findings: Findings
    ) -> list[Image]:
        """The images that are there, each once, with the path below the root as `file_name`."""
        base = self._image_folder(list(images.values()), file)
        names = Counter(last_part(image.file_name) for image in images.values())
        ids: set[int] = set()
        paths: set[str] = set()
        located: list[Image] = []
        for i, image in images.items():
            name = relative(image.file_name)
            path: str | None = f"{base}{name}"
            if name is None or not self.folder.has(f"{base}{name}"):
                # Paths of the machine that wrote them: the last part says it, if only one has it.
                last = last_part(image.file_name)
                path = self.folder.unique(last) if names[last] == 1 else None
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
                findings.add(kind, Item(split, file, f"images[{i}]: {message}"))
                continue
            assert path is not None
            paths.add(path)
            image.file_name = path
            located.append(image)
        return located

    def _image_folder(self, images: Sequence[Image], file: str) -> str:
        """Where a JSON file's images are: the likeliest folder that has the first of them."""
        path = PurePosixPath(file)
        name = re.sub("^instances_", "", path.stem)
        homes = [path.parent.as_posix(), ".", "images", f"images/{name}", name]
        homes += [split_of(name) or ".", f"images/{split_of(name)}"]
        prefixes = ["" if h == "." else f"{h}/" for h in dict.fromkeys(homes)]
        first = [n for n in (relative(image.file_name) for image in images[:20]) if n]
        return max(prefixes, key=lambda p: sum(self.folder.has(p + n) for n in first))


def find_instances(folder: Folder) -> list[str]:
    """The JSON files that hold instances; those named after them, where there are such."""
    jsons = folder.with_suffix(".json")
    named = [f for f in jsons if f.rpartition("/")[2].startswith("instances_")]
    if len(jsons) > SNIFFED:  # one for each image: another tool's
        jsons = [f for f in jsons if f.count("/") < 2 and "annotations" in f.lower()][:SNIFFED]
    return named or [f for f in jsons if _looks_like_instances(folder.root / f)]


def _looks_like_instances(file: Path) -> bool:
    """Whether a JSON file has what instances have, at its top."""
    stat = file.stat()
    return _sniff(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=SNIFFED)  # a format that is recognised is read right after
def _sniff(file: Path, size: int, time: int) -> bool:
    """Whether a file, as long as it has this size and time, has what instances have."""
    try:
        top = msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, OSError, ValueError, RecursionError):
        # Broken, but perhaps what was meant: reading it will say what is wrong.
        return "coco" in file.name.lower() or "instances" in file.name.lower()
    return {"images", "annotations", "categories"} <= set(top)


def _own_ids(ids: Sequence[int]) -> NDArray[np.int64] | None:
    """The images' numbers; None if they tell nothing: words, or of several files and not unique."""
    array = np.array(ids, dtype=np.int64)
    return array if len(set(ids)) == len(ids) and (array >= 0).all() else None


def look_up(wanted: NDArray[np.int64], ids: Sequence[int]) -> NDArray[np.int64]:
    """The place of each id in a list of them; -1 for what is not in it."""
    if not ids:
        return np.full(len(wanted), -1)
    array = np.array(ids, dtype=np.int64)
    order = np.argsort(array)
    place = order[np.searchsorted(array[order], wanted).clip(max=len(ids) - 1)]
    return np.where(array[place] == wanted, place, -1)
