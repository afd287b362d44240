"""What is asked for: the configuration in force and its checkpoint, checked.

Torch and Lightning take seconds to import, so nothing here does at the top: a wrong request is
refused before.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detector.config.schedules import GROUPS, read_schedule
from detector.config.schema import WEIGHTS, Config, HeadConfig, LoggerConfig, parse, plain
from detector.core import run_folder
from detector.core.errors import RequestError, require
from detector.data.formats.folder import cache_folder
from detector.data.loading.image_cache import DiskCache
from detector.data.read import DataSet
from detector.finetune.schedule import Schedule
from detector.pipeline.build import loader_workers
from detector.pipeline.external import read_contest
from detector.pipeline.load_data import read_data, seen_in_training, source_files, usable_data
from detector.training.checkpoint import (
    absolute_path,
    checkpoint_classes,
    checkpoint_path,
    read_best,
    read_checkpoint,
    read_progress,
    read_trained_on,
    score_thresholds,
    weights_path,
)

RUN_KEYS = ("output_dir", "overrides")
# Keys that say what a verb does, which a checkpoint's configuration must not answer.
VERB_KEYS = (
    *("ckpt", "split", "source", "score_threshold", "preview", "dry_run"),
    *("predictions", "truth", "compare", "resamples", "gallery"),
    *("min_precision", "min_recall", "thresholds"),
    *("model.summary", "finetune.allow_changed"),
)
# What a checkpoint's weights do not fit otherwise.
NETWORK_KEYS = (
    *("backbone.name", "backbone.library", "model.in_channels", "model.fpn_channels"),
    *("model.neck_norm", "model.rpn_convs"),
    *(f"model.head.{key}" for key in HeadConfig.__dataclass_fields__),
    *("model.anchor_scales", "model.anchor_ratios"),
)
# What a run cannot change on its way: its optimiser's state and its best score would not fit.
KEPT_KEYS = (
    *("monitor", "data.image_size", "optim.name", "optim.momentum", "optim.ema"),
    *("optim.weight_decay", "optim.weight_decay_norm", "optim.weight_decay_bias"),
)
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
    if config.dry_run:  # that of train ends before it comes here
        raise RequestError("dry_run=true: only train has a dry run")
    if verb != "train" and config.model.summary != "false":
        raise RequestError(f"model.summary={config.model.summary}: only train prints one")
    if verb == "predict":
        source_files(config.source or "", config.model.in_channels)
        score_thresholds(config)
        return
    if config.predictions:
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
        from detector.models.backbones.build import backbone_spec

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


def resolve(verb: str, cfg: DictConfig) -> Config:
    """The configuration in force.

    Without a checkpoint, what was composed. With one, what the checkpoint was trained with, except
    for the keys and groups that were typed; an experiment typed stands for all of its keys.

    Args:
        verb: `train`, `evaluate` or `predict`.
        cfg: As composed, with `overrides`.
    """
    typed = [o.lstrip("+~").split("=")[0].replace("/", ".") for o in cfg.overrides]
    if cfg.data.root is not None and not str(cfg.data.root).strip():
        cfg.data.root = None  # as from an empty shell variable, which must not mean this folder
    if cfg.data.root is not None:
        # A checkpoint must know its data from any folder.
        cfg.data.root = str(absolute_path("data.root", str(cfg.data.root)))
    if cfg.model.weights not in WEIGHTS and ("model.weights" in typed or not cfg.ckpt):
        cfg.model.weights = str(weights_path(str(cfg.model.weights or "")))
    values = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k not in RUN_KEYS])
    if not values.ckpt:
        config = parse(values)
        if verb == "train" and "trainer.max_epochs" in typed:
            _check_epochs(config)
        return config
    path = checkpoint_path(verb, values.ckpt)
    ours = read_checkpoint(path)
    saved = OmegaConf.create(ours["config"])
    # Groups before the keys in them, in whatever order they were typed.
    others = () if verb == "train" else ("logger", "trainer.limit_test_batches")
    anew = {*VERB_KEYS, *others}
    if verb == "train":
        anew -= {"resamples", "gallery"}  # are part of the run that goes on
    for key in sorted({*anew, *typed}, key=lambda key: key.count(".")):
        if _has(values, key):
            OmegaConf.update(saved, key, OmegaConf.select(values, key), merge=False)
    try:
        before = parse(ours["config"])
    except RequestError as error:
        raise RequestError(f"ckpt={path}: made by another version of detector ({error})") from error
    config = parse(values if "experiment" in typed else saved)
    if config.data.root != before.data.root and "data.on_bad" not in typed:
        config.data.on_bad = "error"  # what was left out of one data set says nothing of another
    _refuse_changes(NETWORK_KEYS, config, before, path)
    if verb == "train":
        kept = [key for key in KEPT_KEYS if key != "optim.momentum" or config.optim.name == "sgd"]
        kept += [f"model.{k}" for k in vars(config.model) if k not in ("weights", "summary")]
        _refuse_changes(kept, config, before, path)
        if not config.finetune.allow_changed:
            _check_schedule(config, before, path)
        read_best(path)
        done, cap = read_progress(path).done, config.trainer.max_epochs
        wanted = f"at least {done}, which {path} has done"
        require(cap is None or cap >= done, "trainer.max_epochs", cap, wanted)
        if "trainer.max_epochs" in typed:
            _check_epochs(config, path)
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


def rival(config: Config, data: DataSet) -> Config:
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
        saved = parse(ours["config"])
    except RequestError as error:
        raise RequestError(f"{key}: made by another version of detector ({error})") from error
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
                f"{min(seen)}, and the other was not; train both with the same data.split.file="
            )


def wanted_split(verb: str, config: Config) -> str | None:
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


def _check_logger(logger: LoggerConfig) -> None:
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


def _refuse_changes(keys: Collection[str], config: Config, saved: Config, path: Path) -> None:
    """Refuse other values than a checkpoint was trained with."""
    for key in keys:
        new, old = (reduce(getattr, key.split("."), c) for c in (config, saved))
        if new != old:
            raise RequestError(f"{key}={_typed(new)}: {path} was trained with {_typed(old)}")


def _check_epochs(config: Config, path: Path | None = None) -> None:
    """Refuse more epochs than the schedule has, of which the rest would be left out silently."""
    asked = config.trainer.max_epochs
    if asked is None:
        return
    schedule = read_schedule(config)
    whole = Schedule(schedule.phases, GROUPS)
    progress = whole.start() if path is None else whole.adopt(read_progress(path))
    ended = path is not None and whole.finished(progress)
    most = progress.done if ended else whole.total(progress)
    if asked <= most:
        return
    parts = ", ".join(f"{phase.name} {phase.max_epochs}" for phase in whole.phases)
    longer = f"finetune.phases.{len(whole.phases) - 1}.until.max_epochs=N"
    if config.finetune.phases == "auto":
        longer = "finetune.auto.max_epochs=N"
    if path is not None:
        longer += " with finetune.allow_changed=true"
    said = f"{path}: its schedule has ended after" if ended else "the schedule has at most"
    raise RequestError(
        f"trainer.max_epochs={asked}: {said} {most} epochs ({parts}), and this key only stops it "
        f"sooner; longer phases: {longer}"
    )


def _check_schedule(config: Config, saved: Config, path: Path) -> None:
    """Refuse another schedule than a checkpoint was trained with, by the first key that differs."""
    both = config, saved
    new, old = ((c.finetune.norm, read_schedule(c).phases) for c in both)
    if new == old:
        return
    hint = "finetune.allow_changed=true goes on all the same"
    kinds = ["auto" if c.finetune.phases == "auto" else "a list of phases" for c in both]
    if kinds[0] != kinds[1]:
        raise RequestError(
            f"finetune.phases: {kinds[0]}, but {path} was trained with {kinds[1]}; {hint}"
        )
    values, before = (dict(_leaves("finetune", plain(c)["finetune"])) for c in both)
    for key in (*values, *before):
        if values.get(key) != before.get(key) and key != "finetune.allow_changed":
            raise RequestError(
                f"{key}={_typed(values.get(key))}: {path} was trained with "
                f"{_typed(before.get(key))}; {hint}"
            )


def _typed(value: Any) -> str:
    """A value as it is typed."""
    return "null" if value is None else str(value)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every single value in a nest of dictionaries and lists, with its dotted key."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in pairs:
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value


def _has(values: DictConfig, key: str) -> bool:
    """Whether a dotted key is there, be it null."""
    missing = object()
    return OmegaConf.select(values, key, default=missing) is not missing


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
