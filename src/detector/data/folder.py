"""The files below a data set's root, listed once, and looked up without leaving it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NoReturn

from detector.types import RequestError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

_SPLIT_NAMES = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def split_of(name: str) -> str | None:
    """The split that a file's or folder's name speaks of: `instances_train2017` -> `train`."""
    words = re.findall("[a-z]+", name.lower())
    found = [split for split, names in _SPLIT_NAMES.items() if set(names) & set(words)]
    return found[0] if len(found) == 1 else None


def cache_folder() -> Path:
    """Where fetched and prepared data live: `DETECTOR_CACHE`, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DETECTOR_CACHE") or Path(base) / "detector")


class Folder:
    """All files below a root; hidden ones are left alone, links are followed.

    Args:
        root: The folder.
        key: How messages call it.

    Raises:
        RequestError: If there is no such folder.
    """

    def __init__(self, root: Path, key: str = "data.root") -> None:
        if not root.is_dir():
            raise RequestError(f"{key}={root}: no such folder")
        self.root = root

    @cached_property
    def files(self) -> list[str]:
        """Relative POSIX paths of all files, sorted."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[str]:
        seen: set[str] = set()
        for here, folders, names in os.walk(self.root, onerror=_refuse, followlinks=True):
            real = os.path.realpath(here)
            if real in seen:  # a link back up
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [f for f in folders if not f.startswith(".")]
            prefix = Path(os.path.relpath(here, self.root)).as_posix() + "/"
            prefix = prefix.removeprefix("./")
            yield from (prefix + name for name in names if not name.startswith("."))

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The files of some suffixes, in lower case and with their dot, sorted."""
        return [f for f in self.files if f[f.rfind(".") :].lower() in suffixes]

    @cached_property
    def images(self) -> list[str]:
        """The image files, sorted."""
        return self.with_suffix(*SUFFIXES)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _index(self.images, lambda f: PurePosixPath(f).stem)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _index(self.images, lambda f: f.rpartition("/")[2])

    def image_for(self, annotation: str, file_name: str = "") -> str | None:
        """The image that an annotation file is about.

        The one of the annotation's own name, else of the name in it; of several, the one whose
        folder has most in common with the annotation's, then the one of the earlier suffix.

        Args:
            annotation: Relative path of the annotation.
            file_name: What the annotation calls its image; only the last part of it is used.

        Returns:
            Its relative path; None if there is none.
        """
        path = PurePosixPath(annotation)
        named = re.split(r"[/\\]", file_name)[-1]
        # Some tools keep the image's suffix: a.jpg.xml.
        for found in (
            self._by_stem.get(path.stem),
            self._by_name.get(path.stem),
            self._by_name.get(named),
            self._by_stem.get(PurePosixPath(named).stem),
        ):
            # What another split or year has is another image of the same name.
            akin = [f for f in found or () if _may_belong(f, annotation)]
            if akin:
                return max(akin, key=lambda f: _kinship(f, annotation))
        return None

    def has(self, file: str) -> bool:
        """Whether a relative path is one of the files."""
        return file in self._set

    @cached_property
    def _set(self) -> frozenset[str]:
        return frozenset(self.files)

    def unique(self, name: str) -> str | None:
        """The only image of a file name, wherever it is; None if there is none or several."""
        found = self._by_name.get(name, [])
        return found[0] if len(found) == 1 else None


def _refuse(error: OSError) -> NoReturn:
    """A folder that cannot be listed would lose images silently."""
    raise RequestError(f"{error.filename}: {error.strerror}") from error


def _index(files: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for file in files:
        found[key(file)].append(file)
    return found


def _marks(file: str) -> set[str]:
    """The folders of a path that speak of a split or a year of VOC."""
    return {p for p in file.split("/")[:-1] if split_of(p) or re.fullmatch(r"VOC\d{4}", p)}


def _may_belong(image: str, annotation: str) -> bool:
    ours, theirs = _marks(annotation), _marks(image)
    return not ours or not theirs or ours == theirs


def _kinship(image: str, annotation: str) -> tuple[int, bool, int]:
    """How near an image lies: folders in common, a folder for images, the suffix's rank."""
    ours, theirs = set(annotation.split("/")[:-1]), image.split("/")[:-1]
    for_images = bool(theirs) and theirs[-1].lower() in ("jpegimages", "images", "image", "img")
    rank = SUFFIXES.index(image[image.rfind(".") :].lower())
    return len(ours & set(theirs)), for_images, -rank


def relative(name: str) -> str | None:
    """A path in a file as one below the root; None where it leads out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[:1]:
        return None
    return path.as_posix()
