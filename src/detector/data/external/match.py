"""Which image and which class each entry of a results file is about."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.core.structures import AnnotatedImages, ClassMap
from detector.data.external.detections import Results
from detector.data.external.ground_truth import CocoGroundTruth
from detector.data.formats.folder import Folder
from detector.data.formats.paths import last_part

NONE, ELSEWHERE = -1, -2  # no such image; an image of the data set that the split does not have
SHOWN = 5  # values that a message lists


def match_classes(
    results: Results, classes: ClassMap, where: str, groups: Mapping[int, str] | None = None
) -> NDArray[np.int64]:
    """The label of every entry: by `category_id`, as pycocotools does, else by `category`.

    Names count where an id is unknown or is that of another class than the entry's `category`, and
    every entry has the name of a class.

    Args:
        results: Detections whose categories are looked up.
        classes: Classes of the data set or the ground truth.
        where: Where the classes come from, for messages.
        groups: Names by id of categories that are no classes, for messages.

    Returns:
        `(D,)` labels, 1..K.

    Raises:
        RequestError: If an entry is of no class, or its id and its name contradict each other.
    """
    by_id = {key: label for label, key in enumerate(classes.ids, start=1)}
    by_name = {_plain(name): label for label, name in enumerate(classes.names, start=1)}
    ids = [by_id.get(key, NONE) for key, _ in results.categories]
    names = [
        NONE if name is None else by_name.get(_plain(name), NONE) for _, name in results.categories
    ]
    clash = [
        label > 0 and name is not None and _plain(name) != _plain(classes.name(label))
        for label, (_, name) in zip(ids, results.categories, strict=True)
    ]
    if min(ids, default=1) > 0 and not any(clash):
        return np.array(ids, np.int64)[results.category]
    if min(names, default=1) > 0:
        return np.array(names, np.int64)[results.category]
    bad = [label < 0 or differs for label, differs in zip(ids, clash, strict=True)]
    row, more = _first(results.category, bad)
    key, name = results.categories[results.category[row]]
    if key in by_id:
        what = (
            f"category_id {key} is {classes.name(by_id[key])!r} in {where}, but category {name!r}"
        )
        raise results.error(row, f"{what}{more}")
    if groups and key in groups:
        raise results.error(
            row,
            f"category_id {key} is {groups[key]!r} in {where}, which only groups other categories "
            f"and has no boxes{more}; leave it out, or name it in data.classes",
        )
    there = _listed(
        [f"{key} ({name})" for name, key in zip(classes.names, classes.ids, strict=True)]
    )
    raise results.error(row, f"no category_id {key} in {where}{more}; there: {there}")


def match_ground_truth(results: Results, truth: CocoGroundTruth) -> tuple[NDArray[np.int64], bool]:
    """The image of every entry in a COCO ground truth, by `match_images`.

    Returns:
        `(D,)` index into the images, and whether they were found by file names.

    Raises:
        RequestError: If an entry is of no image there, or its id and its file name contradict.
    """
    assert truth.images.ids is not None
    words = {number: word for word, number in truth.words.items()}
    ids = {words.get(key, key): i for i, key in enumerate(truth.images.ids.tolist())}
    return match_images(results, ids, truth.names, truth.names, str(truth.file))


def match_folder(results: Results, images: AnnotatedImages, root: Path) -> NDArray[np.int64]:
    """The image of every entry in a split of a data set, by `match_images`.

    A format without ids of images, such as VOC's and YOLO's, has nothing but file names.

    Args:
        results: Detections whose images are looked up.
        images: Images of the split.
        root: Root of the data set.

    Returns:
        `(D,)` index into the images; `ELSEWHERE` for images of the data set that the split lacks.

    Raises:
        RequestError: If an entry is of no image there, or none is of the split.
    """
    files = images.files(root)
    own = [] if images.ids is None else images.ids.tolist()
    ids: dict[int | str, int] = {key: i for i, key in enumerate(own)}
    places, _ = match_images(results, ids, files, Folder(root).images, str(root))
    if len(places) and places.max() < 0:
        raise RequestError(
            f"{results.file}: none of its images is in the split, which has {_known(files, ids)}"
        )
    return places


def match_images(
    results: Results,
    ids: Mapping[int | str, int],
    files: Sequence[str],
    everything: Sequence[str],
    where: str,
) -> tuple[NDArray[np.int64], bool]:
    """The image of every entry: by `image_id`, as pycocotools does, else by `file_name`.

    File names count where an id is unknown or is that of another image than the file name's, and
    every entry has the file name of an image.

    Args:
        results: Detections whose images are looked up.
        ids: Place of each image by its id.
        files: File name or relative path of each image, by place.
        everything: Those of all images, including images that are in no place.
        where: Where the images come from, for messages.

    Returns:
        `(D,)` places, `ELSEWHERE` for images that are in none, and whether file names decided.

    Raises:
        RequestError: If an entry is of no image, or its id and its file name contradict.
    """
    find = _file_finder(files, everything)
    by_id = [ids.get(_number(key), NONE) for key, _ in results.images]
    by_name = [NONE if name is None else find(name) for _, name in results.images]
    clash = [i >= 0 and n not in (NONE, i) for i, n in zip(by_id, by_name, strict=True)]
    if NONE not in by_id and not any(clash):
        return np.array(by_id, np.int64)[results.image], False
    if NONE not in by_name:
        return np.array(by_name, np.int64)[results.image], True
    if NONE in by_id:
        # An entry that neither its id nor its file name finds explains most.
        lost = [i == n == NONE for i, n in zip(by_id, by_name, strict=True)]
        bad = lost if any(lost) else [n == NONE for n in by_name]
        row, more = _first(results.image, bad)
        key, name = results.images[results.image[row]]
        what = f"image_id {key}" if name is None else f"file_name {name!r}"
        wanted = "" if ids or name else "; expected a file_name, since its images have no ids"
        raise results.error(row, f"no {what} in {where}{more}{wanted}; there: {_known(files, ids)}")
    row, more = _first(results.image, clash)
    key, name = results.images[results.image[row]]
    right = files[by_id[results.image[row]]]
    what = f"image_id {key} is {right!r} in {where}, but file_name {name!r}"
    raise results.error(row, f"{what}{more}")


def _file_finder(files: Sequence[str], everything: Sequence[str]) -> Callable[[str], int]:
    """A function that finds the place of an image by a path, the end of one, or a unique name."""
    places = {file: i for i, file in enumerate(files)}
    ours, all_files = _by_last_part(files), _by_last_part(everything)

    def find(name: str) -> int:
        last, end = last_part(name), "/" + name.replace("\\", "/").removeprefix("./")
        for known in (ours, all_files):
            found = [path for path in known.get(last, ()) if f"/{path}".endswith(end)]
            if len(found) == 1:
                return places.get(found[0], ELSEWHERE)
        found = all_files.get(last, [])  # of a path on another machine, the name may be enough
        return places.get(found[0], ELSEWHERE) if len(found) == 1 else NONE

    return find


def _by_last_part(paths: Sequence[str]) -> dict[str, list[str]]:
    """Paths by their last part."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        found[last_part(path)].append(path)
    return found


def _number(key: int | str) -> int | str:
    """The id of an image: a number also where it is written in quotes, as in a ground truth."""
    return int(key) if isinstance(key, str) and re.fullmatch(r"-?\d{1,18}", key) else key


def _known(files: Sequence[str], ids: Mapping[int | str, int]) -> str:
    """The first few images, for a message."""
    return f"{_listed(files)} with ids {_listed([*ids])}" if ids else _listed(files)


def _plain(name: str) -> str:
    """A class name as it is compared."""
    return name.strip().casefold()


def _first(index: NDArray[np.int64], bad: Sequence[bool]) -> tuple[int, str]:
    """The first entry whose image or category is bad, and a count of all such entries in words."""
    wrong = np.array(bad)[index]
    kinds, more = sum(bad) - 1, int(wrong.sum()) - 1
    others = f", nor {kinds} more" if kinds else ""
    return int(wrong.argmax()), f"{others} ({more + 1} entries)" if more else ""


def _listed(values: Sequence[object]) -> str:
    """The first few values, for a message."""
    return ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")
