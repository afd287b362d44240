"""Any data set by its root: recognised, read, split and judged."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detector.data.coco import CocoReader, find_jsons
from detector.data.facts import FactsCache, look_at
from detector.data.findings import Findings, Item
from detector.data.folder import CONVERT, MASKS, Folder, fold
from detector.data.judge import Judge, choose_classes
from detector.data.raw import POOL, RawSplit, Reader
from detector.data.split import stratified_split
from detector.data.voc import VocReader
from detector.data.yolo import YoloReader, find_names, find_yamls, hint
from detector.types import AnnotatedImages, ClassMap, RequestError

SPLITS = ("train", "val", "test")
READERS: dict[str, Callable[[Folder, dict[str, Sequence[str] | None]], Reader]] = {
    "voc": VocReader,
    "coco": CocoReader,
    "yolo": YoloReader,
}


@dataclass(frozen=True)
class Source:
    """Which data set, and how it is divided.

    Attributes:
        root: Its folder.
        format: A key of `READERS`, or `auto`.
        splits: Split -> what it is called in the data set; None: the usual names; empty: none.
        ratios: Shares of `val` and `test`, for splits that the data set has not.
        split_file: A `splits.json` of an earlier run, instead of the ratios.
        seed: Of the split by ratio.
        closely: Decode images that have not been before, so that none fails later.
        classes: Class names in order; None takes the data's.
        classes_from: Where given classes come from, for messages.
        channels: Of the network's images, which files must have.
    """

    root: Path
    format: str
    splits: dict[str, Sequence[str] | None]
    ratios: dict[str, float]
    split_file: Path | None = None
    seed: int = 0
    closely: bool = False
    classes: Sequence[str] | None = None
    classes_from: str = "data.classes"
    channels: int = 3


@dataclass(frozen=True)
class DataSet:
    """A data set, read.

    Attributes:
        root: Its folder, which findings' files are relative to.
        format: What it turned out to be.
        recognised: What was found, in one line.
        splits: What can be used of every split.
        classes: Its classes.
        findings: What is wrong with it.
        divided: Whether images were dealt out by ratio, so that the split is worth keeping.
        groups: Categories by id that only group others, and are no classes.
    """

    root: Path
    format: str
    recognised: str
    splits: dict[str, AnnotatedImages]
    classes: ClassMap
    findings: Findings
    divided: bool
    groups: Mapping[int, str] = field(default_factory=dict)

    def files(self) -> dict[str, list[str]]:
        """Relative paths of every split's images; in a splits.json, to divide the same again."""
        return {name: files_of(images, self.root) for name, images in self.splits.items()}


def recognise(folder: Folder) -> str:
    """The format of a data set.

    Raises:
        RequestError: If it is none, or several.
    """
    root = folder.root
    jsons, faults = find_jsons(folder)
    signs = {
        "yolo": bool(find_yamls(folder)),
        "coco": bool(jsons) or any(f.unreadable and f.called for f in faults.values()),
        "voc": bool(folder.with_suffix(".xml")),
    }
    found = [name for name, there in signs.items() if there]
    # Weaker signs, which are none beside others.
    if not found and find_names(folder) is not None:
        found = ["yolo"]
    if not found and faults:
        found = ["coco"]
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(
            f"data.root={root}: could be {' or '.join(found)}; say which, such as data={found[0]}"
        )
    if further := hint(folder):
        raise RequestError(f"data.root={root}: no data set in it itself{further}")
    raise RequestError(
        f"data.root={root}: no data set recognised among its {len(folder.files)} files "
        f"({len(folder.images)} images); expected VOC (*.xml), COCO (a JSON file with images, "
        "annotations and categories) or YOLO (data.yaml with names); other formats, such as "
        "LabelMe's, must be exported as one of these"
    )


def read(source: Source, cache: FactsCache, wanted: str | None = None) -> DataSet:
    """Read a data set and judge it.

    Args:
        source: Which one.
        cache: Of image files.
        wanted: The only split to be read; `final` means `test`, or `val` where there is no test;
            None: all.

    Raises:
        RequestError: If it cannot be read at all; single faults are among the findings.
    """
    root, folder = source.root, Folder(source.root)
    kind = recognise(folder) if source.format == "auto" else source.format
    reader = READERS[kind](folder, source.splits)
    raws = {split: reader.read(split) for split in _needed(reader.splits, wanted)}
    classes = choose_classes(reader, raws, source.classes)
    named_by = source.classes_from if source.classes else "the classes of the data"
    files = [image for raw in raws.values() for image in raw.images]
    facts = look_at(reader.root, files, cache, closely=source.closely)
    judge = Judge(reader, facts, classes, named_by, source.channels)
    judged = {split: judge.judge(split, raw) for split, raw in raws.items()}
    splits = {split: one.images for split, one in judged.items()}
    findings = Findings()
    for one in judged.values():
        findings.update(one.findings)
    divides = POOL in splits or ("train" in splits and "val" not in reader.splits)
    if divides:
        splits = _divide(splits, raws, source, reader.root)
        homes = {f: name for name, s in splits.items() for f in files_of(s, reader.root)}
        findings.relabel(homes)
    elif source.split_file and wanted is None:
        raise RequestError(
            f"data.split.file={source.split_file}: {root} has splits of its own "
            f"({', '.join(splits)})"
        )
    splits = _only(splits, wanted, root)
    _judge_splits(splits, classes, findings, reader.root)
    if wanted is None:
        _find_unused(reader.folder, files, findings)
    divided = divides and wanted is None
    categories = zip(reader.ids or (), reader.names, strict=False)
    groups = {i: name for i, name in categories if not source.classes and name not in classes.names}
    return DataSet(reader.root, kind, reader.recognised, splits, classes, findings, divided, groups)


def _needed(there: Sequence[str], wanted: str | None) -> Sequence[str]:
    """The splits to read for what is wanted; ratios need what they divide."""
    chosen = _resolve(wanted, there)
    return [chosen] if chosen is not None and chosen in there else there


def _resolve(wanted: str | None, there: Collection[str]) -> str | None:
    """The split that is meant: `final` is `test`, or `val` where there is no test."""
    return ("test" if "test" in there else "val") if wanted == "final" else wanted


def _only(
    splits: dict[str, AnnotatedImages], wanted: str | None, root: Path
) -> dict[str, AnnotatedImages]:
    """The split that is wanted; all of them if none is."""
    there = ", ".join(splits)
    chosen = _resolve(wanted, splits)
    if chosen is None:
        if "train" not in splits:
            raise RequestError(
                f"data.root={root}: no training images; there is only {there}: say "
                "data.splits.train=[FOLDER], or a list or JSON file"
            )
        return splits
    if chosen not in splits:
        raise RequestError(f"split={chosen}: {root} has no such split; there are {there}")
    return {chosen: splits[chosen]}


def _divide(
    splits: dict[str, AnnotatedImages], raws: dict[str, RawSplit], source: Source, root: Path
) -> dict[str, AnnotatedImages]:
    """Deal out by ratio, or as an earlier run did, what the data set does not divide itself.

    Also images that do not decode are dealt out: whether that is known must not move others.
    """
    pool = POOL if POOL in splits else "train"
    raw, whole = raws[pool], splits[pool]
    shares = {name: share for name, share in source.ratios.items() if share > 0}
    if pool != POOL:
        shares.pop("test", None)  # what is held out of given training images is for validation
    if source.split_file is not None:
        homes = _read_split_file(source.split_file, set(raw.images), root)
    else:
        parts = {"train": 1 - sum(shares.values()), **shares}
        # By name, whatever order a list or a JSON has.
        order = np.argsort(np.array(raw.images, dtype=np.str_), kind="stable")
        owners = np.argsort(order)[raw.owners()]
        dealt = stratified_split(len(order), owners, raw.names, parts, source.seed)
        homes = {raw.images[i]: name for name, rows in dealt.items() for i in order[rows].tolist()}
    home = np.array([homes.get(file, "") for file in files_of(whole, root)])
    new = {name: whole.subset(np.flatnonzero(home == name)) for name in ("train", *shares)}
    rest = {name: images for name, images in splits.items() if name != pool}
    return {name: {**new, **rest}[name] for name in SPLITS if name in new or name in rest}


def _read_split_file(file: Path, images: Collection[str], root: Path) -> dict[str, str]:
    """The split of every image, as an earlier run dealt them out."""
    try:
        listed = json.loads(file.read_bytes())["splits"]
        homes = {str(path): str(name) for name, paths in listed.items() for path in paths}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(f"data.split.file={file}: not a splits.json ({error})") from error
    if not {"train", "val"} <= {homes[image] for image in images if image in homes}:
        raise RequestError(f"data.split.file={file}: train or val has no images of {root}")
    return homes


def files_of(images: AnnotatedImages, root: Path) -> list[str]:
    """The images' paths, relative to the root, as findings have them."""
    prefix = f"{root}/"
    return [path.removeprefix(prefix) for path in images.paths.tolist()]


def _find_unused(folder: Folder, used: Collection[str], findings: Findings) -> None:
    """Name pictures that no annotation or list has, or that are not read at all."""
    known = set(used)
    rest = [f for f in folder.images if f not in known and not MASKS & {*f.lower().split("/")}]
    unused = "no annotation or list has it"
    findings.add_many("image not used", rest, lambda f: Item("", f, unused, f))
    findings.add_many("unsupported image", folder.unread, lambda f: Item("", f, CONVERT))
    once = "a link to a folder that is read by its own name"
    findings.add_many("folder read once", folder.again, lambda f: Item("", f, once))


def _judge_splits(
    splits: dict[str, AnnotatedImages], classes: ClassMap, findings: Findings, root: Path
) -> None:
    """What can only be said of whole splits."""
    for name, images in splits.items():
        if not len(images):
            findings.add("empty split", Item(name, "", f"the split {name!r} has no usable image"))
        elif not (~images.ignore).any():
            message = f"the split {name!r} has no boxes to learn or to find"
            findings.add("split without boxes", Item(name, "", message))
    spelt: dict[str, str] = {}
    for name in classes.names:
        first = spelt.setdefault(fold(name), name)
        if first != name:
            alike = first.casefold() != name.casefold()
            how = "how accents are encoded (Unicode's NFC and NFD)" if alike else "case"
            message = f"the classes {first!r} and {name!r} differ only in {how}"
            findings.add("class spelt differently", Item("", "", message))
    files = {name: set(files_of(images, root)) for name, images in splits.items()}
    for a, b in itertools.combinations(splits, 2):
        for file in sorted(files[a] & files[b]):
            findings.add("picture in two splits", Item(b, file, f"is in {a} too", file))
    counts = {
        name: np.bincount(s.labels[~s.ignore], minlength=len(classes) + 1)[1:]
        for name, s in splits.items()
    }
    for name, count in counts.items():
        if count.any():
            for label in np.flatnonzero(count == 0).tolist():
                message = f"no box of {classes.names[label]!r} in {name}"
                findings.add("class absent from a split", Item(name, "", message))
    train = counts.get("train", np.zeros(len(classes)))
    most = int(train.max(initial=0))
    for label in np.flatnonzero((train > 0) & (train * 100 < most)).tolist():
        message = f"{int(train[label])} boxes of {classes.names[label]!r}, but {most} of "
        other = classes.names[int(train.argmax())]
        findings.add("class imbalance", Item("train", "", f"{message}{other!r}"))
