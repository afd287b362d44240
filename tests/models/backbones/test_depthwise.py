import copy
import pickle

import torch
from torch import nn

from detector.models.backbones.build import build_backbone
from detector.models.backbones.depthwise import keep_depthwise_in_float32


def test_only_large_depthwise_convolutions_leave_autocast():
    network = nn.Sequential(
        nn.Conv2d(4, 8, 5), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 5, groups=8)
    )
    names = list(network.state_dict())
    keep_depthwise_in_float32(network)
    assert list(network.state_dict()) == names
    x = torch.rand(1, 4, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        dtypes = [(x := layer(x)).dtype for layer in copy.deepcopy(network)]
    assert dtypes == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_the_result_is_the_float32_one():
    layer = nn.Conv2d(8, 8, 5, groups=8)
    x = torch.rand(1, 8, 9, 9)
    expected = layer(x)
    keep_depthwise_in_float32(nn.Sequential(layer))
    assert torch.equal(layer(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)


def test_timms_padded_convolutions_keep_their_padding():
    backbone = build_backbone("efficientnet_lite0", out_channels=8).eval()
    kinds = {type(m).__name__ for m in backbone.modules() if "Float32OnCpu" in type(m).__name__}
    assert kinds == {"Float32OnCpuConv2d", "Float32OnCpuConv2dSame"}
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 64, 64))["3"].shape == (1, 8, 2, 2)
    twin = pickle.loads(pickle.dumps(backbone))  # noqa: S301  # its own bytes
    assert [type(m) for m in twin.modules()] == [type(m) for m in backbone.modules()]
