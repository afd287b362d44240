"""Reader of YOLO's data.yaml: class names and the folders or lists of each split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from detector.core.errors import RequestError
from detector.data.formats.folder import Folder
from detector.data.formats.paths import split_named, typed_root
from detector.data.validation.issues import Item

# Files that list class names, in lower case, as written by LabelImg, Label Studio, Darknet and
# Roboflow.
NAME_LISTS = ("classes.txt", "obj.names", "_darknet.labels")


def find_yamls(folder: Folder, depth: int = 0) -> list[str]:
    """The YAML files with class names at a depth of folders; those called data.yaml come first."""
    found = [f for f in folder.with_suffix(".yaml", ".yml") if f.count("/") == depth]
    return sorted(filter(partial(_has_names, folder), found), key=lambda f: not _is_main(f))


def _is_main(file: str) -> bool:
    return PurePosixPath(file).stem.lower() == "data"


def _has_names(folder: Folder, file: str) -> bool:
    """Whether a YAML file has class names, or is a data.yaml that cannot be read."""
    try:
        text = folder.read_text(file)
    except RequestError:
        return _is_main(file)
    return re.search(r"^['\"]?names['\"]?\s*:", text, re.MULTILINE) is not None


def choose(folder: Folder, files: Sequence[str]) -> str:
    """The YAML file to use: the one called data.yaml, or any if they all have the same content."""
    mains = [file for file in files if _is_main(file)] or files
    if len(mains) > 1 and len({str(read_yaml(folder, file)) for file in mains}) > 1:
        raise RequestError(
            f"data.root={folder.root}: which of {', '.join(mains)} is meant? Call it data.yaml, "
            "or move the others away"
        )
    return mains[0]


def find_names(folder: Folder) -> str | None:
    """A list of class names that replaces data.yaml, as Label Studio and Darknet write it."""
    return next(filter(None, map(folder.find, ("classes.txt", "obj.names"))), None)


def hint(folder: Folder) -> str:
    """A text that says in which folder below a YOLO data set lies; empty if there is none."""
    files = [*find_yamls(folder, 1), *find_yamls(folder, 2)]
    homes = list(dict.fromkeys(file.rpartition("/")[0] for file in files))
    meant = " or ".join(typed_root(folder.root / home) for home in homes[:3])
    return f"; {files[0]} is there: say {meant}" if files else ""


def compare_names(folder: Folder, names: Sequence[str], used: str) -> list[Item]:
    """Differences between lists of class names and the names that are used."""
    items = []
    for file in folder.with_suffix(".txt", ".names", ".labels"):
        if file.rpartition("/")[2].lower() not in NAME_LISTS:
            continue
        try:
            lines = folder.read_text(file).split("\n")
        except RequestError:
            continue
        listed = [line.strip() for line in lines if line.strip()]
        for number, (theirs, ours) in enumerate(zip_longest(listed, names)):
            if theirs != ours:
                here, there = (repr(n) if n is not None else "no class" for n in (theirs, ours))
                message = f"class {number} is {here}, but {there} in {used}, which is used"
                items.append(Item("", file, message))
    return items


def read_yaml(folder: Folder, file: str) -> Mapping[str, Any]:
    """The content of a data.yaml, with every scalar as text.

    So `no` stays a class name, tags have no effect, and merge keys, whose expansion can grow
    without bound, are not followed.
    """
    path = folder.root / file
    text = folder.require_text(file)
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path}: expected keys such as names, train, val")
    return {key: value for key, value in content.items() if not _is_nothing(value)}


def _is_nothing(value: object) -> bool:
    """Whether a value of a YAML file is null."""
    return isinstance(value, str) and value.lower() in ("", "null", "~")


def read_splits(says: Mapping[str, Any], file: Path) -> dict[str, list[str]]:
    """The folders or lists of images of every split in data.yaml."""
    said: dict[str, tuple[str, list[str]]] = {}
    for key, places in says.items():
        split = split_named(str(key))
        if split is None:
            continue
        listed = [places] if isinstance(places, str) else places
        if not isinstance(listed, list) or not all(isinstance(p, str) for p in listed):
            raise RequestError(f"{file}: {key}: expected a folder or a list of them")
        if listed and said.setdefault(split, (str(key), listed))[1] != listed:
            raise RequestError(f"{file}: {said[split][0]} and {key} are one split: keep only one")
    return {split: listed for split, (_, listed) in said.items()}


def read_names(says: Mapping[str, Any], file: Path) -> list[str]:
    """The class names in data.yaml, by number."""
    names = says.get("names")
    if isinstance(names, dict):
        numbers = {str(i): i for i in range(len(names))}
        if names.keys() != numbers.keys():
            raise RequestError(
                f"{file}: names: expected the numbers 0..{len(names) - 1}, each once"
            )
        names = [names[number] for number in numbers]
    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise RequestError(f"{file}: names: expected a list of class names")
    count = str(says.get("nc", len(names)))
    if count != str(len(names)):
        raise RequestError(f"{file}: nc is {count[:20]}, but there are {len(names)} names")
    return check_names(names, file)


def check_names(names: Sequence[str], file: Path) -> list[str]:
    """The class names without surrounding blanks; RequestError if one occurs twice."""
    texts = [name.strip() for name in names if name.strip()]
    twice = [name for name, count in Counter(texts).items() if count > 1]
    if twice or not texts:
        what = f"{twice[0]!r} is there twice" if twice else "there are none"
        raise RequestError(f"{file}: names: {what}")
    return texts
