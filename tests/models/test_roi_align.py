import onnxruntime
import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from detector.models.roi_align import PyramidRoIAlign, roi_align_bag

STRIDES = (4, 8, 16, 32)
NAMES = ["0", "1", "2", "3"]


def pyramid(dtype=torch.float32, channels=6):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(2, channels, 256 // s, 192 // s, generator=generator, dtype=dtype)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
        for name, s in zip(NAMES, STRIDES, strict=True)
    }


def random_boxes(count, seed=1, low=-40.0, high=260.0):
    """Boxes of all sizes, some partly and some fully outside the image, some empty."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * (high - low) + low
    side = torch.rand(count, 2, generator=generator) ** 2 * 250
    side[:3] = 0
    return torch.cat((corner, corner + side), 1)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
def test_pooling_equals_torchvisions_in_values_and_gradients(sampling_ratio):
    boxes = [random_boxes(40, 1), random_boxes(25, 2)]
    shapes = [(256, 192)] * 2
    ours, theirs = pyramid(), pyramid()
    a = PyramidRoIAlign(NAMES, STRIDES, 7, sampling_ratio)(ours, boxes, shapes)
    b = MultiScaleRoIAlign(NAMES, 7, sampling_ratio)(theirs, boxes, shapes)
    assert a.shape == (65, 6, 7, 7)
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(3))
    for x, y in zip(
        torch.autograd.grad((a * weight).sum(), list(ours.values())),
        torch.autograd.grad((b * weight).sum(), list(theirs.values())),
        strict=True,
    ):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("stride", [4, 16])
def test_one_level_equals_torchvisions_kernel(aligned, stride):
    feature = pyramid()["1"]
    boxes = random_boxes(50)
    image = torch.arange(50) // 25
    level = torch.zeros(25, dtype=torch.int64)
    ours = roi_align_bag([feature], boxes.split(25), [level] * 2, [stride], 5, 2, aligned)
    rois = torch.cat((image[:, None].float(), boxes), 1)
    theirs = roi_align(feature, rois, 5, 1 / stride, 2, aligned)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_no_boxes_pool_to_nothing_and_still_have_a_gradient():
    features = pyramid()
    boxes = [torch.zeros(0, 4), torch.zeros(0, 4)]
    pooled = PyramidRoIAlign(NAMES, STRIDES, 7, 2)(features, boxes, [(256, 192)] * 2)
    assert pooled.shape == (0, 6, 7, 7)
    grads = torch.autograd.grad(pooled.sum(), list(features.values()), allow_unused=True)
    assert all(g is None or not g.any() for g in grads)


def test_under_autocast_the_features_dtype_is_kept():
    features = pyramid(torch.bfloat16)
    boxes = [random_boxes(20), random_boxes(20)]
    with torch.autocast("cpu", torch.bfloat16):
        pooled = PyramidRoIAlign(NAMES, STRIDES, 7, 2)(features, boxes, [(256, 192)] * 2)
    assert pooled.dtype == torch.bfloat16
    exact = PyramidRoIAlign(NAMES, STRIDES, 7, 2)(
        {k: v.float() for k, v in features.items()}, boxes, [(256, 192)] * 2
    )
    torch.testing.assert_close(pooled.float(), exact, atol=0.02, rtol=0.01)


def test_levels_and_scales_do_not_depend_on_how_much_is_padded():
    # An image of 20x100 pixels, padded to 128x128: torchvision would take its maps for finer ones.
    generator = torch.Generator().manual_seed(0)
    maps = {
        name: torch.randn(1, 3, 128 // s, 128 // s, generator=generator)
        for name, s in zip(NAMES, STRIDES, strict=True)
    }
    boxes = [torch.tensor([[1.0, 2, 90, 18], [5, 5, 12, 15]])]
    bag = PyramidRoIAlign(NAMES, STRIDES, 7, 2)(maps, boxes, [(20, 100)])
    kernel = PyramidRoIAlign(NAMES, STRIDES, 7, 2)
    kernel.sampling_ratio = 0  # torchvision's kernel, which is told the strides
    assert kernel(maps, boxes, [(20, 100)]).shape == bag.shape
    whole = MultiScaleRoIAlign(NAMES, 7, 2)(maps, boxes, [(128, 128)])
    torch.testing.assert_close(bag, whole, atol=2e-5, rtol=1e-4)
    expected = MultiScaleRoIAlign(NAMES, 7, 0)(maps, boxes, [(128, 128)])
    torch.testing.assert_close(kernel(maps, boxes, [(20, 100)]), expected)


@pytest.mark.parametrize("sampling_ratio", [2, 0])  # the bag, and torchvision's kernel
def test_a_box_is_pooled_where_the_cells_see_it(sampling_ratio):
    # Maps that say where their cells are: the mean over a box must be the box's own middle.
    offsets = [3.0, 7.0, 15.0, 31.0]
    maps = {}
    for name, stride, offset in zip(NAMES, STRIDES, offsets, strict=True):
        places = torch.arange(512 // stride) * stride + offset
        maps[name] = torch.stack(torch.meshgrid(places, places, indexing="ij"))[None]
    boxes = [torch.tensor([[100.0, 60, 140, 120], [80, 150, 300, 260], [50, 90, 470, 480]])]
    pool = PyramidRoIAlign(NAMES, STRIDES, 7, sampling_ratio, offsets)
    found = pool(maps, boxes, [(512, 512)]).mean((2, 3))
    expected = torch.tensor([[90.0, 120], [205, 190], [285, 260]])
    torch.testing.assert_close(found, expected)


def test_both_ways_take_a_box_on_the_border_of_two_levels_from_the_same_one():
    # A shift by the offset rounds its sides, which must not choose the level again.
    offsets, corner = [1.5, 3.5, 7.5, 15.5], 0.1 + 7 * torch.arange(20)[:, None]
    sides = torch.tensor([112.0, 224.0, 448.0]).repeat_interleave(20)[:, None]
    corners = corner.repeat(3, 1)
    boxes = [torch.cat((corners, corners, corners + sides, corners + sides), 1)]
    maps = {
        name: torch.full((1, 1, 1024 // s, 1024 // s), float(s))
        for name, s in zip(NAMES, STRIDES, strict=True)
    }
    bag, kernel = (PyramidRoIAlign(NAMES, STRIDES, 7, 2, offsets) for _ in range(2))
    kernel.sampling_ratio = 0
    found = [pool(maps, boxes, [(1024, 1024)])[:, 0, 3, 3] for pool in (bag, kernel)]
    torch.testing.assert_close(*found)


class Pooling(torch.nn.Module):
    """The pooling with tensors for arguments, as an export needs it."""

    def __init__(self):
        super().__init__()
        self.pool = PyramidRoIAlign(NAMES, STRIDES, 7, 2)

    def forward(self, boxes, *maps):
        return self.pool(dict(zip(NAMES, maps, strict=True)), [boxes], [(256, 192)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_an_exported_model_pools_as_the_bag_does(tmp_path):
    module, file = Pooling(), tmp_path / "pool.onnx"
    maps = [m.detach()[:1] for m in pyramid().values()]
    torch.onnx.export(module, (random_boxes(9), *maps), str(file), dynamo=False, opset_version=17)
    session = onnxruntime.InferenceSession(str(file))
    names = [i.name for i in session.get_inputs()]
    boxes = random_boxes(9, seed=5)
    arrays = [t.contiguous().numpy() for t in (boxes, *maps)]
    (found,) = session.run(None, dict(zip(names, arrays, strict=True)))
    torch.testing.assert_close(torch.from_numpy(found), module(boxes, *maps), atol=1e-4, rtol=1e-4)
