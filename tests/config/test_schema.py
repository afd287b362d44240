"""What a configuration may hold, and what is said of anything else."""

import copy
import re
from dataclasses import fields, is_dataclass
from types import NoneType

import pytest
from conftest import composed
from pydantic_core import PydanticUndefined

from detector.cli import load_command
from detector.config.help import descriptions
from detector.config.messages import choices, hints
from detector.config.schema import Config, command_names, parse, plain
from detector.core.errors import RequestError

TRAIN = load_command("train").KEYS


def changed(values, key, value):
    """Plain values with another one at a dotted key."""
    values = copy.deepcopy(values)
    *groups, name = key.split(".")
    part = values
    for group in groups:
        part = part[int(group)] if isinstance(part, list) else part[group]
    part[name] = value
    return values


def parsed(key, value, *overrides):
    config = parse(changed(composed("train", *overrides), key, value), TRAIN)
    for name in key.split("."):
        config = config[int(name)] if name.isdigit() else getattr(config, name)
    return config


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", "many", "seed=many: expected a whole number, 0..4294967295"),
        ("monitor", "map", "monitor=map: expected one of val/map, val/map_50"),
        ("resamples", 5, "resamples=5: expected 0 (no intervals) or 100..100000"),
        ("dry_run", 3, "dry_run=3: expected true or false"),
        ("data.batch_size", 0, "data.batch_size=0: expected at least 1"),
        ("data.batch_size", True, "data.batch_size=true: expected a whole number, at least 1"),
        ("data.workers", "two", "data.workers=two: expected null or a whole number, at least 0"),
        ("model.head.hidden", ["a"], "model.head.hidden[0]=a: expected a whole number, 1..16384"),
        ("data.batch_size", 2.5, "data.batch_size=2.5: expected a whole number, at least 1"),
        ("data.image_size", None, "data.image_size=null: expected auto or 32..4096"),
        ("data.workers", -1, "data.workers=-1: expected null or at least 0"),
        ("data.repeat_threshold", 2, "data.repeat_threshold=2: expected null or 0 < x <= 1"),
        ("data.format", "csv", "data.format=csv: expected one of auto, voc, coco, yolo, trees"),
        ("data.splits.train", [], "data.splits.train=[]: expected null or a list of at least one"),
        ("data.classes", ["a", "a"], "data.classes=['a', 'a']: expected null, or every class once"),
        ("data.classes", [" "], "data.classes=[' ']: expected null, or every class once"),
        ("data.auto_split.val", 0, "data.auto_split.val=0: expected 0 < x < 1"),
        ("data.auto_split.test", 0.9, "data.auto_split.val+test=1.05: expected less than 1"),
        ("data.auto_split.group", "", "data.auto_split.group=: expected null or a regular expr"),
        ("augment.steps", "D4", "augment.steps=D4: expected a list, such as [a, b]"),
        ("augment.min_visibility", 1, "augment.min_visibility=1: expected 0 <= x < 1"),
        ("backbone.name", "resnet51", "backbone.name=resnet51: expected one of alexnet, zfnet"),
        ("model.in_channels", 2, "model.in_channels=2: expected 1 (grey), 3 (RGB) or 4 (RGB and"),
        ("model.head", "mlp", "model.head: expected a group; model/head=NAME chooses one of its"),
        ("model.head.hidden", [9, 0], "model.head.hidden[1]=0: expected 1..16384"),
        ("model.head.dropout", 1, "model.head.dropout=1: expected 0 <= x < 1"),
        ("model.anchor_scales", 8, "model.anchor_scales=8: expected a list of at least one, each"),
        ("model.anchor_scales", [], "model.anchor_scales=[]: expected a list of at least one, ea"),
        ("model.anchor_scales", [4], "model.anchor_scales=[4.0]: expected nothing beside model.an"),
        ("model.anchor_ratios", [1], "model.anchor_ratios=[1.0]: expected nothing beside model.an"),
        ("model.detections_per_image", 0, "model.detections_per_image=0: expected auto or at lea"),
        ("model.nms_threshold", 1.5, "model.nms_threshold=1.5: expected 0..1"),
        ("model.summary", "tru", "model.summary=tru: expected one of false, true, profile"),
        ("finetune.norm", "off", "finetune.norm=off: expected one of frozen, eval_when_frozen, t"),
        ("finetune.phases", "all", "finetune.phases=all: expected auto or a list of phases"),
        ("finetune.phases", [3], "finetune.phases[0]=3: expected the keys name, train, until, lr"),
        ("finetune.phases", [{"name": "a"}], "finetune.phases[0].train: missing"),
        ("finetune.phases.0.until", 2, "finetune.phases[0].until=2: expected the keys share, max"),
        (
            "finetune.phases.0.until",
            {},
            "finetune.phases[0].until: expected one of the keys share and max_epochs",
        ),
        (
            "finetune.phases.0.until",
            {"share": 1, "max_epochs": 2},
            "finetune.phases[0].until: expected one of the keys share and max_epochs",
        ),
        ("finetune.phases.0.until.share", 0, "finetune.phases[0].until.share=0: expected null or"),
        (
            "finetune.phases.0.until.share",
            0.7,
            "finetune.phases: the shares add up to 0.7 = 0.7, expected 1",
        ),
        ("finetune.epochs", None, "finetune.epochs: missing; phases with shares need a length"),
        (
            "finetune.phases.0.until",
            {"max_epochs": 10**20},
            "finetune.phases[0].until.max_epochs=100000000000000000000: expected null or",
        ),
        (
            "finetune.phases.0.until.plateau",
            {"patience": 0},
            "finetune.phases[0].until.plateau.patience=0: expected at least 1",
        ),
        (
            "finetune.phases.0.until.plateau",
            {"patience": 1, "min_delta": float("inf")},
            "finetune.phases[0].until.plateau.min_delta=inf: expected at least 0",
        ),
        (
            "finetune.phases.0.warmup.groups",
            "old",
            "finetune.phases[0].warmup.groups=old: expected one of all, new",
        ),
        (
            "finetune.phases.0.warmup.steps",
            -1,
            "finetune.phases[0].warmup.steps=-1: expected at least 0",
        ),
        (
            "finetune.phases.0.decay.type",
            "step",
            "finetune.phases[0].decay.type=step: expected one of none, linear, cosine",
        ),
        (
            "finetune.phases.0.decay.final_factor",
            2,
            "finetune.phases[0].decay.final_factor=2: expected 0..1",
        ),
        (
            "finetune.phases.0.lr_factor",
            {"head": "x"},
            "finetune.phases[0].lr_factor.head=x: expected a number",
        ),
        (
            "finetune.phases.0.optimizer_state",
            "best",
            "finetune.phases[0].optimizer_state=best: expected one of current, checkpoint, reset",
        ),
        ("finetune.early_stopping.patience", 0, "finetune.early_stopping.patience=0: expected n"),
        ("optim.lr", -1, "optim.lr=-1: expected a number above 0"),
        ("optim.lr", True, "optim.lr=true: expected a number above 0"),
        ("optim.l1", -1, "optim.l1=-1: expected at least 0"),
        ("optim.l2_sp", -1, "optim.l2_sp=-1: expected at least 0"),
        ("optim.momentum", 1, "optim.momentum=1: expected 0 <= x < 1"),
        ("optim.weight_decay", float("nan"), "optim.weight_decay=nan: expected at least 0"),
        ("optim.clip_norm", 0, "optim.clip_norm=0: expected null or a number above 0"),
        ("optim.ema", 1, "optim.ema=1: expected null or 0 < x < 1"),
        ("trainer.max_epochs", 0, "trainer.max_epochs=0: expected null or at least 1"),
        ("trainer.devices", "none", "trainer.devices=none: expected auto or a number of devices"),
        ("trainer.devices", 0, "trainer.devices=0: expected auto or a number of devices"),
        ("trainer.limit_val_batches", 2.5, "trainer.limit_val_batches=2.5: expected a number of"),
        ("trainer.limit_val_batches", "1.0", "trainer.limit_val_batches=1.0: expected a number o"),
        ("trainer.precision", "64", "trainer.precision=64: expected one of auto, 32, bf16-mixed,"),
        ("logger.uri", " ", "logger.uri= : expected null or some text"),
        ("data", "voc", "data: expected a group; data=NAME chooses one of its files"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_would_be_right(key, value, said):
    with pytest.raises(RequestError, match=re.escape(said)):
        parsed(key, value)


def test_a_distance_from_pretrained_weights_needs_some():
    assert parsed("optim.l2_sp", 0.1) == 0.1
    with pytest.raises(RequestError, match=r"optim\.l2_sp=0\.1: .* but model\.weights=none; name"):
        parsed("optim.l2_sp", 0.1, "model.weights=none")


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("optim.lr", 1, 1.0),
        ("data.batch_size", "8", 8),  # as from an environment variable
        ("data.root", 0, "0"),  # a folder may be called so
        ("ckpt", 1.5, "1.5"),
        ("name", 7, "7"),
        ("data.classes", [1, 2], ["1", "2"]),
        ("data.stall_seconds", float("inf"), float("inf")),
        ("model.summary", True, "true"),
        ("model.summary", "profile", "profile"),
        ("trainer.precision", 32, "32"),
        ("trainer.devices", 2, 2),
        ("trainer.devices", "auto", "auto"),
        ("trainer.limit_val_batches", 0.5, 0.5),
        ("resamples", 0, 0),
    ],
)
def test_what_is_meant_is_understood(key, value, kept):
    assert parsed(key, value) == kept


def test_one_batch_is_not_all_batches():
    one, everything = (parsed("trainer.limit_train_batches", value) for value in (1, 1.0))
    assert (type(one), type(everything)) == (int, float)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "data.batchsize",
            "data.batchsize: no such key; did you mean batch_size? there are format",
        ),
        ("data.split", "data.split: no such key; it is called data.auto_split now"),
        (
            "finetune.phases.0.lr",
            "finetune.phases[0].lr: no such key; there are name, train",
        ),
        ("preview", "preview: no such key; there are name, seed, ckpt"),
    ],
)
def test_a_key_that_does_not_exist_is_refused_with_those_that_do(key, said):
    with pytest.raises(RequestError, match=re.escape(said)):
        parse(changed(composed("train"), key, 1), TRAIN)


def test_a_missing_key_is_named():
    values = composed("train")
    del values["trainer"]["tf32"]
    with pytest.raises(RequestError, match=r"trainer\.tf32: missing"):
        parse(values, TRAIN)


@pytest.mark.parametrize(
    ("overrides", "key", "value", "said"),
    [
        ((), "finetune.phases", "auto", "finetune.phases=auto: needs finetune.auto"),
        ((), "model.head.conv_norm", "batch", "model.head.conv_norm=batch: expected none, as"),
        (("model/head=conv_average",), "model.head.dropout", 0.5, "model.head.dropout=0.5: expec"),
        (("backbone=zfnet",), "model.weights", "imagenet", "none are published for zfnet"),
        (("backbone=alexnet",), "model.weights", "coco", "only for resnet50"),
        (("backbone=timm",), "seed", 1, "backbone=timm needs the name of a model"),
        (("model.summary=profile",), "trainer.compile", True, "model.summary=profile: trainer.co"),
        (("logger=wandb",), "logger.project", "a/b", "logger.project=a/b: expected a name without"),
        (("logger=mlflow",), "logger.project", " ", "logger.project= : expected a name"),
    ],
)
def test_values_that_contradict_each_other_are_refused(overrides, key, value, said):
    with pytest.raises(RequestError, match=re.escape(said)):
        parsed(key, value, *overrides)


def test_only_one_rule_for_scores_can_be_chosen():
    kind, values = load_command("predict").KEYS, composed("predict")
    for one, other in (
        ("score_threshold", "min_precision"),
        ("min_precision", "min_recall"),
        ("score_threshold", "thresholds"),
    ):
        with pytest.raises(RequestError, match=f"{one}= and {other}=: expected one of the two"):
            parse(values | {one: 0.5, other: 0.5}, kind)
    assert parse(values | {"min_recall": 0.5, "thresholds": "a"}, kind).thresholds == "a"


@pytest.mark.parametrize("command", command_names())
def test_a_configuration_survives_as_plain_data(command):
    kind = load_command(command).KEYS
    config = parse(composed(command, "finetune=auto"), kind)
    assert parse(plain(config), kind) == config
    assert type(plain(config)["model"]["anchor_scales"]) is list


def options(kind, prefix=""):
    """Every class of options with the keys of its fields."""
    yield prefix, kind
    for name, hint in hints(kind).items():
        for part in filter(is_dataclass, choices(hint)):
            yield from options(part, f"{prefix}{name}.")


@pytest.mark.parametrize("command", command_names())
def test_every_key_has_a_description(command):
    for prefix, kind in options(load_command(command).KEYS):
        texts = descriptions(kind)
        for name, hint in hints(kind).items():
            group = any(map(is_dataclass, choices(hint)))
            assert group or texts[name].endswith("."), f"{prefix}{name}"


def test_defaults_of_the_rooms_are_those_of_the_shipped_configuration():
    values, compared = composed("train", "logger=none"), 0
    for prefix, kind in options(Config):
        for field in fields(kind):
            part = values
            for name in [*prefix.split(".")[:-1], field.name]:
                part = part.get(name) if isinstance(part, dict) else None
            default = field.default
            default = getattr(default, "default", default)
            simple = isinstance(default, (str, int, float, bool, tuple, NoneType))
            if simple and default is not PydanticUndefined and part is not None:
                compared += 1
                default = list(default) if isinstance(default, tuple) else default
                choice = prefix == "augment." or f"{prefix}{field.name}" == "model.summary"
                choice = choice or part == "auto"  # which takes a data set
                choice = choice or f"{prefix}{field.name}" == "finetune.epochs"  # a schedule's
                assert choice or part == default, f"{prefix}{field.name}"
    assert compared > 40
