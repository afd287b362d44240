import pytest
import timm
import torch
import torchvision.models as tv
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from detector.models.compute import step_compute
from detector.models.faster_rcnn import (
    NormaliseAndBatch,
    build_faster_rcnn,
)
from detector.models.options import HeadOptions, ModelOptions
from detector.models.weights.channels import adapt_first_convolution, for_channels
from detector.models.weights.files import Pretrained
from detector.models.weights.load import find_pretrained, load_pretrained
from detector.models.weights.sources import imagenet_weights

# Where the first convolution of each stands.
FIRST = {
    "resnet18": (tv.resnet18, "conv1"),
    "vgg11": (tv.vgg11, "features.0"),
    "densenet121": (tv.densenet121, "features.conv0"),
    "mobilenet_v3_small": (tv.mobilenet_v3_small, "features.0.0"),
    "googlenet": (
        lambda: tv.googlenet(weights=None, aux_logits=False, init_weights=False),
        "conv1.conv",
    ),
    "efficientnet_lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), "conv_stem"),
}


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("channels", [1, 4])
def test_only_the_first_convolution_changes_and_no_name_does(name, channels):
    build, path = FIRST[name]
    with torch.device("meta"):
        network = build()
    before = {key: value.shape for key, value in network.state_dict().items()}
    adapt_first_convolution(network, channels)
    first = network.get_submodule(path)
    assert first.in_channels == channels
    after = {key: value.shape for key, value in network.state_dict().items()}
    assert list(after) == list(before)
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {f"{path}.weight"}
    assert after[f"{path}.weight"][1] == channels
    assert first.weight.requires_grad


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(3, 8, 3, padding=1), Conv2dSame(3, 8, 3, stride=2, bias=False)]
)
def test_grey_is_seen_as_the_same_grey_in_rgb_was(conv):
    conv = conv.double()
    grey = torch.rand(2, 1, 9, 11, dtype=torch.float64)
    with torch.no_grad():
        expected = conv(grey.expand(-1, 3, -1, -1))
        adapt_first_convolution(conv, 1)
        assert conv.weight.dtype == torch.float64
        torch.testing.assert_close(conv(grey), expected, rtol=0, atol=1e-6)  # summed in float32


def test_a_further_channel_gets_a_kernel_and_the_sum_stays_as_large():
    conv = nn.Conv2d(3, 8, 3, bias=False)
    red, green, blue = conv.weight.detach().double().unbind(1)
    adapt_first_convolution(conv, 4)
    expected = 0.75 * torch.stack((red, green, blue, red), 1)
    torch.testing.assert_close(conv.weight.detach().double(), expected, rtol=1e-6, atol=0)


def test_rgb_stays_the_very_same():
    conv = nn.Conv2d(3, 8, 3)
    weight = conv.weight
    adapt_first_convolution(conv, 3)
    assert conv.weight is weight


@pytest.mark.parametrize("network", [nn.Conv2d(4, 8, 3), nn.Linear(3, 3)])
def test_a_network_that_does_not_begin_with_rgb_is_refused(network):
    with pytest.raises(ValueError, match=r"one over red, green and blue|no convolution"):
        adapt_first_convolution(network, 1)


def test_normalisation_is_the_average_for_grey_and_repeated_for_more():
    values = (0.25, 0.5, 1.0)
    assert for_channels(values, 1) == pytest.approx((1.75 / 3,))
    assert for_channels(values, 3) == values
    assert for_channels(values, 4) == (*values, 0.25)
    assert for_channels(values, 7) == (*values, *values, 0.25)


def load_imagenet(network):
    return load_pretrained(network, find_pretrained("imagenet", "efficientnet_lite0", network))


def small(in_channels, **numbers):
    torch.manual_seed(0)
    head = HeadOptions(hidden=(16,))
    options = ModelOptions(in_channels=in_channels, fpn_channels=8, head=head, **numbers)
    return build_faster_rcnn("efficientnet_lite0", 2, options=options)


@pytest.mark.parametrize("channels", [1, 4])
def test_pretrained_kernels_are_what_is_adapted(channels):
    kernel = imagenet_weights("timm:tf_efficientnet_lite0")["conv_stem.weight"].double()
    network = small(channels)
    report = load_imagenet(network)
    red, green, blue = kernel.unbind(1)
    mixed = [red + green + blue] if channels == 1 else [0.75 * k for k in (red, green, blue, red)]
    found = network.backbone.body.conv_stem.weight.detach().double()
    torch.testing.assert_close(found, torch.stack(mixed, 1), atol=1e-6, rtol=1e-6)
    stem = report.groups["stem"]
    assert (stem.new, stem.replaced) == (0, 0)


def test_a_file_for_as_many_channels_is_taken_as_it_is():
    source, network = small(4), small(4)
    nn.init.normal_(source.backbone.body.conv_stem.weight)
    load_pretrained(network, Pretrained("file", source.state_dict()))
    kernels = (n.backbone.body.conv_stem.weight for n in (source, network))
    assert torch.equal(*kernels)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_any_number_of_channels_are_normalised_and_padded(channels):
    mean, std = [0.5] * channels, [0.25 * (c + 1) for c in range(channels)]
    batch = NormaliseAndBatch(mean, std, 32)
    white = torch.full((channels, 20, 40), 255, dtype=torch.uint8)
    images, _ = batch([white])
    assert images.tensors.shape == (1, channels, 32, 64)
    expected = [0.5 / s for s in std]
    assert images.tensors[0, :, 19, 39].tolist() == pytest.approx(expected)
    assert not images.tensors[0, :, 20:].any()


def test_a_detector_for_grey_sees_what_the_one_for_rgb_sees():
    rgb, grey = small(3), small(1)  # whose normalisation is equal across channels
    for network in (rgb, grey):
        load_imagenet(network)
    image = torch.randint(0, 256, (1, 64, 96), dtype=torch.uint8)
    levels = []
    for network, seen in ((rgb.eval(), image.expand(3, -1, -1)), (grey.eval(), image)):
        network.double()
        with torch.no_grad():
            levels.append(network.backbone(network.transform([seen])[0].tensors))
    for name, level in levels[0].items():
        torch.testing.assert_close(levels[1][name], level, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_training_step_reaches_the_adapted_kernels(channels):
    head = HeadOptions(hidden=(16,))
    options = ModelOptions(in_channels=channels, fpn_channels=8, head=head, rpn_top_n_train=50)
    network = build_faster_rcnn("efficientnet_lite0", 1, options=options)
    images = [torch.randint(0, 256, (channels, 64, 64), dtype=torch.uint8)] * 2
    boxes = torch.tensor([[8.0, 8, 40, 40]])
    losses = network(images, [{"boxes": boxes, "labels": torch.tensor([1])}] * 2)
    sum(losses.values()).backward()
    gradient = network.backbone.body.conv_stem.weight.grad
    assert gradient.shape[1] == channels
    assert gradient.abs().sum() > 0


def test_the_cost_of_the_first_layer_follows_its_channels():
    stem = []
    for channels in (1, 3):
        with torch.device("meta"):
            network = build_faster_rcnn("resnet50", 1, options=ModelOptions(in_channels=channels))
        network.set_trainable([])
        stem.append(step_compute(network, 64)["stem"].forward)
    # conv1: 64 kernels of 7 x 7, at 32 x 32 places.
    assert stem[1] - stem[0] == 2 * 64 * 7 * 7 * 32 * 32
    assert stem[0] == 64 * 7 * 7 * 32 * 32
