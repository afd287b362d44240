"""The files below the root of a data set: listed once, and never looked up outside of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from detector.core.errors import RequestError
from detector.data.formats.paths import (
    KINDS_OF_FILES,
    LABEL_WORDS,
    SUFFIXES,
    UNREAD,
    bare_name,
    base_name,
    encoding_of,
    fold,
    group_by,
    has_folder_called,
    home_of,
    last_part,
    may_belong,
    preference,
    stem_of,
    suffix_of,
    without_top,
)

TEXT_LIMIT = 10_000_000  # bytes


class Folder:
    """All regular files below a root; hidden files are skipped, links are followed.

    A folder that can be reached in several ways counts once, by its own name rather than a link's.

    Args:
        root: Path of the folder.
        key: Configuration key of the folder, for messages.

    Raises:
        RequestError: If there is no such folder.
    """

    def __init__(self, root: Path, key: str = "data.root") -> None:
        try:
            is_file, is_folder = root.is_file(), root.is_dir()
        except OSError as error:
            raise RequestError(f"{key}={root}: {error.strerror}") from error
        if is_file:
            home = root.parent
            if home.name.lower() in KINDS_OF_FILES:  # annotations/instances.json
                home = home.parent
            raise RequestError(f"{key}={root}: a file, expected the data's folder: {key}={home}")
        if not is_folder:
            raise RequestError(f"{key}={root}: no such folder")
        self.root = root
        self.broken: list[str] = []  # links to nowhere, pipes and the like, once `files` are known
        self.again: list[str] = []  # links to folders that are read already, once `files` are known

    @cached_property
    def files(self) -> list[str]:
        """Relative POSIX paths of all files, sorted; pipes and devices do not count as files."""
        files: list[str] = []
        seen: set[str] = set()
        folders, links = [""], list[str]()
        while folders or links:
            linked = not folders
            prefix = links.pop(0) if linked else folders.pop()
            here = os.path.join(self.root, prefix)  # noqa: PTH118 - a Path for each file is slow
            real = os.path.realpath(here)
            if real in seen:
                if not f"{os.path.realpath(os.path.dirname(here[:-1]))}/".startswith(f"{real}/"):  # noqa: PTH120
                    self.again.append(prefix.rstrip("/"))  # else a link back up
                continue
            seen.add(real)
            try:
                with os.scandir(here) as entries:
                    for entry in entries:
                        kind = _kind(entry)
                        if kind == "file":
                            files.append(prefix + entry.name)
                        elif kind == "broken":
                            self.broken.append(prefix + entry.name)
                        elif kind:
                            found = f"{prefix}{entry.name}/"
                            (links if kind == "link" else folders).append(found)
            except OSError as error:  # to skip it would lose images silently
                raise RequestError(f"{error.filename or here}: {error.strerror}") from error
            links.sort()
        return sorted(files)

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The files of some suffixes, sorted; suffixes are given in lower case with their dot."""
        wanted = frozenset(suffixes)
        return [f for f in self.files if f[f.rfind(".") :].lower() in wanted]

    @property
    def broken_images(self) -> list[str]:
        """Entries named like images that are broken links or no regular files, sorted."""
        named = sorted(self.broken) if self.files else []
        return [f for f in named if f[f.rfind(".") :].lower() in SUFFIXES]

    @cached_property
    def images(self) -> list[str]:
        """The image files, sorted."""
        return self.with_suffix(*SUFFIXES)

    @cached_property
    def unread(self) -> list[str]:
        """Files of image formats that are not supported, sorted."""
        return self.with_suffix(*UNREAD)

    def small(self, file: str) -> Path:
        """The path of a file that is small enough for an annotation or a list.

        Raises:
            RequestError: If it is too large; the message does not name the file.
        """
        path = self.root / file
        if path.stat().st_size > TEXT_LIMIT:
            raise RequestError(f"larger than {TEXT_LIMIT:,} bytes")
        return path

    def read_text(self, file: str) -> str:
        """The content of a small text file, UTF-8 with or without a byte-order mark.

        Raises:
            RequestError: If it is not such a file; the message does not name the file.
        """
        try:
            content = self.small(file).read_bytes()
            if encoding := encoding_of(content):
                raise RequestError(f"{encoding} text, expected UTF-8")
            text = content.decode("utf-8-sig")
            return text.replace("\r\n", "\n").replace("\r", "\n")
        except OSError as error:
            raise RequestError(error.strerror or str(error)) from error
        except UnicodeDecodeError as error:
            raise RequestError(f"not UTF-8 text ({error.reason})") from error

    def require_text(self, file: str) -> str:
        """Read a text file as `read_text` does; the message of an error names the file."""
        try:
            return self.read_text(file)
        except RequestError as error:
            raise RequestError(f"{self.root / file}: {error}") from error

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return group_by(self.images, stem_of)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return group_by(self.images, lambda file: fold(base_name(file)))

    def _annotations(self, suffix: str) -> dict[str, list[str]]:
        """The files of a suffix by their stem."""
        if suffix not in self._by_suffix:
            self._by_suffix[suffix] = group_by(self.with_suffix(suffix), stem_of)
        return self._by_suffix[suffix]

    @cached_property
    def _by_suffix(self) -> dict[str, dict[str, list[str]]]:
        return {}

    def image_for(self, annotation: str, file_name: str = "") -> str | None:
        """Find the image that belongs to an annotation file.

        It has the annotation's own name or else the name that the annotation gives. It lies in the
        corresponding folder (the same, except for words such as `images` and `labels`), or
        anywhere if only one image has the name.

        Args:
            annotation: Relative path of the annotation.
            file_name: Name of the image in the annotation; only its last part is used.

        Returns:
            Relative path of the image; None if there is none.
        """
        stem = stem_of(annotation)
        named = fold(last_part(file_name))
        alone = len(self._annotations(suffix_of(annotation)).get(stem, ())) <= 1
        # Some tools keep the image's suffix: a.jpg.xml.
        for found in (
            self._by_stem.get(stem),
            self._by_name.get(stem),
            self._by_name.get(named),
            self._by_stem.get(stem_of(named)),
        ):
            # What another split or year has is another image of the same name.
            possible = [f for f in found or () if may_belong(f, annotation)]
            akin = self._akin(possible, annotation, suffix_of(annotation))
            if akin:
                return max(akin, key=lambda f: preference(f, bare_name(annotation), named))
            if len(possible) == 1 and alone:
                return possible[0]
        return None

    def annotations_for(self, image: str, suffix: str) -> list[str]:
        """Find the annotation files of an image: the inverse of `image_for`.

        They have the name of the image and lie in the corresponding folder.

        Args:
            image: Relative path of the image.
            suffix: Suffix of the annotations, in lower case with its dot.

        Returns:
            Relative paths of the annotations, the likeliest first.
        """
        there = self._annotations(suffix)
        found = [*there.get(fold(base_name(image)), ()), *there.get(stem_of(image), ())]
        akin = self._akin([f for f in found if may_belong(image, f)], image, suffix)
        own = (base_name(image), bare_name(image))
        alike = [f for f in akin if bare_name(f) in own]
        # Spelt in another case, it may belong to another image that is spelt the same.
        alike = alike or [f for f in akin if self.image_for(f) == image]
        return sorted(alike, key=_is_misplaced)

    def namesakes(self, annotation: str) -> list[str]:
        """The images with the name of an annotation, in any folder except those of other splits."""
        stem = stem_of(annotation)
        found = [*self._by_stem.get(stem, ()), *self._by_name.get(stem, ())]
        return [f for f in found if may_belong(f, annotation)]

    def unique_annotation(self, name: str, suffix: str, below: str = "") -> str | None:
        """The only annotation file of a stem; None if there is none or several."""
        there = self._annotations(suffix).get(fold(name), ())
        found = [f for f in there if f.startswith(below)]
        return found[0] if len(found) == 1 else None

    def _akin(self, those: Sequence[str], file: str, suffix: str) -> list[str]:
        """Those of some files that lie in the folder corresponding to the folder of a file."""
        home = home_of(file)
        akin = [f for f in those if home_of(f) == home]
        if not akin and those:
            pure = self._pure(suffix)
            home = home_of(without_top(file, pure))
            akin = [f for f in those if home_of(without_top(f, pure)) == home]
        return akin

    def _pure(self, suffix: str) -> frozenset[str]:
        """Top-level folders that hold only images or only annotations, whatever their names."""
        if suffix not in self._pures:
            images = {file.partition("/")[0] for file in self.images}
            stems = self._by_stem.keys() | self._by_name.keys()
            there = self._annotations(suffix).items()
            homes = {f.partition("/")[0] for stem, files in there if stem in stems for f in files}
            unknown = {h for h in homes - images if h.lower() not in KINDS_OF_FILES}
            if len(homes - images) > 1:  # labels_old beside labels
                homes -= unknown
                images -= unknown
            self._pures[suffix] = frozenset(images ^ homes)
        return self._pures[suffix]

    @cached_property
    def _pures(self) -> dict[str, frozenset[str]]:
        return {}

    def has(self, file: str) -> bool:
        """Whether a relative path is one of the files."""
        return file in self._set

    @cached_property
    def _set(self) -> frozenset[str]:
        return frozenset(self.files)

    def find(self, path: str) -> str | None:
        """The file of a relative path, also in another case or encoding if only one matches."""
        if path in self._set:
            return path
        found = self._folded.get(fold(path), [])
        return found[0] if len(found) == 1 else None

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        return group_by(self.files, fold)

    def below(self, folder: str) -> list[str]:
        """The images below a folder, `.` for the root; its name is looked up as in `find`."""
        if folder == ".":
            return self.images
        found = [f for f in self.images if f.startswith(f"{folder}/")]
        if not found:
            depth, wanted = folder.count("/") + 1, fold(folder)
            homes = {"/".join(f.split("/")[:depth]) for f in self.images if f.count("/") >= depth}
            alike = [home for home in homes if fold(home) == wanted]
            if len(alike) == 1:
                found = [f for f in self.images if f.startswith(f"{alike[0]}/")]
        return found

    def unique(self, name: str) -> str | None:
        """The only image of a file name in any folder; None if there is none or several."""
        found = self._by_name.get(fold(name)) or self._by_stem.get(stem_of(name), [])
        return found[0] if len(found) == 1 else None


def _is_misplaced(annotation: str) -> bool:
    """Whether an annotation lies in a folder without a name for annotations, such as `labels`."""
    return "/" in annotation and not has_folder_called(annotation, LABEL_WORDS)


def _kind(entry: os.DirEntry[str]) -> str:
    """The kind of an entry: `file`, `folder`, `link` to a folder, `broken`, or empty if hidden."""
    if entry.name.startswith("."):
        return ""
    try:
        if entry.is_dir():
            return "link" if entry.is_symlink() else "folder"
        return "file" if entry.is_file() else "broken"
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):  # as a link to nowhere
            return "broken"
        raise
