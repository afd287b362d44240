"""The files below a data set's root, listed once, and looked up without leaving it."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from detector.core.errors import RequestError

# What is read, and of several files of one name which one is rather the photograph.
_JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo")
SUFFIXES = (*_JPEGS, ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".avif")
# Pictures that are not read, so that nobody wonders where they went.
UNREAD = frozenset((".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".svg"))
UNREAD |= {".psd", ".xcf", ".ai", ".eps", ".tga", ".ico", ".pcx", ".pbm", ".pgm", ".ppm", ".pnm"}
UNREAD |= {".pfm", ".exr", ".hdr", ".dds", ".dcm", ".nii", ".fits", ".apng", ".raw", ".dng"}
UNREAD |= {".arw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"}
CONVERT = "convert to PNG or JPEG"

TEXT_LIMIT = 10_000_000  # bytes
# Words that, in a folder's name, only say what kind of files are in it.
IMAGE_WORDS = frozenset(("jpegimages", "images", "image", "imgs", "img", "pictures", "photos"))
LABEL_WORDS = frozenset(("annotations", "annotation", "anns", "ann", "annots", "xmls", "xml"))
LABEL_WORDS |= {"labels", "label", "txts", "txt", "bboxes", "bbox"}
KINDS_OF_FILES = IMAGE_WORDS | LABEL_WORDS
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks
# VOC's folders of pixel masks, which are no pictures.
MASKS = frozenset(("segmentationclass", "segmentationobject"))

_SPLIT_NAMES = {
    "train": ("train", "training", "trainval", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout"),
}


def split_of(name: str) -> str | None:
    """The split that a file's or folder's name speaks of: `instances_train2017` -> `train`."""
    words = re.findall("[a-z]+", name.lower())
    found = [split for split, names in _SPLIT_NAMES.items() if set(names) & set(words)]
    return found[0] if len(found) == 1 else None


def split_named(key: str) -> str | None:
    """The split that a word is the name of; None if it is of none, or says more."""
    return next((split for split, names in _SPLIT_NAMES.items() if key.lower() in names), None)


def fold(name: str) -> str:
    """A name as it is looked up: whatever its case, and however its accents are encoded.

    macOS writes an accent as a character of its own (NFD), most others do not (NFC).
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def encoding_of(content: bytes) -> str:
    """UTF-16 or UTF-32, where the first bytes of a text say so; else empty."""
    for name, marks in (("UTF-32", (b"\xff\xfe\0\0", b"\0\0\xfe\xff")), ("UTF-16", _UTF_16)):
        if content.startswith(marks):
            return name
    # Without a mark: of ASCII's characters, every second byte is zero.
    pair = content[:2]
    return "UTF-16" if len(pair) == 2 and (pair[0] == 0) != (pair[1] == 0) else ""


def cache_folder() -> Path:
    """Where fetched and prepared data live: `DETECTOR_CACHE`, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DETECTOR_CACHE") or Path(base) / "detector")


class Folder:
    """All regular files below a root; hidden ones are left alone, links are followed.

    A folder that can be reached in several ways counts once, by its own name rather than a link's.

    Args:
        root: The folder.
        key: What messages call it.

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
        """Relative POSIX paths of all files, sorted; pipes and devices are none."""
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
        """The files of some suffixes, in lower case and with their dot, sorted."""
        wanted = frozenset(suffixes)
        return [f for f in self.files if f[f.rfind(".") :].lower() in wanted]

    @property
    def broken_images(self) -> list[str]:
        """What is called like an image, but is a link to nowhere, or no file at all."""
        named = sorted(self.broken) if self.files else []
        return [f for f in named if f[f.rfind(".") :].lower() in SUFFIXES]

    @cached_property
    def images(self) -> list[str]:
        """The image files, sorted."""
        return self.with_suffix(*SUFFIXES)

    @cached_property
    def unread(self) -> list[str]:
        """Pictures of kinds that are not read, sorted."""
        return self.with_suffix(*UNREAD)

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
        return _index(self.images, lambda file: fold(_name(file)))

    def _annotations(self, suffix: str) -> dict[str, list[str]]:
        """The files of a suffix by their stems."""
        if suffix not in self._by_suffix:
            self._by_suffix[suffix] = _index(self.with_suffix(suffix), _stem)
        return self._by_suffix[suffix]

    @cached_property
    def _by_suffix(self) -> dict[str, dict[str, list[str]]]:
        return {}

    def image_for(self, annotation: str, file_name: str = "") -> str | None:
        """The image that an annotation file is about.

        The one of the annotation's own name, else of the name in it, in the same folder but for
        words that tell images from annotations; or anywhere, where the name leaves no doubt.

        Args:
            annotation: Relative path of the annotation.
            file_name: What the annotation calls its image; only the last part of it is used.

        Returns:
            Its relative path; None if there is none.
        """
        stem = _stem(annotation)
        named = fold(last_part(file_name))
        alone = len(self._annotations(_suffix(annotation)).get(stem, ())) <= 1
        # Some tools keep the image's suffix: a.jpg.xml.
        for found in (
            self._by_stem.get(stem),
            self._by_name.get(stem),
            self._by_name.get(named),
            self._by_stem.get(_stem(named)),
        ):
            # What another split or year has is another image of the same name.
            possible = [f for f in found or () if _may_belong(f, annotation)]
            akin = self._akin(possible, annotation, _suffix(annotation))
            if akin:
                return max(akin, key=lambda f: _preference(f, _bare(annotation), named))
            if len(possible) == 1 and alone:
                return possible[0]
        return None

    def annotations_for(self, image: str, suffix: str) -> list[str]:
        """The annotation files of a suffix that are about an image: `image_for` the other way.

        Only those of its own name, in the same folder but for words that tell images from
        annotations.

        Args:
            image: Relative path of the image.
            suffix: Theirs, in lower case, with its dot.

        Returns:
            Their relative paths, the likeliest first.
        """
        there = self._annotations(suffix)
        found = [*there.get(fold(_name(image)), ()), *there.get(_stem(image), ())]
        akin = self._akin([f for f in found if _may_belong(image, f)], image, suffix)
        own = (_name(image), _bare(image))
        alike = [f for f in akin if _bare(f) in own]
        # In another case it may be that of another image, which is spelt the same.
        alike = alike or [f for f in akin if self.image_for(f) == image]
        return sorted(alike, key=lambda f: f.split("/")[-2:-1] and not _tells(f, LABEL_WORDS))

    def namesakes(self, annotation: str) -> list[str]:
        """The images of an annotation's name, wherever they are but in another split."""
        stem = _stem(annotation)
        found = [*self._by_stem.get(stem, ()), *self._by_name.get(stem, ())]
        return [f for f in found if _may_belong(f, annotation)]

    def unique_annotation(self, name: str, suffix: str, below: str = "") -> str | None:
        """The only annotation file of a name without suffix; None if there is none or several."""
        there = self._annotations(suffix).get(fold(name), ())
        found = [f for f in there if f.startswith(below)]
        return found[0] if len(found) == 1 else None

    def _akin(self, those: Sequence[str], file: str, suffix: str) -> list[str]:
        """Of some files, those in the folder that corresponds to a file's."""
        home = _home(file)
        akin = [f for f in those if _home(f) == home]
        if not akin and those:
            pure = self._pure(suffix)
            home = _home(_without(file, pure))
            akin = [f for f in those if _home(_without(f, pure)) == home]
        return akin

    def _pure(self, suffix: str) -> frozenset[str]:
        """Folders at the top that have images or annotations only, whatever they are called."""
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
        """The file of a relative path, also in another case or encoding if only one is meant."""
        if path in self._set:
            return path
        found = self._folded.get(fold(path), [])
        return found[0] if len(found) == 1 else None

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        return _index(self.files, fold)

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
        """The only image of a file name, wherever it is; None if there is none or several."""
        found = self._by_name.get(fold(name)) or self._by_stem.get(_stem(name), [])
        return found[0] if len(found) == 1 else None


def _kind(entry: os.DirEntry[str]) -> str:
    """`file`, `folder`, `link` to a folder, or `broken`; empty for what is hidden."""
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


def _name(file: str) -> str:
    """The last part of a relative path."""
    return file.rpartition("/")[2]


def _bare(file: str) -> str:
    """A file's name without folders and suffix."""
    name = _name(file)
    return name.rpartition(".")[0] or name


def _suffix(file: str) -> str:
    return file[file.rfind(".") :].lower()


def _stem(file: str) -> str:
    """A file's name without folders and suffix, as it is looked up."""
    return fold(_bare(file))


def _index(files: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for file in files:
        found[key(file)].append(file)
    return dict(found)


def _home(file: str) -> tuple[str, ...]:
    """The folders of a path, without words that only tell images from annotations."""
    return _home_of(file.rpartition("/")[0])


@lru_cache(maxsize=10_000)
def _home_of(folder: str) -> tuple[str, ...]:
    return tuple(filter(None, map(_without_kind, folder.split("/"))))


def _without_kind(name: str) -> str:
    """`train_images` and `train_labels` are both `train`, `images` and `labels` both nothing."""
    words = re.findall(r"[^\W\d_]+|\d+", fold(name))
    rest = [word for word in words if word not in KINDS_OF_FILES]
    return fold(name) if len(rest) == len(words) else "".join(rest)


def _without(file: str, tops: Collection[str]) -> str:
    """A path without its first folder, if that is one of some."""
    top, _, rest = file.partition("/")
    return rest if top in tops else file


def _tells(file: str, words: Collection[str]) -> bool:
    """Whether a file's folder, or one above it, is called by one of some words."""
    return any(part.lower() in words for part in file.split("/")[:-1])


@lru_cache(maxsize=10_000)
def _marks(folder: str) -> frozenset[str]:
    """What the folders of a path speak of: splits, and years of VOC."""
    parts = folder.split("/")
    years = {part for part in parts if re.fullmatch(r"VOC\d{4}", part)}
    return frozenset(filter(None, map(split_of, parts))) | years


def _may_belong(image: str, annotation: str) -> bool:
    ours, theirs = _marks(annotation.rpartition("/")[0]), _marks(image.rpartition("/")[0])
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


def typed_root(root: Path) -> str:
    """The key of a data set's folder as it is typed, in quotes where its path needs them."""
    text = f"data.root={root}"
    plain = re.fullmatch(r"[\w./:=-]+", text, re.ASCII)
    return text if plain else f"\"data.root='{root}'\""


def last_part(path: str) -> str:
    """The last part of a path, of any system."""
    return re.split(r"[/\\]", path)[-1]


def relative(name: str) -> str | None:
    """A path in a file as one below the root; None where it leads out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[:1]:
        return None
    return path.as_posix()
