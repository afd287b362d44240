"""Images with their detections drawn, each in a file named like its source."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.core.files import write_bytes
from detector.data.images.pixels import read_image
from detector.report.draw import FORMATS, Boxes, draw_boxes, encoded

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # nothing more can be written
LONGEST_NAME = 255  # bytes, of a file on usual file systems


class Pictures:
    """Writes images with their detections, each in a file named like its source.

    Where the format of a source's suffix is not written here, as of `photo.jfif`, another suffix is
    added: `photo.jfif.jpg`. No two sources have one picture.

    Args:
        folder: Where pictures go; made if need be.
        files: The sources.
        source: The folder they are below, or the only one of them.

    Attributes:
        names: Relative name of each source.
        failed: For each picture that could not be drawn or written, what is wrong.

    Raises:
        RequestError: If pictures could take the place of sources.
    """

    def __init__(self, folder: Path, files: Sequence[Path], source: Path) -> None:
        below = source if source.is_dir() else source.parent
        if folder.resolve() in (below.resolve(), *below.resolve().parents):
            raise RequestError(
                f"hydra.run.dir={folder.parent}: pictures would go to {folder}, where "
                f"source={source} lies; choose another folder"
            )
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.names = {file: file.relative_to(below) for file in files}
        self.failed: list[str] = []
        self._taken = set(self.names.values())

    def write(self, image_id: int, file: Path, boxes: Boxes, classes: Sequence[str]) -> None:
        """Write the whole picture with its boxes; remember what prevents that.

        Args:
            image_id: Stands for a name that is too long.
            file: The source.
            boxes: Detections in it.
            classes: Class names by label.

        Raises:
            OSError: If nothing more can be written.
        """
        try:
            picture = draw_boxes(read_image(file), boxes, classes)
            self._save(image_id, self.names[file], picture)
        except Exception as error:  # of any kind: one picture must not end the work
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{file}: ")
            self.failed.append(f"{file}: {' '.join(reason.split()) or type(error).__name__}")

    def _save(self, image_id: int, name: Path, picture: NDArray[np.uint8]) -> None:
        """Write a picture under the first name whose format can hold it."""
        own = [name] if name.suffix.lower() in FORMATS else []
        for chosen in (*own, *(self._free(image_id, name, suffix) for suffix in (".jpg", ".png"))):
            content = encoded(picture, chosen.suffix)
            if content is not None:
                self._taken.add(chosen)
                (self.folder / chosen).parent.mkdir(parents=True, exist_ok=True)
                write_bytes(self.folder / chosen, content)
                return
        raise ValueError("too large for a picture file")

    def _free(self, image_id: int, name: Path, suffix: str) -> Path:
        """A name with a suffix added that no other picture has, and that is not too long."""
        text = name.name
        if len(os.fsencode(text)) + len(suffix) > LONGEST_NAME:
            text = str(image_id)
        while name.with_name(text + suffix) in self._taken:
            text += suffix
        return name.with_name(text + suffix)
