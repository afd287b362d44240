import pytest
import torch
from networks import build_ours, build_torchvision
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.ops import MultiScaleRoIAlign

from detector.models.backbones.table import IMAGENET_MEAN, IMAGENET_STD
from detector.models.faster_rcnn import NormaliseAndBatch, build_faster_rcnn
from detector.models.options import HeadOptions, ModelOptions
from detector.models.weights.load import find_pretrained, load_pretrained

SMALL = ModelOptions(
    fpn_channels=8, head=HeadOptions(hidden=(16,)), rpn_top_n_train=50, rpn_top_n_test=50
)


def test_images_are_normalised_once_and_padded_with_the_mean_colour():
    batch = NormaliseAndBatch((0.5, 0.5, 0.5), (0.25, 0.5, 1.0), 32)
    small = torch.full((3, 20, 40), 255, dtype=torch.uint8)
    images, _ = batch([small, torch.zeros(3, 33, 10, dtype=torch.uint8)])
    assert images.tensors.shape == (2, 3, 64, 64)
    assert images.image_sizes == [(20, 40), (33, 10)]
    assert images.tensors[0, :, 0, 0].tolist() == [2, 1, 0.5]
    assert images.tensors[1, :, 0, 0].tolist() == [-2, -1, -0.5]
    assert not images.tensors[0, :, 20:].any()
    assert not images.tensors[0, :, :, 40:].any()


@pytest.fixture(scope="module")
def pair():
    """Torchvision's detector and ours, with the same weights, in float64.

    A random network magnifies rounding until proposals change places; float64 leaves only what
    really differs.
    """
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=128
    )
    ours = build_faster_rcnn("resnet50", 3, norm="frozen")
    ours.load_state_dict(theirs.state_dict())
    assert list(theirs.transform.image_mean) == list(IMAGENET_MEAN)
    assert list(theirs.transform.image_std) == list(IMAGENET_STD)
    theirs.transform.torch_choice = lambda sizes: sizes[0]  # draws from the random stream
    for model in (ours, theirs):
        model.roi_heads.fg_bg_sampler.batch_size_per_image = 64
    return ours.double(), theirs.double()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    shape = (2, 3, 64, 128)  # multiples of 64, at which torchvision places anchors as we do
    return list(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))


BOXES = torch.tensor([[5.0, 5, 45, 45], [25, 10, 90, 60]])
TARGETS = [{"boxes": BOXES, "labels": torch.tensor([1, 3])}] * 2


def losses_and_gradients(network, images, targets=TARGETS):
    """Of one training step; the same random numbers for every network."""
    torch.manual_seed(0)
    losses = network(images, targets)
    network.zero_grad()
    sum(losses.values()).backward()
    return losses, {n: p.grad for n, p in network.named_parameters() if p.requires_grad}


def as_floats(images, dtype):
    return [image.to(dtype) / 255 for image in images]


def test_losses_and_gradients_equal_torchvisions(pair, images):
    ours, theirs = (model.train() for model in pair)
    theirs.backbone.eval()  # as our frozen norms are
    ours.set_trainable(["layer2", "layer3", "layer4", "neck", "head"])
    names = {name for name, p in ours.named_parameters() if p.requires_grad}
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad = name in names
    expected, grads = losses_and_gradients(theirs, as_floats(images, torch.float64))
    found, own = losses_and_gradients(ours, images)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9, check_dtype=False)
    assert own.keys() == grads.keys()
    for name, grad in grads.items():
        assert relative(own[name], grad) < 1e-6, name


def relative(found, expected):
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


def test_in_float32_the_first_step_is_torchvisions(images):
    trained = 3
    ours = build_ours(trained, classes=3)
    theirs = build_torchvision(ours, trained, (32, 64))
    images = [images[0][:, :32, :64]]
    targets = [{**TARGETS[0], "boxes": BOXES / 2}]
    every = {"training": 100_000, "testing": 0}
    for model in (ours, theirs):
        # With all proposals in the loss, two that change places by rounding change nothing.
        model.rpn.nms_thresh = 1.0
        model.rpn._pre_nms_top_n = model.rpn._post_nms_top_n = every
        model.roi_heads.fg_bg_sampler.batch_size_per_image = 100_000
    expected, grads = losses_and_gradients(theirs, as_floats(images, torch.float32), targets)
    found, own = losses_and_gradients(ours, images, targets)
    for name, value in expected.items():
        assert relative(found[name], value) < 1e-5, name
    # Of 50 layers of ReLUs a few open or close by rounding, as they do for torchvision when its
    # memory layout is changed. In float64 all gradients agree, see above.
    assert own.keys() == grads.keys()
    assert relative(flat(own), flat(grads)) < 0.02


def flat(grads):
    return torch.cat([grads[name].flatten() for name in sorted(grads)])


def test_detections_equal_torchvisions(pair, images):
    ours, theirs = (model.eval() for model in pair)
    for model in pair:
        model.roi_heads.score_thresh = 0.0  # of random weights, every score is low
    with torch.no_grad():
        expected = theirs([i.double() / 255 for i in images])[0]
        found = ours(images)[0]
    assert len(expected["boxes"]) == 100
    torch.testing.assert_close(found["scores"], expected["scores"], atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(found["boxes"], expected["boxes"], atol=1e-4, rtol=1e-6)


def test_the_pooling_of_the_head_is_ours(pair):
    assert type(pair[0].roi_heads.box_roi_pool) is not MultiScaleRoIAlign


def test_anchors_are_sized_to_their_levels():
    options = ModelOptions(fpn_channels=8, anchor_scales=(4.0, 8.0), anchor_ratios=(1.0,))
    model = build_faster_rcnn("efficientnet_lite0", 1, options=options)
    sides = [c[:, 2] - c[:, 0] for c in model.rpn.anchor_generator.cell_anchors]
    assert [s.tolist() for s in sides] == [
        [16, 32],
        [32, 64],
        [64, 128],
        [128, 256],
        [256, 512],
    ]


def test_groups_hold_every_parameter_once():
    model = build_faster_rcnn("efficientnet_lite0", 2, options=SMALL)
    listed = [id(p) for ms in model.groups().values() for m in ms for p in m.parameters()]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert list(model.groups()) == [
        "stem",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
        "neck",
        "head",
    ]


@pytest.mark.parametrize("groups", [("head",), ("neck", "head"), ("layer4", "head"), ()])
def test_exactly_the_named_groups_become_trainable(groups):
    model = build_faster_rcnn("efficientnet_lite0", 2, norm="train", options=SMALL)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.set_trainable(groups)
    for name, modules in model.groups().items():
        for module in modules:
            for parameter in module.parameters():
                assert parameter.requires_grad == (name in groups)
                assert (parameter.grad is not None) == (name in groups)


def test_under_autocast_boxes_scores_and_anchors_stay_float32():
    torch.manual_seed(0)
    model = build_faster_rcnn("efficientnet_lite0", 2, options=SMALL).eval()
    load_pretrained(model, find_pretrained("imagenet", "efficientnet_lite0", model))
    model.roi_heads.score_thresh = 0.0
    image = torch.randint(0, 256, (3, 320, 600), dtype=torch.uint8)
    anchors = []
    model.rpn.anchor_generator.register_forward_hook(lambda *a: anchors.append(a[-1][0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model([image])[0]
    for tensor in (found["boxes"], found["scores"], anchors[0]):
        assert tensor.dtype == torch.float32
        assert (tensor != tensor.bfloat16().float()).any()  # more digits than bf16 has
    assert anchors[0][:, 2].max() > 600
