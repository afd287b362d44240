"""What a configuration may hold: types and ranges of every key, checked before any work.

The YAML files in conf/ hold the values; these classes hold none. A value of the wrong type or out
of range raises `RequestError` naming its key. Nothing in a configuration names code to run, so that
one read from a checkpoint is as harmless as one typed in.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from detector.types import RequestError


def require(condition: bool, key: str, value: object, wanted: str) -> None:
    """Raise `RequestError` for a key unless the condition holds."""
    if not condition:
        raise RequestError(f"{key}={value}: expected {wanted}")


def one_of(key: str, value: str, choices: Collection[str]) -> None:
    """Raise `RequestError` for a key unless its value is among the choices."""
    require(value in choices, key, value, "one of " + ", ".join(choices))


@dataclass
class SplitsConfig:
    """What each split is called in the data set: lists, folders or files.

    Null takes the usual names (train; val, valid; test), an empty list none.
    """

    train: list[str] | None
    val: list[str] | None
    test: list[str] | None

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.train != [], "data.splits.train", self.train, "null or at least one name")


@dataclass
class SplitConfig:
    """How images are dealt out that the data set does not divide itself."""

    val: float
    test: float
    file: str | None

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 < self.val < 1, "data.split.val", self.val, "a share of the images, 0 < x < 1")
        require(0 <= self.test < 1, "data.split.test", self.test, "a share, 0 <= x < 1")
        both = self.val + self.test
        require(both < 1, "data.split.val+test", both, "less than 1: the rest is for training")


@dataclass
class DataConfig:
    """The data set and how it is loaded (conf/data)."""

    format: str
    root: str | None
    splits: SplitsConfig
    split: SplitConfig
    classes: list[str] | None
    on_bad: str
    image_size: int
    batch_size: int
    workers: int | None
    group_by_aspect: bool
    repeat_threshold: float | None
    cache: str
    pin_memory: bool
    stall_seconds: float
    download: bool

    def __post_init__(self) -> None:
        """Check ranges."""
        one_of("data.format", self.format, ("auto", "voc", "coco", "yolo", "trees"))
        one_of("data.on_bad", self.on_bad, ("error", "skip"))
        one_of("data.cache", self.cache, ("none", "ram", "disk"))
        require(32 <= self.image_size <= 4096, "data.image_size", self.image_size, "32..4096")
        require(self.batch_size >= 1, "data.batch_size", self.batch_size, "at least 1")
        require((self.workers or 0) >= 0, "data.workers", self.workers, "null or at least 0")
        share = self.repeat_threshold
        good = share is None or 0 < share <= 1
        require(good, "data.repeat_threshold", share, "null or a share of the images, 0 < x <= 1")
        require(self.stall_seconds > 0, "data.stall_seconds", self.stall_seconds, "above 0")
        names = ["one"] if self.classes is None else self.classes
        good = bool(names) and len(set(names)) == len(names) and all(map(str.strip, names))
        require(good, "data.classes", names, "null, or every class once")


@dataclass
class AugmentConfig:
    """The augmentation (conf/augment)."""

    steps: list[dict[str, Any]]
    min_visibility: float

    def __post_init__(self) -> None:
        """Check ranges."""
        value = self.min_visibility
        require(0 <= value < 1, "augment.min_visibility", value, "0 <= x < 1")


@dataclass
class BackboneConfig:
    """The pretrained network (conf/backbone)."""

    name: str

    def __post_init__(self) -> None:
        """Check ranges."""
        one_of("backbone.name", self.name, ("resnet50", "efficientnet_lite0"))


@dataclass
class ModelConfig:
    """The detector (conf/model); `detector.models.faster_rcnn.FasterRCNNOptions` says it all."""

    weights: str
    fpn_channels: int
    head_channels: int
    anchor_scales: list[float]
    anchor_ratios: list[float]
    rpn_top_n_train: int
    rpn_top_n_test: int
    rpn_batch_per_image: int
    box_batch_per_image: int
    score_threshold: float
    nms_threshold: float
    detections_per_image: int

    def __post_init__(self) -> None:
        """Check ranges."""
        one_of("model.weights", self.weights, ("imagenet", "none"))
        for key, value in vars(self).items():
            if isinstance(value, int):
                require(value >= 1, f"model.{key}", value, "at least 1")
            elif isinstance(value, float):
                require(0 <= value <= 1, f"model.{key}", value, "0..1")
            elif isinstance(value, list):
                good = bool(value) and all(v > 0 for v in value)
                require(good, f"model.{key}", value, "a list of positive numbers")


@dataclass
class WarmupConfig:
    """The start of a phase; `detector.finetune.phases.Warmup` says what it means."""

    steps: int
    start_factor: float = 0.001
    groups: str = "all"


@dataclass
class DecayConfig:
    """The course of a phase; `detector.finetune.phases.Decay` says what it means."""

    type: str
    final_factor: float = 0.0


@dataclass
class PlateauConfig:
    """An early end; `detector.finetune.phases.Plateau` says what it means."""

    patience: int
    min_delta: float = 0.0
    min_epochs: int = 1


@dataclass
class UntilConfig:
    """The end of a phase: whichever comes first."""

    max_epochs: int
    plateau: PlateauConfig | None = None


@dataclass
class PhaseConfig:
    """One phase of the schedule; `detector.finetune.phases.Phase` says what it means."""

    name: str
    train: list[str]
    until: UntilConfig
    lr_factor: dict[str, float] = field(default_factory=dict)
    warmup: WarmupConfig | None = None
    decay: DecayConfig | None = None
    restore_best: bool = False
    optimizer_state: str = "current"


@dataclass
class AutoConfig:
    """The phases of `auto`; `detector.finetune.phases.work_backwards` says what it means."""

    max_epochs: int
    patience: int
    min_delta: float
    head_factor: float
    stage_factor: float
    falloff: float
    warmup: WarmupConfig
    decay: DecayConfig

    def __post_init__(self) -> None:
        """Check what no phase would name."""
        for key in ("max_epochs", "patience"):
            value = getattr(self, key)
            require(value >= 1, f"finetune.auto.{key}", value, "at least 1")
        for key in ("min_delta", "head_factor", "stage_factor", "falloff"):
            value = getattr(self, key)
            good = math.isfinite(value) and value >= 0
            require(good, f"finetune.auto.{key}", value, "a number >= 0")


@dataclass
class EarlyStoppingConfig:
    """The end of the run when the last phase no longer improves; no patience: never."""

    patience: int | None
    min_delta: float

    def __post_init__(self) -> None:
        """Check ranges."""
        good = self.patience is None or self.patience >= 1
        key = "finetune.early_stopping"
        require(good, f"{key}.patience", self.patience, "null or at least 1")
        good = math.isfinite(self.min_delta) and self.min_delta >= 0
        require(good, f"{key}.min_delta", self.min_delta, "a number >= 0")


@dataclass
class FinetuneConfig:
    """What is frozen when (conf/finetune).

    Attributes:
        norm: How norm layers behave (`detector.models.stages`).
        phases: A list of `PhaseConfig`, or the word `auto`.
        auto: How `auto` makes its phases.
        early_stopping: A plateau for the last phase.
        allow_changed: Go on from a checkpoint with another schedule than it was trained with.
    """

    norm: str
    phases: Any
    early_stopping: EarlyStoppingConfig
    allow_changed: bool
    auto: AutoConfig | None = None

    def __post_init__(self) -> None:
        """Check ranges; the phases are checked against the network's groups later."""
        one_of("finetune.norm", self.norm, ("frozen", "eval_when_frozen", "train"))
        if self.phases == "auto":
            if self.auto is None:
                raise RequestError(
                    "finetune.phases=auto: needs finetune.auto; finetune=auto has both"
                )
            return
        good = isinstance(self.phases, list)
        require(good, "finetune.phases", self.phases, "auto or a list of phases")
        self.phases = [_phase(i, values) for i, values in enumerate(self.phases)]


def _phase(index: int, values: object) -> PhaseConfig:
    """Check the keys and types of a phase, which OmegaConf cannot in a list that may be a word."""
    key = f"finetune.phases[{index}]"
    if isinstance(values, PhaseConfig):
        return values
    if not isinstance(values, dict):
        raise RequestError(f"{key}={values}: expected keys such as name, train and until")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(PhaseConfig), values)
        phase = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise RequestError(_explain(error, f"{key}.")) from error
    assert isinstance(phase, PhaseConfig)
    return phase


@dataclass
class OptimConfig:
    """The optimiser (conf/optim)."""

    name: str
    lr: float
    reference_batch: int | None
    momentum: float
    weight_decay: float
    weight_decay_norm: float
    weight_decay_bias: float
    l1: float
    clip_norm: float | None
    ema: float | None

    def __post_init__(self) -> None:
        """Check ranges."""
        one_of("optim.name", self.name, ("sgd", "adamw"))
        require(self.lr > 0, "optim.lr", self.lr, "a positive number")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "0 <= x < 1")
        for key in ("weight_decay", "weight_decay_norm", "weight_decay_bias", "l1"):
            value = getattr(self, key)
            good = math.isfinite(value) and value >= 0
            require(good, f"optim.{key}", value, "a number >= 0")
        good = self.clip_norm is None or self.clip_norm > 0
        require(good, "optim.clip_norm", self.clip_norm, "null or a positive number")
        good = self.ema is None or 0 < self.ema < 1
        require(good, "optim.ema", self.ema, "null or a share, 0 < x < 1, such as 0.99")
        require(
            self.reference_batch is None or self.reference_batch >= 1,
            "optim.reference_batch",
            self.reference_batch,
            "null or at least 1",
        )


@dataclass
class TrainerConfig:
    """Where and how long it runs (conf/trainer)."""

    max_epochs: int | None
    accelerator: str
    devices: int | str
    num_nodes: int
    precision: str
    channels_last: bool
    fused: bool
    compile: bool
    tf32: bool
    limit_train_batches: int | float
    limit_val_batches: int | float
    limit_test_batches: int | float

    def __post_init__(self) -> None:
        """Check ranges."""
        wanted = "null or at least 1"
        good = self.max_epochs is None or self.max_epochs >= 1
        require(good, "trainer.max_epochs", self.max_epochs, wanted)
        one_of("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu", "mps"))
        one_of("trainer.precision", self.precision, ("auto", "32", "bf16-mixed", "16-mixed"))
        good = self.devices == "auto" or (isinstance(self.devices, int) and self.devices >= 1)
        require(good, "trainer.devices", self.devices, "auto or a number of devices")
        require(self.num_nodes >= 1, "trainer.num_nodes", self.num_nodes, "at least 1")
        for split in ("train", "val", "test"):
            key = f"limit_{split}_batches"
            value = getattr(self, key)
            good = value >= 1 if isinstance(value, int) else 0 < value <= 1
            require(good, f"trainer.{key}", value, "a number of batches or a share in 0..1")


@dataclass
class Config:
    """Everything that `train` is told; the other verbs add a few keys of their own."""

    name: str
    seed: int
    ckpt: str | None
    monitor: str
    data: DataConfig
    augment: AugmentConfig
    backbone: BackboneConfig
    model: ModelConfig
    finetune: FinetuneConfig
    optim: OptimConfig
    trainer: TrainerConfig
    # what a verb does
    dry_run: bool = False
    split: str | None = None
    preview: bool = False
    source: str | None = None
    score_threshold: float = 0.5

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 <= self.seed < 2**32, "seed", self.seed, "0..4294967295")
        one_of("monitor", self.monitor, ("val/map", "val/map_50"))
        require(0 <= self.score_threshold <= 1, "score_threshold", self.score_threshold, "0..1")
        if self.split is not None:
            one_of("split", self.split, ("train", "val", "test"))


def parse(values: DictConfig | dict[str, Any]) -> Config:
    """Turn a composed configuration into a checked one.

    Args:
        values: As Hydra composed it, or plain data from a checkpoint.

    Raises:
        RequestError: If a key is unknown or missing, or a value is of the wrong type or out of
            range; the message names the key.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), values)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise RequestError(_explain(error)) from error
    assert isinstance(config, Config)
    return config


def _explain(error: OmegaConfBaseException, prefix: str = "") -> str:
    """What OmegaConf found, after the key it is about."""
    reason = str(error).splitlines()[0]
    if "not a ListConfig" in reason:
        reason = "expected a list, such as [a, b]"
    elif "has missing mandatory value" in reason:
        reason = "missing"
    elif isinstance(error, ConfigKeyError) and error.object_type is not None:
        there = getattr(error.object_type, "__dataclass_fields__", {})
        reason = "no such key; there are " + ", ".join(there) if there else reason
    return f"{prefix}{getattr(error, 'full_key', None) or 'configuration'}: {reason}"


def plain(config: Config) -> dict[str, Any]:
    """The configuration as dictionaries, lists, strings and numbers."""
    data = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


def conf_folder() -> Path:
    """The folder of the YAML files: beside this module in a wheel, else the source tree's."""
    here = Path(__file__).resolve()
    packaged = here.parent / "conf"
    return packaged if packaged.is_dir() else here.parents[2] / "conf"
