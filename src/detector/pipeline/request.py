"""What is asked for: the configuration in force and its checkpoint, checked.

Torch and Lightning take seconds to import, so nothing here does at the top: a wrong request is
refused before.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from detector.config.resolve import resolve as resolve_
from detector.config.resolve import saved_config
from detector.config.schedules import read_schedule
from detector.config.schema import Config
from detector.core import run_folder
from detector.core.errors import RequestError
from detector.data.formats.folder import cache_folder
from detector.data.loading.image_cache import DiskCache
from detector.data.read import DataSet
from detector.models.options import WEIGHTS
from detector.pipeline.build import loader_workers
from detector.pipeline.external import read_contest
from detector.pipeline.load_data import read_data, seen_in_training, source_files, usable_data
from detector.training.checkpoint import (
    checkpoint_classes,
    checkpoint_path,
    read_checkpoint,
    read_trained_on,
    score_thresholds,
)
from detector.training.options import LoggerOptions

REQUIRED = {"predict": ("ckpt", "source")}


def check_request(verb: str, cfg: DictConfig) -> None:
    """Refuse a request that cannot be carried out, before anything is written.

    Args:
        verb: `train`, `evaluate`, `predict` or `check`.
        cfg: As composed.

    Raises:
        RequestError: Naming the key, file or box.
    """
    for key in REQUIRED.get(verb, ()):
        if cfg[key] is None:
            raise RequestError(f"{key}= is required (see python -m detector.{verb} --help)")
    if verb == "evaluate":
        check_what_is_evaluated(cfg)
    config = resolve(verb, cfg)
    if verb in ("train", "check"):
        check_backbone(config)
    if verb != "train" and config.model.summary != "false":
        raise RequestError(f"model.summary={config.model.summary}: only train prints one")
    if verb == "predict":
        source_files(config.source or "", config.model.in_channels)
        score_thresholds(config)
        return
    if verb == "evaluate" and config.predictions:
        read_contest(config, keep=True)
        return
    if verb == "check":
        from detector.pipeline.check_data import is_known

        if not is_known(config):
            read_data(config, briefly=True, keep=True)
            check_augmentation(config)
        return
    read_schedule(config)
    check_devices(config)
    if verb in ("train", "evaluate"):
        _check_logger(config.logger)
    _check_compiler(config)
    data = usable_data(config, wanted_split(verb, config), briefly=True, keep=True)
    if config.data.workers:
        loader_workers(config, data.splits)
    if config.data.cache == "disk":
        DiskCache(cache_folder() / "images", config.data.image_size)
    if verb == "train":
        check_augmentation(config)
        if not config.ckpt:
            _check_weights(config)
    # Decoding all images takes long: what else is wrong has been said.
    data = usable_data(config, wanted_split(verb, config), keep=True)
    if verb == "evaluate" and config.compare:
        rival(config, data)


def check_backbone(config: Config) -> None:
    """Refuse a model of timm's that is none, or of no use; the rows' names are checked before."""
    if config.backbone.library == "timm":
        from detector.models.backbones.table import backbone_spec

        backbone_spec(config.backbone.key)


def check_what_is_evaluated(cfg: DictConfig) -> None:
    """Refuse keys of evaluate that say nothing, or two things at once."""
    for override in cfg.overrides:
        if cfg.predictions and re.match(r"[+~]*logger\b", override):
            raise RequestError(f"{override}: what predictions= says is not logged; leave it out")
    for override in cfg.overrides if cfg.ckpt and cfg.compare else ():
        if re.match(r"[+~]*(model|backbone|data\.image_size)\b", override):
            raise RequestError(
                f"{override}: compare= takes both detectors as they were trained; leave it out"
            )
    if not cfg.ckpt and not cfg.predictions:
        raise RequestError(
            "ckpt= is required, or predictions=FILE to score another tool's detections (see "
            "python -m detector.evaluate --help)"
        )
    if cfg.ckpt and cfg.predictions:
        raise RequestError(
            f"predictions={cfg.predictions}: ckpt={cfg.ckpt} makes its own; leave one of them out"
        )
    if cfg.truth and not cfg.predictions:
        raise RequestError(
            f"truth={cfg.truth}: is for predictions=FILE; a checkpoint is evaluated with "
            "data.root= and split="
        )
    if cfg.compare and not cfg.resamples:
        raise RequestError("resamples=0: compare= needs some, such as resamples=1000")
    if cfg.truth and cfg.split:
        raise RequestError(f"split={cfg.split}: truth={cfg.truth} is all of a file; leave it out")
    if cfg.predictions and not cfg.truth and not cfg.data.root and cfg.data.format != "trees":
        raise RequestError(
            "truth=FILE is required with predictions= (COCO's JSON), or data.root=DIR and split="
        )


def check_augmentation(config: Config) -> None:
    """Refuse steps that are no transforms, or none of such images."""
    from detector.data.loading.augment import Augmenter

    channels = config.model.in_channels
    Augmenter(config.augment.steps, config.data.image_size, channels=channels)


def resolve(verb: str, cfg: DictConfig) -> Any:
    """The configuration in force of a command."""
    kind = importlib.import_module(f"detector.{verb}").KEYS
    return resolve_(kind, cfg, resume=verb == "train")


def rival(config: Any, data: DataSet) -> Config:
    """The configuration of the checkpoint that another is compared with, on the same data.

    Args:
        config: In force.
        data: To compare on.

    Raises:
        RequestError: If it is no checkpoint, one of other classes, or one that was trained on some
            of these images.
    """
    key = f"compare={config.compare}"
    try:
        path = checkpoint_path("evaluate", str(config.compare))
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


def wanted_split(verb: str, config: Any) -> str | None:
    """The only split that a verb needs; None: all of them."""
    return (config.split or "final") if verb == "evaluate" else None


def check_devices(config: Config) -> None:
    """Refuse devices that this machine has not."""
    asked = config.trainer
    if asked.accelerator == "gpu" or (asked.accelerator == "auto" and asked.devices != "auto"):
        import torch

        there = torch.cuda.device_count()
        if asked.accelerator == "gpu" and not there:
            raise RequestError("trainer.accelerator=gpu: no GPU is available; choose auto or cpu")
    else:
        there = 0
    most = there or os.cpu_count() or 1
    if isinstance(asked.devices, int) and asked.devices > most:
        kind = "GPUs" if there else "cores"
        raise RequestError(f"trainer.devices={asked.devices}: this machine has {most} {kind}")


def _check_logger(logger: LoggerOptions) -> None:
    """Refuse a logger that is not installed, or W&B without a login."""
    if logger.name == "none":
        return
    if importlib.util.find_spec(logger.name) is None:
        raise RequestError(
            f"logger={logger.name} needs the package {logger.name}: pip install {logger.name}"
        )
    online = not logger.offline and os.environ.get("WANDB_MODE", "online") == "online"
    if logger.name == "wandb" and online:
        import wandb

        try:
            known = wandb.login(prompt=False, verify=False)
        except TypeError:
            return  # of an older version, which asks or ends by itself
        if not known:
            raise RequestError(
                "logger=wandb: nobody is logged in; type wandb login, or logger.offline=true"
            )


def _check_compiler(config: Config) -> None:
    """Refuse `trainer.compile` where nothing can compile."""
    known = [os.environ.get("CXX", "c++"), "g++", "clang++"]
    if config.trainer.compile and not any(map(shutil.which, known)):
        raise RequestError("trainer.compile=true needs a C++ compiler such as g++; none was found")


def _check_weights(config: Config) -> None:
    """Refuse weights that cannot be had or do not fit; they are kept nowhere."""
    pretrained = None
    if config.model.weights not in WEIGHTS:
        from detector.models.weights.files import read_weights

        pretrained = read_weights(Path(config.model.weights))
    if config.model.weights != "none":
        import torch

        from detector.pipeline import build

        with torch.device("meta"):
            network = build.build_network(config, classes=1)
        build.load_pretrained(config, network, pretrained=pretrained)


@contextmanager
def output_folder(verb: str, cfg: DictConfig) -> Iterator[Path]:
    """The folder for the run's outputs, made if need be, and no other process's meanwhile.

    Args:
        verb: `train`, `evaluate`, `predict` or `check`.
        cfg: As composed, with `output_dir`.

    Raises:
        RequestError: If it has an earlier run's results, or another process writes into it.
    """
    if cfg.output_dir is None:
        raise RequestError("output_dir= is required: the folder for the run's outputs")
    folder = Path(cfg.output_dir)
    if not run_folder.writes(verb):  # the first process has seen to it
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    run_folder.check_unused(verb, "output_dir", folder, cfg.ckpt)
    with run_folder.locked(folder, "output_dir"):
        yield folder
