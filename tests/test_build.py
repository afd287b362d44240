"""What is asked of other libraries: torchvision's download of VOC, the precision of the machine."""

import shutil

import pytest
import torch
import torchvision

from detector import build, cli, inputs, request
from detector.types import RequestError

CLASSES = {"names": ["tree"], "ids": [1]}


def voc_config(*overrides):
    cfg = cli.compose("train", ["+experiment=voc", "data.download=true", *overrides])
    return request.resolve("train", cfg)


def test_voc_is_fetched_through_torchvisions_data_set_class(tmp_path, devkit, monkeypatch):
    asked = []

    def fetch(root, year, image_set, download):
        asked.append((year, image_set, download))
        source = devkit / "VOCdevkit" / f"VOC{year}"
        shutil.copytree(source, root / "VOCdevkit" / f"VOC{year}", dirs_exist_ok=True)
        if image_set != "test":  # the test archive is another one
            (root / "VOCdevkit" / f"VOC{year}" / "ImageSets/Main/test.txt").unlink(missing_ok=True)

    monkeypatch.setattr(torchvision.datasets, "VOCDetection", fetch)
    config = voc_config(f"data.root={tmp_path / 'new'}")
    data = inputs.read_data(config)
    assert asked == [("2007", "trainval", True), ("2012", "trainval", True), ("2007", "test", True)]
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 21,
        "val": 1,
        "test": 11,
    }
    assert len(data.classes) == 20
    inputs.read_data(config)
    assert len(asked) == 3  # what is there is not fetched again


def test_a_failed_fetch_is_one_line(tmp_path, monkeypatch):
    def fetch(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "VOCDetection", fetch)
    with pytest.raises(RequestError, match="cannot fetch VOC2007/trainval: no route to host"):
        request.read_data(voc_config(f"data.root={tmp_path / 'new'}"))


@pytest.mark.parametrize(
    ("has", "expected"),
    [({"avx512_bf16": True}, "bf16-mixed"), ({"amx_bf16": True}, "bf16-mixed"), ({}, "32")],
)
def test_auto_precision_is_bf16_only_where_the_cpu_computes_in_it(monkeypatch, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert build.precision("auto", "cpu") == expected
    assert build.precision("32", "cpu") == "32"


def test_a_relative_root_is_remembered_as_an_absolute_one(voc_root, monkeypatch):
    monkeypatch.chdir(voc_root.parent)
    config = request.resolve("train", cli.compose("train", ["data.root=voc"]))
    assert config.data.root == str(voc_root)


def test_keys_typed_replace_those_of_the_checkpoint_and_no_others(monkeypatch):
    cfg = cli.compose("train", ["+experiment=trees", "seed=7", "optim.lr=0.5", "data=trees"])
    from detector.config import plain

    saved = plain(request.resolve("train", cfg))
    monkeypatch.setattr(request, "checkpoint_path", lambda verb, ckpt: ckpt)
    monkeypatch.setattr(
        request, "read_checkpoint", lambda path: {"config": saved, "classes": CLASSES}
    )
    typed = ["ckpt=x", "optim.lr=0.25", "data.splits.test=null", "augment=none"]
    config = request.resolve("evaluate", cli.compose("evaluate", typed))
    assert config.seed == 7
    assert config.optim.lr == 0.25
    assert config.backbone.name == "efficientnet_lite0"
    assert config.data.format == "trees"
    assert config.data.splits.test is None
    assert config.data.split.val == 0.15
    assert config.augment.steps == []
    assert config.data.classes == ["tree"]
    with pytest.raises(RequestError, match=r"data\.classes=.*shrub.* knows tree"):
        request.resolve("evaluate", cli.compose("evaluate", ["ckpt=x", "data.classes=[shrub]"]))
    typed = ["ckpt=x", "+experiment=voc", "data.classes=null"]
    with pytest.raises(RequestError, match=r"backbone\.name=resnet50: x was trained with effi"):
        request.resolve("train", cli.compose("train", typed))
