"""Every row of `BACKBONES`: what it says of its network is so."""

from typing import get_args, get_type_hints

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.ops import Permute, SqueezeExcitation

from detector.core.errors import RequestError
from detector.models import heads
from detector.models.backbones.build import backbone_spec, build_backbone, build_network
from detector.models.backbones.pyramid import LevelNorm, PyramidBackbone
from detector.models.backbones.receptive_field import (
    ReceptiveField,
    TrackReceptiveFields,
    receptive_field_of,
    set_receptive_field,
)
from detector.models.backbones.stages import NAMES, Stage
from detector.models.backbones.table import BACKBONES
from detector.models.backbones.zfnet import ZFNet
from detector.models.faster_rcnn import build_faster_rcnn
from detector.models.options import HeadOptions, ModelOptions
from detector.models.weights.sources import imagenet_weights

EVERY = [*BACKBONES, "timm/resnet18", "timm/tf_efficientnet_lite0", "timm/mambaout_femto"]


# One of each family: the others have more layers of the same kinds.
FAMILIES = [n for n in BACKBONES if n not in ("vgg16_bn", "resnet34", "resnet101", "resnet152")]
every = pytest.mark.parametrize("named", EVERY, indirect=True, scope="module")


@pytest.fixture(scope="module")
def named(request):
    """A name and its backbone with random weights, which tests share and leave as it is."""
    return request.param, build(request.param)


def build(name):
    torch.manual_seed(0)
    return build_backbone(name, out_channels=8).eval()


def run_stages(backbone, x):
    """Every stage's output, `(N, C, H, W)`."""
    outputs = []
    with torch.no_grad():
        for stage in backbone.stages:
            for module in backbone.stage_modules(stage.name):
                x = module(x)
            outputs.append(x.permute(0, 3, 1, 2) if backbone.channels_last else x)
    return outputs


def test_the_course_is_complete():
    course = "alexnet zfnet vgg16 vgg16_bn googlenet resnet18 resnet34 resnet50 resnet101 resnet152"
    more = "densenet121 mobilenet_v3_large efficientnet_b0 efficientnet_lite0 convnext_tiny swin_t"
    assert {*course.split(), *more.split()} <= BACKBONES.keys()


def test_the_options_name_the_same_layers():
    # Options do not import torch, which takes seconds.
    types = get_type_hints(HeadOptions)
    assert list(heads.ACTIVATIONS) == list(get_args(types["activation"]))
    assert list(heads.NORMS) == list(get_args(types["conv_norm"]))


@every
def test_declared_strides_channels_and_cells_are_the_real_ones(named):
    _, backbone = named
    outputs = run_stages(backbone, torch.rand(1, 3, 160, 96))
    for stage, y in zip(backbone.stages, outputs, strict=True):
        cells = [side // stage.stride - stage.missing for side in (160, 96)]
        assert y.shape == (1, stage.channels, *cells)
    levels = backbone(torch.rand(1, 3, 160, 96))
    assert list(levels) == ["0", "1", "2", "3", "pool"]
    assert backbone.strides == (4, 8, 16, 32, 64)


@every
def test_stages_hold_every_parameter_of_the_body_once(named):
    _, backbone = named
    assert tuple(s.name for s in backbone.stages) == NAMES
    listed = [
        id(p)
        for stage in backbone.stages
        for module in backbone.stage_modules(stage.name)
        for p in module.parameters()
    ]
    assert sorted(listed) == sorted(id(p) for p in backbone.body.parameters())
    for stage in backbone.stages:
        parts = backbone.stage_modules(stage.name)
        assert any(True for module in parts for _ in module.parameters()), "nothing to train"


@every
def test_the_smallest_image_has_a_cell_on_every_level(named):
    name, backbone = named
    side = backbone_spec(name).smallest
    with torch.no_grad():
        levels = backbone(torch.rand(1, 3, side, side))
    assert all(y.numel() for y in levels.values())


# What a cell sees through these does not depend on where it is, or is symmetric around it.
CENTRED = (nn.BatchNorm2d, nn.LayerNorm, SqueezeExcitation, CNBlock, SwinTransformerBlock)


def make_averages(module):
    """Put averages for convolutions and poolings, and nothing for what keeps cells in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.MaxPool2d) and child.stride == 1:
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.MaxPool2d):
            sizes = child.kernel_size, child.stride, child.padding, child.ceil_mode
            setattr(module, name, nn.AvgPool2d(*sizes, count_include_pad=False))
        elif isinstance(child, nn.Conv2d | nn.Linear):
            weight = child.weight.data
            nn.init.constant_(weight, 1 / weight[0].numel())
            if isinstance(child, nn.Conv2d) and child.stride == (1, 1):
                # Seen from the middle alone, or what the edges cut off would shift the mean.
                middle = weight.shape[2] // 2
                weight[:, :, :middle] = weight[:, :, :, :middle] = 0
                weight[:, :, middle + 1 :] = weight[:, :, :, middle + 1 :] = 0
        elif isinstance(child, CENTRED):
            setattr(module, name, nn.Identity())
        elif list(child.children()):
            make_averages(child)
        elif not isinstance(child, nn.AvgPool2d | Permute):
            setattr(module, name, nn.Identity())


@pytest.mark.parametrize("name", [*FAMILIES, "timm/tf_efficientnet_lite0"])
def test_every_anchor_is_at_the_centre_of_its_cells_receptive_field(name):
    options = ModelOptions(
        fpn_channels=8, head=HeadOptions(hidden=(4,)), anchor_ratios=(1.0,), rpn_top_n_test=4
    )
    network = build_faster_rcnn(name, 1, options=options).eval()
    # 7 and 5 cells of the coarsest stage, the last of which reach over the image's edge.
    images, _ = network.transform([torch.zeros(3, 205, 141, dtype=torch.uint8)])
    backbone = network.backbone
    make_averages(backbone.body)
    x = torch.ones_like(images.tensors, requires_grad=True)
    levels, y = [], x
    for stage in backbone.stages:
        for module in backbone.stage_modules(stage.name):
            y = module(y)
        if stage.name in backbone.levels:
            levels.append(y.permute(0, 3, 1, 2) if backbone.channels_last else y)
    levels.append(nn.functional.max_pool2d(levels[-1], 1, 2))  # as the pyramid's top is made
    anchors = network.rpn.anchor_generator(images, levels)[0].split(
        [y[0, 0].numel() for y in levels]
    )
    assert network.roi_heads.box_roi_pool.offsets == list(backbone.offsets[:-1])
    for boxes, maps in zip(anchors, levels, strict=True):
        row, column = maps.shape[2] // 2, maps.shape[3] // 2
        box = boxes.view(*maps.shape[2:], 4)[row, column]
        (seen,) = torch.autograd.grad(maps[0, :, row, column].sum(), x, retain_graph=True)
        weight = seen[0].sum(0)
        assert weight.min() >= 0
        for axis in (0, 1):  # x, then y
            share = weight.sum(axis) / weight.sum()
            centre = (share * torch.arange(len(share))).sum().item()
            assert centre == pytest.approx((box[axis] + box[axis + 2]).item() / 2, abs=0.01)


@every
def test_declared_offsets_are_those_tracked_through_the_layers(named):
    (_, backbone), x = named, torch.rand(1, 3, 128, 128)
    set_receptive_field(x, ReceptiveField())
    for stage in backbone.stages:
        with TrackReceptiveFields(), torch.no_grad():
            for module in backbone.stage_modules(stage.name):
                x = module(x)
        field = receptive_field_of(x)
        merged = stage.stride // field.stride  # without a layer, as Swin's patches are
        assert field.after(merged, merged) == (stage.stride, stage.offset)
        set_receptive_field(x, ReceptiveField(stage.stride, stage.offset))


def own_features(name):
    """A network of torchvision's and what it computes before its classifier."""
    if name == "googlenet":
        network = tv.googlenet(aux_logits=False, init_weights=True)
    else:
        network = tv.get_model(name)
    if name.startswith("resnet") or name == "googlenet":
        network.fc = network.avgpool = nn.Identity()
        return network, network
    return network, network.features


TORCHVISIONS = [n for n, row in BACKBONES.items() if f"torchvision:{n}" == row.imagenet]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in TORCHVISIONS])
def test_the_last_stage_is_torchvisions_own_features_bitwise(name):
    network, features = own_features(name)
    backbone = build(name)
    there = backbone.body.state_dict()
    backbone.body.load_state_dict({k: v for k, v in network.state_dict().items() if k in there})
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = features.eval()(x)
    if name == "swin_t":
        expected = expected.permute(0, 3, 1, 2)
    assert torch.equal(run_stages(backbone, x)[-1].flatten(), expected.flatten())


@every
def test_no_stage_writes_into_the_level_below(named):
    (_, backbone), x = named, torch.rand(1, 3, 64, 64)
    seen, kept = [], []
    as_level = backbone.as_level

    def watch(stage, y):
        seen.append(y)
        kept.append(y.clone())
        return as_level(stage, y)

    backbone.as_level = watch
    with torch.no_grad():
        backbone(x)
    del backbone.as_level
    assert len(seen) == 4
    assert all(torch.equal(a, b) for a, b in zip(seen, kept, strict=True))


def test_zfnets_maps_have_the_sizes_of_the_papers_figure():
    sizes, x = [], torch.rand(1, 3, 224, 224)
    for layer in ZFNet().eval().features:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            sizes.append((x.shape[1], x.shape[2]))
    figure = [(96, 110), (96, 55), (256, 26), (256, 13), (384, 13), (384, 13), (256, 13), (256, 6)]
    assert sizes == figure


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_normalisation_is_that_of_the_weights(name):
    transform = tv.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    x = torch.rand(1, 3, 4, 4)
    expected = (x - torch.tensor(transform.mean)[:, None, None]) / torch.tensor(transform.std)[
        :, None, None
    ]
    if name == "googlenet":  # whose own first step is for these weights
        expected = tv.googlenet(
            aux_logits=False, transform_input=True, init_weights=False
        )._transform_input(expected)
    spec = BACKBONES[name]
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.mean, spec.std))
    torch.testing.assert_close((x - mean) / std, expected)


def test_timms_lite0_is_the_row_of_the_same_name():
    row, made = BACKBONES["efficientnet_lite0"], backbone_spec("timm/tf_efficientnet_lite0")
    assert made.stages == row.stages
    assert (made.mean, made.std, made.smallest) == (row.mean, row.std, row.smallest)


def test_a_timm_model_that_pads_nothing_says_how_many_cells_are_missing():
    spec = backbone_spec("timm/inception_v3")
    backbone = PyramidBackbone(build_network(spec).eval(), spec.stages, 8)
    for stage, y in zip(spec.stages, run_stages(backbone, torch.rand(1, 3, 256, 192)), strict=True):
        cells = tuple(side // stage.stride - stage.missing for side in (256, 192))
        assert y.shape[2:] == cells


def test_inspecting_a_timm_model_draws_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    backbone_spec("timm/mobilenetv3_small_050")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnt18", "no such model; did you mean resnet18"),
        ("vit_tiny_patch16_224", "its features have the strides 16;"),
        ("hrnet_w18_small", "its parts do not run one after the other"),
        ("tresnet_m", "something else than it does"),
        ("mobilevitv2_050", "its cells are not a stride apart"),
        ("resnet18.nonsense", "timm cannot build it"),
        ("levit_128s", r"strides 16, 32, 64; choose .* such as resnet18"),
    ],
)
def test_a_timm_model_whose_features_make_no_pyramid_is_refused(name, reason):
    with pytest.raises(RequestError, match=f"backbone.name={name}: .*{reason}"):
        backbone_spec(f"timm/{name}")


def test_a_model_is_refused_by_its_outline_without_its_numbers(monkeypatch):
    devices, create = [], timm.create_model

    def watched(*args, **kwargs):
        devices.append(torch.get_default_device().type)
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", watched)
    with pytest.raises(RequestError, match="features have the strides 16"):
        backbone_spec("timm/vit_small_patch16_224")
    assert set(devices) == {"meta"}


@pytest.mark.parametrize("name", ["alexnet", "swin_t"])
def test_levels_that_no_batch_norm_has_scaled_are_normed(name):
    backbone = build(name)
    norms = backbone.level_norms
    assert list(norms) == list(backbone.levels)
    stage = backbone.stages[-1]
    x = 50 * torch.randn(2, stage.channels, 3, 5) + 7
    level = backbone.as_level(stage.name, x.permute(0, 2, 3, 1) if name == "swin_t" else x)
    expected = torch.nn.functional.layer_norm(x.permute(0, 2, 3, 1), [stage.channels])
    torch.testing.assert_close(level, expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-4)


def test_other_levels_enter_the_pyramid_as_they_are():
    backbone, x = build("resnet18"), torch.rand(1, 512, 2, 2)
    assert not any(isinstance(m, LevelNorm) for m in backbone.modules())
    assert backbone.as_level("layer4", x) is x


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


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
    imagenet = imagenet_weights(BACKBONES["efficientnet_lite0"].imagenet)
    trained.body.load_state_dict(imagenet, strict=False)
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
    stages = [Stage("stem", ("conv1",), 2, 64), Stage("layer1", ("layer1",), 4, 64)]
    stages += [Stage("layer2", ("layer3",), 16, 256)]
    with pytest.raises(ValueError, match=r"double, got \[4, 16\]"):
        PyramidBackbone(tv.resnet18(), stages)


@pytest.mark.parametrize("name", ["resnet50", "alexnet", "swin_t"])
def test_set_trainable_is_its_own_inverse(name):
    backbone = build_backbone(name, norm="eval_when_frozen")
    before = [(p.requires_grad, m) for m in backbone.modules() for p in m.parameters(False)]
    modes = [m.training for m in backbone.modules()]
    backbone.set_trainable(["layer4"])
    stem = list(backbone.stage_modules("stem"))
    assert not any(p.requires_grad for m in stem for p in m.parameters())
    backbone.set_trainable([s.name for s in backbone.stages])
    after = [(p.requires_grad, m) for m in backbone.modules() for p in m.parameters(False)]
    assert before == after
    assert modes == [m.training for m in backbone.modules()]


@pytest.mark.parametrize(
    ("norm", "frozen_stage", "unfrozen_stage"),
    [("frozen", False, False), ("eval_when_frozen", False, True), ("train", True, True)],
)
def test_norms_update_their_statistics_exactly_where_the_mode_says(
    norm, frozen_stage, unfrozen_stage
):
    backbone = build_backbone("resnet50", out_channels=8, norm=norm)
    backbone.set_trainable(["layer4"])
    backbone.train()  # frozen stages stay in eval mode
    before = state(backbone.body)
    backbone(torch.rand(2, 3, 64, 64))
    changed = {
        n.split(".")[0] for n, v in backbone.body.state_dict().items() if (v != before[n]).any()
    }
    assert ("layer1" in changed) == frozen_stage
    assert ("layer4" in changed) == unfrozen_stage


def test_frozen_norms_keep_their_affine_parameters_even_in_unfrozen_stages():
    backbone = build_backbone("resnet50", norm="frozen")
    backbone.set_trainable(["layer4"])
    assert backbone.body.layer4[0].conv1.weight.requires_grad
    assert not backbone.body.layer4[0].bn1.weight.requires_grad
