"""`python -m detector.predict ckpt=RUN source=FILE_OR_FOLDER`: detections in new images."""

from __future__ import annotations

import csv
import errno
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from pydantic import Field
from pydantic.dataclasses import dataclass

from detector.cli import run_verb
from detector.config.schema import Config
from detector.core.bar import Bar
from detector.core.console import announce
from detector.core.errors import RequestError, WorkError
from detector.core.files import uninterrupted, write_json
from detector.core.options import STRICT, Real
from detector.data.formats.folder import Folder
from detector.pipeline import load_data, request
from detector.training.checkpoint import score_thresholds

if TYPE_CHECKING:
    from detector.core.structures import Prediction
    from detector.training.module import DetectionTask

log = logging.getLogger(__name__)

COLUMNS = ("image_id", "file_name", "category_id", "category", "score", "x1", "y1", "x2", "y2")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # nothing more can be written
LONGEST_NAME = 255  # bytes, of a file on usual file systems

Score = Annotated[Real, Field(ge=0, le=1)]


@dataclass(config=STRICT, frozen=True, kw_only=True)
class PredictKeys(Config):
    """The configuration of a detection in new images.

    Weaker detections are neither drawn nor written: for each class those below the score of best F1
    on the validation split (checkpoints/thresholds.json), unless a key says otherwise.
    """

    source: str | None = None
    """An image or a folder of images; required."""
    score_threshold: Score | None = None
    """Lowest score of a detection; null: for each class the score of best F1 on validation."""
    min_precision: Score | None = None
    """For each class, take the lowest score from which this share of the detections is right."""
    min_recall: Score | None = None
    """For each class, take the highest score at which this share of the objects is found."""
    thresholds: str | None = None
    """Another thresholds.json than the checkpoint's, as evaluate writes it."""

    def __post_init__(self) -> None:
        """Check that one rule is chosen."""
        super().__post_init__()
        rules = ("score_threshold", "min_precision", "min_recall")
        typed = [key for key in rules if getattr(self, key) is not None]
        if self.score_threshold is not None and self.thresholds is not None:
            typed.append("thresholds")
        if len(typed) > 1:
            raise RequestError(f"{typed[0]}= and {typed[1]}=: expected one of the two")


KEYS = PredictKeys


def predict(cfg: DictConfig) -> list[dict[str, Any]]:
    """Detect, and write annotated images, `predictions.json` and `predictions.csv`.

    Args:
        cfg: From Hydra or `detector.cli.compose`, with `output_dir` set.

    Returns:
        The detections as COCO results, with `file_name` and `category` beside.

    Raises:
        RequestError: If the request is wrong; a file that cannot be read is only named.
        WorkError: If no picture could be written; the detections are.
    """
    config = request.resolve("predict", cfg)
    files = load_data.source_files(config.source or "", config.model.in_channels)
    chosen, why = score_thresholds(config)
    thresholds = dict(zip(config.data.classes or (), chosen, strict=True))

    with request.output_folder("predict", cfg) as folder:
        announce("loading the network of %s", config.ckpt)
        return _predict(config, files, thresholds, why, folder)


def _predict(
    config: PredictKeys, files: list[Path], thresholds: Mapping[str, float], why: str, folder: Path
) -> list[dict[str, Any]]:
    """Detect into a folder; the arguments have been checked."""
    import torch

    from detector.data.images.pixels import read_resized
    from detector.data.loading.dataset import to_tensor
    from detector.pipeline import build

    source = Path(config.source or "")
    side, channels = config.data.image_size, config.model.in_channels
    task = build.load_task("predict", config)
    lowest = ", ".join(f"{name} {score:.3g}" for name, score in thresholds.items())
    log.info("lowest scores (%s): %s", why, lowest)
    if min(thresholds.values()) < config.model.score_threshold:
        log.warning(
            "the network itself drops scores below model.score_threshold=%g",
            config.model.score_threshold,
        )
    pictures = Pictures(folder / "images", files, source)
    device = torch.device("cuda" if build.uses_gpu(config.trainer.accelerator) else "cpu")
    half = build.precision(config.trainer.precision, config.trainer.accelerator)
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(half)
    task.eval().to(device)
    results: list[dict[str, Any]] = []
    failed: list[str] = []
    done, size = 0, config.data.batch_size
    numbered = list(enumerate(files, start=1))
    bar = Bar("detecting", len(files), "image")
    try:
        for batch in (numbered[i : i + size] for i in range(0, len(files), size)):
            read: list[tuple[int, Path]] = []
            images, scales = [], []
            for image_id, file in batch:
                try:  # as in training and evaluation
                    small, height, width = read_resized(file, side, channels=channels)
                except RequestError as error:
                    failed.append(str(error))
                    continue
                read.append((image_id, file))
                images.append(to_tensor(small).to(device))
                scale = [small.shape[1] / width, small.shape[0] / height]
                scales.append(torch.tensor(scale, device=device))
            with torch.inference_mode(), torch.autocast(device.type, dtype, dtype is not None):
                found = task.predict(images, scales) if images else []
            for (image_id, file), each in zip(read, found, strict=True):
                rows = _rows(image_id, pictures.names[file], each, task, thresholds)
                results += rows
                done += 1
                pictures.write(image_id, file, rows, task)
            bar.update(len(batch))
    finally:  # what is done is kept, whatever ends this
        with uninterrupted():
            coco = _write(folder, results)
            bar.close()
        if done + len(failed) < len(files):
            log.warning("ended after %d of %d images; their detections are kept", done, len(files))
    if not done:
        raise load_data.nothing_read(str(source), failed)
    for line in failed:
        log.warning("not read: %s", line)
    if source.is_dir() and (unread := load_data.unread_pictures(Folder(source, "source"))):
        log.warning("passed over: %s", unread)
    for line in pictures.failed:
        log.warning("not drawn: %s", line)
    log.info("%d detections in %d image%s", len(results), done, "s" * (done != 1))
    log.info("annotated images: %s", pictures.folder)
    log.info("predictions: %s", folder / "predictions.json")
    if len(pictures.failed) == done:
        raise WorkError(f"no picture could be written: {pictures.failed[0]}")
    return coco


class Pictures:
    """The images with their detections drawn, each in a file called like its source.

    Where the format of a source's suffix is not written here, as of `photo.jfif`, another suffix is
    added: `photo.jfif.jpg`. No two sources have one picture.

    Args:
        folder: Where pictures go; made if need be.
        files: The sources.
        source: The folder they are below, or the only one of them.

    Attributes:
        names: The sources' relative names.
        failed: What is wrong, of each picture that could not be drawn or written.

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

    def write(
        self, image_id: int, file: Path, rows: list[dict[str, Any]], task: DetectionTask
    ) -> None:
        """Write the whole picture with the boxes of its rows; remember what prevents that.

        Raises:
            OSError: If nothing more can be written.
        """
        from detector.data.images.pixels import read_image
        from detector.report.draw import Boxes, draw_boxes

        corners = np.array([[r[c] for c in ("x1", "y1", "x2", "y2")] for r in rows])
        boxes = Boxes(
            corners.reshape(-1, 4),
            np.array([task.classes.label(r["category"]) for r in rows], dtype=np.int64),
            np.array([r["score"] for r in rows]),
        )
        try:
            picture = draw_boxes(read_image(file), boxes, task.classes.names)
            self._save(image_id, self.names[file], picture)
        except Exception as error:  # of any kind: one picture must not end the work
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{file}: ")
            self.failed.append(f"{file}: {' '.join(reason.split()) or type(error).__name__}")

    def _save(self, image_id: int, name: Path, picture: NDArray[np.uint8]) -> None:
        """Write a picture under the first name whose format can hold it."""
        from detector.report.draw import FORMATS, encoded, write_bytes

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


def _rows(
    image_id: int,
    name: Path,
    found: Prediction,
    task: DetectionTask,
    thresholds: Mapping[str, float],
) -> list[dict[str, Any]]:
    """The detections of one image as rows of the CSV file."""
    rows = []
    for box, label, score in zip(
        found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
    ):
        if score < thresholds[task.classes.name(label)]:
            continue
        corners = dict(zip(("x1", "y1", "x2", "y2"), (round(v, 2) for v in box), strict=True))
        rows.append(
            {
                "image_id": image_id,
                "file_name": str(name),
                "category_id": task.classes.category_id(label),
                "category": task.classes.name(label),
                "score": round(score, 5),
                **corners,
            }
        )
    return rows


def _write(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write both files; return what is in the JSON."""
    coco = [
        {
            "image_id": r["image_id"],
            "category_id": r["category_id"],
            "bbox": [r["x1"], r["y1"], round(r["x2"] - r["x1"], 2), round(r["y2"] - r["y1"], 2)],
            "score": r["score"],
            "file_name": r["file_name"],
            "category": r["category"],
        }
        for r in rows
    ]
    write_json(folder / "predictions.json", coco)
    with (folder / "predictions.csv").open(
        "w", newline="", encoding="utf-8", errors="backslashreplace"
    ) as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return coco


if __name__ == "__main__":
    run_verb("predict", predict)
