"""The network by group: sizes by hand and by torchvision, and a profile that leaves no trace."""

import copy
from collections import defaultdict
from contextlib import contextmanager
from itertools import groupby

import pytest
import torch
from conftest import assert_same
from torchvision.models import ResNet50_Weights

from detector.models import summary
from detector.models.faster_rcnn import build_faster_rcnn
from detector.models.options import HeadOptions, ModelOptions
from detector.models.summary import Seconds, profile_step, summarise

SMALL = ModelOptions(
    fpn_channels=8, head=HeadOptions(hidden=(16,)), rpn_top_n_train=50, box_batch_per_image=8
)
EVERY = ("stem", "layer1", "layer2", "layer3", "layer4", "neck", "head")
CPU = torch.device("cpu")


def small(norm="frozen"):
    torch.manual_seed(0)
    return build_faster_rcnn("efficientnet_lite0", 2, norm=norm, options=SMALL)


def profile(network, trained, **more):
    return profile_step(network, trained, 64, 1, CPU, warmup=1, repeats=1, **more)


@pytest.fixture(scope="module")
def resnet50():
    with torch.device("meta"):
        return build_faster_rcnn("resnet50", 1)


def test_strides_and_channels_are_those_of_the_maps(resnet50):
    rows = {r.name: (r.strides, r.channels) for r in summarise(resnet50, EVERY, 64)}
    pyramid = (4, 8, 16, 32, 64), 256
    assert rows == {
        "stem": ((4,), 64),
        "layer1": ((4,), 256),
        "layer2": ((8,), 512),
        "layer3": ((16,), 1024),
        "layer4": ((32,), 2048),
        "neck": pyramid,
        "head": pyramid,
    }


def test_parameters_are_torchvisions_and_by_hand(resnet50):
    sizes = {r.name: r.parameters for r in summarise(resnet50, EVERY, 64)}
    classifier = 2048 * 1000 + 1000
    told = ResNet50_Weights.IMAGENET1K_V1.meta["num_params"]
    assert sum(sizes[name] for name in EVERY[:5]) == told - classifier
    assert sizes["stem"] == 64 * 3 * 7 * 7 + 2 * 64
    # A 1x1 and a 3x3 convolution a level, with biases.
    assert sizes["neck"] == (256 + 512 + 1024 + 2048) * 256 + 4 * 256 * 256 * 9 + 8 * 256
    rpn = 256 * 256 * 9 + 256 + (256 + 1) * 3 * (1 + 4)
    box = (256 * 49 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 2 * (1 + 4)
    assert sizes["head"] == rpn + box


def test_a_stage_costs_its_convolutions(resnet50):
    stem, *_ = summarise(resnet50, ("head",), 224)
    assert stem.compute.forward == stem.compute.total == 112 * 112 * 64 * 3 * 7 * 7


@pytest.mark.parametrize("norm", ["frozen", "train"])
def test_what_is_trained_is_what_the_schedule_would_train(norm):
    network, trained = small(norm), ("layer4", "head")
    rows = summarise(network, trained, 64)
    network.set_trainable(trained)
    for row in rows:
        parameters = [p for m in network.groups()[row.name] for p in m.parameters()]
        assert row.trained == sum(p.numel() for p in parameters if p.requires_grad)
    learnt = {row.name: row.trained / row.parameters for row in rows}
    assert [name for name, share in learnt.items() if share] == ["layer4", "head"]
    assert (learnt["layer4"] == 1) == (norm == "train")  # frozen norms stay behind
    assert learnt["head"] == 1
    assert rows[0].compute.backward == 0 < rows[-1].compute.backward


def everything_of(network):
    return {
        "weights": copy.deepcopy(network.state_dict()),
        "gradients": {n: copy.deepcopy(p.grad) for n, p in network.named_parameters()},
        "trained": {n: p.requires_grad for n, p in network.named_parameters()},
        "modes": [m.training for m in network.modules()],
        "hooks": [len(m._forward_hooks) for m in network.modules()],
        "random": torch.get_rng_state(),
    }


@pytest.mark.parametrize("what", [profile, lambda n, t: summarise(n, t, 64)])
def test_the_network_and_the_random_numbers_stay_as_they_are(what):
    network = small("train")  # whose statistics a training step would move
    network.set_trainable(("layer2", "head"))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = everything_of(network)
    what(network, ("stem", "neck", "head"))
    assert_same(everything_of(network), before)


def passes(monkeypatch, network, trained):
    """The groups and passes of a step, one after the other."""
    seen = []
    switch = summary._Clock.switch

    def spy(self, group, *, backward=False):
        seen.append((group, backward))
        switch(self, group, backward=backward)

    monkeypatch.setattr(summary._Clock, "switch", spy)
    profile_step(network, trained, 64, 1, CPU, warmup=0, repeats=1)
    return [each for each, _ in groupby(seen)]


@pytest.mark.parametrize(
    ("trained", "lowest"),
    [
        (EVERY, "stem"),
        (("layer3", "head"), "layer3"),
        (("neck", "head"), "neck"),
        (("head",), "head"),
    ],
)
def test_the_backward_pass_is_timed_by_group_down_to_the_lowest_trained(
    monkeypatch, trained, lowest
):
    down = EVERY[::-1][: EVERY[::-1].index(lowest) + 1]
    expected = [(name, False) for name in EVERY[1:]] + [(name, True) for name in down]
    assert passes(monkeypatch, small(), trained) == [*expected, ("", False)]


class Ticks:
    """A clock that goes on by a step's own number at every reading."""

    def __init__(self, monkeypatch, each):
        self.each, self.step, self.now, self.read = each, -1, 0.0, defaultdict(int)
        monkeypatch.setattr(summary, "time", self)
        start = summary._Clock.start

        def begin(clock, group):
            self.step += 1
            start(clock, group)

        monkeypatch.setattr(summary._Clock, "start", begin)

    def perf_counter(self):
        self.read[self.step] += 1
        self.now += self.each[self.step]
        return self.now


def test_the_groups_together_are_the_whole_step(monkeypatch):
    ticks = Ticks(monkeypatch, [1, 1])
    seconds = profile(small(), EVERY)
    assert list(seconds) == list(EVERY)
    # From the first reading of a step to the last.
    assert sum(s.total for s in seconds.values()) == ticks.read[1] - 1
    assert seconds["layer1"] == Seconds(1, 1)


def test_medians_count_of_the_steps_after_the_first(monkeypatch):
    Ticks(monkeypatch, [1000, 1000, 7, 1, 3])
    seconds = profile_step(small(), ("head",), 64, 1, CPU, warmup=2, repeats=3)
    assert seconds["layer2"] == Seconds(3, 0)


def test_the_step_is_run_as_it_would_be():
    states, contexts = [], []

    @contextmanager
    def autocast():
        with torch.autocast("cpu", torch.bfloat16):
            contexts.append(1)
            yield

    network = small()

    def note(module, *_):
        if isinstance(module, type(network)):
            clean = all(p.grad is None for p in module.parameters())
            states.append((module.training, clean))

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    with hook:
        profile(network.eval(), ("head",), autocast=autocast)
    assert states == [(True, True)] * 2
    assert len(contexts) == 2
    assert not network.training
