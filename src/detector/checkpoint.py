"""Checkpoint files, read as data: nothing in them is executed.

Torch takes seconds to import, so it is when a file is read.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

from detector.config import WEIGHTS, Config
from detector.finetune.schedule import STATE_KEY, Progress
from detector.types import ClassMap, RequestError

UNKNOWN = 0.5  # the score threshold where nothing was measured


def checkpoint_path(verb: str, ckpt: str) -> Path:
    """The file that `ckpt` means: of a run folder, the last to go on from, the best to use.

    Raises:
        RequestError: If there is none, or the file is no checkpoint.
    """
    path = Path(ckpt)
    if path.is_dir():
        path = path / "checkpoints" / ("last.ckpt" if verb == "train" else "best.ckpt")
        if not path.is_file():
            raise RequestError(f"ckpt={ckpt}: not the folder of a run: it has no {path}")
    if not path.is_file():
        raise RequestError(f"ckpt={ckpt}: no such file or folder")
    if not zipfile.is_zipfile(path):
        raise RequestError(f"ckpt={ckpt}: not a checkpoint: {path}")
    return path


def weights_path(weights: str) -> Path:
    """The file that `model.weights` means when it is no word: of a run folder, the best checkpoint.

    Raises:
        RequestError: If there is none.
    """
    path = Path(weights).expanduser().resolve()
    if not weights.strip():
        raise RequestError(f"model.weights=: expected {', '.join(WEIGHTS)}, or a path")
    if path.is_dir():
        path = path / "checkpoints" / "best.ckpt"
        if not path.is_file():
            raise RequestError(
                f"model.weights={weights}: not the folder of a run: it has no {path}"
            )
    if not path.is_file():
        raise RequestError(
            f"model.weights={weights}: no such file; expected {', '.join(WEIGHTS)}, or the path of "
            "a file of weights or of a run"
        )
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Our part of a checkpoint, as data: nothing in the file is executed.

    Returns:
        `config` and `classes`.

    Raises:
        RequestError: If it is not one of ours.
    """
    ours: Any = load_checkpoint(path).get("detector")
    try:
        classes = checkpoint_classes(ours)
        config = dict(ours["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"ckpt={path}: not a checkpoint of detector.train") from error
    return {"config": config, "classes": {"names": classes.names, "ids": classes.ids}}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint file's content, tensors mapped from the file."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise RequestError(f"ckpt={path}: not a checkpoint of plain weights") from error
    if not isinstance(content, dict):
        raise RequestError(f"ckpt={path}: not a checkpoint of detector.train")
    return content


def checkpoint_classes(ours: dict[str, Any]) -> ClassMap:
    """The classes a checkpoint was trained on."""
    classes = ours["classes"]
    return ClassMap(tuple(map(str, classes["names"])), tuple(map(int, classes["ids"])))


def read_progress(path: Path) -> Progress:
    """Where the run stood when it wrote a checkpoint.

    Raises:
        RequestError: If the checkpoint does not say.
    """
    try:
        return Progress.from_plain(load_checkpoint(path)["callbacks"][STATE_KEY])
    except (KeyError, TypeError) as error:
        raise RequestError(f"ckpt={path}: does not say where its schedule stood") from error


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """The score thresholds that were measured for a checkpoint, thresholds.json beside it."""
    from detector.evaluation.operating_points import read_thresholds

    file = path.with_name("thresholds.json")
    return read_thresholds(file) if file.is_file() else None


def score_thresholds(config: Config) -> list[float]:
    """For each class of a checkpoint, the lowest score of a detection that is wanted.

    Raises:
        RequestError: If what is wanted is not known or cannot be reached.
    """
    from detector.evaluation.operating_points import choose, read_thresholds

    names = config.data.classes or []
    if config.score_threshold is not None:
        return [config.score_threshold] * len(names)
    path = checkpoint_path("predict", str(config.ckpt))
    content = read_thresholds(Path(config.thresholds)) if config.thresholds else read_sidecar(path)
    if content is None:
        for key in ("min_precision", "min_recall"):
            if (value := getattr(config, key)) is not None:
                raise RequestError(
                    f"{key}={value}: {path.with_name('thresholds.json')} is not there; evaluate "
                    "writes one for thresholds="
                )
        return [UNKNOWN] * len(names)
    return choose(content, names, precision=config.min_precision, recall=config.min_recall)


def read_best(path: Path) -> Path:
    """The file of the best epoch, as a checkpoint knows it: the checkpoint itself or its sibling.

    Raises:
        RequestError: If it is neither.
    """
    best_epoch, beside = read_progress(path).best_epoch, path.with_name("best.ckpt")
    if load_checkpoint(path).get("epoch") == best_epoch:
        return path
    if not beside.is_file() or load_checkpoint(beside).get("epoch") != best_epoch:
        raise RequestError(
            f"ckpt={path}: beside it must be best.ckpt of epoch {(best_epoch or 0) + 1}, the best "
            "so far"
        )
    return beside
