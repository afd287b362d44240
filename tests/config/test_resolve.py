"""The configuration in force: what was typed, and what a checkpoint was trained with."""

import copy
import re

import pytest
import torch
from conftest import composed

from detector.cli import compose, load_command
from detector.config.resolve import command_keys, fixed_keys, migrated, resolve, saved_config
from detector.config.schema import Config, parse, plain
from detector.core.errors import RequestError

EVALUATE, TRAIN = (load_command(name).KEYS for name in ("evaluate", "train"))


@pytest.fixture
def earlier():
    """The configuration of a checkpoint as an earlier version wrote it."""
    values = plain(parse(composed("train", "optim.lr=0.25", "data.batch_size=3"), TRAIN))
    values["data"]["split"] = values["data"].pop("auto_split") | {"val": 0.25}
    values["trainer"]["fused"] = True
    values |= {"split": "val", "source": "x", "preview": True, "dry_run": True, "resamples": 500}
    values |= {"predictions": "p", "truth": "t", "compare": "c", "score_threshold": 0.5}
    return values | {"min_precision": 0.5, "min_recall": 0.5, "thresholds": "t"}


@pytest.fixture
def checkpoint(earlier, tmp_path):
    """The file of such a checkpoint."""
    file = tmp_path / "run/checkpoints/best.ckpt"
    file.parent.mkdir(parents=True)
    save(file, earlier)
    return file


def save(file, config):
    torch.save({"detector": {"config": config, "classes": {"names": ["a"], "ids": [1]}}}, file)


def evaluated(checkpoint, *overrides):
    return resolve(EVALUATE, compose("evaluate", [f"ckpt={checkpoint}", *overrides]))


def test_what_a_checkpoint_fixes_is_said_by_the_fields():
    head = ("width", "convs", "conv_norm", "pool", "hidden", "dropout", "activation")
    assert fixed_keys(Config, "network") == [
        *("backbone.name", "backbone.library", "model.in_channels", "model.fpn_channels"),
        "model.levels",
        *("model.neck_norm", "model.rpn_convs", *(f"model.head.{key}" for key in head)),
        *("model.anchor_scales", "model.anchor_ratios"),
    ]
    assert fixed_keys(Config, "resume") == [
        *("seed", "monitor", *(f"data.splits.{split}" for split in ("train", "val", "test"))),
        *(f"data.auto_split.{key}" for key in ("val", "test", "seed", "group")),
        *("data.image_size", "model.rpn_top_n_train", "model.rpn_top_n_test"),
        *("model.rpn_batch_per_image", "model.box_batch_per_image", "model.score_threshold"),
        *("model.nms_threshold", "model.detections_per_image", "optim.name", "optim.momentum"),
        *("optim.weight_decay", "optim.weight_decay_norm", "optim.weight_decay_bias"),
        *("optim.l2_sp", "optim.ema"),
    ]
    assert fixed_keys(Config, "scoring") == [
        *("trainer.limit_test_batches", "logger", "resamples", "gallery"),
    ]
    assert command_keys(TRAIN) == ["dry_run", "ckpt", "model.summary", "finetune.allow_changed"]


def test_a_checkpoint_of_an_earlier_version_is_migrated(earlier):
    before = copy.deepcopy(earlier)
    config = parse(migrated(earlier))
    assert config.data.auto_split.val == 0.25
    assert earlier == before
    assert migrated(migrated(earlier)) == migrated(earlier)


def test_only_what_is_typed_replaces_what_a_checkpoint_was_trained_with(checkpoint):
    config = evaluated(checkpoint, "data.workers=1")
    assert (config.optim.lr, config.data.batch_size, config.data.workers) == (0.25, 3, 1)
    assert evaluated(checkpoint, "optim.lr=0.5").optim.lr == 0.5
    assert evaluated(checkpoint, "augment=none").augment.steps == []


def test_keys_of_the_command_are_never_those_of_a_checkpoint(checkpoint):
    config = evaluated(checkpoint, "split=train", "gallery=3")
    assert (config.split, config.predictions, config.compare) == ("train", None, None)
    assert (config.resamples, config.gallery) == (1000, 3)


def test_a_group_is_replaced_before_the_keys_in_it(checkpoint):
    for typed in (["optim=sgd", "optim.lr=0.5"], ["optim.lr=0.5", "optim=sgd"]):
        config = evaluated(checkpoint, *typed)
        optim = config.optim
        assert (optim.name, optim.lr, optim.reference_batch) == ("sgd", 0.5, 16)


def test_a_key_of_one_phase_replaces_that_one_alone(checkpoint):
    key = "finetune.phases.0.warmup.steps"
    phases = evaluated(checkpoint, f"{key}=7").finetune.phases
    assert (phases[0].warmup.steps, phases[0].name) == (7, "heads")


def test_a_network_that_the_weights_do_not_fit_is_refused(checkpoint):
    with pytest.raises(RequestError, match=r"model\.head\.hidden=\[8\]: .*with \[1024, 1024\]"):
        evaluated(checkpoint, "model.head.hidden=[8]")


def test_classes_are_those_of_the_checkpoint(checkpoint):
    assert evaluated(checkpoint).data.classes == ["a"]
    with pytest.raises(RequestError, match=r"data\.classes=\['b'\], but .* knows a"):
        evaluated(checkpoint, "data.classes=[b]")


def test_images_stay_in_the_split_that_the_run_recorded(checkpoint, tmp_path):
    assert evaluated(checkpoint).data.auto_split.file is None
    recorded = tmp_path / "run/splits.json"
    recorded.write_text("{}")
    assert evaluated(checkpoint).data.auto_split.file == str(recorded)
    assert evaluated(checkpoint, "data.auto_split.seed=1").data.auto_split.file is None


def test_what_was_left_out_of_one_data_set_is_not_left_out_of_another(
    earlier, checkpoint, tmp_path
):
    earlier["data"] |= {"root": str(tmp_path), "on_bad": "skip"}
    save(checkpoint, earlier)
    assert evaluated(checkpoint).data.on_bad == "skip"
    assert evaluated(checkpoint, f"data.root={tmp_path / 'b'}").data.on_bad == "error"


def test_a_checkpoint_that_this_version_cannot_use_says_so(earlier, checkpoint):
    del earlier["trainer"]["tf32"]
    save(checkpoint, earlier)
    said = f"ckpt={checkpoint}: made by another version of detector (trainer.tf32: missing)"
    with pytest.raises(RequestError, match=re.escape(said)):
        saved_config(checkpoint)


def test_nothing_in_a_checkpoint_is_interpolated(earlier, checkpoint):
    earlier["name"] = "${oc.env:HOME}"
    save(checkpoint, earlier)
    assert evaluated(checkpoint).name == "${oc.env:HOME}"


def test_an_empty_root_does_not_mean_the_working_directory():
    assert resolve(TRAIN, compose("train", ["data.root="]), resume=True).data.root is None


def trained(*overrides):
    return resolve(TRAIN, compose("train", overrides), resume=True).model


@pytest.mark.parametrize("typed", ["model.anchor_scales=[4]", "model.anchor_ratios=[1]"])
def test_typed_anchors_are_not_fitted(typed):
    assert trained().anchors == "auto"
    assert trained(typed).anchors == "fixed"


def test_anchors_cannot_be_typed_and_fitted():
    said = r"model\.anchors=auto: model\.anchor_scales is typed, too, and would be fitted to the"
    with pytest.raises(RequestError, match=said):
        trained("model.anchors=auto", "model.anchor_scales=[4]")


def test_the_anchors_of_an_experiment_are_fixed_unless_others_are_to_be_fitted(tmp_path):
    file = tmp_path / "experiment" / "own.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\nmodel: {anchors: fixed, anchor_scales: [4, 8]}\n")
    own = f"hydra.searchpath=[file://{tmp_path}]", "+experiment=own"
    assert trained(*own).anchor_scales == (4, 8)
    model = trained(*own, "model.anchors=auto")
    assert (model.anchors, model.anchor_scales) == ("auto", (8.0,))


def test_a_checkpoint_of_before_anchors_were_fitted_has_fixed_ones(earlier, checkpoint):
    del earlier["model"]["anchors"]
    save(checkpoint, earlier)
    assert evaluated(checkpoint).model.anchors == "fixed"


@pytest.mark.parametrize("typed", ["model.anchors=auto", "model=faster_rcnn", "+experiment=coco"])
def test_with_a_checkpoint_auto_means_what_its_run_chose(earlier, checkpoint, typed):
    earlier["backbone"]["name"] = "resnet50"
    earlier["model"] |= {"anchors": "fixed", "anchor_scales": [4.0], "anchor_ratios": [1.0]}
    earlier["model"]["detections_per_image"], earlier["data"]["image_size"] = 77, 320
    earlier["model"]["levels"] = [8, 16, 32, 64]
    save(checkpoint, earlier)
    classes = "data.classes=[a]"  # the experiment's would be COCO's
    autos = ["model.detections_per_image=auto", "data.image_size=auto", "model.levels=auto"]
    config = evaluated(checkpoint, typed, *autos, classes)
    model = config.model
    assert (model.detections_per_image, config.data.image_size) == (77, 320)
    assert (model.anchors, model.anchor_scales, model.anchor_ratios) == ("fixed", (4,), (1,))
    assert model.levels == (8, 16, 32, 64)
