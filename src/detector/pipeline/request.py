"""What is asked for: the configuration in force and its checkpoint, checked.

Torch and Lightning take seconds to import, so nothing here does at the top: a wrong request is
refused before.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detector.config.schedules import GROUPS, read_schedule
from detector.config.schema import WEIGHTS, Config, HeadConfig, parse, plain
from detector.core.errors import RequestError, require
from detector.core.run_folder import RunFolder
from detector.finetune.schedule import Schedule
from detector.training.checkpoint import (
    absolute_path,
    checkpoint_classes,
    checkpoint_path,
    read_best,
    read_checkpoint,
    read_progress,
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
        cfg.model.weights = str(weights_path(str(cfg.model.weights or ""), WEIGHTS))
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
        splits = RunFolder.of_checkpoint(path).splits
        config.data.split.file = str(splits.resolve()) if splits.is_file() else None
    return config


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
