"""What is asked for: the configuration in force, its checkpoint and its data, checked.

Torch and Lightning take seconds to import, so nothing here does at the top: a wrong request is
refused before.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from detector.config import Config, parse
from detector.data import trees
from detector.data.voc import LAYOUT, SUFFIXES, read_voc
from detector.finetune.schedule import Phase, Schedule
from detector.types import AnnotatedImages, ClassMap, RequestError

RUN_KEYS = ("output_dir", "overrides")
# Keys that say what a verb does, which a checkpoint's configuration must not answer.
VERB_KEYS = ("ckpt", "split", "source", "score_threshold")


def check_request(verb: str, cfg: DictConfig) -> None:
    """Refuse a request that cannot be carried out, before anything is written.

    Args:
        verb: `train`, `evaluate` or `predict`.
        cfg: As composed.

    Raises:
        RequestError: Naming the key, file or box.
    """
    for key in {"train": (), "evaluate": ("ckpt",), "predict": ("ckpt", "source")}[verb]:
        if cfg[key] is None:
            raise RequestError(f"{key}= is required (see python -m detector.{verb} --help)")
    config = resolve(verb, cfg)
    if verb == "predict":
        source_files(config.source or "")
        return
    read_schedule(config)
    _check_devices(config)
    read_data(config, evaluated_split(config) if verb == "evaluate" else None, keep=True)
    if verb == "train":
        from detector.data.augment import Augmenter

        Augmenter(config.augment.steps, config.data.image_size)
    if verb == "train" and config.model.weights == "imagenet" and not config.ckpt:
        from detector.models.backbones import BACKBONES

        BACKBONES[config.backbone.name].imagenet()  # what cannot be fetched is said now


def resolve(verb: str, cfg: DictConfig) -> Config:
    """The configuration in force.

    Without a checkpoint, what was composed. With one, what the checkpoint was trained with, except
    for the keys and groups that were typed; an experiment typed stands for all of its keys.

    Args:
        verb: `train`, `evaluate` or `predict`.
        cfg: As composed, with `overrides`.
    """
    typed = [o.lstrip("+~").split("=")[0] for o in cfg.overrides]
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
    return config


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


def evaluated_split(config: Config) -> str:
    """The split that `evaluate` is asked for: by default `test`, or `val` where there is none."""
    return config.split or ("test" if config.data.splits.test else "val")


# What the check of a request has read, until the run takes it.
_kept: dict[str, tuple[dict[str, AnnotatedImages], ClassMap]] = {}


def read_data(
    config: Config, split: str | None = None, *, keep: bool = False
) -> tuple[dict[str, AnnotatedImages], ClassMap]:
    """Read annotations.

    Args:
        config: Says which data.
        split: The only one wanted, where it has split files of its own; None: all.
        keep: Remember the answer for the next call.

    Returns:
        `train`, `val` and, where there is one, `test`; and the classes.
    """
    key = f"{split} {config.seed} {config.ckpt} {config.data}"
    answer = _kept.pop(key, None) or _read_data(config, split)
    if keep:
        _kept[key] = answer
    return answer


def _read_data(config: Config, split: str | None) -> tuple[dict[str, AnnotatedImages], ClassMap]:
    data = config.data
    named = {k: v for k, v in vars(data.splits).items() if v}
    if split is not None and split not in named and split != "val":
        raise RequestError(f"split={split}: data.splits.{split} is null; there are {named}")
    if split in named and split is not None:
        named = {split: named[split]}
    if data.format == "trees" and data.root is None:
        root = trees.prepare()
    elif data.root is None:
        raise RequestError(f"data.root= is required: the folder of your data; {LAYOUT}")
    else:
        root = Path(data.root)
        if data.download:
            download_voc(root, [part for parts in named.values() for part in parts])
        else:
            _check_devkit(root, [part for parts in named.values() for part in parts])
    origin = f"those that {config.ckpt} knows" if config.ckpt else "data.classes"
    images, classes = read_voc(root, named, data.classes, origin)
    if "val" not in images and split in (None, "val"):
        images = _hold_out(images, data.val_fraction, config.seed)
    for name, found in images.items():
        if not (~found.ignore).any():
            raise RequestError(f"{root}: the split {name!r} has no boxes to learn or to find")
    return images, classes


def _check_devkit(root: Path, parts: Sequence[str]) -> None:
    """Say how to get the years of VOC that are asked for, where they are not there."""
    years = dict.fromkeys(part.partition("/")[0] for part in parts if part.startswith("VOC"))
    for year in years:
        if not any((base / year).is_dir() for base in (root, root / "VOCdevkit")):
            raise RequestError(
                f"data.root={root}: no VOCdevkit/{year} in it; expected VOCdevkit/"
                f"{{{','.join(years)}}}/{{Annotations,ImageSets/Main,JPEGImages}}, "
                "or fetch them with data.download=true (3 GB)"
            )


def _hold_out(
    images: dict[str, AnnotatedImages], fraction: float, seed: int
) -> dict[str, AnnotatedImages]:
    """Take a validation split out of the training images, by seed."""
    train = images["train"]
    count = max(1, round(fraction * len(train)))
    if count >= len(train):
        raise RequestError(f"{len(train)} training images are too few to hold {count} out for val")
    order = np.random.default_rng(seed).permutation(len(train))
    return {
        **images,
        "train": train.subset(np.sort(order[count:])),
        "val": train.subset(np.sort(order[:count])),
    }


def download_voc(root: Path, parts: Sequence[str]) -> None:
    """Fetch the VOC years that split names ask for, through torchvision.

    Args:
        root: The folder that gets `VOCdevkit/`.
        parts: Such as `VOC2007/trainval`; other names are left alone.

    Raises:
        RequestError: If it cannot be fetched.
    """
    from torchvision.datasets import VOCDetection

    for part in parts:
        year, _, name = part.partition("/")
        if not year.startswith("VOC"):
            continue
        if (root / "VOCdevkit" / year / "ImageSets" / "Main" / f"{name}.txt").is_file():
            continue
        root.mkdir(parents=True, exist_ok=True)
        image_set = "test" if name == "test" else "trainval"
        try:
            VOCDetection(root, year=year[3:], image_set=image_set, download=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise RequestError(f"data.download=true: cannot fetch {part}: {error}") from error


def source_files(source: str) -> list[Path]:
    """The image files that `source` means, sorted.

    Raises:
        RequestError: If there is nothing there.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise RequestError(f"source={source}: no such file or folder")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise RequestError(f"source={source}: no images in it ({', '.join(SUFFIXES)})")
    return files


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
    """The schedule, checked against the groups that every network has."""
    phases = [
        Phase(p.name, tuple(p.train), p.lr_factor, p.epochs, p.warmup_steps, p.final_factor)
        for p in config.finetune.phases
    ]
    return Schedule(phases, GROUPS, config.trainer.max_epochs)
