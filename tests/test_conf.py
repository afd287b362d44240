"""Every configuration that is shipped composes, is valid and stays small."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from detector import cli
from detector.config import schema
from detector.config.schedules import read_schedule
from detector.models.backbones.table import BACKBONES
from detector.pipeline import request

CONF = schema.conf_folder()
FILES = sorted(p.relative_to(CONF) for p in CONF.rglob("*.yaml"))


def choices(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_is_at_most_35_lines(file):
    assert len((CONF / file).read_text().splitlines()) <= 35


@pytest.mark.parametrize(
    "override",
    [f"+experiment={name}" for name in choices("experiment")]
    + [
        f"{group}={name}"
        for group in (
            "data",
            "augment",
            "backbone",
            "finetune",
            "optim",
            "logger",
            "trainer",
            "model",
            "model/head",
        )
        for name in choices(group)
        if name != "timm"
    ]
    + [f"backbone={name}" for name in BACKBONES]
    + ["backbone=timm backbone.name=resnet18"],
)
def test_every_choice_composes_and_is_valid(override):
    chosen = schema.parse(OmegaConf.masked_copy(compose(*override.split()), config_keys()))
    read_schedule(chosen)


def compose(*overrides):
    return cli.compose("train", overrides)


def config_keys():
    return [k for k in compose() if k not in request.RUN_KEYS]


@pytest.mark.parametrize("verb", ["evaluate", "predict", "check"])
def test_the_other_verbs_take_every_key_of_train(verb):
    train, other = compose(), cli.compose(verb, ["ckpt=x"] + ["source=y"] * (verb == "predict"))
    assert set(train) <= set(other)


def test_augmentations_shipped_are_understood():
    from detector.data.loading.augment import Augmenter

    for name in choices("augment"):
        steps = schema.parse(
            OmegaConf.masked_copy(compose(f"augment={name}"), config_keys())
        ).augment.steps
        Augmenter(steps, 64)


def test_nothing_in_a_configuration_names_code_to_run():
    for file in FILES:
        text = (CONF / file).read_text()
        assert ("_target_" in text) == (str(file) == str(Path("hydra/detector.yaml")))
