"""Which image and which class every entry of a results file is about."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.core.structures import AnnotatedImages, ClassMap
from detector.data.external.detections import Results
from detector.data.external.ground_truth import CocoGroundTruth
from detector.data.formats.folder import Folder, last_part

NONE, ELSEWHERE = -1, -2  # no such image; one of the data set's, but not of the split
SHOWN = 5  # of what there is, in a message
K = TypeVar("K", bound=Hashable)


def match_classes(
    results: Results, classes: ClassMap, where: str, groups: Mapping[int, str] | None = None
) -> NDArray[np.int64]:
    """The label of every entry: by its category's id, as pycocotools does.

    Where that cannot be meant, because an id is unknown or is another class than the entry's
    `category`, and all entries have the name of a class, by those.

    Args:
        results: Their categories are looked up.
        classes: Those there are.
        where: The classes come from, for messages.
        groups: Categories by id that are no classes, for messages.

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
    """The image of every entry in a COCO truth: by `image_id`, as pycocotools does.

    Where that cannot be meant, because an id is unknown or is another image than the entry's
    `file_name`, and all entries have the file name of an image, by those.

    Returns:
        `(D,)` index into the truth's images, and whether it is by file names.

    Raises:
        RequestError: If an entry is of no image there, or its id and its name contradict.
    """
    assert truth.images.ids is not None
    own = truth.images.ids.tolist()
    places = {key: i for i, key in enumerate(own)}
    files = _Files(truth.names)
    ids = [places.get(_as_number(key, truth.words), NONE) for key, _ in results.images]
    names = [NONE if name is None else files.find(name) for _, name in results.images]
    clash = [i >= 0 and n >= 0 and n != i for i, n in zip(ids, names, strict=True)]
    if min(ids, default=0) >= 0 and not any(clash):
        return np.array(ids, np.int64)[results.image], False
    if min(names, default=0) >= 0:
        return np.array(names, np.int64)[results.image], True
    if min(ids) < 0:
        raise _unknown(results, [i < 0 for i in ids], str(truth.file), f"ids {_listed(own)}")
    row, more = _first(results.image, clash)
    key, name = results.images[results.image[row]]
    right = truth.names[ids[results.image[row]]]
    raise results.error(
        row, f"image_id {key} is {right!r} in {truth.file}, but file_name {name!r}{more}"
    )


def match_folder(results: Results, images: AnnotatedImages, root: Path) -> NDArray[np.int64]:
    """The image of every entry in a split of a data set: by `file_name`, else by `image_id`.

    A file name is a path below the root or the end of one. An id is the data set's own (COCO's), or
    the image's name without suffix, which may be written as a number.

    Args:
        results: Their images are looked up.
        images: The split.
        root: Of the data set.

    Returns:
        `(D,)` index into the images; `ELSEWHERE` for images of the data set that the split has not.

    Raises:
        RequestError: If an entry is of no image there, or none is of the split.
    """
    files = images.files(root)
    everything = Folder(root).images
    find_file, find_id = _file_finder(files, everything), _id_finder(images, files, everything)
    found = [find_id(key) if name is None else find_file(name) for key, name in results.images]
    own = "" if images.ids is None else f" with ids {_listed(images.ids.tolist())}"
    if NONE in found:
        bad = [place == NONE for place in found]
        raise _unknown(results, bad, str(root), f"in the split {_listed(files)}{own}")
    if found and max(found) < 0:
        raise RequestError(
            f"{results.file}: none of its images is in the split, which has {_listed(files)}{own}"
        )
    return np.array(found, np.int64)[results.image]


class _Files:
    """Paths, found by what others may call them."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._by_last: dict[str, list[int]] = defaultdict(list)
        for i, path in enumerate(paths):
            self._by_last[last_part(path)].append(i)

    def ending(self, name: str) -> int:
        """The place of the only path that is the name or ends in it."""
        end = "/" + name.replace("\\", "/").removeprefix("./")
        found = [
            i for i in self._by_last.get(last_part(name), ()) if f"/{self._paths[i]}".endswith(end)
        ]
        return found[0] if len(found) == 1 else NONE

    def find(self, name: str) -> int:
        """The same, or of the only path whose last part is the name's."""
        found = self._by_last.get(last_part(name), [])
        return found[0] if len(found) == 1 else self.ending(name)


def _file_finder(files: Sequence[str], everything: Sequence[str]) -> Callable[[str], int]:
    """What finds an image of a split by its file name."""
    places = {file: i for i, file in enumerate(files)}
    ours, all_files = _Files(files), _Files(everything)

    def find(name: str) -> int:
        if (place := ours.ending(name)) >= 0:
            return place
        place = all_files.find(name)  # another folder's image of the same name is another image
        return place if place < 0 else places.get(everything[place], ELSEWHERE)

    return find


def _id_finder(
    images: AnnotatedImages, files: Sequence[str], everything: Sequence[str]
) -> Callable[[int | str], int]:
    """What finds an image of a split by `image_id`."""
    own = None if images.ids is None else _places(images.ids.tolist())
    stems = [PurePosixPath(file).stem for file in files]
    others = {PurePosixPath(file).stem for file in everything} - set(stems)
    by_stem = _places(stems)
    by_number = own if own is not None else _places([_as_number(stem, {}) for stem in stems])
    other_numbers = set() if own is not None else {_as_number(stem, {}) for stem in others}

    def find(key: int | str) -> int:
        value = _as_number(key, {})
        if key in by_stem and isinstance(key, str):
            return by_stem[key]
        if value is not None and value in by_number:
            return by_number[value]
        return (
            ELSEWHERE if key in others or (value is not None and value in other_numbers) else NONE
        )

    return find


def _places(keys: Iterable[K]) -> dict[K, int]:
    """The place of every key that is there only once."""
    listed = list(keys)
    times = Counter(listed)
    return {key: i for i, key in enumerate(listed) if times[key] == 1}


def _as_number(key: int | str, words: dict[str, int]) -> int | None:
    """An image's id as a number: itself, that of a word, or as it is written."""
    if isinstance(key, int):
        return key
    if key in words:
        return words[key]
    return int(key) if re.fullmatch(r"-?\d{1,18}", key) else None


def _plain(name: str) -> str:
    """A class name as it is compared."""
    return name.strip().casefold()


def _unknown(results: Results, bad: Sequence[bool], where: str, there: str) -> RequestError:
    """What to raise about images that there are not."""
    row, more = _first(results.image, bad)
    key, name = results.images[results.image[row]]
    what = f"image_id {key}" if name is None else f"file_name {name!r}"
    return results.error(row, f"no {what} in {where}{more}; there: {there}")


def _first(index: NDArray[np.int64], bad: Sequence[bool]) -> tuple[int, str]:
    """The first entry of which something is bad, and how many more there are, in words."""
    wrong = np.array(bad)[index]
    kinds, more = sum(bad) - 1, int(wrong.sum()) - 1
    others = f", nor {kinds} more" if kinds else ""
    return int(wrong.argmax()), f"{others} ({more + 1} entries)" if more else ""


def _listed(values: Sequence[object]) -> str:
    """The first few."""
    return ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")
