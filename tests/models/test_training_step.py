"""Every backbone learns: one step with all, some and none of its stages trained."""

import pytest
import torch
from torch import nn

from detector.models.backbones.build import backbone_spec
from detector.models.backbones.stages import NAMES
from detector.models.backbones.table import BACKBONES
from detector.models.faster_rcnn import build_faster_rcnn
from detector.models.options import HeadOptions, ModelOptions

EVERY = [*BACKBONES, "timm/resnet18", "timm/vgg11", "timm/swin_tiny_patch4_window7_224"]
SMALL = ModelOptions(
    fpn_channels=8, head=HeadOptions(hidden=(16,)), rpn_top_n_train=50, rpn_top_n_test=50
)
every = pytest.mark.parametrize("network", EVERY, indirect=True, scope="module")
TRAINED = {"none": (), "upper half": ("layer3", "layer4"), "all": NAMES}


@pytest.fixture(scope="module")
def network(request):
    """A detector that tests share, with norm statistics that keep activations in scale."""
    return build(request.param)


def build(name):
    torch.manual_seed(0)
    network = build_faster_rcnn(name, 2, norm="train", options=SMALL)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        network.backbone(torch.randn(2, 3, 128, 128))
    network.backbone.norm = "frozen"
    # With random weights boxes would be far outside the image.
    for layer in (
        network.roi_heads.box_predictor.cls_score,
        network.roi_heads.box_predictor.bbox_pred,
    ):
        nn.init.normal_(layer.weight, std=1e-5)
    return network


def batch():
    draw = torch.Generator().manual_seed(0)
    sizes = ((96, 64), (70, 90))  # neither divides
    images = [torch.randint(0, 256, (3, *s), generator=draw, dtype=torch.uint8) for s in sizes]
    boxes = torch.tensor([[4.0, 8, 40, 60], [20, 10, 60, 44]])
    return images, [{"boxes": boxes, "labels": torch.tensor([1, 2])}] * 2


def check_step(network, stages):
    """One training step gives gradients to exactly what is trained."""
    images, targets = batch()
    trained = (*TRAINED[stages], "neck", "head")
    network.set_trainable(trained)
    network.train()
    torch.manual_seed(1)
    losses = network(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    for group, modules in network.groups().items():
        for module in (m for root in modules for m in root.modules()):
            fixed = isinstance(module, nn.BatchNorm2d) and group in NAMES  # norm: frozen
            for parameter in module.parameters(recurse=False):
                learns = group in trained and not fixed
                assert parameter.requires_grad == learns
                assert (parameter.grad is not None) == learns
                assert not learns or torch.isfinite(parameter.grad).all()
    network.zero_grad()


@every
def test_every_backbone_learns(network):
    check_step(network, "all")


@pytest.mark.parametrize("stages", ["none", "upper half"])
@pytest.mark.parametrize("name", ["alexnet", "resnet18", "swin_t", "timm/resnet18"])
def test_a_step_trains_exactly_the_unfrozen_stages(name, stages):
    check_step(build(name), stages)


@every
def test_what_is_detected_is_finite_and_inside_the_image(network):
    images, _ = batch()
    network.eval()
    network.roi_heads.score_thresh = -1.0  # of random weights, a score may be 0
    with torch.no_grad():
        found = network(images)
    network.roi_heads.score_thresh = SMALL.score_threshold
    for image, row in zip(images, found, strict=True):
        assert len(row["boxes"])
        assert torch.isfinite(row["boxes"]).all()
        assert (row["boxes"] >= 0).all()
        assert (row["boxes"][:, 2:] <= torch.tensor(image.shape[:0:-1])).all()


@pytest.mark.parametrize("name", ["alexnet", "zfnet", "timm/inception_v3"])
def test_a_sliver_is_padded_to_what_the_network_takes(name):
    network, smallest = build(name).eval(), backbone_spec(name).smallest
    images = [torch.zeros(3, 256, 9, dtype=torch.uint8)]
    assert network.transform(images)[0].tensors.shape == (1, 3, 256, smallest)
    with torch.no_grad():
        network(images)
