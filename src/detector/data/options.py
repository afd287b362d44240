"""Options of the data set, of loading it and of augmentation (conf/data, conf/augment)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from detector.core.errors import one_of, require
from detector.core.options import STRICT, Count, Int, Real, Seed, Share, Wanted, fixed
from detector.data.formats.table import NAMES

USUAL_SIDE = 512  # pixels, where image_size is auto and there is nothing to fit it to


@dataclass(config=STRICT, frozen=True, kw_only=True)
class SplitNames:
    """What each split is called in the data set: lists, folders or files."""

    train: Annotated[Annotated[list[str], Field(min_length=1)] | None, fixed("resume")] = None
    """Names of the training split; null: the usual ones."""
    val: Annotated[list[str] | None, fixed("resume")] = None
    """Names of the validation split; null: the usual ones (val, valid), []: none."""
    test: Annotated[list[str] | None, fixed("resume")] = None
    """Names of the test split; null: the usual ones, []: none."""


@dataclass(config=STRICT, frozen=True, kw_only=True)
class AutoSplit:
    """How images are split that the data set does not split itself."""

    val: Annotated[Share, fixed("resume")] = 0.15
    """Share of the images that is held out for validation."""
    test: Annotated[Real, Field(ge=0, lt=1), fixed("resume")] = 0.15
    """Share of the images that is held out for the test."""
    seed: Annotated[Seed, fixed("resume")] = 0
    """Seed of the split, independent of the training's."""
    group: Annotated[
        Annotated[str, Field(min_length=1), Wanted("a regular expression or a CSV file")] | None,
        fixed("resume"),
    ] = None
    """Keep images together: a regular expression on names, such as "^(.*?)_", or a CSV file of
    image,group."""
    file: str | None = None
    """A splits.json, or the run that wrote it: split as that run did, instead of by ratio."""

    def __post_init__(self) -> None:
        """Check that something is left for training."""
        both = self.val + self.test
        require(both < 1, "data.auto_split.val+test", both, "less than 1: the rest is for training")


@dataclass(config=STRICT, frozen=True, kw_only=True)
class DataOptions:
    """The data set and how it is loaded."""

    format: Annotated[str, Wanted("one of " + ", ".join(NAMES))] = "auto"
    """Format of the annotations; auto: recognised by the files."""
    root: str | None = None
    """Folder of the images and annotations."""
    splits: SplitNames = SplitNames()
    auto_split: AutoSplit = AutoSplit()
    classes: list[str] | None = None
    """Every class once; null: those of the data set."""
    on_bad: Literal["error", "skip"] = "error"
    """What to do about unusable images and boxes; error: stop, skip: leave them out and say so."""
    image_size: Annotated[
        Literal["auto"] | Annotated[Int, Field(ge=32, le=4096)],
        Wanted("auto or 32..4096"),
        fixed("resume"),
    ]
    """Longer side of the network's input, in pixels; auto: the smallest at which nearly all
    training boxes have 16 pixels on their shorter side."""
    batch_size: Count
    """Images per step and device."""
    workers: Annotated[Int, Field(ge=0)] | None = None
    """Loader processes; null: none on a CPU, else one for each core, 8 at most."""
    group_by_aspect: bool = True
    """Form batches of images of similar shape, so that little is padded."""
    repeat_threshold: Annotated[Real, Field(gt=0, le=1)] | None = None
    """Classes in a smaller share of the images are shown more often; null: every image once."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Where decoded images are kept."""
    pin_memory: bool = True
    """Copy batches to the GPU from page-locked memory; without effect on a CPU."""
    stall_seconds: Annotated[float, Field(gt=0, allow_inf_nan=True)] = 60.0
    """Time to load a batch, in seconds, after which the file and the worker are named."""
    download: bool = False
    """With data=voc: fetch the VOC years that data.splits names."""

    @property
    def side(self) -> int:
        """`image_size` as a number, also before it is fitted to the data."""
        return USUAL_SIDE if self.image_size == "auto" else self.image_size

    def __post_init__(self) -> None:
        """Check the format and the names of the classes."""
        one_of("data.format", self.format, NAMES)
        names = ["one"] if self.classes is None else self.classes
        good = bool(names) and len(set(names)) == len(names) and all(map(str.strip, names))
        require(good, "data.classes", names, "null, or every class once")


@dataclass(config=STRICT, frozen=True, kw_only=True)
class AugmentOptions:
    """The augmentation of training images."""

    steps: list[dict[str, Any]]
    """Albumentations' transforms in their order, such as [{name: HorizontalFlip, p: 0.5}]."""
    min_visibility: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Boxes of which a smaller share stays in the picture are dropped."""
