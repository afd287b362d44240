"""Box heads by configuration."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead

from detector.models.backbones.build import build_backbone
from detector.models.faster_rcnn import build_faster_rcnn
from detector.models.heads import build_box_head
from detector.models.options import HeadOptions, ModelOptions

V2 = HeadOptions(convs=(256,) * 4, conv_norm="batch", hidden=(1024,))
SMALL = ModelOptions(
    fpn_channels=8,
    neck_norm="batch",
    rpn_convs=2,
    head=HeadOptions(convs=(8,), conv_norm="batch", hidden=(16,), dropout=0.5),
    rpn_top_n_train=20,
    rpn_top_n_test=20,
)


def test_the_default_is_torchvisions_two_layers_bitwise():
    torch.manual_seed(0)
    theirs = TwoMLPHead(8 * 49, 1024)
    torch.manual_seed(0)
    ours, width = build_box_head(8, 7, HeadOptions())
    assert width == 1024
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.rand(5, 8, 7, 7)
    assert torch.equal(ours(x), theirs(x))


def test_four_convolutions_and_a_layer_are_torchvisions_second_head_bitwise():
    torch.manual_seed(0)
    theirs = FastRCNNConvFCHead((8, 7, 7), [256] * 4, [1024], norm_layer=nn.BatchNorm2d)
    torch.manual_seed(0)
    ours, width = build_box_head(8, 7, V2)
    assert width == 1024
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.rand(5, 8, 7, 7)
    assert torch.equal(ours(x), theirs(x))


def test_any_list_of_widths_with_dropout_and_activation():
    head, width = build_box_head(
        4, 2, HeadOptions(hidden=(7, 5, 3), dropout=0.4, activation="silu")
    )
    kinds = [type(m) for m in head]
    assert kinds == [nn.Flatten, *[nn.Linear, nn.SiLU, nn.Dropout] * 3]
    assert [m.out_features for m in head if isinstance(m, nn.Linear)] == [7, 5, 3]
    assert {m.p for m in head if isinstance(m, nn.Dropout)} == {0.4}
    assert width == 3
    assert head(torch.rand(6, 4, 2, 2)).shape == (6, 3)


def test_convolutions_may_end_in_the_mean_over_the_region():
    head, width = build_box_head(4, 7, HeadOptions(convs=(6, 5), pool="average", hidden=()))
    assert width == 5
    x = torch.rand(3, 4, 7, 7)
    expected = head[1](head[0](x)).mean((2, 3))
    torch.testing.assert_close(head(x), expected)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in head.modules())
    assert head[0][0].bias is not None


@pytest.mark.parametrize("version", [1, 2])
def test_a_network_of_each_version_has_torchvisions_parameters(version):
    # So that torchvision's weights for the whole detector fit.
    options = ModelOptions(neck_norm="batch", rpn_convs=2, head=V2) if version == 2 else None
    build = fasterrcnn_resnet50_fpn_v2 if version == 2 else fasterrcnn_resnet50_fpn
    with torch.device("meta"):
        theirs = build(weights=None, weights_backbone=None, num_classes=4).state_dict()
        ours = build_faster_rcnn("resnet50", 3, options=options).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_the_second_versions_neck_computes_what_torchvisions_does():
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).backbone.eval()
    ours = build_backbone("resnet50", neck_norm=nn.BatchNorm2d).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for (name, found), expected in zip(ours(x).items(), theirs(x).values(), strict=True):
            assert torch.equal(found, expected), name


def statistics(network):
    return {n: v.clone() for n, v in network.state_dict().items() if "running" in n}


@pytest.mark.parametrize("trained", [("neck", "head"), ("head",), ("neck",), ()])
def test_norms_and_dropouts_of_a_frozen_neck_or_head_are_in_eval_mode(trained):
    torch.manual_seed(0)
    network = build_faster_rcnn("resnet18", 2, options=SMALL)
    network.set_trainable(trained)
    network.eval()
    network.train()  # frozen layers stay in eval mode
    before = statistics(network)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[5.0, 5, 50, 50]]), "labels": torch.tensor([1])}
    losses = network([image], [target])
    assert len(losses) == 4  # and yet it is trained
    changed = {n for n, v in statistics(network).items() if not torch.equal(v, before[n])}
    assert any("fpn" in n for n in changed) == ("neck" in trained)
    assert any("box_head" in n for n in changed) == ("head" in trained)
    assert not any("body" in n for n in changed)
    modes = {m.training for m in network.roi_heads.box_head if isinstance(m, nn.Dropout)}
    assert modes == {"head" in trained}
    network.set_trainable(("stem", "neck", "head"))
    assert network.roi_heads.box_head.training
