"""Read any data set by its root: recognise its format, read, split and validate it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detector.core.errors import RequestError
from detector.core.structures import AnnotatedImages, ClassMap
from detector.data.auto_split.by_ratio import Ratios, apply, read_split_file, split_by_ratio
from detector.data.auto_split.groups import read_groups
from detector.data.formats import table
from detector.data.formats.folder import Folder
from detector.data.formats.raw import POOL
from detector.data.validation.duplicates import find_copies
from detector.data.validation.image_info import ImageInfo, ImageInfoCache, inspect
from detector.data.validation.issues import Issues
from detector.data.validation.splits import find_unused, validate_splits
from detector.data.validation.validate import Validator, choose_classes


@dataclass(frozen=True)
class DataSetSpec:
    """Which data set to read, and how to split it.

    Attributes:
        root: Folder of the data set.
        format: Name of the format, a key of `table.MODULES`, or `auto` to recognise it.
        splits: Names of each split in the data set, such as lists, folders or files; None takes
            the usual names, an empty list none.
        ratios: Shares of `val` and `test`, for splits that the data set does not have itself.
        split_file: A `splits.json` of an earlier run that is used instead of the ratios.
        seed: Seed of the split by ratio.
        group: Which images stay together in that split, as `read_groups` takes it; None keeps only
            copies together.
        decode: Decode every image once, so that none fails later, even where only one split is
            wanted.
        classes: Class names in order; None takes those of the data.
        classes_from: Where given classes come from, for messages.
        channels: Number of channels of the images that the network takes.
    """

    root: Path
    format: str
    splits: dict[str, Sequence[str] | None]
    ratios: dict[str, float]
    split_file: Path | None = None
    seed: int = 0
    group: str | None = None
    decode: bool = False
    classes: Sequence[str] | None = None
    classes_from: str = "data.classes"
    channels: int = 3


@dataclass(frozen=True)
class DataSet:
    """A validated data set.

    Attributes:
        root: Folder of the data set; paths in issues are relative to it.
        format: Name of its format.
        recognised: Description of the files found, in one line.
        splits: Usable images and boxes by split.
        classes: Classes of the data set.
        issues: Everything that is wrong with it.
        divided: Whether images were split by ratio or by a file, so that the split is worth saving.
        groups: Names by id of categories that only group others and are no classes.
        division: Description of the split by ratio, one line each; empty where the data set has
            splits of its own.
    """

    root: Path
    format: str
    recognised: str
    splits: dict[str, AnnotatedImages]
    classes: ClassMap
    issues: Issues
    divided: bool
    groups: Mapping[int, str] = field(default_factory=dict)
    division: tuple[str, ...] = ()

    def files(self) -> dict[str, list[str]]:
        """Relative paths of the images of every split, as splits.json keeps them."""
        return {name: images.files(self.root) for name, images in self.splits.items()}


def read(spec: DataSetSpec, cache: ImageInfoCache, wanted: str | None = None) -> DataSet:
    """Read and validate a data set; arguments as those of `Reading`."""
    return Reading(spec, wanted).validate(cache)


class Reading:
    """A data set whose annotation files have been read, and whose images have not.

    Args:
        spec: Which data set.
        wanted: The only split wanted; `final` means `test`, or `val` where there is no test; None
            means all.

    Raises:
        RequestError: If the data set cannot be read at all; anything less is among its issues.
    """

    def __init__(self, spec: DataSetSpec, wanted: str | None = None) -> None:
        self._spec, self._wanted = spec, wanted
        folder = Folder(spec.root)
        self._format = table.recognise(folder) if spec.format == "auto" else spec.format
        self._reader = table.load(self._format).reader(folder, spec.splits)
        there = self._reader.splits
        self._raws = {split: self._reader.read(split) for split in _needed(there, wanted)}
        self._classes = choose_classes(self._reader, self._raws, spec.classes)
        divides = POOL in self._raws or ("train" in self._raws and "val" not in there)
        self._divides = divides
        self._pool = POOL if POOL in self._raws else "train"  # the split that is divided
        self._groups: tuple[list[str], list[str]] = [], []
        for key, value in (("file", spec.split_file), ("group", spec.group)):
            if value is not None and not divides and wanted is None:
                own = ", ".join(self._raws)
                raise RequestError(
                    f"data.auto_split.{key}={value}: {spec.root} has splits of its own ({own})"
                )
        if self._by_ratio and spec.group is not None and self._raws[self._pool].images:
            self._groups = read_groups(spec.group, self._raws[self._pool].images)

    @property
    def _by_ratio(self) -> bool:
        """Whether images are split by ratio, and not by the file of an earlier run."""
        return self._divides and self._spec.split_file is None

    @property
    def needs_pixels(self) -> bool:
        """Whether images have to be decoded: to split or compare them, or because it is asked."""
        return self._by_ratio or self._spec.decode or self._wanted is None

    def validate(self, cache: ImageInfoCache, *, decode: bool = True) -> DataSet:
        """Inspect the images, split them where the data set does not, and validate everything.

        Args:
            cache: What is known of image files from earlier runs.
            decode: Decode images where that is needed. If not, only headers are read, which is
                quick, but copies stay unknown and a split by ratio is not the final one.

        Raises:
            RequestError: If a split that is wanted is not there.
        """
        reader, raws, root = self._reader, self._raws, self._reader.root
        decode = decode and self.needs_pixels
        infos = inspect(root, [i for r in raws.values() for i in r.images], cache, decode=decode)
        splits, issues = self._validate_images(infos)
        division: list[str] = []
        if self._divides:
            homes, division = self._divide(infos if decode else {})
            splits = apply(splits, self._pool, homes, tuple(self._shares), root)
            issues.relabel({f: name for name, s in splits.items() for f in s.files(root)})
        splits = _only(splits, self._wanted, self._spec.root)
        if decode or not self._by_ratio:
            validate_splits(splits, self._classes, root, issues)
        if self._wanted is None:
            find_unused(reader.folder, list(infos), issues)
            if decode:
                issues.update(find_copies({n: s.files(root) for n, s in splits.items()}, infos))
        return DataSet(
            root,
            self._format,
            reader.recognised,
            splits,
            self._classes,
            issues,
            divided=self._divides and self._wanted is None,
            groups=self._category_groups(),
            division=tuple(division),
        )

    def _validate_images(
        self, infos: Mapping[str, ImageInfo]
    ) -> tuple[dict[str, AnnotatedImages], Issues]:
        """The usable images and boxes of every split that was read, and what is wrong with them."""
        spec = self._spec
        named_by = spec.classes_from if spec.classes else "the classes of the data"
        validator = Validator(self._reader, infos, self._classes, named_by, spec.channels)
        validated = {split: validator.validate(split, raw) for split, raw in self._raws.items()}
        issues = Issues()
        for one in validated.values():
            issues.update(one.issues)
        return {split: one.images for split, one in validated.items()}, issues

    def _category_groups(self) -> dict[int, str]:
        """Names by id of categories that only group others."""
        categories = zip(self._reader.ids or (), self._reader.names, strict=False)
        own = self._classes.names if self._spec.classes is None else self._reader.names
        return {i: name for i, name in categories if name not in own}

    @property
    def _shares(self) -> dict[str, float]:
        """The share of each split that is made by ratio."""
        shares = {name: share for name, share in self._spec.ratios.items() if share > 0}
        if POOL not in self._raws:
            shares.pop("test", None)  # what is held out of given training images is for validation
        return {"train": 1 - sum(shares.values()), **shares}

    def _divide(self, infos: Mapping[str, ImageInfo]) -> tuple[dict[str, str], list[str]]:
        """The split of every image by ratio or by an earlier run's file, and a description."""
        spec, raw = self._spec, self._raws[self._pool]
        if spec.split_file is not None:
            homes = read_split_file(spec.split_file, set(raw.images), self._reader.root)
            return homes, [f"divided as {spec.split_file} says"]
        keys, notes = self._groups
        ratios = Ratios(self._shares, spec.seed, spec.group, keys)
        homes, copies = split_by_ratio(raw, self._reader.names, infos, ratios, spec.root)
        return homes, [f"divided by ratio with data.auto_split.seed={spec.seed}", *notes, *copies]


def _needed(there: Sequence[str], wanted: str | None) -> Sequence[str]:
    """The splits to read for the one that is wanted; a split by ratio needs all that it divides."""
    chosen = _resolve(wanted, there)
    return [chosen] if chosen is not None and chosen in there else there


def _resolve(wanted: str | None, there: Collection[str]) -> str | None:
    """The split that is meant: `final` is `test`, or `val` where there is no test."""
    return ("test" if "test" in there else "val") if wanted == "final" else wanted


def _only(
    splits: dict[str, AnnotatedImages], wanted: str | None, root: Path
) -> dict[str, AnnotatedImages]:
    """The split that is wanted, or all of them if none is.

    Raises:
        RequestError: If it is not there, or there are no training images where all are wanted.
    """
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
