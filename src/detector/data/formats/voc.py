"""Reader of PASCAL VOC: devkits, the three folders of a devkit, and XML files beside images.

Format: the VOC development kit (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser, parse

import numpy as np

from detector.core.boxes import around_turned
from detector.core.errors import RequestError
from detector.data.formats.folder import Folder
from detector.data.formats.paths import (
    SUFFIXES,
    UNREAD,
    in_split_folder,
    last_part,
    relative,
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
    flag,
    show,
    turn,
)
from detector.data.validation.issues import Issues, Item

LISTS = "ImageSets/Main/"
PEEKED = 50  # lines that are read to tell whether a text file is a list
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocReader:
    """Reader of VOC, as the devkit has it and as other tools write it.

    Lists in `ImageSets/Main` define the splits; `<year>/<list>` in a devkit of several years.
    Without lists, every XML file below the root counts, and folders named train, val(id) and test
    define the splits.

    Args:
        folder: A folder with the three VOC folders, a devkit of `VOC<year>` folders, the parent of
            `VOCdevkit`, or any folder of images and XML files.
        wanted: Names of lists (or folders) of each split; None takes the usual names, empty none.

    Raises:
        RequestError: If there are no such files, or a named list is missing or malformed.
    """

    first_pixel = 1
    relative = False
    where = "object {}"

    def __init__(self, folder: Folder, wanted: Wanted) -> None:
        self.folder = _find_devkit(folder)
        self.root = self.folder.root
        self.names: list[str] = []
        self.groups: set[str] = set()
        self.ids: list[int] | None = None
        self._numbers: dict[str, int] = {}
        self._xmls: dict[str, list[str]] = {}  # by split
        self._missing: dict[str, list[Item]] = {}
        self._unsorted: list[str] = []  # XML files in no folder of a split
        self._unclear = False  # whether they may be the validation split
        self._remarks = Issues()  # issues of lists
        self._lists = self._find_lists()
        if self._lists:
            parts = _usual_lists(sorted(self._lists), wanted)
            self._from_lists(parts)
            if "val" not in parts and "train" in parts and wanted["val"] is None:
                self._name_unclear([name for names in parts.values() for name in names])
        else:
            self._from_folders(wanted)
        self.splits = tuple(self._xmls)

    def _find_lists(self) -> dict[str, str]:
        """Lists of images by name: `VOC2007/trainval` is VOC2007/ImageSets/Main/trainval.txt.

        If there are none in ImageSets/Main, lists one folder up or at the root are taken.
        """
        texts = self.folder.with_suffix(".txt")
        for place in (r"(|.*/)imagesets/main/", r"(|.*/)imagesets/", "()"):
            named = [(re.fullmatch(rf"(?i){place}([^/]+)\.txt", file), file) for file in texts]
            found = {match[1] + match[2]: file for match, file in named if match}
            if place == "()":
                found = {name: file for name, file in found.items() if self._is_list(file)}
            if found:
                return found
        return {}

    def _is_list(self, file: str) -> bool:
        """Whether a text file at the root is named after a split and lists annotations."""
        if split_of(PurePosixPath(file).stem) is None:
            return False
        try:
            lines = self.folder.read_text(file).split("\n")[:PEEKED]
        except RequestError:
            return True  # reading it reports the error
        return any(self._xml_of("", _image_id(line)) for line in lines)

    def _from_lists(self, parts: dict[str, list[str]]) -> None:
        """Define the splits by lists."""
        for split, names in parts.items():
            found, missing = dict[str, None](), []
            for folder, listing, image_id in self._list_ids(names):
                xml = self._xml_of(folder, image_id)
                if xml is not None:
                    found[xml] = None
                else:
                    named = f"{folder}Annotations/{image_id}.xml"
                    missing.append(Item(split, named, f"no such file, but {listing} lists it"))
            self._xmls[split], self._missing[split] = list(found), missing
        listed = "; ".join(f"{split} = {' + '.join(names)}" for split, names in parts.items())
        where = next(iter(self._lists.values())).rpartition("/")[0] or "the folder itself"
        self.recognised = f"VOC with lists in {where} ({listed})"

    def _name_unclear(self, used: Sequence[str]) -> None:
        """Report lists that may be the validation split, which a split by ratio would replace."""
        for name, file in self._lists.items():
            last = name.rpartition("/")[2]
            if name not in used and "_" not in last and split_of(last) is None:
                add_unclear_list(self._remarks, file, name)

    def _list_ids(self, parts: Sequence[str]) -> list[tuple[str, str, str]]:
        """Folder, list and image id of each image in the lists, without repetitions."""
        found: dict[tuple[str, str], str] = {}
        for part in parts:
            year, slash, name = part.rpartition("/")
            if part not in self._lists:
                path = self.root / f"{year}{slash}{LISTS}{name}.txt"
                there = [name for name in self._lists if "_" not in name.rpartition("/")[2]]
                raise RequestError(
                    f"no split file {path}; there: {', '.join(there) or 'none'} (set data.splits)"
                )
            file = self._lists[part]
            lines = self.folder.require_text(file).split("\n")
            named = set[tuple[str, str]]()
            for line in filter(None, map(str.strip, lines)):
                # Only the part of another machine's path that exists here counts.
                image_id = _image_id(line).lstrip("/")
                if relative(image_id) is None or image_id in (".", ""):
                    raise RequestError(f"{self.root / file}: {line!r} is not a plain file name")
                key = (f"{year}{slash}", image_id)
                if found.setdefault(key, file) == file and key in named:
                    item = Item("", file, f"{image_id} is there twice")
                    self._remarks.add("image listed twice", item)
                named.add(key)
        return [(folder, listing, image_id) for (folder, image_id), listing in found.items()]

    def _xml_of(self, folder: str, image_id: str) -> str | None:
        """The annotation that an id or a path in a list stands for."""
        path = (relative(image_id) or "").removesuffix("/")
        for name in dict.fromkeys((path, last_part(path))):
            if name and (xml := self.folder.find(f"{folder}Annotations/{name}.xml")):
                return xml
        return self.folder.unique_annotation(last_part(path), ".xml", folder)

    def _from_folders(self, wanted: Wanted) -> None:
        """Define the splits by folders; without such folders, all files are one pool."""
        xmls = self.folder.with_suffix(".xml")
        if not xmls:
            raise RequestError(
                f"data.root={self.root}: no XML files in it; expected PASCAL VOC: "
                "Annotations/*.xml and JPEGImages/, perhaps ImageSets/Main/<split>.txt; "
                "or XML files beside images"
            )
        splits = by_folder(self.root, xmls, wanted)
        if splits and not any(wanted.values()):
            sorted_out = {xml for found in splits.values() for xml in found}
            self._unsorted = [xml for xml in xmls if xml not in sorted_out]
            self._unclear = wanted["val"] is None and "val" not in splits
        self._xmls = splits or {POOL: xmls}
        where = f"in folders for {', '.join(splits)}" if splits else "without lists of splits"
        self.recognised = f"VOC: {len(xmls)} XML files {where}"

    def read(self, split: str) -> RawSplit:
        """Read the annotations of one split."""
        builder = RawBuilder()
        builder.issues.add_many("missing annotation", self._missing.get(split, []), lambda i: i)
        for xml in self._unsorted if split == "train" else ():
            item = Item("", xml, "lies in no folder of a split")
            builder.issues.add("annotation not used", item)
        if split == self.splits[0]:
            builder.issues.update(self._remarks)
        if self._unclear and split == "train":
            add_unclear(builder.issues, self._unsorted)
        for xml in show(self._xmls[split], split):
            try:
                self._read_one(xml, split, builder)
            except (RequestError, OSError) as error:
                builder.issues.add("malformed annotation", Item(split, xml, str(error)))
        return builder.build()

    def _read_one(self, xml: str, split: str, builder: RawBuilder) -> None:
        """Read one annotation file; RequestError if it is malformed."""
        root = parse_xml(self.folder.small(xml))
        size = side(root, "size/height"), side(root, "size/width")
        objects = root.findall("object")
        boxes, names, ignore = [], [], []
        remarks: list[tuple[str, str]] = []
        for i, node in enumerate(objects, start=1):
            name = (node.findtext("name") or "").strip()
            if not name:
                raise RequestError(f"object {i} has no <name>")
            box, degrees = _read_box(node, f"object {i}: ")
            boxes.append(box)
            if degrees:
                remarks.append(("rotated box", f"object {i}: turned by {degrees:g} degrees"))
            names.append(self._numbers.setdefault(name, len(self._numbers)))
            if len(self.names) < len(self._numbers):
                self.names.append(name)
            text = node.findtext("difficult")
            difficult = flag(text)
            ignore.append(bool(difficult))
            if difficult is None:
                message = f"object {i}: <difficult> is {str(text).strip()[:40]!r}, expected 0 or 1"
                remarks.append(("flag not understood", message))
        written = (root.findtext("filename") or "").strip()
        image = self.folder.image_for(xml, written)
        if image is None:
            called = f", nor {written!r}" if written else ""
            item = Item(split, xml, f"no image of that name{called}")
            builder.issues.add("missing image", item)
            return
        if written and not _same_name(last_part(written), image):
            there = ", which is there too" if self.folder.unique(last_part(written)) else ""
            message = f"<filename> says {written!r}{there}; {image} is used"
            remarks.append(("file name disagrees", message))
        for kind, message in remarks:
            builder.issues.add(kind, Item(split, xml, message, image))
        builder.add(image, xml, size, boxes, names, ignore, range(1, len(objects) + 1))


def _same_name(written: str, image: str) -> bool:
    """Whether a name is that of an image, regardless of suffix and case."""
    stem = Path(image).stem.casefold()
    return stem in (written.casefold(), Path(written).stem.casefold())


def _read_box(node: Element, where: str) -> tuple[list[float], float]:
    """The corners of an object as the format has them, and the rotation of its box in degrees.

    CVAT writes the box before the rotation and the angle as an attribute. roLabelImg writes a
    `robndbox` with centre and sides in 0-based pixels and the angle in radians.
    """
    if node.find("robndbox") is not None and node.find("bndbox") is None:
        keys = ("cx", "cy", "w", "h", "angle")
        x, y, w, h, radians = (number(node, f"robndbox/{key}", where) for key in keys)
        before = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    else:
        corners = [number(node, f"bndbox/{key}", where) for key in CORNERS]
        attributes = node.iterfind("attributes/attribute")
        said = {(a.findtext("name") or "").strip(): a.findtext("value") for a in attributes}
        radians = turn(said.get("rotation"))
        if not radians:
            return corners, 0
        before = [corners[0] - 1, corners[1] - 1, *corners[2:]]
    x1, y1, x2, y2 = around_turned(np.array([before]), np.array([radians]))[0].tolist()
    return [x1 + 1, y1 + 1, x2, y2], math.degrees(radians)


def _find_devkit(folder: Folder) -> Folder:
    """The folder that the names of lists are relative to: the root, or VOCdevkit below it."""
    inner = folder.root / "VOCdevkit"
    above = not (folder.root / "ImageSets").is_dir() and inner.is_dir()
    return Folder(inner) if above else folder


def _usual_lists(names: Sequence[str], wanted: Wanted) -> dict[str, list[str]]:
    """The lists of every split: those wanted, or else the usual names in every year."""
    parts: dict[str, list[str]] = {}
    # Lists with an underscore are of single classes, if there are other lists.
    plain = [n for n in names if "_" not in n.rpartition("/")[2]]
    if not any(split_of(n.rpartition("/")[2]) for n in plain):
        plain = list(names)
    for split, given in wanted.items():
        usual = [n for n in plain if split_of(n.rpartition("/")[2]) == split]
        if split == "train":
            # trainval is train and val together, and counts only where they do not exist apart.
            apart = [n for n in usual if not n.endswith("trainval")]
            years = {n.rpartition("/")[0] for n in apart}
            usual = [n for n in usual if n in apart or n.rpartition("/")[0] not in years]
        chosen = list(given) if given is not None else usual
        if chosen:
            parts[split] = chosen
    # Lists of other names, such as CVAT's default.txt, define no splits.
    return parts or {POOL: [n for n in names if "_" not in n] or list(names)}


def _image_id(line: str) -> str:
    """The image that a line of a list names by an id or a path, perhaps with its annotation."""
    # PaddlePaddle's lists have the paths of the image and of the annotation.
    line = re.sub(r"^.+\s+(\S+\.xml)$", r"\1", line.strip())
    # Lists of single classes have a second column: 1, 0 or -1.
    line = re.sub(r"\s+-?[01]$", "", line)
    # Some lists have file names instead of ids.
    head, dot, tail = line.rpartition(".")
    return head if dot and f".{tail.lower()}" in (*SUFFIXES, *UNREAD, ".xml") else line


def by_folder(root: Path, files: Sequence[str], wanted: Wanted) -> dict[str, list[str]]:
    """Sort files into splits by the folders that they lie in.

    Args:
        root: Root of the data set, for messages.
        files: Relative paths of the files.
        wanted: Folders of each split, relative to the root; None takes those of the usual names,
            empty none.

    Returns:
        Files by split; empty if no folder is named after a split.

    Raises:
        RequestError: If a named folder has no such files.
    """
    splits: dict[str, list[str]] = {}
    for split, given in wanted.items():
        if given is None:
            found = [f for f in files if in_split_folder(f, split)]
        else:
            homes = [g.strip("/") + "/" for g in given]
            found = [f for f in files if any(h == "./" or f.startswith(h) for h in homes)]
            if given and not found:
                raise RequestError(f"data.splits.{split}={list(given)}: nothing in {root} for it")
        if found:
            splits[split] = found
    return splits


class _NoDoctype(TreeBuilder):
    """Tree builder that refuses a document type: only there can entities be declared."""

    def doctype(self, *_: object) -> None:
        raise RequestError("not a plain XML annotation: it declares a DTD")


def parse_xml(file: Path | IO[bytes]) -> Element:
    """The root element of an annotation; entities are never resolved.

    Raises:
        RequestError: If it is not a VOC annotation; the message does not name the file.
    """
    try:
        root: Element = parse(file, XMLParser(target=_NoDoctype())).getroot()  # noqa: S314
    except (ParseError, ValueError, LookupError) as error:
        raise RequestError(f"not a readable XML annotation ({error})") from error
    if root.tag != "annotation":
        hint = "; export it as PASCAL VOC" if root.tag == "annotations" else ""  # CVAT's own
        raise RequestError(f"the root element is <{root.tag}>, expected <annotation>{hint}")
    return root


def side(node: Element, path: str) -> int:
    """A side of the image in pixels; 0 if the file does not give it."""
    value = number(node, path, default=0)
    if not 0 <= value < 2**31:
        raise RequestError(f"<{path}> is {value:g}, expected a number of pixels")
    return int(value)


def number(node: Element, path: str, where: str = "", default: float | None = None) -> float:
    """The number in a child element, or the default; RequestError if there is neither."""
    text = (node.findtext(path) or "").strip()
    if not text:
        if default is None:
            raise RequestError(f"{where}<{path}> is missing")
        return default
    try:
        return float(text)
    except ValueError as error:
        raise RequestError(f"{where}<{path}> is {text!r}, expected a number") from error


def _sign(folder: Folder) -> Sign:
    return Sign.SURE if folder.with_suffix(".xml") else Sign.NONE


FORMAT = Format(VocReader, _sign, "VOC (*.xml)")
