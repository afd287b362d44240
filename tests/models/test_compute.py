import pytest
import torch
import torchvision
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import ResNet50_Weights

from detector.models.compute import MultiplyAdds, StepCounter, step_compute
from detector.models.faster_rcnn import build_faster_rcnn
from detector.models.options import HeadOptions, ModelOptions

# Few enough samples that a training step finds as many.
SMALL = ModelOptions(fpn_channels=8, head=HeadOptions(hidden=(16,)), box_batch_per_image=4)
EVERY = ("stem", "layer1", "layer2", "layer3", "layer4", "neck", "head")


def on_meta(name, options=None):
    with torch.device("meta"):
        return build_faster_rcnn(name, 1, options=options)


def test_a_convolution_counts_a_product_for_every_weight_and_output():
    # 5 x 5 outputs of 8 channels, each from 3 x 3 cells of 6 / 2 channels.
    conv = nn.Conv2d(6, 8, 3, padding=1, groups=2)
    with StepCounter() as counter:
        conv(torch.zeros(1, 6, 5, 5))
    assert counter.count == MultiplyAdds(5 * 5 * 8 * 3 * 3 * 3, 5 * 5 * 8 * 3 * 3 * 3)


@pytest.mark.parametrize(
    ("trained", "backward"),
    [
        ("abc", 6 + 2 * 15 + 2 * 35),  # nothing wants the gradient of a's input
        ("c", 35),  # nothing below the lowest trained layer
        ("b", 15 + 35),  # through c, which is frozen again, down to b
        ("a", 6 + 15 + 35),
        ("ac", 6 + 15 + 2 * 35),
        ("", 0),
    ],
)
def test_the_backward_pass_goes_down_to_the_lowest_trained_layer(trained, backward):
    # A row through 2 -> 3 -> 5 -> 7 features: 6, 15 and 35 products.
    layers = {"a": nn.Linear(2, 3), "b": nn.Linear(3, 5), "c": nn.Linear(5, 7)}
    x = torch.zeros(1, 2)
    with StepCounter() as counter:
        for name, layer in layers.items():
            layer.requires_grad_(name in trained)
            x = layer(x)
    assert counter.count == MultiplyAdds(6 + 15 + 35, backward)


def test_without_gradients_only_the_forward_pass_counts():
    with StepCounter() as counter, torch.no_grad():
        nn.Linear(2, 3)(torch.zeros(4, 2))
    assert counter.count == MultiplyAdds(24, 0)


def test_resnet50_costs_what_torchvision_says_of_it():
    counts = step_compute(on_meta("resnet50"), 224)
    stages = sum(counts[name].forward for name in EVERY[:5])
    classifier = 2048 * 1000
    told = ResNet50_Weights.IMAGENET1K_V1.meta["_ops"]  # billions, to three digits
    assert (stages + classifier) / 1e9 == pytest.approx(told, abs=0.0005)


def test_the_groups_are_the_networks_and_in_order():
    for name in ("alexnet", "resnet18", "swin_t"):
        assert tuple(step_compute(on_meta(name), 64)) == EVERY


def test_an_image_is_padded_as_the_network_pads_it():
    network = on_meta("efficientnet_lite0", SMALL)
    assert step_compute(network, 33) == step_compute(network, 64)
    assert step_compute(network, 65) != step_compute(network, 64)


def test_the_network_stays_in_its_mode():
    for mode in (True, False):
        network = on_meta("efficientnet_lite0", SMALL).train(mode)
        step_compute(network, 32)  # a map of one cell, which norms refuse in training
        assert network.training is mode


def real_step(name, trained):
    """A network at its training step, and the step's operations as torch counts them."""
    torch.manual_seed(0)
    network = build_faster_rcnn(name, 1, options=SMALL)
    network.set_trainable(trained)
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[20.0, 20, 90, 90]]), "labels": torch.tensor([1])}
    with FlopCounterMode(display=False) as forward:
        losses = network([image], [target])
    with FlopCounterMode(display=False) as backward:
        sum(losses.values()).backward()
    return network, MultiplyAdds(forward.get_total_flops() // 2, backward.get_total_flops() // 2)


def total(counts):
    return MultiplyAdds(
        sum(c.forward for c in counts.values()), sum(c.backward for c in counts.values())
    )


@pytest.mark.parametrize(
    "trained",
    [EVERY, ("neck", "head"), ("layer4", "neck", "head"), ("layer2",), ("neck",), ("stem", "head")],
)
def test_all_groups_together_cost_what_a_real_training_step_does(trained):
    network, expected = real_step("resnet50", trained)
    assert total(step_compute(network, 128)) == expected


def test_nothing_in_the_forward_pass_of_another_backbone_is_missed():
    network, expected = real_step("efficientnet_lite0", EVERY)
    assert total(step_compute(network, 128)).forward == expected.forward


def test_a_frozen_groups_forward_pass_stays():
    network = on_meta("resnet50", SMALL)
    everything = step_compute(network, 64)
    network.set_trainable(["head"])
    counts = step_compute(network, 64)
    assert [c.forward for c in counts.values()] == [c.forward for c in everything.values()]
    assert [name for name, c in counts.items() if c.backward] == ["head"]


# Every kind of layer that a backbone is made of, and what torchvision says of it.
NETWORKS = {
    "alexnet": {},
    "vgg16_bn": {},
    "googlenet": {"init_weights": False, "aux_logits": False},
    "densenet121": {},
    "mobilenet_v3_large": {},
    "convnext_tiny": {},
    "swin_t": {},
}
GROUPED = {"mobilenet_v3_large", "convnext_tiny"}


@pytest.mark.parametrize("name", NETWORKS)
def test_classification_networks_cost_what_torchvision_and_torch_say(name):
    with torch.device("meta"):
        network = getattr(torchvision.models, name)(**NETWORKS[name]).eval()
        x = torch.empty(1, 3, 224, 224)
    with StepCounter() as counter:
        network(x)
    told = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].meta["_ops"]
    assert counter.count.forward / 1e9 == pytest.approx(told, abs=0.00051)
    with FlopCounterMode(display=False) as forward:
        y = network(x)
    assert counter.count.forward == forward.get_total_flops() / 2
    if name not in GROUPED:  # whose weight gradients torch counts as if they were dense
        with FlopCounterMode(display=False) as backward:
            y.sum().backward()
        assert counter.count.backward == backward.get_total_flops() / 2


def batch(*shape, wants=True):
    return torch.ones(shape, requires_grad=wants)


@pytest.mark.parametrize(
    "multiply",
    [torch.matmul, torch.bmm, lambda x, y: x @ y, lambda x, y: torch.einsum("nab,nbc->nac", x, y)],
)
@pytest.mark.parametrize("wants", [(True, True), (True, False), (False, False)])
def test_products_of_matrices_count_however_they_are_written(multiply, wants):
    with StepCounter() as counter:
        multiply(batch(2, 3, 5, wants=wants[0]), batch(2, 5, 7, wants=wants[1]))
    assert counter.count == MultiplyAdds(2 * 3 * 5 * 7, 2 * 3 * 5 * 7 * sum(wants))


@pytest.mark.parametrize("device", ["cpu", "meta"])  # one operation on the first, several there
@pytest.mark.parametrize("wants", [True, False])
def test_attention_counts_both_of_its_products(device, wants):
    # 4 queries and 6 keys with values, of 8 numbers, in 2 x 3 heads.
    shapes = [(2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 8)]
    query, key, value = (batch(*s, wants=wants).to(device) for s in shapes)
    with StepCounter() as counter:
        F.scaled_dot_product_attention(query, key, value)
    cost = 2 * 3 * 4 * 6 * (8 + 8)
    assert counter.count == MultiplyAdds(cost, 2 * cost * wants)


def test_a_convolution_counts_whatever_its_class_and_under_autocast():
    # 3 x 3 outputs of 4 channels from 5 x 5 cells, whose layer pads by itself.
    conv = Conv2dSame(3, 4, 5, stride=2)
    with StepCounter() as counter, torch.autocast("cpu", torch.bfloat16):
        conv(batch(1, 3, 6, 6))
    cost = 3 * 3 * 4 * 3 * 5 * 5
    assert counter.count == MultiplyAdds(cost, 2 * cost)
