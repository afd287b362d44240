"""The files below a data set's root, listed once, and looked up without leaving it."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from detector.types import RequestError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

TEXT_LIMIT = 10_000_000  # bytes
# Folders that only say what kind of files are in them.
KINDS_OF_FILES = frozenset(("annotations", "annotation", "anns", "ann", "xmls", "xml", "labels"))
KINDS_OF_FILES |= {"label", "jpegimages", "images", "image", "imgs", "img"}

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
    """All regular files below a root; hidden ones are left alone, links are followed.

    Args:
        root: The folder, which messages call `data.root`.

    Raises:
        RequestError: If there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise RequestError(f"data.root={root}: no such folder")
        self.root = root

    @cached_property
    def files(self) -> list[str]:
        """Relative POSIX paths of all files, sorted; pipes and devices are none."""
        return sorted(self._walk("", set()))

    def _walk(self, prefix: str, seen: set[str]) -> Iterator[str]:
        here = os.path.join(self.root, prefix)  # noqa: PTH118 - a Path for each file is slow
        real = os.path.realpath(here)
        if real in seen:  # a link back up
            return
        seen.add(real)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:  # to skip it would lose images silently
            raise RequestError(f"{here}: {error.strerror}") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from self._walk(f"{prefix}{entry.name}/", seen)
            elif entry.is_file():
                yield prefix + entry.name

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The files of some suffixes, in lower case and with their dot, sorted."""
        return [f for f in self.files if f[f.rfind(".") :].lower() in suffixes]

    @cached_property
    def images(self) -> list[str]:
        """The image files, sorted."""
        return self.with_suffix(*SUFFIXES)

    def small(self, file: str) -> Path:
        """The path of a file that is not too large for an annotation or a list.

        Raises:
            RequestError: If it is; the message leaves the file's name out.
        """
        path = self.root / file
        if path.stat().st_size > TEXT_LIMIT:
            raise RequestError(f"larger than {TEXT_LIMIT:,} bytes")
        return path

    def read_text(self, file: str) -> str:
        """The content of a small text file, UTF-8 with or without a byte-order mark.

        Raises:
            RequestError: If it is none; the message leaves the file's name out.
        """
        try:
            return self.small(file).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise RequestError(error.strerror or str(error)) from error
        except UnicodeDecodeError as error:
            raise RequestError(f"not UTF-8 text ({error.reason})") from error

    def require_text(self, file: str) -> str:
        """As `read_text`, for a file that nothing goes without: the message names it."""
        try:
            return self.read_text(file)
        except RequestError as error:
            raise RequestError(f"{self.root / file}: {error}") from error

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _index(self.images, _stem)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _index(self.images, lambda file: file.rpartition("/")[2].casefold())

    @cached_property
    def _namesakes(self) -> Counter[str]:
        """How many annotation files there are of a stem."""
        return Counter(map(_stem, self.with_suffix(".xml", ".txt")))

    def image_for(self, annotation: str, file_name: str = "") -> str | None:
        """The image that an annotation file is about.

        The one of the annotation's own name, else of the name in it, in the same folder but for
        folders that tell images from annotations; or anywhere, where the name leaves no doubt.

        Args:
            annotation: Relative path of the annotation.
            file_name: What the annotation calls its image; only the last part of it is used.

        Returns:
            Its relative path; None if there is none.
        """
        path = PurePosixPath(annotation)
        named = last_part(file_name).casefold()
        alone = self._namesakes[_stem(annotation)] <= 1
        # Some tools keep the image's suffix: a.jpg.xml.
        for found in (
            self._by_stem.get(_stem(annotation)),
            self._by_name.get(path.stem.casefold()),
            self._by_name.get(named),
            self._by_stem.get(_stem(named)),
        ):
            # What another split or year has is another image of the same name.
            possible = [f for f in found or () if _may_belong(f, annotation)]
            akin = [f for f in possible if self._home(f) == self._home(annotation)]
            if akin:
                return max(akin, key=lambda f: _preference(f, path.stem, named))
            if len(possible) == 1 and alone:
                return possible[0]
        return None

    def _home(self, file: str) -> list[str]:
        """The folders of a path, without those that only tell images from annotations."""
        parts = file.split("/")[:-1]
        if parts[:1] and parts[0] in self._pure:
            parts = parts[1:]
        return [part for part in parts if part.lower() not in KINDS_OF_FILES]

    @cached_property
    def _pure(self) -> frozenset[str]:
        """Folders at the top that have images or annotations only, whatever they are called."""
        images = {file.partition("/")[0] for file in self.images}
        annotations = {f.partition("/")[0] for f in self.with_suffix(".xml", ".txt")}
        return frozenset(images ^ annotations)

    def has(self, file: str) -> bool:
        """Whether a relative path is one of the files."""
        return file in self._set

    @cached_property
    def _set(self) -> frozenset[str]:
        return frozenset(self.files)

    def unique(self, name: str) -> str | None:
        """The only image of a file name, wherever it is; None if there is none or several."""
        found = self._by_name.get(name.casefold()) or self._by_stem.get(_stem(name), [])
        return found[0] if len(found) == 1 else None


def _stem(file: str) -> str:
    """A file's name without folders and suffix, in one case."""
    return PurePosixPath(file).stem.casefold()


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


def _preference(image: str, stem: str, named: str) -> tuple[bool, bool, bool, int]:
    """Of several images of one home: named, spelt alike, beside others of their kind, by suffix."""
    folder = image.split("/")[-2:-1]
    for_images = bool(folder) and folder[0].lower() in KINDS_OF_FILES
    rank = SUFFIXES.index(image[image.rfind(".") :].lower())
    is_named = image.rpartition("/")[2].casefold() == named
    return is_named, PurePosixPath(image).stem == stem, for_images, -rank


def in_split_folder(file: str, split: str) -> bool:
    """Whether one of a path's folders is named after a split."""
    return any(split_of(part) == split for part in file.split("/")[:-1])


def last_part(path: str) -> str:
    """The last part of a path, of any system."""
    return re.split(r"[/\\]", path)[-1]


def relative(name: str) -> str | None:
    """A path in a file as one below the root; None where it leads out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[:1]:
        return None
    return path.as_posix()
