"""The table of backbones is plain data, and one row in it is all that a backbone needs."""

import copy
import subprocess
import sys
from dataclasses import replace

import pytest
from hydra.core.config_store import ConfigStore

from detector.cli import compose, load_command
from detector.config.resolve import resolve
from detector.models.backbones.build import build_backbone
from detector.models.backbones.table import BACKBONES


def composed(*overrides):
    return resolve(load_command("train").KEYS, compose("train", overrides))


def test_the_table_and_its_choices_import_no_torch():
    program = (
        "import sys, detector.config.groups as groups; groups.register_backbones(); "
        "print({'torch', 'torchvision', 'timm'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "set()\n", ran.stderr


@pytest.mark.parametrize("name", BACKBONES)
def test_a_row_has_its_name_and_a_description(name):
    row = BACKBONES[name]
    assert row.name == name
    assert row.description.endswith(".")
    assert "\n" not in row.description


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", (256, 1024, 1000, "imagenet", "frozen")),
        ("zfnet", (256, 1024, 1000, "none", "train")),  # finetune=scratch
        ("efficientnet_lite0", (64, 256, 500, "imagenet", "frozen")),
    ],
)
def test_a_backbone_brings_its_settings(name, expected):
    config = composed(f"backbone={name}")
    model = config.model
    found = (model.fpn_channels, model.head.width, model.rpn_top_n_test, model.weights)
    assert (*found, config.finetune.norm) == expected


def test_what_is_typed_counts_more_than_the_settings_of_a_backbone():
    config = composed("backbone=efficientnet_lite0", "model.fpn_channels=96")
    assert config.model.fpn_channels == 96


def test_a_new_row_is_a_choice_that_is_checked_and_built(monkeypatch):
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    settings = {"model.weights": "none", "finetune": "scratch"}
    row = replace(BACKBONES["resnet18"], name="mine", imagenet=None, settings=settings)
    monkeypatch.setitem(BACKBONES, "mine", row)
    config = composed("backbone=mine")
    assert (config.backbone.key, config.model.weights) == ("mine", "none")
    assert build_backbone(config.backbone.key, out_channels=8).stages == row.stages
