"""`train dry_run=true`: what a schedule would train, for how long and at which rates, as a table.

The network is built without memory (torch's meta device) and set to each phase in turn, so that the
numbers are those of the network that would be trained. No data are read, nothing is written.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from detector.config.schedules import frozen_at_random, read_schedule
from detector.config.schema import Config
from detector.core.console import WIDTH, hang, percent
from detector.finetune.phases import Phase
from detector.finetune.schedule import Schedule, batch_scale
from detector.pipeline import build
from detector.pipeline.model_summary import print_summary
from detector.pipeline.pace_cache import recall_pace
from detector.pipeline.request_checks import check_devices

if TYPE_CHECKING:
    from torch import nn

    from detector.models.faster_rcnn import FasterRCNN

ROW = "{:<11} {:<30} {:>10} {:>14} {:>8}"
WEIGHTS = {
    "imagenet": "pretrained on ImageNet",
    "coco": "a detector pretrained on COCO, with a new box predictor",
    "none": "random (model.weights=none)",
}
NORMS = {
    "frozen": "those of the backbone frozen in every phase, with their parameters",
    "eval_when_frozen": "trained where their group is",
    "train": "trained where their group is; statistics move everywhere",
}


def print_phases(config: Config) -> None:
    """Print the phase table of a run.

    Args:
        config: Configuration in force.

    Raises:
        RequestError: If the schedule cannot be meant, or steps are to be timed on a device that is
            not there.
    """
    if config.model.summary == "profile":
        check_devices(config)
    print("\n".join(phase_table(config)), flush=True)
    if config.model.summary != "false":
        print()
        print_summary(config)


def phase_table(config: Config) -> list[str]:
    """Format the phases as lines of at most 80 characters, with notes below.

    Raises:
        RequestError: If the schedule cannot be meant.
    """
    schedule = read_schedule(config)  # refused before torch is imported
    network = build.untrained_task(config, "meta").network
    groups = list(network.groups())
    everything = build.step_cost(network, config)
    lengths = _lengths(config, schedule)
    lines = [
        ROW.format("phase", "epochs", "layers", "parameters", "compute"),
        ROW.format("", "", "trained", "trained", "saved"),
    ]
    for index, phase in enumerate(schedule.phases):
        network.set_trainable(phase.train)
        saved = 1 - build.step_cost(network, config) / everything
        cells = lengths[index], _layers(network), _parameters(network), percent(saved)
        lines.append("-" * WIDTH)
        if len(phase.name) > 11:
            lines += textwrap.wrap(phase.name, WIDTH)
        lines.append(ROW.format(phase.name if len(phase.name) <= 11 else "", *cells))
        for name, text in _details(config, schedule, index, groups):
            lines += hang(f"  {name:<10}", text)
    lines.append("-" * WIDTH)
    for name, text in _footer(config, schedule, network):
        lines += hang(f"{name:<12}", text)
    return lines


def _images_a_step(config: Config) -> int:
    """Images a step, over all processes."""
    run = config.trainer
    return config.data.batch_size * build.local_processes(run) * run.num_nodes


def _lengths(config: Config, schedule: Schedule) -> list[str]:
    """Length of each phase, in words: epochs, or its share of the time.

    By the pace of an earlier run, if there was one, the share of the time is also given in epochs.
    """
    words = []
    if schedule.by_time:
        assert schedule.max_minutes is not None
        for index, phase in enumerate(schedule.phases):
            before = schedule.ends_at(index - 1) if index else 0.0
            share = schedule.ends_at(index) - before
            word = f"{percent(share)} of {schedule.max_minutes:g} min"
            if (pace := recall_pace(config, phase)) is not None:
                word += f": {60 * schedule.max_minutes * share / pace.each:.2g} epochs"
            words.append(word)
        return words
    fine = 1000  # steps of an epoch, to show parts of one
    for index, steps, _ in schedule.remaining(schedule.start(fine)):
        phase, most = schedule.phases[index], steps / fine
        least = most
        if (plateau := phase.plateau) is not None:
            least = min(most, max(plateau.min_epochs, plateau.patience + 1))
        until = f", until no gain for {plateau.patience}" if plateau and least < most else ""
        words.append(f"{least:.3g} to {most:.3g}{until}" if until else f"{most:.3g}")
    return words


def _length(schedule: Schedule) -> str:
    """Length of the whole run, in words."""
    epochs = schedule.max_epochs or schedule.total(schedule.start())
    limits = [] if epochs is None else ["1 epoch" if epochs == 1 else f"{epochs} epochs"]
    if schedule.max_minutes is not None:
        limits.append(f"{schedule.max_minutes:g} minutes, with validations")
    return f"{' or '.join(limits)} at most"


def _layers(network: nn.Module) -> str:
    """Number of trained layers, of all layers with parameters of their own."""
    own = [list(module.parameters(recurse=False)) for module in network.modules()]
    trained = sum(any(p.requires_grad for p in parameters) for parameters in own)
    return f"{trained} of {sum(map(bool, own))}"


def _parameters(network: nn.Module) -> str:
    """Number of trained parameters, in millions, and their share."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    share = percent(trained / _size(network))
    return f"{trained / 1e6:.2f} M {share:>5}"


def _size(network: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(p.numel() for p in network.parameters())


def _details(
    config: Config, schedule: Schedule, index: int, groups: list[str]
) -> Iterator[tuple[str, str]]:
    """Details of a phase, each after a label."""
    phase = schedule.phases[index]
    yield "trained", ", ".join(name for name in groups if name in phase.train)
    if frozen := [name for name in groups if name not in phase.train]:
        yield "frozen", ", ".join(frozen)
    base = config.optim.lr * batch_scale(_images_a_step(config), config.optim.reference_batch)
    yield "rates", _rates(phase, groups, base)
    if course := _course(phase, first=index == 0):
        yield "course", course
    if start := _start(phase):
        yield "begins", start
    if phase.plateau and phase.plateau.min_delta:
        yield "a gain", f"is more than {phase.plateau.min_delta:g} in {config.monitor}"
    if phase.gain is not None and index + 1 < len(schedule.phases):
        yield "then", f"on if the best {config.monitor} rose by {phase.gain:g}, else the run ends"


def _course(phase: Phase, *, first: bool) -> str:
    """Warm-up and decay of the learning rates, in words."""
    warmup, decay, parts = phase.warmup, phase.decay, []
    if warmup.steps:
        new = " of new groups" if warmup.groups == "new" and not first else ""
        parts.append(f"{warmup.steps} steps of warm-up{new} from {percent(warmup.start_factor)}")
    if decay.type != "none":
        parts.append(f"{decay.type} decay to {percent(decay.final_factor)} of the rate")
    return ", ".join(parts)


def _start(phase: Phase) -> str:
    """What a phase starts from, where it is not simply the state before."""
    parts = ["from the best weights so far"] if phase.restore_best else []
    if phase.optimizer_state == "checkpoint":
        parts.append("with the optimiser as it was then")
    elif phase.optimizer_state == "reset":
        parts.append("with a fresh optimiser")
    return ", ".join(parts)


def _rates(phase: Phase, groups: list[str], base: float) -> str:
    """Full learning rates, groups of equal ones together, from the image upwards."""
    joined: dict[str, list[str]] = {}
    for name in groups:
        if name in phase.train:
            joined.setdefault(f"{base * phase.factor(name):.3g}", []).append(name)
    return "; ".join(f"{', '.join(names)} {rate}" for rate, names in joined.items())


def _footer(config: Config, schedule: Schedule, network: FasterRCNN) -> Iterator[tuple[str, str]]:
    """Notes on all phases, each after a label."""
    side, classes = config.data.side, len(config.data.classes or ["any"])
    yield "network", f"{config.backbone.name}, {_size(network) / 1e6:.2f} M parameters"
    width = network.roi_heads.box_predictor.cls_score.in_features
    each = 5 * (width + 1)  # a score and four offsets, with their biases
    kinds = f"{classes} class" if classes == 1 else f"{classes} classes"
    more = "" if config.data.classes else f"; each more adds {each / 1e6:.3f} M parameters"
    yield "", f"with a head for {kinds}{more}"
    choice = config.model.weights
    yield "weights", WEIGHTS.get(choice, f"from {choice}")
    if config.model.anchors == "auto":
        yield "anchors", "fitted to the data"
    if network.backbone.has_batch_norms:
        yield "batch norms", NORMS[config.finetune.norm]
    if config.data.image_size == "auto":
        yield "image size", f"fitted to the data; {side} pixels for the numbers here"
    yield "saved", f"of a training step's multiply-adds, at {side} x {side} pixels"
    scaled = ""
    if reference := config.optim.reference_batch:
        scaled = f" x {_images_a_step(config)} images a step / {reference}"
    yield "rates", f"optim.lr={config.optim.lr:g}{scaled}, before warm-up and decay"
    yield "length", _length(schedule)
    random = list(network.groups()) if config.model.weights == "none" else []
    if frozen := frozen_at_random(config, random, network.backbone.has_batch_norms):
        yield "warning", frozen
