"""Reads checkpoint files as data: nothing in them is executed.

Torch takes seconds to import, so it is imported when a file is read.
"""

from __future__ import annotations

import functools
import pickle
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detector.core.errors import RequestError
from detector.core.run_folder import RunFolder
from detector.core.structures import ClassMap
from detector.finetune.schedule import STATE_KEY, Progress

if TYPE_CHECKING:
    from torch import Tensor

NO_HASH = "0" * 64  # a perceptual hash that no picture has
BYTES = 48  # length of a digest and a perceptual hash together
UNKNOWN = 0.5  # score threshold where none was measured


def checkpoint_path(command: str, ckpt: str) -> Path:
    """The file that `ckpt` means; for the folder of a run, one of its checkpoints.

    Args:
        command: `train` resumes from the last checkpoint; all other commands use the best one.
        ckpt: Path of a file or of a run's folder, as typed.

    Raises:
        RequestError: If there is no such file, or it is not a checkpoint.
    """
    path = Path(ckpt)
    if path.is_dir():
        run = RunFolder(path)
        path = run.last_checkpoint if command == "train" else run.best_checkpoint
        if not path.is_file():
            raise RequestError(f"ckpt={ckpt}: not the folder of a run: it has no {path}")
    if not path.is_file():
        raise RequestError(f"ckpt={ckpt}: no such file or folder")
    if not zipfile.is_zipfile(path):
        which = "" if path == Path(ckpt) else f"{path} is "
        raise RequestError(f"ckpt={ckpt}: {which}not a checkpoint of detector.train")
    return path


def absolute_path(key: str, value: str) -> Path:
    """The absolute path of a key's value.

    Raises:
        RequestError: If it is a symbolic link to itself, or the home of an unknown user.
    """
    try:
        return Path(value).expanduser().resolve()
    except (RuntimeError, OSError) as error:
        raise RequestError(f"{key}={value}: {error}") from error


def weights_path(weights: str, words: Sequence[str]) -> Path:
    """The file that `model.weights` means; of a run's folder, the best checkpoint.

    Args:
        weights: The value, which is none of the words.
        words: Values that are not paths, such as `imagenet`; for messages.

    Raises:
        RequestError: If there is no such file.
    """
    path = absolute_path("model.weights", weights)
    if not weights.strip():
        raise RequestError(f"model.weights=: expected {', '.join(words)}, or a path")
    if path.is_dir():
        path = RunFolder(path).best_checkpoint
        if not path.is_file():
            raise RequestError(
                f"model.weights={weights}: not the folder of a run: it has no {path}"
            )
    if not path.is_file():
        raise RequestError(
            f"model.weights={weights}: no such file; expected {', '.join(words)}, or the path of "
            "a file of weights or of a run"
        )
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the configuration and the classes in a checkpoint.

    Returns:
        `config` and `classes`, both as plain data.

    Raises:
        RequestError: If it is not a checkpoint of this program.
    """
    ours: Any = load_checkpoint(path).get("detector")
    try:
        classes = checkpoint_classes(ours)
        config = dict(ours["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"ckpt={path}: not a checkpoint of detector.train") from error
    return {"config": config, "classes": {"names": classes.names, "ids": classes.ids}}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read the content of a checkpoint; tensors are mapped from the file.

    A command asks for several parts of the same file, which is read once as long as it is the same.
    """
    file = path.stat()
    return dict(_content(path, (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns)))


@functools.lru_cache(maxsize=2)  # a checkpoint, and the one that it is compared with
def _content(path: Path, version: tuple[int, ...]) -> dict[str, Any]:
    """Read a checkpoint of which nothing is changed afterwards."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise RequestError(f"ckpt={path}: not a checkpoint of plain weights") from error
    if not isinstance(content, dict):
        raise RequestError(f"ckpt={path}: not a checkpoint of detector.train")
    return content


def checkpoint_classes(ours: dict[str, Any]) -> ClassMap:
    """The classes that a checkpoint was trained on."""
    classes = ours["classes"]
    return ClassMap(tuple(map(str, classes["names"])), tuple(map(int, classes["ids"])))


class Fingerprint(NamedTuple):
    """Identifies a picture, whatever the name and place of its file.

    Attributes:
        digest: Digest of the file's content, 32 hexadecimal digits.
        hash: Perceptual hash, 64 hexadecimal digits; empty for a picture without contrast.
    """

    digest: str
    hash: str


def read_trained_on(path: Path, key: str = "trained_on") -> list[Fingerprint]:
    """Read the fingerprints of the pictures that a checkpoint was trained on.

    Args:
        path: The checkpoint.
        key: `trained_on`, or `chosen_on` for the pictures by which its epoch and its thresholds
            were chosen.

    Returns:
        The fingerprints; an empty list if the file has none, such as weights of other programs.

    Raises:
        RequestError: If it is not a file of plain weights.
    """
    ours = load_checkpoint(path).get("detector")
    packed = ours.get(key) if isinstance(ours, dict) else None
    return [] if packed is None else unpack_fingerprints(packed)


def pack_fingerprints(pictures: Iterable[Fingerprint]) -> Tensor:
    """Fingerprints as `(N, 48)` uint8, sorted and without duplicates; 4.8 MB for 100,000."""
    import torch

    texts = sorted({one.digest + (one.hash or NO_HASH) for one in pictures})
    content = bytearray.fromhex("".join(texts))
    flat = torch.frombuffer(content, dtype=torch.uint8) if content else torch.zeros(0).byte()
    return flat.reshape(-1, BYTES)


def unpack_fingerprints(packed: Tensor) -> list[Fingerprint]:
    """The inverse of `pack_fingerprints`."""
    content, digits = packed.numpy().tobytes().hex(), 2 * BYTES
    texts = (content[i : i + digits] for i in range(0, len(content), digits))
    return [Fingerprint(text[:32], text[32:].replace(NO_HASH, "")) for text in texts]


def read_progress(path: Path) -> Progress:
    """Read the progress of a run in its schedule when it wrote a checkpoint.

    Raises:
        RequestError: If it is not in the checkpoint.
    """
    try:
        return Progress.from_plain(load_checkpoint(path)["callbacks"][STATE_KEY])
    except (KeyError, TypeError) as error:
        raise RequestError(f"ckpt={path}: has no progress of a schedule") from error


def read_sidecar(path: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """Read the score thresholds that were measured for a checkpoint, thresholds.json beside it.

    Args:
        path: The checkpoint.
        names: Names of its classes.

    Returns:
        Content of the file; None if there is none, or it belongs to another epoch.

    Raises:
        RequestError: If the file is damaged or belongs to other classes.
    """
    from detector.evaluation.thresholds import choose, read_thresholds

    file = RunFolder.checkpoint_thresholds.beside(path)
    if not file.is_file():
        return None
    try:
        content = read_thresholds(file)
    except RequestError as error:
        raise RequestError(f"{error}; delete it, or type score_threshold=") from error
    choose(content, names)
    return content if content.get("epoch") == load_checkpoint(path).get("epoch") else None


def score_thresholds(
    ckpt: str,
    names: Sequence[str],
    *,
    score_threshold: float | None = None,
    min_precision: float | None = None,
    min_recall: float | None = None,
    thresholds: str | None = None,
) -> tuple[list[float], str]:
    """Choose the lowest score of the detections to keep, for each class of a checkpoint.

    Args:
        ckpt: The checkpoint or the folder of a run, as typed.
        names: Names of its classes.
        score_threshold: The threshold of all classes, instead of measured ones.
        min_precision: Precision that each class must reach.
        min_recall: Recall that each class must reach.
        thresholds: A thresholds.json to choose from; None for the one beside the checkpoint.

    Returns:
        The thresholds, and a phrase that says where they come from.

    Raises:
        RequestError: If precision or recall were not measured or cannot be reached.
    """
    from detector.evaluation.thresholds import choose, unmeasured

    if score_threshold is not None:
        return [score_threshold] * len(names), "score_threshold"
    path = checkpoint_path("predict", ckpt)
    content = _read_measured(thresholds) if thresholds else read_sidecar(path, names)
    wanted = {"precision": min_precision, "recall": min_recall}
    asked = {key: value for key, value in wanted.items() if value is not None}
    if content is None:
        for key, value in asked.items():
            raise RequestError(
                f"min_{key}={value}: no thresholds.json of this checkpoint is beside it; evaluate "
                "writes one, for thresholds="
            )
        return [UNKNOWN] * len(names), "there is no thresholds.json beside the checkpoint"
    chosen = choose(content, names, **asked)
    rule = "".join(f"{key} {value:g}" for key, value in asked.items()) or "best F1"
    source = f"{rule} on the {content['split']} split"
    if unknown := unmeasured(content, names):
        source += f", where there was no {', '.join(unknown)}"
    return chosen, source


def _read_measured(file: str) -> dict[str, Any]:
    """The content of the file that `thresholds=` names."""
    from detector.evaluation.thresholds import read_thresholds

    try:
        return read_thresholds(Path(file).expanduser())
    except RequestError as error:
        raise RequestError(
            f"thresholds={error}; expected a thresholds.json, as train and evaluate write it"
        ) from error


def read_best(path: Path) -> Path:
    """The checkpoint of the best epoch that a checkpoint knows: itself or best.ckpt beside it.

    Raises:
        RequestError: If neither is that of the best epoch.
    """
    best_epoch, beside = read_progress(path).best_epoch, RunFolder.best_checkpoint.beside(path)
    if load_checkpoint(path).get("epoch") == best_epoch:
        return path
    if not beside.is_file() or load_checkpoint(beside).get("epoch") != best_epoch:
        raise RequestError(
            f"ckpt={path}: beside it must be best.ckpt of epoch {(best_epoch or 0) + 1}, the best "
            "so far"
        )
    return beside
