"""The checkpoint that another one is compared with, on the same images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from detector.config.resolve import saved_config
from detector.config.schema import Config, plain
from detector.core.errors import RequestError
from detector.data.read import DataSet
from detector.pipeline.leakage import seen_in_training
from detector.training.checkpoint import (
    checkpoint_classes,
    checkpoint_path,
    read_checkpoint,
    read_trained_on,
)

NOT_COMPARED = ("ckpt", "name", "resamples", "gallery")  # settings that say nothing of a detector


def read_baseline(config: Config, data: DataSet, compare: str) -> Config:
    """Read the configuration of the checkpoint that another one is compared with.

    Args:
        config: Configuration in force.
        data: The images to compare on.
        compare: The checkpoint, or the folder of its run.

    Raises:
        RequestError: If it is no checkpoint, one of other classes, or one that was trained on some
            of these images.
    """
    key, path = f"compare={compare}", baseline_path(compare)
    try:
        ours = read_checkpoint(path)
    except RequestError as error:
        raise RequestError(f"{key}: {str(error).partition(': ')[2]}") from error
    names = list(checkpoint_classes(ours).names)
    if names != config.data.classes:
        raise RequestError(
            f"{key}: it knows {', '.join(names)}, but ckpt={config.ckpt} knows "
            f"{', '.join(config.data.classes or [])}"
        )
    try:
        saved = saved_config(path)
    except RequestError as error:
        raise RequestError(f"{key}: {str(error).partition(': ')[2]}") from error
    channels = config.model.in_channels
    if saved.model.in_channels != channels:
        raise RequestError(
            f"{key}: takes images of {saved.model.in_channels} channels, ckpt={config.ckpt} of "
            f"{channels}"
        )
    _refuse_unequal(key, path, config, data)
    options = replace(config.data, image_size=saved.data.image_size)
    return replace(saved, ckpt=str(path), data=options, trainer=config.trainer)


def baseline_path(compare: str) -> Path:
    """The file of the checkpoint that another one is compared with; it is not read.

    Args:
        compare: The checkpoint, or the folder of its run.

    Raises:
        RequestError: If it is no checkpoint.
    """
    try:
        return checkpoint_path("evaluate", compare)
    except RequestError as error:
        raise RequestError(f"compare={compare}: {str(error).partition(': ')[2]}") from error


def _refuse_unequal(key: str, path: Path, config: Config, data: DataSet) -> None:
    """Refuse images of which one of two detectors was trained on more than the other."""
    ((split, files),) = data.files().items()
    both = checkpoint_path("evaluate", str(config.ckpt)), path
    found = seen_in_training(data, split, [read_trained_on(file) for file in both])
    one, other = (seen.same for seen in found)
    for who, seen in ((key, other - one), (f"ckpt={config.ckpt}", one - other)):
        if seen:
            raise RequestError(
                f"{who}: was trained on {len(seen)} of the {len(files)} {split} images, such as "
                f"{min(seen)}, and the other was not; train both with the same "
                "data.auto_split.file="
            )


def trained_with(path: Path) -> dict[str, Any]:
    """Configuration of a checkpoint's training, without what does not concern the detector."""
    config = plain(saved_config(path))
    return {key: value for key, value in config.items() if key not in NOT_COMPARED}
