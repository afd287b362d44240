"""Which split each image of a data set without splits of its own belongs to."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.core.structures import SPLITS, AnnotatedImages
from detector.data.auto_split.stratify import divide
from detector.data.formats.raw import RawSplit, by_name
from detector.data.validation.duplicates import join_equal, join_similar
from detector.data.validation.image_info import ImageInfo


class _SplitFile(msgspec.Struct):
    """The part of a run's splits.json that is read."""

    splits: dict[str, list[str]]


@dataclass(frozen=True)
class Ratios:
    """How images are split by ratio.

    Attributes:
        shares: Share of the images by split; together 1.
        seed: Seed of the split.
        group: What `data.auto_split.group` says, for messages; None if it says nothing.
        keys: Group of each image by `read_groups`; empty where there are none.
    """

    shares: Mapping[str, float]
    seed: int
    group: str | None = None
    keys: Sequence[str] = ()


def split_by_ratio(
    raw: RawSplit, names: Sequence[str], infos: Mapping[str, ImageInfo], ratios: Ratios, root: Path
) -> tuple[dict[str, str], list[str]]:
    """Split images by ratio, stratified by class, with copies of one picture in one split.

    The result depends only on the images, their names and the names of their classes, so that a
    data set is split alike in any format. Images that cannot be decoded are split as well: whether
    that is known must not move other images.

    Args:
        raw: The images and their boxes.
        names: Class names that `raw.names` points to.
        infos: What is known of the images; an image that is not in it counts as nobody's copy.
        ratios: Shares, seed and groups.
        root: Root of the data set, for messages.

    Returns:
        Split of every image, and a description of copies, one line each.

    Raises:
        RequestError: If there are too few groups of images for the splits.
    """
    order = by_name(raw.images)
    files = [raw.images[i] for i in order]
    given = [[ratios.keys[i] for i in order]] if ratios.keys else []
    nothing = ImageInfo(0, 0, 1)
    known = [infos.get(file, nothing) for file in files]
    same = [files, [info.digest for info in known]]
    near = join_similar(join_equal(len(files), *same), [info.hash for info in known])
    copies = join_equal(len(files), *same, *given)
    alike = join_equal(len(files), (near + 1).tolist(), *given)
    counted = ~raw.ignore  # not every format has boxes that are ignored
    owners = np.argsort(order)[raw.owners()[counted]]
    rank = {name: k for k, name in enumerate(sorted(set(names)))}
    table = np.array([rank[name] for name in names] or [0])
    classes = table[raw.names[counted]]
    parts, broken = divide(copies, alike, owners, classes, dict(ratios.shares), ratios.seed)
    units = len(np.unique(copies))
    if units < len(parts) <= len(files):
        key = (
            f"data.root={root}" if ratios.group is None else f"data.auto_split.group={ratios.group}"
        )
        raise RequestError(
            f"{key}: {len(files)} images in {units} group{'s' * (units > 1)} that stay "
            f"together, as copies of one picture do: too few for {', '.join(parts)}"
        )
    homes = {files[i]: name for name, rows in parts.items() for i in rows.tolist()}
    return homes, _describe_copies(near, broken)


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


def read_split_file(file: Path, images: Collection[str], root: Path) -> dict[str, str]:
    """The split of every image, as a splits.json of an earlier run lists them.

    Args:
        file: The splits.json.
        images: Relative paths of the images to split.
        root: Root of the data set, for messages.

    Raises:
        RequestError: If it is no such file, or leaves `train` or `val` without images.
    """
    try:
        # Python's decoder: a file's name need not be valid Unicode, which msgspec's refuses.
        listed = msgspec.convert(json.loads(file.read_bytes()), _SplitFile).splits
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"data.auto_split.file={file}: not a splits.json ({error})") from error
    homes = {path: name for name, paths in listed.items() for path in paths}
    if not {"train", "val"} <= {homes[image] for image in images if image in homes}:
        raise RequestError(f"data.auto_split.file={file}: train or val has no images of {root}")
    return homes


def apply(
    splits: Mapping[str, AnnotatedImages],
    pool: str,
    homes: Mapping[str, str],
    parts: Sequence[str],
    root: Path,
) -> dict[str, AnnotatedImages]:
    """Replace one of the splits by the parts that its images are split into.

    Args:
        splits: Images by split.
        pool: The split that is replaced.
        homes: New split of each image, by relative path; an image that is not in it is left out.
        parts: Names of the new splits.
        root: Root of the data set.
    """
    whole = splits[pool]
    home = np.array([homes.get(file, "") for file in whole.files(root)])
    new = {name: whole.subset(np.flatnonzero(home == name)) for name in parts}
    rest = {name: images for name, images in splits.items() if name != pool}
    return {name: {**new, **rest}[name] for name in SPLITS if name in new or name in rest}
