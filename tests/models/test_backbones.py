import pytest
import torch
from torchvision.models import resnet50
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from detector.models.backbones import BACKBONES, build_backbone
from detector.models.stages import PyramidBackbone, Stage

NAMES = sorted(BACKBONES)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_declared_strides_and_channels_are_the_real_ones(name):
    backbone = build_backbone(name, out_channels=8).eval()
    x = y = torch.rand(1, 3, 128, 96)
    with torch.no_grad():
        for stage in backbone.stages:
            for module in backbone.stage_modules(stage.name):
                y = module(y)
            assert y.shape == (1, stage.channels, 128 // stage.stride, 96 // stage.stride)
        levels = backbone(x)
    assert [v.shape[2] for v in levels.values()] == [128 // s for s in backbone.strides]
    assert list(levels) == ["0", "1", "2", "3", "pool"]


@pytest.mark.parametrize("name", NAMES)
def test_stages_hold_every_parameter_of_the_body_once(name):
    backbone = build_backbone(name)
    listed = [
        id(p)
        for stage in backbone.stages
        for module in backbone.stage_modules(stage.name)
        for p in module.parameters()
    ]
    assert sorted(listed) == sorted(id(p) for p in backbone.body.parameters())


def test_resnet50_pyramid_equals_torchvisions_bitwise():
    theirs = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=torch.nn.BatchNorm2d
    ).eval()
    ours = build_backbone("resnet50").eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        for name, level in theirs(x).items():
            assert torch.equal(ours(x)[name], level)


def test_efficientnet_lite0_carries_its_imagenet_weights():
    # A pretrained first layer sees edges and colours: its kernels differ far more in strength than
    # random ones, and the running statistics are not the zeros and ones of a fresh network.
    trained = build_backbone("efficientnet_lite0")
    trained.body.load_state_dict(BACKBONES["efficientnet_lite0"].imagenet(), strict=False)
    fresh = build_backbone("efficientnet_lite0")
    assert (trained.body.bn1.running_var != 1).all()
    assert (fresh.body.bn1.running_var == 1).all()
    last = trained.body.blocks[6][0].bn3
    assert (last.running_var != 1).all()
    trained.set_trainable([])
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert all(torch.isfinite(v).all() for v in trained(x).values())


def test_strides_that_do_not_double_are_refused():
    stages = [Stage("stem", ("conv1",), 2, 64), Stage("layer1", ("layer1",), 4, 256)]
    stages += [Stage("layer2", ("layer3",), 16, 1024)]
    with pytest.raises(ValueError, match=r"double, got \[4, 16\]"):
        PyramidBackbone(resnet50(weights=None), stages)


@pytest.mark.parametrize("name", NAMES)
def test_set_trainable_is_its_own_inverse(name):
    backbone = build_backbone(name, norm="eval_when_frozen")
    before = [(p.requires_grad, m) for m in backbone.modules() for p in m.parameters(False)]
    modes = [m.training for m in backbone.modules()]
    backbone.set_trainable(["layer4"])
    assert not backbone.body.get_submodule(backbone.stages[0].modules[0]).weight.requires_grad
    backbone.set_trainable([s.name for s in backbone.stages])
    after = [(p.requires_grad, m) for m in backbone.modules() for p in m.parameters(False)]
    assert before == after
    assert modes == [m.training for m in backbone.modules()]


@pytest.mark.parametrize(
    ("norm", "frozen_stage", "thawed_stage"),
    [("frozen", False, False), ("eval_when_frozen", False, True), ("train", True, True)],
)
def test_norms_update_their_statistics_exactly_where_the_mode_says(
    norm, frozen_stage, thawed_stage
):
    backbone = build_backbone("resnet50", out_channels=8, norm=norm)
    backbone.set_trainable(["layer4"])
    backbone.train()  # must not wake anything up
    before = state(backbone.body)
    backbone(torch.rand(2, 3, 64, 64))
    changed = {
        n.split(".")[0] for n, v in backbone.body.state_dict().items() if (v != before[n]).any()
    }
    assert ("layer1" in changed) == frozen_stage
    assert ("layer4" in changed) == thawed_stage


def test_frozen_norms_keep_their_affine_parameters_even_when_thawed():
    backbone = build_backbone("resnet50", norm="frozen")
    backbone.set_trainable(["layer4"])
    assert backbone.body.layer4[0].conv1.weight.requires_grad
    assert not backbone.body.layer4[0].bn1.weight.requires_grad
