import copy

import pytest
import torch
from timm.layers import BatchNormAct2d, get_act_layer
from torch import nn
from torch.nn import functional as F
from torchvision.models.convnext import CNBlock

from detector.models.backbones.build import build_backbone
from detector.models.fused import FusedConvolution, fuse

# Those whose blocks are like no other's.
NAMES = ["resnet50", "efficientnet_lite0", "mobilenet_v3_large", "convnext_tiny"]
STAGES = ["stem", "layer1", "layer2", "layer3", "layer4"]


def make_backbone(name, norm="frozen"):
    """Random weights, and norms that do something."""
    torch.manual_seed(0)
    backbone = build_backbone(name, out_channels=8, norm=norm)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                nn.init.uniform_(values, -0.3, 0.3)
        elif isinstance(module, CNBlock):
            nn.init.uniform_(module.layer_scale, 0.5, 1.5)  # else what it scales does not count
    return backbone.double()


def make_float32_pair(name, trained):
    """A backbone, its fused copy, and images, as a CPU is fastest with them."""
    plain = make_backbone(name).float().to(memory_format=torch.channels_last)
    plain.set_trainable(trained)
    fused = copy.deepcopy(plain)
    fused.fused = True
    return plain, fused, torch.rand(2, 3, 64, 96).contiguous(memory_format=torch.channels_last)


def run(backbone, x):
    """The pyramid, and every gradient; with the same blocks left out, where that is random."""
    torch.manual_seed(0)
    for parameter in backbone.parameters():
        parameter.grad = None
    levels = backbone(x)
    if torch.is_grad_enabled():
        sum((v * v).mean() for v in levels.values()).backward()
    grads = {n: p.grad for n, p in backbone.named_parameters()}
    return levels, grads


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("norm", "trained"),
    [
        ("frozen", []),
        ("frozen", STAGES),
        ("eval_when_frozen", ["layer1"]),
        ("eval_when_frozen", ["layer3", "layer4"]),
        ("train", ["layer3", "layer4"]),
    ],
)
def test_fusing_changes_neither_outputs_nor_gradients_nor_statistics(name, norm, trained):
    plain = make_backbone(name, norm)
    plain.set_trainable(trained)
    fused = copy.deepcopy(plain.train())
    fused.fused = True
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    for backbone_mode in (True, False):
        (a, ga), (b, gb) = (run(m.train(backbone_mode), x) for m in (plain, fused))
        for level in a:
            torch.testing.assert_close(b[level], a[level], rtol=1e-9, atol=1e-9)
        for key, grad in ga.items():
            assert (grad is None) == (gb[key] is None), key
            if grad is not None:
                assert relative(gb[key], grad) < 1e-8 or grad.norm() < 1e-9, key
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[key], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg16_bn", "googlenet", "mobilenet_v3_large", "efficientnet_b0"]
)
def test_every_norm_at_rest_is_folded(name):
    backbone = make_backbone(name)
    backbone.set_trainable([])
    programs = [fuse(list(backbone.stage_modules(stage))) for stage in STAGES]
    units = [m for p in programs for m in p.modules() if isinstance(m, FusedConvolution)]
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted(map(id, norms)) == sorted(id(u.norm) for u in units if u.norm is not None)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_every_norm_at_rest_is_folded_and_every_shortcut_added(name):
    backbone = make_backbone(name)
    backbone.set_trainable([])
    units, rest = [], []
    for stage in STAGES:
        program = fuse(list(backbone.stage_modules(stage)))
        units += [m for m in program.modules() if isinstance(m, FusedConvolution)]
        rest += [str(n.target) for n in program.graph.nodes if n.op != "placeholder"]
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted(map(id, norms)) == sorted(id(u.norm) for u in units)
    left = [t for t in rest if not t.startswith("fused_") and t != "output"]
    assert left == (["3"] if name == "resnet50" else [])  # the stem's pooling
    assert sum(u.may_overwrite for u in units) == (16 if name == "resnet50" else 9)


@pytest.mark.parametrize("name", NAMES)
def test_on_a_cpu_the_fused_operations_give_the_same(name):
    plain, fused, x = make_float32_pair(name, [])
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            usual, short = plain(x), fused(x)
        exact = plain.double()(x.double())
        for level, value in fused(x).items():
            assert relative(value, exact[level]) < 1e-5
            assert short[level].dtype == torch.bfloat16
            # Fewer roundings than without fusing; where there are few at all, chance decides.
            assert relative(short[level], exact[level]) < 1.5 * relative(usual[level], exact[level])


def test_a_gradient_passes_through_frozen_stages_on_a_cpu():
    plain, fused, x = make_float32_pair("resnet50", ["layer1"])
    (_, expected), (_, found) = (run(backbone, x) for backbone in (plain, fused))
    for key, grad in expected.items():
        assert (grad is None) == (found[key] is None), key
        assert grad is None or relative(found[key], grad.double()) < 0.01, key


def relative(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


def test_folded_kernels_follow_the_weights():
    backbone = make_backbone("resnet50").eval()
    backbone.set_trainable([])
    backbone.fused = True
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    before = backbone(x)["0"]
    other = {k: v + 0.01 for k, v in backbone.state_dict().items() if "running" in k}
    backbone.load_state_dict({**backbone.state_dict(), **other})
    loaded = backbone(x)["0"]
    backbone.body.conv1.weight.data = backbone.body.conv1.weight.data * 1.1
    swapped = backbone(x)["0"]
    backbone.fused = False
    assert not torch.allclose(before, loaded)
    assert not torch.allclose(loaded, swapped)
    torch.testing.assert_close(swapped, backbone(x)["0"])


def test_a_copy_runs_on_its_own_weights():
    backbone = make_backbone("resnet50").eval()
    backbone.set_trainable([])
    backbone.fused = True
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    before = backbone(x)["0"]
    twin = copy.deepcopy(backbone)
    assert not twin._programs  # these refer to the original's modules
    with torch.no_grad():
        twin.body.conv1.weight.zero_()
    assert torch.equal(backbone(x)["0"], before)
    assert not torch.allclose(twin(x)["0"], before)


def test_checkpoints_know_nothing_of_it():
    backbone = make_backbone("resnet50").eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    modules = [name for name, _ in backbone.named_modules()]
    backbone.set_trainable([])
    backbone.fused = True
    backbone(torch.rand(1, 3, 64, 64, dtype=torch.float64))
    backbone.set_trainable(STAGES)
    assert [name for name, _ in backbone.named_modules()] == modules
    assert list(backbone.state_dict()) == list(before)
    assert all(torch.equal(backbone.state_dict()[key], value) for key, value in before.items())


class Shortcuts(nn.Module):
    """Adds what may not be written over, or is of another shape."""

    def __init__(self, forward):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)
        self.pooled, self.relu = nn.Conv2d(3, 3, 4), nn.ReLU()
        self.way = forward

    def forward(self, x):
        return self.way(self, x)


def changed_in_place(m, x):
    y = m.first(x)
    return m.second(torch.relu_(y)) + y


def seen_through_a_view(m, x):
    y = m.first(x)
    view = y[:, :2]
    return torch.cat((m.second(x) + y, view), 1)


WAYS = {
    "read again": lambda m, x: (lambda y: m.relu(m.second(y) + y) + y)(m.first(x)),
    "read again later": lambda m, x: (lambda y: m.relu(m.second(m.relu(x)) + y) + y)(m.first(x)),
    "convolved itself": lambda m, x: (lambda y: m.second(y) + y)(m.first(x)),
    "the input": lambda m, x: m.second(m.first(x)) + x,
    "broadcast": lambda m, x: m.second(x) + m.pooled(x),
    "broadcast the other way": lambda m, x: m.pooled(x) + m.second(x),
    "a number": lambda m, x: m.second(x) + 1.0,
    "changed in place": changed_in_place,
    "seen through a view": seen_through_a_view,
    "written over": lambda m, x: m.first(x) + m.second(m.relu(x)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_shortcut_is_added_whatever_it_is(way, layout):
    module = Shortcuts(WAYS[way]).eval()
    program = fuse([module])
    x = torch.rand(2, 3, 4, 4).contiguous(memory_format=layout)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(program(x), module(x))
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(program(x), module(x), atol=0.05, rtol=0.05)
    assert torch.equal(x, before)
    units = [m for m in program.modules() if isinstance(m, FusedConvolution)]
    assert any(u.may_overwrite for u in units) == (way == "written over" or "broadcast" in way)


class Doubling(nn.BatchNorm2d):
    """Does more than its attributes say."""

    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        Doubling(4),
        BatchNormAct2d(4, act_layer=nn.GELU),
        BatchNormAct2d(4, act_layer=get_act_layer("gelu")),
        BatchNormAct2d(4, act_layer=get_act_layer("prelu")),
        BatchNormAct2d(4, drop_layer=lambda **_: nn.Softplus()),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_what_a_norm_does_beside_norming_is_done(norm):
    modules = [nn.Conv2d(3, 4, 3), norm]
    nn.init.uniform_(norm.running_mean)
    plain = nn.Sequential(*modules).eval()
    program = fuse(modules)
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(program(x), plain(x))
    with torch.no_grad():
        torch.testing.assert_close(program(x), plain(x))


@pytest.mark.parametrize(("kind", "lr"), [(torch.optim.SGD, 1e-6), (torch.optim.AdamW, 1e-3)])
def test_folded_kernels_follow_a_fused_optimiser_also_in_evaluation_mode(kind, lr):
    plain = make_backbone("resnet50").float().eval()
    fused = copy.deepcopy(plain)
    fused.fused = True
    x = torch.rand(1, 3, 64, 64)
    optimiser = kind(fused.parameters(), lr=lr, fused=True)
    with torch.no_grad():
        before = fused(x)["0"]
    run(fused, x)
    optimiser.step()
    plain.load_state_dict(fused.state_dict())
    with torch.no_grad():
        after = fused(x)["0"]
        expected = plain(x)["0"]
    assert relative(after, expected.double()) < 1e-5
    assert relative(before, expected.double()) > 1e-3


def test_folded_kernels_follow_weights_exchanged_behind_a_change_of_mode():
    backbone = make_backbone("resnet50").eval()
    backbone.set_trainable([])
    backbone.fused = True
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    before = backbone(x)["0"]
    backbone.body.conv1.weight.data.mul_(1.1)  # which counts as no version
    assert not torch.allclose(backbone.eval()(x)["0"], before)


class Branching(nn.Module):
    """Its way depends on the data, which a trace cannot follow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


def test_what_cannot_be_traced_is_left_as_it_is():
    assert fuse([Branching()]) is None
    backbone = make_backbone("resnet50").eval()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    backbone.body.relu.forward = lambda y: y if y.sum() < 0 else F.relu(y)
    backbone.body.relu.__class__ = type("OwnReLU", (nn.ReLU,), {"__module__": "elsewhere"})
    expected = backbone(x)["0"]
    backbone.fused = True
    torch.testing.assert_close(backbone(x)["0"], expected)
    assert backbone._programs["stem"].module is None


class Dropping(nn.Module):
    """What its code does depends on its mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 1)

    def forward(self, x):
        return F.dropout(self.conv(x), 0.5, self.training)


def test_a_stage_is_traced_anew_when_its_mode_changes():
    backbone = build_backbone("resnet50", out_channels=8)
    backbone.body.relu = Dropping()
    backbone.body.conv1 = nn.Conv2d(3, 3, 1, 4)
    backbone.body.bn1 = nn.BatchNorm2d(3)
    backbone.fused = True
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        still = [backbone.eval()(x)["0"] for _ in range(2)]
        moving = [backbone.train()(x)["0"] for _ in range(2)]
        again = backbone.eval()(x)["0"]
    assert torch.equal(*still)
    assert not torch.equal(*moving)
    assert torch.equal(again, still[0])
