"""What a run starts from: `model.weights` from the request to the network."""

import shutil

import pytest
import torch
import yaml
from conftest import TINY, ask, assert_same, call, in_force, prepare

from detector.core.errors import RequestError
from detector.core.structures import ClassMap
from detector.models.weights.report import GroupLoad, LoadReport
from detector.pipeline import build
from detector.pipeline.dry_run import phase_table
from detector.train import log_weights

ONE_EPOCH = [
    "finetune.phases=[{name: all, train: [stem,layer1,layer2,layer3,layer4,neck,head],"
    "until: {max_epochs: 1}}]",
    "trainer.limit_train_batches=1",
]


def config_of(*overrides):
    return in_force(ask("train", *TINY, *overrides))


def started(config, classes):
    """The state that a run with these classes starts from."""
    task = build.build_task(config, ClassMap.from_names(classes))
    build.load_pretrained(config, task.network, classes)
    return task.network.state_dict()


def test_a_run_starts_from_another_and_outlives_it(voc_root, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    data = f"data.root={voc_root}"
    with caplog.at_level("INFO"):
        call(ask("train", *TINY, *ONE_EPOCH, data, out=tmp_path / "first"))
    assert "model.weights=none: all layers start at random" in caplog.messages
    best = tmp_path / "first/checkpoints/best.ckpt"

    config = prepare(ask("train", *TINY, "model.weights=first", data)).config
    assert config.model.weights == str(best)
    expected = {
        name.removeprefix("network."): value
        for name, value in torch.load(best, weights_only=True)["state_dict"].items()
    }
    assert_same(dict(started(config, ["disc", "square"])), expected)
    other = started(config, ["disc", "ring", "square"])
    assert torch.equal(other["rpn.head.cls_logits.weight"], expected["rpn.head.cls_logits.weight"])
    assert other["roi_heads.box_predictor.cls_score.bias"].shape == (4,)

    caplog.clear()
    second = tmp_path / "second"
    with caplog.at_level("INFO"):
        scores = call(ask("train", *TINY, *ONE_EPOCH, data, "model.weights=first", out=second))
    begin = caplog.messages.index(f"model.weights={best}")
    assert caplog.messages[begin + 1].split() == ["group", "loaded", "replaced", "new"]
    assert caplog.messages[begin + 9] == "  left out of the file: nothing"
    written = yaml.safe_load((second / "config.yaml").read_text())
    assert written["model"]["weights"] == str(best)

    shutil.rmtree(tmp_path / "first")
    again = call(ask("evaluate", f"ckpt={second}", out=tmp_path / "e"))
    assert again["map"] == scores["test/map"]
    caplog.clear()
    with caplog.at_level("INFO"):
        call(ask("train", f"ckpt={second}", out=second))
    assert not [message for message in caplog.messages if "model.weights" in message]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("coco", "model.weights=coco: none are known for efficientnet_lite0"),
        ("{folder}/text.pth", r"text.pth: not a file of weights"),
        ("{folder}/other.pth", r"other.pth: fits 0 % of the backbone .* found c \(2,\)"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_before_anything_is_written(
    voc_root, tmp_path, choice, said
):
    (tmp_path / "text.pth").write_text("not weights")
    torch.save({"c": torch.zeros(2)}, tmp_path / "other.pth")
    override = f"model.weights={choice.format(folder=tmp_path)}"
    with pytest.raises(RequestError, match=said):
        prepare(ask("train", *TINY, f"data.root={voc_root}", override))


def test_imagenet_weights_that_cannot_be_fetched_are_asked_for_at_once(voc_root, torch_home):
    cfg = ask("train", f"data.root={voc_root}")
    with pytest.raises(RequestError, match=rf"resnet50-\w+.pth .*put it into {torch_home}"):
        prepare(cfg)


@pytest.mark.parametrize(
    ("overrides", "frozen"),
    [
        (["finetune=staged"], "heads freezes stem, layer1, layer2, layer3, layer4, norm layers"),
        (["finetune=full"], "all freezes norm layers"),
        (["finetune=scratch"], None),
        (["finetune=staged", "model.weights=imagenet"], None),
    ],
)
def test_what_is_random_and_frozen_is_warned_of(overrides, frozen):
    lite = ["backbone=efficientnet_lite0", "model.weights=none"]
    config = in_force(ask("train", *lite, *overrides))
    text = " ".join(" ".join(phase_table(config)).split())
    if frozen is None:
        assert "learns nothing" not in text
    else:
        assert f"model.weights=none, but phase {frozen}: what is random there learns" in text
        assert "finetune=scratch trains all" in text


def test_a_stem_that_does_not_fit_is_said_and_its_norms_are_not_blamed(caplog):
    config = config_of("backbone=resnet18", "finetune=staged", "model.weights=none")
    network = build.build_network(config, 1)
    groups = dict.fromkeys(network.groups(), GroupLoad(100, 0, 0, ()))
    groups["stem"] = GroupLoad(256, 9408, 0, ("backbone.stages.stem.conv1",))
    log_weights(config, network, LoadReport("a.pth", groups, {}))
    said, warned = caplog.messages[-2:]
    assert said == "most of stem is of another shape in the file: random"
    assert "phase heads freezes stem: what is random there learns nothing" in warned
    assert warned.endswith("finetune=full trains all")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("coco", "a detector pretrained on COCO, with a new box predictor"),
        ("none", "random (model.weights=none)"),
    ],
)
def test_a_dry_run_says_which_weights_it_would_start_from(choice, said):
    asked = ["backbone=resnet50", f"model.weights={choice}"]
    text = " ".join(" ".join(phase_table(in_force(ask("train", *asked)))).split())
    assert f"weights {said}" in text


def test_a_dry_run_names_the_file_it_would_start_from(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"")
    config = config_of(f"model.weights={tmp_path}/a.pth")
    assert "a.pth" in " ".join(phase_table(config))
