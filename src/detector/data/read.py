"""Any data set by its root: recognised, read, split and judged."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.core.structures import AnnotatedImages, ClassMap
from detector.data.division.groups import read_groups
from detector.data.division.split import divide
from detector.data.formats.coco import CocoReader, find_jsons
from detector.data.formats.folder import CONVERT, MASKS, Folder, fold
from detector.data.formats.raw import POOL, RawSplit, Reader, by_name
from detector.data.formats.voc import VocReader
from detector.data.formats.yolo import YoloReader, find_names, find_yamls, hint
from detector.data.validation.duplicates import find_copies, join_equal, join_similar
from detector.data.validation.image_info import Facts, FactsCache, look_at
from detector.data.validation.issues import Findings, Item
from detector.data.validation.validate import Judge, choose_classes

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
        group: Which images stay together in it, as `read_groups` takes it; None: copies alone.
        closely: Decode images that have not been before, so that none fails later, even where only
            one split is wanted.
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
    group: str | None = None
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
        division: How they were, a line each; empty where the data set has splits of its own.
    """

    root: Path
    format: str
    recognised: str
    splits: dict[str, AnnotatedImages]
    classes: ClassMap
    findings: Findings
    divided: bool
    groups: Mapping[int, str] = field(default_factory=dict)
    division: tuple[str, ...] = ()

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
    """Read a data set and judge it, as `Reading` does."""
    return Reading(source, wanted).judge(cache)


class Reading:
    """A data set whose annotation files have been read, and whose images have not.

    Args:
        source: Which one.
        wanted: The only split wanted; `final` means `test`, or `val` where there is no test;
            None: all.

    Raises:
        RequestError: If it cannot be read at all; single faults are among the findings.
    """

    def __init__(self, source: Source, wanted: str | None = None) -> None:
        self._source, self._wanted = source, wanted
        folder = Folder(source.root)
        self._format = recognise(folder) if source.format == "auto" else source.format
        self._reader = READERS[self._format](folder, source.splits)
        there = self._reader.splits
        self._raws = {split: self._reader.read(split) for split in _needed(there, wanted)}
        self._classes = choose_classes(self._reader, self._raws, source.classes)
        divides = POOL in self._raws or ("train" in self._raws and "val" not in there)
        self._divides = divides
        self._groups: tuple[list[str], list[str]] = [], []
        for key, value in (("file", source.split_file), ("group", source.group)):
            if value is not None and not divides and wanted is None:
                own = ", ".join(self._raws)
                raise RequestError(
                    f"data.auto_split.{key}={value}: {source.root} has splits of its own ({own})"
                )
        if self._by_ratio and source.group is not None and self._pool.images:
            self._groups = read_groups(source.group, self._pool.images)

    @property
    def _pool(self) -> RawSplit:
        """The images that are divided."""
        return self._raws[POOL if POOL in self._raws else "train"]

    @property
    def _by_ratio(self) -> bool:
        """Whether images are divided by ratio, not as an earlier run did."""
        return self._divides and self._source.split_file is None

    @property
    def is_brief(self) -> bool:
        """Whether no image has to be decoded: nothing is divided, and nothing compared."""
        return not (self._by_ratio or self._source.closely or self._wanted is None)

    def judge(self, cache: FactsCache, *, briefly: bool = False) -> DataSet:
        """Look at the images, divide them where the data set does not, and judge everything.

        Args:
            cache: Of image files.
            briefly: Decode no image, to find at once what is quickly found. Then copies are not
                known, and a division by ratio is not the final one.

        Raises:
            RequestError: If a split that is wanted is not there.
        """
        source, reader, raws = self._source, self._reader, self._raws
        root, closely = reader.root, not (briefly or self.is_brief)
        named_by = source.classes_from if source.classes else "the classes of the data"
        files = [image for raw in raws.values() for image in raw.images]
        facts = look_at(root, files, cache, closely=closely)
        judge = Judge(reader, facts, self._classes, named_by, source.channels)
        judged = {split: judge.judge(split, raw) for split, raw in raws.items()}
        splits = {split: one.images for split, one in judged.items()}
        findings = Findings()
        for one in judged.values():
            findings.update(one.findings)
        division: list[str] = []
        if self._divides:
            homes, division = self._divide(facts if closely else {})
            splits = _apply(splits, homes, tuple(self._shares), root)
            findings.relabel({f: name for name, s in splits.items() for f in files_of(s, root)})
        splits = _only(splits, self._wanted, source.root)
        if closely or not self._by_ratio:
            _judge_splits(splits, self._classes, findings, root)
        if self._wanted is None:
            _find_unused(reader.folder, files, findings)
            if closely:
                named = {name: files_of(images, root) for name, images in splits.items()}
                findings.update(find_copies(named, facts))
        divided = self._divides and self._wanted is None
        categories = zip(reader.ids or (), reader.names, strict=False)
        own = self._classes.names if source.classes is None else reader.names
        groups = {i: name for i, name in categories if name not in own}
        rest = splits, self._classes, findings, divided, groups, tuple(division)
        return DataSet(root, self._format, reader.recognised, *rest)

    @property
    def _shares(self) -> dict[str, float]:
        """The share of each split that is made by ratio."""
        shares = {name: share for name, share in self._source.ratios.items() if share > 0}
        if POOL not in self._raws:
            shares.pop("test", None)  # what is held out of given training images is for validation
        return {"train": 1 - sum(shares.values()), **shares}

    def _divide(self, known: Mapping[str, Facts]) -> tuple[dict[str, str], list[str]]:
        """The split of every image by ratio, or as an earlier run had it; and how, in words.

        Images that nothing is known of are copies of none.

        Also images that do not decode are dealt out: whether that is known must not move others.
        Nothing but images, their names and the names of their classes matters, so that a set is
        divided alike in any format.
        """
        source, raw = self._source, self._pool
        if source.split_file is not None:
            homes = _read_split_file(source.split_file, set(raw.images), self._reader.root)
            return homes, [f"divided as {source.split_file} says"]
        order = by_name(raw.images)
        files = [raw.images[i] for i in order]
        keys, notes = self._groups
        given = [[keys[i] for i in order]] if keys else []
        nothing = Facts(0, 0, 1)
        facts = [known.get(file, nothing) for file in files]
        same = [files, [fact.digest for fact in facts]]
        near = join_similar(join_equal(len(files), *same), [fact.hash for fact in facts])
        copies = join_equal(len(files), *same, *given)
        alike = join_equal(len(files), (near + 1).tolist(), *given)
        counted = ~raw.ignore  # not every format has boxes that are ignored
        owners = np.argsort(order)[raw.owners()[counted]]
        rank = {name: k for k, name in enumerate(sorted(set(self._reader.names)))}
        table = np.array([rank[name] for name in self._reader.names] or [0])
        classes = table[raw.names[counted]]
        dealt, broken = divide(copies, alike, owners, classes, self._shares, source.seed)
        units = len(np.unique(copies))
        if units < len(dealt) <= len(files):
            key = f"data.root={source.root}"
            key = key if source.group is None else f"data.auto_split.group={source.group}"
            raise RequestError(
                f"{key}: {len(files)} images in {units} group{'s' * (units > 1)} that stay "
                f"together, as copies of one picture do: too few for {', '.join(dealt)}"
            )
        lines = [f"divided by ratio with data.auto_split.seed={source.seed}", *notes]
        lines += _describe_copies(near, broken)
        return {files[i]: name for name, rows in dealt.items() for i in rows.tolist()}, lines


def _describe_copies(near: NDArray[np.int64], broken: Sequence[int]) -> list[str]:
    """How many images are alike, and which groups of them could not be kept in one split."""
    sizes = np.bincount(near)
    sizes = sizes[sizes > 1]
    if not len(sizes):
        return []
    kept = "each group in one split"
    if broken:
        kept = f"but {len(broken)}, of up to {broken[0]} images, too large to be kept in one split"
    groups = f"{len(sizes)} group{'s' * (len(sizes) > 1)}"
    return [f"{sizes.sum()} images are copies or near copies of others, in {groups}; {kept}"]


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


def _apply(
    splits: dict[str, AnnotatedImages], homes: Mapping[str, str], parts: Sequence[str], root: Path
) -> dict[str, AnnotatedImages]:
    """Divide the images of the pool, or of `train`, as `homes` says."""
    pool = POOL if POOL in splits else "train"
    whole = splits[pool]
    home = np.array([homes.get(file, "") for file in files_of(whole, root)])
    new = {name: whole.subset(np.flatnonzero(home == name)) for name in parts}
    rest = {name: images for name, images in splits.items() if name != pool}
    return {name: {**new, **rest}[name] for name in SPLITS if name in new or name in rest}


def _read_split_file(file: Path, images: Collection[str], root: Path) -> dict[str, str]:
    """The split of every image, as an earlier run dealt them out."""
    try:
        listed = json.loads(file.read_bytes())["splits"]
        homes = {str(path): str(name) for name, paths in listed.items() for path in paths}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(f"data.auto_split.file={file}: not a splits.json ({error})") from error
    if not {"train", "val"} <= {homes[image] for image in images if image in homes}:
        raise RequestError(f"data.auto_split.file={file}: train or val has no images of {root}")
    return homes


def files_of(images: AnnotatedImages, root: Path) -> list[str]:
    """The images' paths, relative to the root, as findings have them."""
    prefix = f"{root}/"
    return [path.removeprefix(prefix) for path in images.paths.tolist()]


def _find_unused(folder: Folder, used: Collection[str], findings: Findings) -> None:
    """Name pictures that no annotation or list has, or that are not read at all."""
    malformed = [i.file for f in findings if f.kind == "malformed annotation" for i in f.items]
    known = {*used, *filter(None, map(folder.image_for, malformed))}
    rest = [f for f in folder.images if f not in known and not MASKS & {*f.lower().split("/")}]
    unused = "no annotation or list has it"
    findings.add_many("image not used", rest, lambda f: Item("", f, unused, f))
    findings.add_many("unsupported image", folder.unread, lambda f: Item("", f, CONVERT))
    nowhere = "a link that leads nowhere, or no file"
    findings.add_many("broken link", folder.broken_images, lambda f: Item("", f, nowhere))
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
