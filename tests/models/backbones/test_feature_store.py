"""Outputs of frozen stages are kept, and are what the stages compute."""

import pytest
import torch
from conftest import TINY, ask, in_force

from detector.models.backbones.build import build_backbone
from detector.models.backbones.feature_store import FeatureStore
from detector.pipeline import build

HEADS = ["finetune.norm=frozen", "augment=flip"]


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(3, 3, 64, 96).to(memory_format=torch.channels_last)


def frozen(name="efficientnet_lite0", norm="frozen", most=10**9):
    torch.manual_seed(1)
    backbone = build_backbone(name, in_channels=3, out_channels=8, norm=norm).train()
    backbone.set_trainable([])
    backbone.store = FeatureStore(most)
    return backbone


def counted(backbone):
    """How many images the stages have computed, one by one."""
    computed, run = [], backbone._stage_outputs

    def count(images):
        computed.append(len(images))
        return run(images)

    backbone._stage_outputs = count
    return computed


@pytest.mark.parametrize("name", ["efficientnet_lite0", "swin_t"])
def test_kept_outputs_are_those_of_the_stages(name, images):
    backbone = frozen(name)
    first, again = backbone(images), backbone(images.flip(0))
    backbone.store = None
    plain = backbone(images)
    for level, expected in plain.items():
        torch.testing.assert_close(first[level], expected)
        torch.testing.assert_close(again[level].flip(0), expected)


def test_an_image_that_comes_again_is_not_computed_again(images):
    backbone = frozen()
    computed = counted(backbone)
    backbone(images[:2])
    backbone(images[1:])
    assert computed == [1, 1, 1]
    backbone(images.flip(3))  # mirrored ones are others
    backbone(images.flip(3))
    assert computed == [1] * 6
    backbone(images[:, :, :32])  # and so are those that are padded otherwise
    assert computed == [1] * 9
    assert backbone.store.found == 4


def test_outputs_do_not_depend_on_the_images_beside(images):
    backbone = frozen()
    beside = backbone.store.outputs(images, backbone._stage_outputs)
    alone = FeatureStore(10**9).outputs(images[1:2], backbone._stage_outputs)
    assert all(torch.equal(a[1:2], b) for a, b in zip(beside, alone, strict=True))


def test_what_is_trained_or_changes_is_not_kept(images):
    backbone = frozen()
    backbone(images)
    backbone.set_trainable(["layer4"])
    computed = counted(backbone)
    backbone(images)
    backbone(images)
    assert computed == [3, 3]
    backbone.set_trainable([])  # with other weights, perhaps
    backbone(images)
    assert computed[2:] == [1, 1, 1]
    moving = frozen(norm="train")  # whose statistics move in every step
    computed = counted(moving)
    moving(images)
    moving(images)
    assert computed == [3, 3]


def test_what_does_not_fit_is_computed_every_time(images):
    backbone = frozen()
    each = sum(output.nbytes for output in backbone._stage_outputs(images[:1]))
    backbone.store = FeatureStore(2 * each + each // 2)
    computed = counted(backbone)
    backbone(images)
    backbone(images)
    assert computed == [1] * 4
    backbone.store.clear()
    backbone(images)
    assert computed == [1] * 7
    backbone(images)
    assert computed == [1] * 8


def test_an_image_of_validation_may_be_trained_on(images):
    backbone = frozen()
    with torch.inference_mode():
        backbone.eval()(images)
    sum(level.sum() for level in backbone.train()(images).values()).backward()
    assert backbone.fpn.inner_blocks[0][0].weight.grad is not None


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("augment=flip", True),
        ("augment=none", True),
        ("augment=standard", False),
        ("trainer.cache_features=false", False),
        ("trainer.compile=true", False),
    ],
)
def test_a_run_keeps_outputs_where_images_come_again(typed, kept):
    config = in_force(ask("train", *TINY, *HEADS, typed))
    assert (build.feature_store(config) is not None) == kept


def test_a_quarter_of_the_free_memory_is_shared_by_the_processes(monkeypatch):
    monkeypatch.setattr(build, "free_memory", lambda: 8000)
    config = in_force(ask("train", *TINY, *HEADS, "trainer.devices=2"))
    assert build.feature_store(config).most == 1000
