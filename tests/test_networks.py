"""Networks and heads as they are typed: trained, kept in checkpoints, refused."""

import logging
import re

import pytest
from conftest import TINY, ask, call, in_force, prepare
from torch import nn

from detector.core.errors import RequestError
from detector.pipeline import build

WITHOUT_BACKBONE = [t for t in TINY if not t.startswith(("backbone=", "model.weights="))]


def checked(*overrides):
    prepare(ask("train", *overrides))


@pytest.mark.parametrize(
    "network",
    [
        ("backbone=alexnet", "model.weights=none", "finetune=full"),
        ("backbone=zfnet",),  # which chooses random weights and finetune=scratch itself
        ("backbone=timm", "backbone.name=vgg11", "model.weights=none", "finetune=plateau"),
        ("backbone=resnet18", "model=faster_rcnn_v2", "model.weights=none", "finetune=full"),
    ],
    ids=lambda network: "-".join(part.split("=")[1] for part in network[:2]),
)
def test_a_run_is_evaluated_again_exactly(network, voc_root, tmp_path):
    typed = [*WITHOUT_BACKBONE, *network, "finetune.norm=train", f"data.root={voc_root}"]
    typed += ["trainer.limit_train_batches=1"]
    scores = call(ask("train", *typed, "trainer.max_epochs=1", out=tmp_path / "run"))
    again = call(ask("evaluate", f"ckpt={tmp_path / 'run'}", out=tmp_path / "again"))
    for name, value in again.items():
        assert value == pytest.approx(scores[f"test/{name}"], abs=0, nan_ok=True), name


def test_a_network_that_nobody_has_trained_says_so(voc_root, tmp_path, caplog):
    typed = [*WITHOUT_BACKBONE, "backbone=zfnet", f"data.root={voc_root}"]
    typed += [f"trainer.limit_{split}_batches=1" for split in ("train", "val", "test")]
    with caplog.at_level(logging.INFO):
        call(ask("train", *typed, "trainer.max_epochs=1", out=tmp_path))
    said = "model.weights=none (nobody has published any for zfnet): all layers start at random"
    assert said in caplog.messages
    assert not any("learns nothing" in message for message in caplog.messages)


def test_heads_and_versions_are_keys():
    typed = ("model=faster_rcnn_v2", "model.head.hidden=[32,8]", "model.head.dropout=0.3")
    config = in_force(ask("train", *typed, "backbone=resnet18"))
    options = config.model
    assert (options.neck_norm, options.rpn_convs) == ("batch", 2)
    assert options.head.convs == (256,) * 4
    network = build.build_network(config, 2)
    head = network.roi_heads.box_head
    assert [m.out_features for m in head if isinstance(m, nn.Linear)] == [32, 8]
    assert network.roi_heads.box_predictor.cls_score.in_features == 8


def test_a_small_network_takes_any_head_that_is_typed():
    config = in_force(ask("train", "backbone=efficientnet_lite0", "model/head=conv_average"))
    assert config.model.head.hidden == ()
    assert config.model.fpn_channels == 64
    slim = ask("train", "backbone=efficientnet_lite0", "model=faster_rcnn_v2")
    config = in_force(slim)
    assert (config.model.head.convs, config.model.head.hidden) == ((256,) * 4, (256,))
    config = in_force(ask("train", "backbone=efficientnet_lite0"))
    assert config.model.head.hidden == (256, 256)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["backbone=timm"], "backbone=timm needs the name of a model, such as backbone.name="),
        (["backbone=timm", "backbone.name=resnet18."], "timm cannot build it"),
        (["model.head=conv_mlp"], "model.head: expected a group; model/head=NAME chooses one"),
        (["model.weights="], "model.weights=: expected imagenet, coco, none, or a path"),
        (["model.head.hidden=[1000000000]"], "model.head.hidden[0]=1000000000: expected 1..16384"),
        (["model.head.convs=[10000000]"], "model.head.convs[0]=10000000: expected 1..4096"),
        (["model.head.width=100000000"], "model.head.width=100000000: expected 1..16384"),
        (["model.levels=[8,16]"], "model.levels=[8, 16]: expected auto, [4,8,16,32,64], [8,16,32"),
        (["model.fpn_channels=100000000"], "model.fpn_channels=100000000: expected 1..4096"),
        (["backbone=timm", "backbone.name=resnt18"], "did you mean resnet18"),
        (["backbone=timm", "backbone.name=resnt18", "model.weights=none"], "did you mean resnet18"),
        (["backbone=timm", "backbone.name=resnet18.nonsense"], "timm cannot build it"),
        (["backbone=timm", "backbone.name=vit_tiny_patch16_224"], "features have the strides 16"),
        (["backbone=zfnet", "model.weights=imagenet"], "none are published for zfnet"),
        (["backbone=alexnet", "model.weights=coco"], "only for resnet50"),
        (["model.head.hidden=[0]"], "model.head.hidden[0]=0: expected 1..16384"),
        (["model.head.dropout=1"], "model.head.dropout=1: expected 0 <= x < 1"),
        (
            ["model.head.conv_norm=batch"],
            "model.head.conv_norm=batch: expected none, as model.head.convs=[] has nothing to norm",
        ),
        (
            ["model/head=conv_average", "model.head.dropout=0.5"],
            "model.head.dropout=0.5: expected 0",
        ),
        (["backbone=alexnet", "backbone.library=timm"], "torchvision's is backbone=alexnet"),
        (["model.weights=null"], "model.weights=: expected imagenet, coco, none, or a path"),
        (["model.head.activation=tahn"], "model.head.activation=tahn: expected one of relu"),
        (["model.head.pool=max"], "model.head.pool=max: expected one of flatten, average"),
        (["model.neck_norm=group"], "model.neck_norm=group: expected one of none, batch"),
        (["model.rpn_convs=0"], "model.rpn_convs=0: expected at least 1"),
    ],
)
def test_a_wrong_network_is_refused_by_its_key(typed, said, voc_root):
    with pytest.raises(RequestError, match=re.escape(said)):
        checked(f"data.root={voc_root}", *typed)


def test_the_check_refuses_an_unknown_network_before_it_reads_anything(voc_root):
    typed = [f"data.root={voc_root}", "backbone=timm", "backbone.name=resnt18"]
    with pytest.raises(RequestError, match="did you mean resnet18"):
        prepare(ask("check", *typed))


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("model/head=conv_average", "model.head."),
        ("model.head.hidden=[9]", r"model.head.hidden=\[9\]: .* was trained with \[16\]"),
        ("model.neck_norm=batch", "model.neck_norm"),
        ("backbone=resnet18", "backbone.name"),
    ],
)
def test_a_checkpoint_keeps_its_network(typed, key, runs):
    for verb in ("evaluate", "train"):
        with pytest.raises(RequestError, match=rf"^{key}"):
            in_force(ask(verb, f"ckpt={runs.first}", typed))
