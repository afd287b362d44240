"""The formats of annotation files and the data sets that come with the program, one row each.

To add a format, write a module that exports `FORMAT` and add a row to `MODULES`. No
module of a format is imported before it is needed, so that the names are known without any cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from detector.core.errors import RequestError, one_of

if TYPE_CHECKING:
    from detector.data.formats.folder import Folder
    from detector.data.formats.raw import Format


@dataclass(frozen=True)
class Embedded:
    """A data set that comes with the program.

    Attributes:
        format: Name of the format of its files, a key of `MODULES`.
        module: Module that makes its files: `prepare()` returns their root.
    """

    format: str
    module: str

    def prepare(self) -> Path:
        """Make the files, or find them made, and return the root of the data set."""
        root: Path = import_module(self.module).prepare()
        return root


# Name of a format -> the module that exports its `FORMAT`.
MODULES = {
    "voc": "detector.data.formats.voc",
    "coco": "detector.data.formats.coco",
    "yolo": "detector.data.formats.yolo",
}
EMBEDDED = {"trees": Embedded("voc", "detector.data.formats.trees")}
# What `data.format` may be.
NAMES = ("auto", *MODULES, *EMBEDDED)


def load(name: str) -> Format:
    """The format of a name.

    Raises:
        RequestError: If there is none of that name.
    """
    one_of("data.format", name, MODULES)
    found: Format = import_module(MODULES[name]).FORMAT
    return found


def recognise(folder: Folder) -> str:
    """The name of the format of a data set: the one with the strongest sign.

    Raises:
        RequestError: If there is no sign of any format, or several have the same strongest one.
    """
    root = folder.root
    formats = {name: load(name) for name in MODULES}
    signs = {name: one.sign(folder) for name, one in formats.items()}
    best = max(signs.values())
    found = [name for name, sign in signs.items() if best and sign == best]
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(
            f"data.root={root}: could be {' or '.join(found)}; say which, such as data={found[0]}"
        )
    for one in formats.values():
        if hint := one.hint(folder):
            raise RequestError(f"data.root={root}: no data set in it itself{hint}")
    *expected, last = (one.expected for one in formats.values())
    raise RequestError(
        f"data.root={root}: no data set recognised among its {len(folder.files)} files "
        f"({len(folder.images)} images); expected {', '.join(expected)} or {last}; other formats, "
        "such as LabelMe's, must be exported as one of these"
    )
