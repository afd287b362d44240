"""The configuration in force: what was typed, together with what a checkpoint was trained with."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detector.config.messages import choices, hints
from detector.config.schedules import read_schedule
from detector.config.schema import C, Config, parse, plain
from detector.core.errors import RequestError, require
from detector.core.options import Fixed
from detector.core.run_folder import RunFolder
from detector.models.options import STANDARD_ANCHORS, WEIGHTS
from detector.training.checkpoint import (
    absolute_path,
    checkpoint_classes,
    checkpoint_path,
    read_best,
    read_checkpoint,
    read_progress,
    weights_path,
)

RUN_KEYS = ("output_dir", "overrides")  # of the composed configuration, beside its values
# What checkpoints of earlier versions hold that is no longer part of a run's configuration.
DROPPED = (
    *("trainer.fused", "dry_run", "split", "preview", "source", "predictions", "truth", "compare"),
    *("score_threshold", "min_precision", "min_recall", "thresholds"),
)
ANCHORS = "model.anchors"
ANCHOR_NUMBERS = ("model.anchor_scales", "model.anchor_ratios")
# What may be `auto`, and the keys that hold what is chosen then.
FITTED = {
    ANCHORS: (ANCHORS, *ANCHOR_NUMBERS),
    "data.image_size": ("data.image_size",),
    "model.levels": ("model.levels",),
    "model.detections_per_image": ("model.detections_per_image",),
}


def resolve(kind: type[C], cfg: DictConfig, *, resume: bool = False) -> C:
    """The configuration in force.

    Without a checkpoint, what was composed. With one, what the checkpoint was trained with, except
    for the keys and groups that were typed and the keys of the command itself; an experiment typed
    stands for all of its keys.

    Args:
        kind: Configuration of the command.
        cfg: As composed, with `overrides`.
        resume: Whether the checkpoint's run is continued.

    Raises:
        RequestError: If the configuration is wrong or does not fit the checkpoint.
    """
    typed = [str(o).lstrip("+~").split("=")[0].replace("/", ".") for o in cfg.overrides]
    values = _values(cfg, typed)
    summary = str(values["model"]["summary"]).lower()
    if not resume and summary != "false":
        raise RequestError(f"model.summary={summary}: only train prints one")
    config = parse(values, kind)  # also with a checkpoint, which takes seconds to read
    if not values["ckpt"]:
        return config
    path = checkpoint_path("train" if resume else "evaluate", values["ckpt"])
    before = saved_config(path)
    asked = values if "experiment" in typed else _merged(kind, before, values, typed, resume)
    _keep_what_was_fitted(asked, plain(before))
    config = parse(asked, kind)
    if config.data.root != before.data.root and "data.on_bad" not in typed:
        # What was left out of one data set says nothing of another.
        config = replace(config, data=replace(config.data, on_bad="error"))
    _refuse_changes(fixed_keys(kind, "network"), config, before, path)
    if resume:
        _check_continued(kind, config, before, path, typed)
    return _with_data_of(config, path, typed)


def saved_config(path: Path) -> Config:
    """The configuration that a checkpoint was trained with.

    Raises:
        RequestError: If it is no checkpoint, or one that this version cannot use.
    """
    try:
        return parse(migrated(read_checkpoint(path)["config"]))
    except RequestError as error:
        if str(error).startswith("ckpt="):
            raise
        raise RequestError(f"ckpt={path}: made by another version of detector ({error})") from error


def migrated(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's configuration as this version has it.

    Args:
        saved: As an earlier version wrote it, which is not changed.
    """
    now = {k: dict(v) if isinstance(v, Mapping) else v for k, v in saved.items()}
    for key in DROPPED:
        group, _, name = key.rpartition(".")
        part = now.get(group) if group else now
        if isinstance(part, dict):
            part.pop(name, None)
    data = now.get("data")
    if isinstance(data, dict) and "split" in data:
        data["auto_split"] = data.pop("split")
    return now


def fixed_keys(kind: type, by: str, prefix: str = "") -> list[str]:
    """The keys of a class whose metadata is `fixed(by)`, dotted."""
    keys = []
    for name, hint in hints(kind).items():
        if any(isinstance(item, Fixed) and item.by == by for item in get_args(hint)[1:]):
            keys.append(f"{prefix}{name}")
        for part in filter(is_dataclass, choices(hint)):
            keys += fixed_keys(part, by, f"{prefix}{name}.")  # type: ignore[arg-type]
    return keys


def command_keys(kind: type[Config]) -> list[str]:
    """The keys that belong to the command, and are never taken from a checkpoint."""
    shared = {field.name for field in fields(Config)}
    own = [field.name for field in fields(kind) if field.name not in shared]
    return [*own, *fixed_keys(Config, "command")]


def _values(cfg: DictConfig, typed: Collection[str]) -> dict[str, Any]:
    """What was composed, with paths that hold from any folder, as a checkpoint must know them."""
    try:
        chosen = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in RUN_KEYS])
        values = OmegaConf.to_container(chosen, resolve=True)
    except OmegaConfBaseException as error:  # an interpolation
        raise RequestError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(values, dict)
    data, model, name = values["data"], values["model"], str(values["name"])
    good = name.strip() not in ("", "..") and Path(name).name == name
    require(good, "name", name, "the name of one folder, which is made below outputs/")
    root = "" if data["root"] is None else str(data["root"])
    # An empty one, as from an empty shell variable, must not mean the working directory.
    data["root"] = str(absolute_path("data.root", root)) if root.strip() else None
    _settle_anchors(model, typed)
    if model["weights"] not in WEIGHTS and ("model.weights" in typed or not values["ckpt"]):
        model["weights"] = str(weights_path(str(model["weights"] or ""), WEIGHTS))
    values["ckpt"] = None if values["ckpt"] is None else str(values["ckpt"])
    return {str(key): value for key, value in values.items()}


def _settle_anchors(model: dict[str, Any], typed: Collection[str]) -> None:
    """Take typed anchors as fixed, and forget those of an experiment where they are to be fitted.

    Raises:
        RequestError: If both are typed.
    """
    numbers = [key for key in typed if key.startswith(ANCHOR_NUMBERS)]
    asked = ANCHORS in typed and model["anchors"] == "auto"
    if numbers and asked:
        raise RequestError(
            f"model.anchors=auto: {numbers[0]} is typed, too, and would be fitted to the data; "
            "leave one of them out"
        )
    if numbers:
        model["anchors"] = "fixed"
    elif asked:
        model["anchor_scales"], model["anchor_ratios"] = map(list, STANDARD_ANCHORS)


def _keep_what_was_fitted(values: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Put what a checkpoint's run has chosen in place of `auto`: nothing is fitted twice."""
    for key, chosen in FITTED.items():
        group, name = key.split(".")
        if values[group][name] == "auto":
            for each in chosen:
                name = each.split(".")[1]
                values[group][name] = saved[group][name]


def _merged(
    kind: type[Config], before: Config, values: Mapping[str, Any], typed: list[str], resume: bool
) -> dict[str, Any]:
    """A checkpoint's configuration with the command's own keys and those that were typed."""
    saved = plain(before)
    anew = {*command_keys(kind), *typed, *(() if resume else fixed_keys(kind, "scoring"))}
    # Groups before the keys in them, in whatever order they were typed.
    for key in sorted(anew, key=lambda key: key.count(".")):
        *groups, name = key.split(".")
        source: Any = reduce(_item, groups, values)
        target: Any = reduce(_item, groups, saved)
        if isinstance(source, Mapping) and name in source and isinstance(target, dict):
            target[name] = source[name]
        elif isinstance(target, list) and _item(source, name) is not None:
            target[int(name)] = source[int(name)]
    return saved


def _item(values: Any, step: str) -> Any:
    """A value in a nest of dictionaries and lists; None where there is none."""
    if isinstance(values, list):
        return values[int(step)] if step.isdigit() and int(step) < len(values) else None
    return values.get(step) if isinstance(values, Mapping) else None


def _with_data_of(config: C, path: Path, typed: list[str]) -> C:
    """A configuration with the classes of a checkpoint, and with its split of the same data."""
    names = list(checkpoint_classes(read_checkpoint(path)).names)
    if config.data.classes not in (None, names):
        raise RequestError(
            f"data.classes={config.data.classes}, but {path} knows {', '.join(names)}"
        )
    split = config.data.auto_split
    if not any(re.match(r"experiment|data$|data\.(root|format|auto_split)", key) for key in typed):
        # Images added since must not move others from one split to another.
        file = RunFolder.of_checkpoint(path).splits
        split = replace(split, file=str(file.resolve()) if file.is_file() else None)
    return replace(config, data=replace(config.data, classes=names, auto_split=split))


def _check_continued(
    kind: type[C], config: C, before: Config, path: Path, typed: Collection[str]
) -> None:
    """Refuse what a run cannot change on its way."""
    kept = fixed_keys(kind, "resume")
    if config.optim.name != "sgd":
        kept.remove("optim.momentum")  # is not used
    _refuse_changes(kept, config, before, path)
    if not config.finetune.allow_changed:
        _check_schedule(config, before, path)
    read_best(path)
    progress, cap = read_progress(path), config.trainer.max_epochs
    done = math.ceil(progress.step / progress.per_epoch)  # as epochs may have been cut
    wanted = f"at least {done}, which {path} has done"
    good = cap in (None, before.trainer.max_epochs) or cap >= done
    require(good, "trainer.max_epochs", cap, wanted)


def _refuse_changes(keys: Collection[str], config: Config, saved: Config, path: Path) -> None:
    """Refuse other values than a checkpoint was trained with."""
    for key in keys:
        new, old = (reduce(getattr, key.split("."), c) for c in (config, saved))
        if new != old:
            raise RequestError(f"{key}={_typed(new)}: {path} was trained with {_typed(old)}")


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
    values, before = (dict(_leaves("finetune", plain(c.finetune))) for c in both)
    for key in (*values, *before):
        if values.get(key) != before.get(key) and key != "finetune.allow_changed":
            raise RequestError(
                f"{key}={_typed(values.get(key))}: {path} was trained with "
                f"{_typed(before.get(key))}; {hint}"
            )


def _typed(value: Any) -> str:
    """A value as it is typed."""
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every single value in a nest of dictionaries and lists, with its dotted key."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in pairs:
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value
