"""A network by group: its sizes, what its training step computes, and how long that takes.

Everything is done to a copy, so that the network stays as it is: weights, statistics of norms,
gradients, what is trainable; and the stream of random numbers too.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn

from detector.models.compute import MultiplyAdds, step_compute
from detector.models.faster_rcnn import FasterRCNN

BOXES = 8  # an image, for the losses to have something to learn


@dataclass(frozen=True)
class GroupSummary:
    """What is known of a group without running it.

    Attributes:
        name: The group's.
        strides: Input pixels per cell of its output; of the head, of what it reads.
        channels: The same maps'.
        parameters: How many numbers it has.
        trained: How many of them are trained.
        compute: Of a training step over one image.
    """

    name: str
    strides: tuple[int, ...]
    channels: int
    parameters: int
    trained: int
    compute: MultiplyAdds


@dataclass(frozen=True)
class Seconds:
    """How long a part of a training step takes.

    Attributes:
        forward: In the forward pass.
        backward: In the backward pass.
    """

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Both passes."""
        return self.forward + self.backward


def summarise(network: FasterRCNN, trained: Collection[str], image_size: int) -> list[GroupSummary]:
    """The groups of a network, from the image upwards.

    Args:
        network: On any device; nothing is computed.
        trained: Names of the groups that are trained.
        image_size: Height and width, pixels; padded as the network pads.
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
    """Time training steps over random images, the way the network runs them.

    What is asynchronous is waited for wherever one group follows another, so that on a GPU the
    steps are somewhat slower than those of a run. Loading and the optimiser are not timed.

    Args:
        network: With the weights that it would be trained from: proposals depend on them.
        trained: Names of the groups that are trained.
        image_size: Height and width of the images, pixels.
        batch_size: Images a step.
        device: Where to run.
        autocast: Makes the context of the forward pass.
        warmup: Steps before the first that counts.
        repeats: Steps whose median counts, at least 1.

    Returns:
        By group, from the image upwards; together they are the whole step. The first one's forward
        pass begins with the images, scaled and normalised, the last one's ends with the losses.
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
            clock.turn(names[-1], backward=True)
            loss.backward()  # type: ignore[no-untyped-call]
            clock.stop()
    steps = clock.steps[warmup:]
    seconds = OrderedDict[str, Seconds]()
    for name in names:
        forward, backward = (median(step[name, way] for step in steps) for way in (False, True))
        seconds[name] = Seconds(forward, backward)
    return seconds


def _copy(network: FasterRCNN, trained: Collection[str], device: torch.device) -> FasterRCNN:
    """A copy on a device in which the named groups are trained."""
    network = copy.deepcopy(network).to(device)
    network.set_trainable(trained)
    return network


def _random_batch(
    shape: tuple[int, int, int], batch_size: int, device: torch.device
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Noise, and boxes of a tenth to a half of the image's side; the same every time."""
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
    """Whose turn it is in a step, and how long each had it.

    Attributes:
        steps: For every step, the seconds by group and way (forward False, backward True).
    """

    def __init__(self, device: torch.device) -> None:
        self.steps: list[defaultdict[tuple[str, bool], float]] = []
        self._device = device
        self._turn = "", False
        self._since = 0.0

    def start(self, group: str) -> None:
        """Begin a step."""
        self.steps.append(defaultdict(float))
        self._turn, self._since = (group, False), self._now()

    def turn(self, group: str, *, backward: bool = False) -> None:
        """From now on it is another's turn."""
        now = self._now()
        self.steps[-1][self._turn] += now - self._since
        self._turn, self._since = (group, backward), now

    def stop(self) -> None:
        """End the step."""
        self.turn("")

    def _now(self) -> float:
        """The time when all that was asked of the device is done."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()


def _watch(network: FasterRCNN, clock: _Clock) -> None:
    """Tell the clock whose turn it is.

    A group's backward pass begins with the gradient of its output: autograd first goes through
    everything that was computed after that.
    """
    backbone, names = network.backbone, list(network.groups())
    ends: list[nn.Module] = [
        list(backbone.stage_modules(stage.name))[-1] for stage in backbone.stages
    ]
    for end, (name, following) in zip((*ends, backbone.fpn), pairwise(names), strict=True):
        end.register_forward_hook(partial(_pass_on, clock, name, following))


def _pass_on(
    clock: _Clock,
    group: str,
    following: str,
    module: nn.Module,
    inputs: object,
    output: Tensor | dict[str, Tensor],
) -> None:
    """Where a group's forward pass ends, and later its backward pass begins."""
    for x in output.values() if isinstance(output, dict) else (output,):
        if x.requires_grad:
            x.register_hook(lambda _: clock.turn(group, backward=True))  # type: ignore[no-untyped-call]
    clock.turn(following)
