"""What is asked of other libraries and of the machine: downloads, precision, ways to be fast."""

import ctypes
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from conftest import ask, data_of, in_force, prepare
from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling

from detector.core.errors import RequestError
from detector.core.structures import ClassMap
from detector.pipeline import build

CLASSES = {"names": ["tree"], "ids": [1]}


def voc_config(*overrides):
    cfg = ask("train", "+experiment=voc", "data.download=true", *overrides)
    return in_force(cfg)


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
    data = data_of(config)
    assert asked == [("2007", "trainval", True), ("2012", "trainval", True), ("2007", "test", True)]
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 21,
        "val": 1,
        "test": 11,
    }
    assert len(data.classes) == 20
    data_of(config)
    assert len(asked) == 3  # what is there is not fetched again


def test_a_failed_fetch_is_one_line(tmp_path, monkeypatch):
    def fetch(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "VOCDetection", fetch)
    with pytest.raises(RequestError, match="cannot fetch VOC2007/trainval: no route to host"):
        data_of(voc_config(f"data.root={tmp_path / 'new'}"))


@pytest.mark.parametrize(
    ("has", "expected"),
    [({"avx512_bf16": True}, "bf16-mixed"), ({"amx_bf16": True}, "bf16-mixed"), ({}, "32")],
)
def test_auto_precision_is_bf16_only_where_the_cpu_computes_in_it(monkeypatch, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert build.precision("auto", "cpu") == expected
    assert build.precision("32", "cpu") == "32"


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_auto_precision_on_a_gpu_is_what_it_computes_in(monkeypatch, bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    assert build.precision("auto", "auto") == expected
    assert build.precision("auto", "cpu") != "16-mixed"


def small_task(*overrides):
    options = ["backbone=efficientnet_lite0", "model.fpn_channels=8", "model.head.hidden=[8]"]
    cfg = ask("train", "data=trees", *options, *overrides)
    return build.build_task(in_force(cfg), ClassMap.from_names(["tree"]))


def test_each_way_to_be_fast_has_a_switch(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    image = torch.zeros(3, 32, 64, dtype=torch.uint8)
    for overrides, layout, tf32 in (
        ([], torch.channels_last, "tf32"),
        (
            ["trainer.channels_last=false", "trainer.tf32=false"],
            torch.contiguous_format,
            "ieee",
        ),
    ):
        network = small_task(*overrides).network
        kernel = network.backbone.fpn.layer_blocks[0][0].weight
        for tensor in (kernel, network.transform([image, image])[0].tensors):
            assert tensor.is_contiguous(memory_format=layout)
        assert torch.backends.cuda.matmul.fp32_precision == tf32
        assert torch.backends.cudnn.conv.fp32_precision == tf32
    assert not compiled
    network = small_task("trainer.compile=true").network
    assert compiled == [network.backbone, network.roi_heads.box_head]


def test_compiling_without_a_compiler_is_refused(voc_root, monkeypatch):
    cfg = ask("train", f"data.root={voc_root}", "trainer.compile=true", "model.weights=none")
    prepare(cfg)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RequestError, match=r"trainer.compile=true needs a C\+\+ compiler"):
        prepare(cfg)


def test_batches_are_pinned_where_a_gpu_trains(voc_root, monkeypatch):
    for gpu, asked, expected in (
        (True, "true", True),
        (True, "false", False),
        (False, "true", False),
    ):
        monkeypatch.setattr(build, "uses_gpu", lambda accelerator, gpu=gpu: gpu)
        cfg = ask("train", f"data.root={voc_root}", f"data.pin_memory={asked}")
        config = in_force(cfg)
        data = build.build_datamodule(config, data_of(config).splits)
        assert data.options.pin_memory == expected


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_on_a_cpu_the_optimiser_takes_one_pass_and_its_gradients_can_be_clipped(name):
    optimiser = small_task(f"optim={name}").configure_optimizers()
    assert optimiser.defaults["fused"]
    assert not _optimizer_handles_unscaling(optimiser)  # else Lightning refuses to clip


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_the_c_library_is_asked_to_keep_memory(monkeypatch):
    asked = {}
    library = SimpleNamespace(mallopt=lambda option, value: asked.update({option: value}))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    build.keep_memory()
    assert asked == {-1: 2**31 - 1, -3: 2**31 - 1}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    build.keep_memory()  # a C library that has no such function


def test_a_relative_root_is_remembered_as_an_absolute_one(voc_root, monkeypatch):
    monkeypatch.chdir(voc_root.parent)
    config = in_force(ask("train", "data.root=voc"))
    assert config.data.root == str(voc_root)


def test_keys_typed_replace_those_of_the_checkpoint_and_no_others(monkeypatch):
    cfg = ask("train", "+experiment=trees", "seed=7", "optim.lr=0.5", "data=trees")
    from detector.config.schema import plain

    saved = plain(in_force(cfg))
    monkeypatch.setattr("detector.config.resolve.checkpoint_path", lambda *_: Path("x"))
    monkeypatch.setattr(
        "detector.config.resolve.read_checkpoint",
        lambda path: {"config": saved, "classes": CLASSES},
    )
    typed = ["ckpt=x", "optim.lr=0.25", "data.splits.test=null", "augment=none"]
    config = in_force(ask("evaluate", *typed))
    assert config.seed == 7
    assert config.optim.lr == 0.25
    assert config.backbone.name == "efficientnet_lite0"
    assert config.data.format == "trees"
    assert config.data.splits.test is None
    assert config.data.auto_split.val == 0.15
    assert config.augment.steps == []
    assert config.data.classes == ["tree"]
    with pytest.raises(RequestError, match=r"data\.classes=.*shrub.* knows tree"):
        in_force(ask("evaluate", "ckpt=x", "data.classes=[shrub]"))
    typed = ["ckpt=x", "+experiment=voc", "data.classes=null"]
    with pytest.raises(RequestError, match=r"backbone\.name=resnet50: x was trained with effi"):
        in_force(ask("train", *typed))
