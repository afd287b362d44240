"""Summary of a network by parameter group: sizes, multiply-adds and times of a training step.

All of it works on a copy: weights, norm statistics, gradients and trainability of the network stay
the same, and so do the random numbers.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn

from detector.models.compute import MultiplyAdds, step_compute
from detector.models.faster_rcnn import FasterRCNN

BOXES = 8  # ground-truth boxes per image


@dataclass(frozen=True)
class GroupSummary:
    """Sizes of a parameter group, and multiply-adds of its training step.

    Attributes:
        name: Name of the group.
        strides: Strides of its outputs, in input pixels; for the head, of its inputs.
        channels: Channels of the same feature maps.
        parameters: Number of parameters.
        trained: Number of parameters that are trained.
        compute: Multiply-adds of a training step over one image.
    """

    name: str
    strides: tuple[int, ...]
    channels: int
    parameters: int
    trained: int
    compute: MultiplyAdds


@dataclass(frozen=True)
class Seconds:
    """Time that a part of a training step takes.

    Attributes:
        forward: Time of the forward pass, in seconds.
        backward: Time of the backward pass, in seconds.
    """

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Time of both passes, in seconds."""
        return self.forward + self.backward


def summarise(network: FasterRCNN, trained: Collection[str], image_size: int) -> list[GroupSummary]:
    """Summarise the parameter groups of a network, from the image upwards.

    Args:
        network: The detector, on any device; only shapes are computed.
        trained: Names of the groups that are trained.
        image_size: Height and width of the image, in pixels, before the network pads it.
    """
    network = _copy(network, trained, torch.device("meta"))
    compute = step_compute(network, image_size)
    backbone, rows = network.backbone, []
    maps = {stage.name: ((stage.stride,), stage.channels) for stage in backbone.stages}
    for name, modules in network.groups().items():
        strides, channels = maps.get(name, (backbone.strides, backbone.out_channels))
        parameters = [p for module in modules for p in module.parameters()]
        size = sum(p.numel() for p in parameters)
        learnt = sum(p.numel() for p in parameters if p.requires_grad)
        rows.append(GroupSummary(name, strides, channels, size, learnt, compute[name]))
    return rows


def profile_step(
    network: FasterRCNN,
    trained: Collection[str],
    image_size: int,
    batch_size: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    warmup: int = 2,
    repeats: int = 5,
) -> OrderedDict[str, Seconds]:
    """Time training steps over random images.

    A GPU is synchronised between groups, which makes steps somewhat slower than in a run. Loading
    and the optimiser are not timed.

    Args:
        network: The detector with the weights that training starts from: the number of proposals
            depends on them.
        trained: Names of the groups that are trained.
        image_size: Height and width of the images, in pixels.
        batch_size: Images per step.
        device: Device to run on.
        autocast: Makes the context of the forward pass.
        warmup: Number of steps before the first that is timed.
        repeats: Number of steps that are timed, at least 1; their median is returned.

    Returns:
        Times of each group, from the image upwards; together they are the whole step. Scaling and
        normalising the images belongs to the first group, computing the losses to the last.
    """
    network = _copy(network, trained, device).train()
    names, clock = list(network.groups()), _Clock(device)
    _watch(network, clock)
    shape = (len(network.transform.mean), image_size, image_size)
    images, targets = _random_batch(shape, batch_size, device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for _ in range(warmup + repeats):
            network.zero_grad(set_to_none=True)
            clock.start(names[0])
            with autocast():
                losses = network(images, targets)
            loss = torch.stack([value.float() for value in losses.values()]).sum()
            clock.switch(names[-1], backward=True)
            loss.backward()  # type: ignore[no-untyped-call]
            clock.stop()
    return _medians(names, clock.steps[warmup:])


def _medians(
    names: Sequence[str], steps: Sequence[Mapping[tuple[str, bool], float]]
) -> OrderedDict[str, Seconds]:
    """Take the median of each group's forward and backward times."""
    seconds = OrderedDict[str, Seconds]()
    for name in names:
        forward, backward = (median(step[name, way] for step in steps) for way in (False, True))
        seconds[name] = Seconds(forward, backward)
    return seconds


def _copy(network: FasterRCNN, trained: Collection[str], device: torch.device) -> FasterRCNN:
    """Copy a network to a device, with the named groups trained."""
    network = copy.deepcopy(network).to(device)
    network.set_trainable(trained)
    return network


def _random_batch(
    shape: tuple[int, int, int], batch_size: int, device: torch.device
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Make images of noise, and boxes of a tenth to a half of the image's side; always the same."""
    random = torch.Generator().manual_seed(0)
    images, targets = [], []
    for _ in range(batch_size):
        image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
        corner, side = 0.5 * torch.rand(2, BOXES, 2, generator=random)
        boxes = torch.cat((corner, corner + side.clamp(min=0.1)), 1) * shape[1]
        labels = torch.ones(BOXES, dtype=torch.int64)
        images.append(image.to(device))
        targets.append({"boxes": boxes.to(device), "labels": labels.to(device)})
    return images, targets


class _Clock:
    """Measures how long each group and pass takes in a step.

    Attributes:
        steps: For every step, the seconds by group and pass (forward False, backward True).
    """

    def __init__(self, device: torch.device) -> None:
        self.steps: list[defaultdict[tuple[str, bool], float]] = []
        self._device = device
        self._current = "", False
        self._since = 0.0

    def start(self, group: str) -> None:
        """Begin a step."""
        self.steps.append(defaultdict(float))
        self._current, self._since = (group, False), self._now()

    def switch(self, group: str, *, backward: bool = False) -> None:
        """End the time of the current group and pass, and begin that of another."""
        now = self._now()
        self.steps[-1][self._current] += now - self._since
        self._current, self._since = (group, backward), now

    def stop(self) -> None:
        """End the step."""
        self.switch("")

    def _now(self) -> float:
        """Return the time at which the device has finished all work."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()


def _watch(network: FasterRCNN, clock: _Clock) -> None:
    """Switch the clock wherever one group of the network ends and the next begins.

    A group's backward pass begins with the gradient of its output, since autograd first goes
    through everything that was computed after it.
    """
    backbone, names = network.backbone, list(network.groups())
    ends: list[nn.Module] = [backbone.stage_modules(stage.name)[-1] for stage in backbone.stages]
    for end, (name, following) in zip((*ends, backbone.fpn), pairwise(names), strict=True):
        end.register_forward_hook(partial(_on_output, clock, name, following))


def _on_output(
    clock: _Clock,
    group: str,
    following: str,
    module: nn.Module,
    inputs: object,
    output: Tensor | dict[str, Tensor],
) -> None:
    """Switch the clock where a group's forward pass ends, and where its backward pass begins."""
    for x in output.values() if isinstance(output, dict) else (output,):
        if x.requires_grad:
            x.register_hook(lambda _: clock.switch(group, backward=True))  # type: ignore[no-untyped-call]
    clock.switch(following)
