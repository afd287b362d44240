"""What a configuration may hold: types and ranges of every key, checked before any work.

The YAML files in conf/ hold the values; these classes hold none. A value of the wrong type or out
of range raises `RequestError` naming its key. Nothing in a configuration names code to run, so that
one read from a checkpoint is as harmless as one typed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detector.config.schedules import FinetuneConfig, explain
from detector.core.errors import RequestError, one_of, require
from detector.models.backbones.table import BACKBONES, TIMM, check_weights

# Names that tables of the network have as keys; importing those takes seconds.
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "hardswish")
NORMS = ("none", "batch")
# More would not fit into memory.
MOST_CHANNELS, WIDEST = 4096, 16384
WEIGHTS = ("imagenet", "coco", "none")
LOGGERS = ("tensorboard", "wandb", "mlflow", "none")  # also the names of their packages


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
    """How images are dealt out that the data set does not divide itself.

    Attributes:
        val: Share of the images.
        test: Likewise.
        file: A splits.json or the run that wrote it, instead of the ratios.
        seed: Of the division, whatever the training's.
        group: What stays together: a regular expression on names, or a CSV file.
    """

    val: float
    test: float
    file: str | None
    seed: int = 0  # older checkpoints have none
    group: str | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 < self.val < 1, "data.split.val", self.val, "a share of the images, 0 < x < 1")
        require(0 <= self.test < 1, "data.split.test", self.test, "a share, 0 <= x < 1")
        both = self.val + self.test
        require(both < 1, "data.split.val+test", both, "less than 1: the rest is for training")
        require(0 <= self.seed < 2**32, "data.split.seed", self.seed, "0..4294967295")
        good, wanted = self.group != "", "null, a regular expression or a CSV file"
        require(good, "data.split.group", self.group, wanted)


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
    """The pretrained network (conf/backbone).

    Attributes:
        name: Of a row in `detector.models.backbones.table`, or of a model of the library's.
        library: `detector` or `timm`.
    """

    name: str | None
    library: str

    def __post_init__(self) -> None:
        """Check ranges."""
        one_of("backbone.library", self.library, ("detector", "timm"))
        if self.library == "detector":
            one_of("backbone.name", str(self.name), BACKBONES)
        if not self.name:
            raise RequestError(
                "backbone=timm needs the name of a model, such as backbone.name=convnext_atto"
            )

    @property
    def key(self) -> str:
        """What `detector.models.backbones.build.backbone_spec` knows it by."""
        return f"{TIMM}{self.name}" if self.library == "timm" else f"{self.name}"


@dataclass
class HeadConfig:
    """The box head (conf/model/head); `detector.models.heads.HeadOptions` says what it means.

    `width` is what the lists of the shipped heads refer to.
    """

    convs: list[int]
    conv_norm: str
    pool: str
    hidden: list[int]
    dropout: float
    activation: str
    width: int

    def __post_init__(self) -> None:
        """Check ranges."""
        wanted = f"1..{WIDEST}"
        require(1 <= self.width <= WIDEST, "model.head.width", self.width, wanted)
        for key, most in (("convs", MOST_CHANNELS), ("hidden", WIDEST)):
            value = getattr(self, key)
            good = all(1 <= v <= most for v in value)
            require(good, f"model.head.{key}", value, f"a list of numbers in 1..{most}")
        one_of("model.head.conv_norm", self.conv_norm, NORMS)
        one_of("model.head.pool", self.pool, ("flatten", "average"))
        require(0 <= self.dropout < 1, "model.head.dropout", self.dropout, "0 <= x < 1")
        one_of("model.head.activation", self.activation, ACTIVATIONS)
        normed = self.conv_norm != "none"
        wanted = "none, as model.head.convs=[] has nothing to norm"
        require(bool(self.convs) or not normed, "model.head.conv_norm", self.conv_norm, wanted)
        wanted = "0, as it acts on the layers of model.head.hidden, which is []"
        require(bool(self.hidden) or not self.dropout, "model.head.dropout", self.dropout, wanted)


@dataclass
class ModelConfig:
    """The detector (conf/model); `detector.models.faster_rcnn.FasterRCNNOptions` says it all.

    `weights` that are none of `WEIGHTS` are the path of a file, which a checkpoint outlives.
    """

    weights: str
    in_channels: int
    fpn_channels: int
    neck_norm: str
    rpn_convs: int
    head: HeadConfig
    anchor_scales: list[float]
    anchor_ratios: list[float]
    rpn_top_n_train: int
    rpn_top_n_test: int
    rpn_batch_per_image: int
    box_batch_per_image: int
    score_threshold: float
    nms_threshold: float
    detections_per_image: int
    summary: str = "false"  # what a verb does

    def __post_init__(self) -> None:
        """Check ranges."""
        self.summary = self.summary.lower()  # `true` and `false` come as booleans
        one_of("model.summary", self.summary, ("false", "true", "profile"))
        one_of("model.neck_norm", self.neck_norm, NORMS)
        good, wanted = 1 <= self.fpn_channels <= MOST_CHANNELS, f"1..{MOST_CHANNELS}"
        require(good, "model.fpn_channels", self.fpn_channels, wanted)
        wanted = "1 (grey), 3 (RGB) or 4 (RGB and one more band); other files are not read"
        require(self.in_channels in (1, 3, 4), "model.in_channels", self.in_channels, wanted)
        for key, value in vars(self).items():
            if isinstance(value, int):
                require(value >= 1, f"model.{key}", value, "at least 1")
            elif isinstance(value, float):
                require(0 <= value <= 1, f"model.{key}", value, "0..1")
            elif isinstance(value, list):
                good = bool(value) and all(v > 0 for v in value)
                require(good, f"model.{key}", value, "a list of positive numbers")


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
class LoggerConfig:
    """Where a run is logged beside metrics.csv (conf/logger); None is what a logger has not.

    Attributes:
        name: One of `LOGGERS`.
        project: W&B's project, MLflow's experiment.
        run: Its name there; None: the last two parts of the run's folder.
        offline: Keep W&B's files in the run's folder, and send nothing.
        uri: Of MLflow's server or database; None: a database in the run's folder.
    """

    name: str = "none"
    project: str | None = None
    run: str | None = None
    offline: bool = False
    uri: str | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        one_of("logger.name", self.name, LOGGERS)
        if self.name in ("wandb", "mlflow"):
            good, wanted = bool((self.project or "").strip()), "a name"
            if self.name == "wandb":
                good = good and not set(self.project or "") & set("/\\#?%:")
                wanted = "a name without / \\ # ? % :"
            require(good, "logger.project", self.project, wanted)
        for key in ("run", "uri"):
            value = getattr(self, key)
            good = value is None or bool(value.strip())
            require(good, f"logger.{key}", value, "null or some text")


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
    logger: LoggerConfig = field(default_factory=LoggerConfig)  # older checkpoints have none
    # what a verb does
    dry_run: bool = False
    split: str | None = None
    preview: bool = False
    source: str | None = None
    predictions: str | None = None
    truth: str | None = None
    compare: str | None = None
    resamples: int = 1000
    gallery: int = 100
    score_threshold: float | None = None
    min_precision: float | None = None
    min_recall: float | None = None
    thresholds: str | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 <= self.seed < 2**32, "seed", self.seed, "0..4294967295")
        one_of("monitor", self.monitor, ("val/map", "val/map_50"))
        check_weights(self.model.weights, self.backbone.key)
        for key in ("score_threshold", "min_precision", "min_recall"):
            value = getattr(self, key)
            require(value is None or 0 <= value <= 1, key, value, "null or 0..1")
        rules = ("score_threshold", "min_precision", "min_recall")
        typed = [key for key in rules if getattr(self, key) is not None]
        if len(typed) > 1:
            raise RequestError(f"{typed[0]}= and {typed[1]}=: expected one of the two")
        if self.score_threshold is not None and self.thresholds is not None:
            raise RequestError("score_threshold= and thresholds=: expected one of the two")
        good = self.resamples == 0 or 100 <= self.resamples <= 100_000
        require(good, "resamples", self.resamples, "0 (no intervals) or 100..100000")
        require(0 <= self.gallery <= 1000, "gallery", self.gallery, "0..1000")
        if self.model.summary == "profile" and self.trainer.compile:
            raise RequestError(
                "model.summary=profile: trainer.compile=true runs all stages as one, which cannot "
                "be timed apart; leave one of them out"
            )
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
        raise RequestError(explain(error)) from error
    assert isinstance(config, Config)
    return config


def plain(config: Config) -> dict[str, Any]:
    """The configuration as dictionaries, lists, strings and numbers."""
    data = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


def conf_folder() -> Path:
    """The folder of the YAML files: beside this module in a wheel, else the source tree's."""
    here = Path(__file__).resolve()
    packaged = here.parents[1] / "conf"
    return packaged if packaged.is_dir() else here.parents[3] / "conf"
