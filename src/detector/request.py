"""What is asked for: the configuration in force and its checkpoint, checked.

Torch and Lightning take seconds to import, so nothing here does at the top: a wrong request is
refused before.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detector.config import Config, PhaseConfig, parse
from detector.finetune.schedule import Decay, Phase, Plateau, Schedule, Warmup, work_backwards
from detector.inputs import read_data, source_files, usable_data
from detector.types import ClassMap, RequestError

RUN_KEYS = ("output_dir", "overrides")
# Keys that say what a verb does, which a checkpoint's configuration must not answer.
VERB_KEYS = (
    *("ckpt", "split", "source", "score_threshold", "preview", "dry_run"),
    "finetune.allow_changed",
)
REQUIRED = {"evaluate": ("ckpt",), "predict": ("ckpt", "source")}


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
    config = resolve(verb, cfg)
    if verb == "predict":
        source_files(config.source or "")
        return
    if verb == "check":
        from detector.inspection import is_known

        if not is_known(config):
            read_data(config, keep=True)
            check_augmentation(config)
        return
    read_schedule(config)
    _check_devices(config)
    _check_compiler(config)
    usable_data(config, wanted_split(verb, config), keep=True)
    if verb == "train":
        check_augmentation(config)
    if verb == "train" and config.model.weights == "imagenet" and not config.ckpt:
        from detector.models.backbones import BACKBONES

        BACKBONES[config.backbone.name].imagenet()  # what cannot be fetched is said now


def check_augmentation(config: Config) -> None:
    """Refuse steps that are no transforms."""
    from detector.data.augment import Augmenter

    Augmenter(config.augment.steps, config.data.image_size)


def resolve(verb: str, cfg: DictConfig) -> Config:
    """The configuration in force.

    Without a checkpoint, what was composed. With one, what the checkpoint was trained with, except
    for the keys and groups that were typed; an experiment typed stands for all of its keys.

    Args:
        verb: `train`, `evaluate` or `predict`.
        cfg: As composed, with `overrides`.
    """
    typed = [o.lstrip("+~").split("=")[0] for o in cfg.overrides]
    if cfg.data.root is not None and not str(cfg.data.root).strip():
        cfg.data.root = None  # as from an empty shell variable, which must not mean this folder
    if cfg.data.root is not None:
        # A checkpoint must know its data from any folder.
        cfg.data.root = str(Path(cfg.data.root).expanduser().resolve())
    values = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k not in RUN_KEYS])
    if not values.ckpt:
        return parse(values)
    path = checkpoint_path(verb, values.ckpt)
    ours = read_checkpoint(path)
    saved = OmegaConf.create(ours["config"])
    for key in {*VERB_KEYS, *typed}:
        if _has(values, key):
            OmegaConf.update(saved, key, OmegaConf.select(values, key), merge=False)
    config = parse(values if "experiment" in typed else saved)
    _check_network(config, parse(ours["config"]), path)
    names = list(checkpoint_classes(ours).names)
    if config.data.classes not in (None, names):
        raise RequestError(
            f"data.classes={config.data.classes}, but {path} knows {', '.join(names)}"
        )
    config.data.classes = names
    if not any(re.match(r"experiment|data$|data\.(root|format|split)", key) for key in typed):
        # Images added since must not move others from one split to another.
        dealt = path.parent.parent / "splits.json"
        config.data.split.file = str(dealt.resolve()) if dealt.is_file() else None
    return config


def wanted_split(verb: str, config: Config) -> str | None:
    """The only split that a verb needs; None: all of them."""
    return (config.split or "final") if verb == "evaluate" else None


def _check_devices(config: Config) -> None:
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


def _check_compiler(config: Config) -> None:
    """Refuse `trainer.compile` where nothing can compile."""
    known = [os.environ.get("CXX", "c++"), "g++", "clang++"]
    if config.trainer.compile and not any(map(shutil.which, known)):
        raise RequestError("trainer.compile=true needs a C++ compiler such as g++; none was found")


def _check_network(config: Config, saved: Config, path: Path) -> None:
    """Refuse keys that would make another network than the checkpoint's."""
    for group, key in (
        ("backbone", "name"),
        ("model", "fpn_channels"),
        ("model", "head_channels"),
        ("model", "anchor_scales"),
        ("model", "anchor_ratios"),
    ):
        new, old = (getattr(getattr(c, group), key) for c in (config, saved))
        if new != old:
            raise RequestError(f"{group}.{key}={new}: {path} was trained with {old}")


def _has(values: DictConfig, key: str) -> bool:
    """Whether a dotted key is there, be it null."""
    missing = object()
    return OmegaConf.select(values, key, default=missing) is not missing


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
        raise RequestError(f"ckpt={ckpt}: not a checkpoint")
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


def output_folder(cfg: DictConfig) -> Path:
    """The folder for the run's outputs, made if need be."""
    if cfg.output_dir is None:
        raise RequestError("output_dir= is required: the folder for the run's outputs")
    folder = Path(cfg.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# Every network has these; `FasterRCNN.groups` says what they hold.
GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4", "neck", "head")


def read_schedule(config: Config) -> Schedule:
    """The schedule, checked against the groups that every network has.

    Raises:
        RequestError: If it cannot be meant; the message names the key.
    """
    settings = config.finetune
    if settings.phases == "auto":
        assert settings.auto is not None  # checked by FinetuneConfig
        numbers = dict(vars(settings.auto))
        warmup, decay = Warmup(**vars(numbers.pop("warmup"))), Decay(**vars(numbers.pop("decay")))
        phases = work_backwards(GROUPS[:-2], warmup=warmup, decay=decay, **numbers)
    else:
        phases = [_read_phase(phase) for phase in settings.phases]
    stopping = settings.early_stopping
    if phases and stopping.patience is not None:
        if phases[-1].plateau is not None:
            raise RequestError(
                f"finetune.early_stopping.patience={stopping.patience}: the last phase has a "
                "plateau of its own"
            )
        plateau = Plateau(stopping.patience, stopping.min_delta)
        phases[-1] = replace(phases[-1], plateau=plateau)
    return Schedule(phases, GROUPS, config.trainer.max_epochs)


def _read_phase(phase: PhaseConfig) -> Phase:
    """A phase as the schedule has it."""
    plateau, warmup, decay = phase.until.plateau, phase.warmup, phase.decay
    return Phase(
        name=phase.name,
        train=tuple(phase.train),
        max_epochs=phase.until.max_epochs,
        plateau=None if plateau is None else Plateau(**vars(plateau)),
        lr_factor=phase.lr_factor,
        warmup=Warmup() if warmup is None else Warmup(**vars(warmup)),
        decay=Decay() if decay is None else Decay(**vars(decay)),
        restore_best=phase.restore_best,
        optimizer_state=phase.optimizer_state,
    )
