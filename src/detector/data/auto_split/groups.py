"""`data.auto_split.group`: which images stay together, by a regular expression or a table."""

from __future__ import annotations

import csv
import re
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from detector.core.errors import RequestError
from detector.data.formats.paths import last_part

PATIENCE = 3  # seconds that a regular expression may take on all paths
SHOWN = 3  # names that a message lists


def read_groups(asked: str, files: Sequence[str]) -> tuple[list[str], list[str]]:
    """The group of every image.

    Args:
        asked: A regular expression that is searched in the names of the images, or in their paths
            if no name matches; its first group, or else the whole match, is the key. Or a CSV file
            of two columns: image and group.
        files: Relative paths of the images.

    Returns:
        A key for each image, empty if it belongs to no group; and notes for the user.

    Raises:
        RequestError: If it is neither a table nor an expression, matches no image, or puts all
            images into one group.
    """
    table = asked.lower().endswith(".csv")
    if not table and Path(asked).is_file():
        raise _refused(asked, "a file whose name does not end in .csv; expected a CSV file")
    keys, notes = _by_table(asked, files) if table else (_by_expression(asked, files), [])
    groups = Counter(key for key in keys if key)
    alone = keys.count("")
    if not groups:
        raise _refused(asked, f"it is found in none of the {len(files)} images, such as {files[0]}")
    if len(groups) == 1 and not alone and len(files) > 1:
        key = next(iter(groups))
        raise _refused(asked, f"all {len(files)} images are in one group, {key!r}")
    rest = f", {alone} images in none" if alone else ""
    count = f"{len(groups)} group{'s' * (len(groups) > 1)}"
    return keys, [f"data.auto_split.group={asked}: {count}{rest}", *notes]


def _refused(asked: str, why: str) -> RequestError:
    return RequestError(f"data.auto_split.group={asked}: {why}")


def _by_expression(asked: str, files: Sequence[str]) -> list[str]:
    """The key that an expression finds in each name, or in each path if no name matches."""
    try:
        pattern = re.compile(asked)
    except (re.error, OverflowError, RecursionError) as error:
        wanted = "expected a regular expression, or a file ending in .csv"
        raise _refused(asked, f"{error}; {wanted}") from error
    try:
        with _limited(PATIENCE):
            for texts in ([last_part(file) for file in files], files):
                found = [pattern.search(text) for text in texts]
                if any(found):
                    break
    except TimeoutError as error:
        why = f"takes more than {PATIENCE} seconds; repetitions within repetitions may never end"
        raise _refused(asked, why) from error
    return [(m[1 if pattern.groups else 0] or "") if m else "" for m in found]


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if a block takes longer; only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _by_table(asked: str, files: Sequence[str]) -> tuple[list[str], list[str]]:
    """The key of each image in a table, and notes for the user."""
    keys: dict[int, str] = {}
    unknown: list[str] = []
    find = _Finder(files)
    for number, row in enumerate(_rows(asked), start=1):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != 2:
            why = f"line {number} has {len(row)} columns; expected two, image and group"
            raise _refused(asked, why)
        name, key = row[0].strip(), row[1].strip()
        found = find(name)
        if len(found) > 1:
            why = f"line {number}: {name!r} may be {files[found[0]]} or {files[found[1]]}"
            raise _refused(asked, f"{why}; write the path")
        if not found:
            unknown += [name] if number > 1 or "." in name else []  # a heading is no image
        elif keys.setdefault(found[0], key) != key:
            why = f"line {number}: {name!r} is in {key!r}, but before in {keys[found[0]]!r}"
            raise _refused(asked, why)
    if unknown and not keys:
        raise _refused(asked, f"none of its names is an image's: {', '.join(unknown[:SHOWN])}, ...")
    more = ", ..." if len(unknown) > SHOWN else ""
    notes = [f"{len(unknown)} names in it are of no image: {', '.join(unknown[:SHOWN])}{more}"]
    return [keys.get(i, "") for i in range(len(files))], notes if unknown else []


def _rows(asked: str) -> list[list[str]]:
    """The rows of a table with tabs, semicolons or commas between its columns."""
    try:
        text = Path(asked).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _refused(asked, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _refused(asked, f"not UTF-8 text ({error.reason})") from error
    lines = text.splitlines()
    try:
        tables = [list(csv.reader(lines, delimiter=between)) for between in "\t;,"]
    except csv.Error as error:
        raise _refused(asked, str(error)) from error
    return next((rows for rows in tables if rows and len(rows[0]) == 2), tables[-1])


class _Finder:
    """Finds images by a path, the end of a path, or a name with or without suffix."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self._by_name: dict[str, list[int]] = defaultdict(list)
        for i, file in enumerate(files):
            path = PurePosixPath(file)
            for name in {path.name, path.stem}:
                self._by_name[name].append(i)

    def __call__(self, name: str) -> list[int]:
        """Indices of the matching images; only the one with exactly that path, if there is one."""
        end = "/" + name.replace("\\", "/").removeprefix("./")
        found = [
            i
            for i in self._by_name.get(last_part(name), ())
            if f"/{self._files[i]}".endswith(end)
            or f"/{PurePosixPath(self._files[i]).with_suffix('')}".endswith(end)
        ]
        exact = [i for i in found if f"/{self._files[i]}" == end]
        return exact or found
