"""What is `auto` becomes numbers that fit the training images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ask, in_force

from detector.core.structures import AnnotatedImage, AnnotatedImages, ClassMap
from detector.data.read import DataSet
from detector.data.validation.issues import Issues
from detector.evaluation.anchors import Anchors, best_iou, recall
from detector.models.options import LEVELS
from detector.pipeline.fitting import anchor_grid, boxes_to_learn, fit

LITE = "backbone=efficientnet_lite0"
STANDARD = (8.0,), (0.5, 1.0, 2.0)


def config_of(*overrides):
    return in_force(ask("train", LITE, "model.levels=[4,8,16,32,64]", *overrides))


def image(*shapes, size=(512, 512), ignore=False):
    """An image with boxes of these widths and heights, at random places."""
    low = np.random.default_rng(0).uniform(0, 300, (len(shapes), 2))
    boxes = np.concatenate([low, low + np.array(shapes).reshape(-1, 2)], axis=1)
    flags = np.full(len(shapes), ignore)
    labels = np.ones(len(shapes), np.int64)
    return AnnotatedImage(Path("a.jpg"), size, boxes.astype(np.float32), labels, flags)


def data_of(*images, split="train"):
    packed = AnnotatedImages.pack(images)
    root, classes = Path("/data"), ClassMap.from_names(["a"])
    return DataSet(root, "coco", "", {split: packed}, classes, Issues(), divided=False)


def anchors_of(config):
    return config.model.anchor_scales, config.model.anchor_ratios


def reach(config, data, anchors):
    boxes, sizes = boxes_to_learn(data.splits["train"], 512)
    return recall(best_iou(boxes, sizes, Anchors(anchor_grid(config), *anchors)))


SMALL = data_of(image(*[(12, 12)] * 20, (64, 64)))


def test_anchors_fit_the_training_boxes_and_are_fixed_then():
    config, (line,) = fit(config_of(), SMALL)
    assert config.model.anchors == "fixed"
    after, before = (reach(config, SMALL, a) for a in (anchors_of(config), STANDARD))
    assert after[0] == 1 > before[0]
    scales, ratios = (",".join(f"{v:g}" for v in values) for values in anchors_of(config))
    one, other = (f"{100 * at_50:.1f} % ({100 * at_70:.1f} %)" for at_50, at_70 in (after, before))
    assert line == (
        f"anchors of scales [{scales}] and ratios [{ratios}], fitted to the data: reach IoU 0.5 "
        f"(0.7) for {one} of the training boxes, the standard ones for {other}"
    )


def test_boxes_count_at_the_size_that_the_network_sees():
    large = data_of(image(*[(48, 48)] * 20, (256, 256), size=(2048, 2048)))
    assert anchors_of(fit(config_of(), large)[0]) == anchors_of(fit(config_of(), SMALL)[0])


def test_ignored_boxes_do_not_count():
    data = data_of(image((64, 64)), image(*[(9, 9)] * 20, ignore=True))
    assert anchors_of(fit(config_of(), data)[0]) == STANDARD


@pytest.mark.parametrize(
    "data",
    [data_of(image()), data_of(image((0.5, 9))), data_of(image((9, 9)), split="val")],
    ids=["none", "less than a pixel", "no training split"],
)
def test_without_a_training_box_the_anchors_are_the_standard_ones(data):
    config, (line,) = fit(config_of(), data)
    assert config.model.anchors == "fixed"
    assert anchors_of(config) == STANDARD
    assert line == "anchors of scales [8] and ratios [0.5,1,2]: no training box to fit them to"


def test_fixed_anchors_stay():
    config, lines = fit(config_of("model.anchor_scales=[5]"), SMALL)
    assert config.model.anchor_scales == (5,)
    assert lines == []


def test_anchors_that_the_weights_know_are_kept_where_others_are_little_better():
    # Squares of 45 pixels: 64 of them are reached, if not closely; fitted ones would be nearer.
    data = data_of(image(*[(45, 45)] * 50))
    assert anchors_of(fit(config_of(), data)[0]) != STANDARD
    config = config_of("backbone=resnet50", "model.weights=coco")
    config, (line,) = fit(config, data)
    assert anchors_of(config) == STANDARD
    assert line == (
        "anchors of scales [8] and ratios [0.5,1,2], those of model.weights=coco: reach IoU 0.5 "
        "(0.7) for 100.0 % (0.0 %) of the training boxes, fitted ones for 100.0 % (100.0 %)"
    )


def test_anchors_of_weights_that_miss_the_boxes_are_fitted_and_that_is_said(tmp_path):
    file = tmp_path / "a.ckpt"
    model = {"anchor_scales": [30], "anchor_ratios": [1]}
    saved = {"state_dict": {"a": torch.zeros(1)}, "detector": {"config": {"model": model}}}
    torch.save(saved, file)
    config, (line,) = fit(config_of(f"model.weights={file}"), SMALL)
    assert anchors_of(config) == anchors_of(fit(config_of(), SMALL)[0])
    assert line.endswith(
        f"those of model.weights={file} for 0.0 % (0.0 %); the RPN's outputs are new, as those of "
        f"model.weights={file} are for other anchors"
    )
    good = model | {"anchor_scales": [3.0, 8.0]}
    torch.save(saved | {"detector": {"config": {"model": good}}}, file)
    config, _ = fit(config_of(f"model.weights={file}"), SMALL)
    assert anchors_of(config) == ((3.0, 8.0), (1.0,))


def test_twice_the_most_boxes_of_a_training_image_can_be_detected():
    data = data_of(image(*[(64, 64)] * 60), image(*[(64, 64)] * 9))
    config, lines = fit(config_of(), data)
    assert config.model.detections_per_image == 120
    assert lines[-1] == "at most 120 detections per image, as a training image has up to 60 boxes"


def test_a_hundred_can_be_detected_where_there_are_few_boxes_and_nothing_is_said():
    config, lines = fit(config_of("model.anchors=fixed"), SMALL)
    assert config.model.detections_per_image == 100
    assert lines == []


def test_ignored_boxes_need_not_be_detected():
    data = data_of(image((64, 64)), image(*[(64, 64)] * 60, ignore=True))
    assert fit(config_of(), data)[0].model.detections_per_image == 100


def test_a_typed_number_of_detections_stays():
    data = data_of(image(*[(64, 64)] * 60))
    config, _ = fit(config_of("model.detections_per_image=50"), data)
    assert config.model.detections_per_image == 50


def sized(*images):
    config, lines = fit(config_of("data.image_size=auto", "model.anchors=fixed"), data_of(*images))
    return config.data.image_size, lines


def test_the_image_size_is_the_smallest_at_which_nearly_all_boxes_are_legible():
    # 16 of 40 pixels are left at 0.4 of 1000 pixels, which is rounded up to 416; one box in 20 is
    # smaller.
    size, (line, _) = sized(image(*[(200, 40)] * 95, *[(10, 10)] * 5, size=(1000, 800)))
    assert size == 416
    assert line == (
        "images of 416 pixels, fitted to the data: 95.0 % of the training boxes have at least 16 "
        "pixels on their shorter side there"
    )


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((300, 300), (640, 480), 192),  # no smaller
        ((9, 9), (300, 350), 352),  # not larger than the images
        ((9, 9), (3000, 4000), 1024),  # no larger
        ((2000, 2000), (60, 60), 192),  # a box that is larger than its image
        ((0, 0), (500, 500), 512),  # a box without area
    ],
)
def test_the_image_size_has_limits(shape, size, expected):
    assert sized(image(shape, size=size))[0] == expected


def test_ignored_boxes_need_not_be_legible():
    assert sized(image((300, 300)), image(*[(9, 9)] * 9, ignore=True))[0] == 192


def test_without_a_box_the_image_size_is_the_usual_one():
    assert sized(image()) == (512, ["images of 512 pixels: no training box to fit their size to"])


def test_anchors_are_fitted_at_the_size_that_is_chosen():
    data = data_of(image(*[(100, 100)] * 20, size=(1600, 1600)))  # of which 256 pixels are chosen
    config, _ = fit(config_of("data.image_size=auto"), data)
    assert config.data.image_size == 256
    assert anchors_of(config) == anchors_of(fit(config_of("data.image_size=256"), data)[0])


def levels_of(data, *overrides):
    config, lines = fit(config_of("model.levels=auto", *overrides), data)
    return config.model.levels, lines


def test_fine_levels_are_left_out_where_no_box_needs_them():
    large = data_of(image(*[(100, 100)] * 30, *[(140, 140)] * 30))
    levels, (line, said) = levels_of(large, "model.detections_per_image=100")
    assert levels == (16, 32, 64)
    assert line.startswith("anchors of scales")
    assert said.startswith("levels of strides [16,32,64]: with finer ones anchors would reach 1")
    assert levels_of(SMALL)[0] == LEVELS


@pytest.mark.parametrize("scale", [6.2, 32])
def test_with_typed_anchors_all_levels_are_kept(scale):
    large = data_of(image(*[(100, 100)] * 30))
    assert levels_of(large)[0] == LEVELS[2:]
    assert levels_of(large, f"model.anchor_scales=[{scale}]")[0] == LEVELS


@pytest.mark.parametrize("anchors", ["auto", "fixed"])
def test_without_a_training_box_all_levels_are_kept(anchors):
    assert levels_of(data_of(image()), f"model.anchors={anchors}")[0] == LEVELS


def test_typed_levels_stay():
    large = data_of(image(*[(100, 100)] * 30))
    assert levels_of(large, "model.levels=[4,8,16,32,64]")[0] == LEVELS


@pytest.mark.parametrize(
    "boxes",
    [[(30, 60)], [(50, 50)] * 40, [(3000, 2000)], [(1, 1)], [(512, 512)]],
    ids=["one", "of one size", "larger than the image", "a pixel", "the whole image"],
)
def test_levels_and_anchors_fit_any_boxes(boxes):
    data = data_of(image(*boxes))
    levels, lines = levels_of(data)
    assert levels in (LEVELS, LEVELS[1:], LEVELS[2:])
    assert lines[0].startswith("anchors of scales")
    config, _ = fit(config_of(f"model.levels={list(levels)}"), data)
    everything, _ = fit(config_of(), data)
    one, most = (reach(c, data, anchors_of(c)) for c in (config, everything))
    assert one[0] >= most[0] - 0.015
    assert one[1] >= most[1] - 0.25
