"""`python -m detector.predict ckpt=RUN source=FILE_OR_FOLDER`: detections in new images."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from detector import inputs, request
from detector.bar import Bar
from detector.checkpoint import score_thresholds
from detector.cli import run_verb
from detector.config import Config
from detector.data.folder import Folder
from detector.output import announce, write_json
from detector.types import RequestError

if TYPE_CHECKING:
    from detector.task import DetectionTask
    from detector.types import Prediction

log = logging.getLogger(__name__)

COLUMNS = ("image_id", "file_name", "category_id", "category", "score", "x1", "y1", "x2", "y2")


def predict(cfg: DictConfig) -> list[dict[str, Any]]:
    """Detect, and write annotated images, `predictions.json` and `predictions.csv`.

    Args:
        cfg: From Hydra or `detector.cli.compose`, with `output_dir` set.

    Returns:
        The detections as COCO results, with `file_name` and `category` beside.

    Raises:
        RequestError: If the request is wrong; a file that cannot be read is only named.
    """
    config = request.resolve("predict", cfg)
    files = inputs.source_files(config.source or "", config.model.in_channels)
    chosen, why = score_thresholds(config)
    thresholds = dict(zip(config.data.classes or (), chosen, strict=True))

    with request.output_folder("predict", cfg) as folder:
        announce("loading the network of %s", config.ckpt)
        return _predict(config, files, thresholds, why, folder)


def _predict(
    config: Config, files: list[Path], thresholds: Mapping[str, float], why: str, folder: Path
) -> list[dict[str, Any]]:
    """Detect into a folder; the arguments have been checked."""
    import torch

    from detector import build
    from detector.data.dataset import to_tensor
    from detector.data.images import read_resized

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
    pictures = folder / "images"
    pictures.mkdir(exist_ok=True)
    device = torch.device("cuda" if build.uses_gpu(config.trainer.accelerator) else "cpu")
    half = build.precision(config.trainer.precision, config.trainer.accelerator)
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(half)
    task.eval().to(device)
    results: list[dict[str, Any]] = []
    failed: list[str] = []
    size = config.data.batch_size
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
                name = file.relative_to(source) if source.is_dir() else Path(file.name)
                rows = _rows(image_id, name, each, task, thresholds)
                _draw(file, pictures / name, rows, task)
                results += rows
            bar.update(len(batch))
    except KeyboardInterrupt:
        log.warning(
            "interrupted after %d of %d images; their detections are kept", bar.done, bar.total
        )
        raise
    finally:  # what is done is kept
        bar.close()
        coco = _write(folder, results)
    if len(failed) == len(files):
        raise inputs.nothing_read(str(source), failed)
    for line in failed:
        log.warning("not read: %s", line)
    if source.is_dir() and (unread := inputs.unread_pictures(Folder(source, "source"))):
        log.warning("passed over: %s", unread)
    count = len(files) - len(failed)
    log.info("%d detections in %d image%s", len(results), count, "s" * (count != 1))
    log.info("annotated images: %s", pictures)
    log.info("predictions: %s", folder / "predictions.json")
    return coco


def _draw(source: Path, file: Path, rows: list[dict[str, Any]], task: DetectionTask) -> None:
    """Write the whole picture with the boxes of its rows."""
    from detector.data.images import read_image
    from detector.report.draw import Boxes, draw_boxes, write_image

    corners = np.array([[r[c] for c in ("x1", "y1", "x2", "y2")] for r in rows])
    boxes = Boxes(
        corners.reshape(-1, 4),
        np.array([task.classes.label(r["category"]) for r in rows], dtype=np.int64),
        np.array([r["score"] for r in rows]),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file, draw_boxes(read_image(source), boxes, task.classes.names))


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
