import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from detector.models.rpn import PlacedAnchors, PointwiseRPNHead, SampledRPN

CHANNELS, SIZES = 8, [(16, 12), (8, 6), (1, 1)]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_head_at_a_cell_is_the_head_over_the_map(depth):
    torch.manual_seed(0)
    head = PointwiseRPNHead(CHANNELS, 3, conv_depth=depth).double()
    for module in head.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.2)
            torch.nn.init.normal_(module.bias, std=0.2)
    x = torch.randn(2, CHANNELS, 5, 4, dtype=torch.float64, requires_grad=True)
    image, row, column = (
        v.flatten() for v in torch.meshgrid(*map(torch.arange, (2, 5, 4)), indexing="ij")
    )
    objectness, offsets = head.at(x, image, row, column)
    (maps,), (more,) = head([x])
    expected = maps.permute(0, 2, 3, 1).flatten(0, 2), more.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(objectness, expected[0])
    torch.testing.assert_close(offsets, expected[1])
    weight = torch.randn_like(offsets)
    leaves = [x, *head.parameters()]
    for a, b in zip(
        torch.autograd.grad((offsets * weight).sum() + objectness.sum(), leaves),
        torch.autograd.grad((expected[1] * weight).sum() + expected[0].sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_under_autocast_the_outputs_are_float32():
    head = PointwiseRPNHead(CHANNELS, 2)
    x, zero = torch.rand(1, CHANNELS, 4, 4), torch.zeros(1, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [*head([x])[0], *head([x])[1], *head.at(x, zero, zero, zero)]
    assert {output.dtype for output in outputs} == {torch.float32}


def make_pair(batch_size=16, top_n=40):
    torch.manual_seed(1)
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((0.5, 1.0),) * 3)
    head = PointwiseRPNHead(CHANNELS, 2).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    n = {"training": top_n, "testing": top_n // 2}
    arguments = (anchors, head, 0.7, 0.3, batch_size, 0.5, n, n, 0.7)
    return SampledRPN(*arguments), RegionProposalNetwork(*arguments)


def make_inputs():
    draw = torch.Generator().manual_seed(2)
    features = {
        str(i): torch.randn(2, CHANNELS, *s, generator=draw, dtype=torch.float64).requires_grad_()
        for i, s in enumerate(SIZES)
    }
    return ImageList(torch.zeros(2, 3, 64, 48), [(64, 48), (50, 40)]), features


def test_where_cells_divide_the_image_anchors_are_torchvisions():
    ratios = (0.5, 1.0, 2.0)
    placed = PlacedAnchors((2.0, 5.7), ratios, (4, 8), (0, 0))
    theirs = AnchorGenerator(((8.0, 22.8), (16.0, 45.6)), (ratios,) * 2)
    images = ImageList(torch.zeros(2, 3, 64, 48), [(64, 48), (50, 40)])
    maps = [torch.zeros(2, 5, 16, 12), torch.zeros(2, 5, 8, 6)]
    for found, expected in zip(placed(images, maps), theirs(images, maps), strict=True):
        assert torch.equal(found, expected)


def test_anchors_stand_on_the_cells_however_many_there_are():
    # AlexNet at 448 pixels has 13 cells: image size // map size would put the last one at 408.
    placed = PlacedAnchors((2.0,), (1.0,), (32,), (31,))
    images = ImageList(torch.zeros(1, 3, 448, 448), [(448, 448)])
    (anchors,) = placed(images, [torch.zeros(1, 1, 13, 13, dtype=torch.bfloat16)])
    assert anchors.dtype == torch.float32
    assert anchors[0].tolist() == [31 - 32, 31 - 32, 31 + 32, 31 + 32]
    assert anchors[12].tolist() == [415 - 32, 31 - 32, 415 + 32, 31 + 32]


TARGETS = [
    {"boxes": torch.tensor([[4.0, 4, 20, 30], [20, 10, 47, 60]])},
    {"boxes": torch.zeros(0, 4)},
]


@pytest.mark.parametrize("batch_size", [1, 16, 100_000])
def test_losses_gradients_and_proposals_equal_torchvisions(batch_size):
    ours, theirs = make_pair(batch_size)
    images, features = make_inputs()
    leaves = [*features.values(), *ours.head.parameters()]
    found = []
    for rpn in (ours, theirs):
        torch.manual_seed(3)
        proposals, losses = rpn.train()(images, features, TARGETS)
        after = torch.rand(1)
        total = losses["loss_objectness"] + 2 * losses["loss_rpn_box_reg"]
        found.append((proposals, losses, torch.autograd.grad(total, leaves), after))
    (boxes, losses, grads, after), (boxes_, losses_, grads_, after_) = found
    assert losses.keys() == losses_.keys()
    for a, b in zip((*boxes, *losses.values()), (*boxes_, *losses_.values()), strict=True):
        torch.testing.assert_close(a, b, check_dtype=False, rtol=1e-6, atol=1e-6)
    for a, b in zip(grads, grads_, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert torch.equal(after, after_)  # as many random numbers were drawn


def test_proposals_in_evaluation_equal_torchvisions():
    ours, theirs = (rpn.eval() for rpn in make_pair())
    images, features = make_inputs()
    with torch.no_grad():
        (found, losses), (expected, _) = (rpn(images, features) for rpn in (ours, theirs))
    assert losses == {}
    for a, b in zip(found, expected, strict=True):
        assert len(a) > 10
        torch.testing.assert_close(a, b, check_dtype=False, rtol=1e-6, atol=1e-6)


def test_the_dense_pass_leaves_nothing_for_autograd():
    ours, _ = make_pair()
    images, features = make_inputs()
    proposals, losses = ours.train()(images, features, TARGETS)
    assert not any(p.requires_grad for p in proposals)
    seen, stack = set(), [losses["loss_objectness"].grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [n for n, _ in node.next_functions]
    sizes = [n._saved_input.shape[2:] for n in seen if n.name() == "ConvolutionBackward0"]
    assert max(max(s) for s in sizes) == 3  # patches, no maps
