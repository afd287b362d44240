"""The schedule as pure arithmetic: which groups train when, at which learning rate."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from detector.types import RequestError


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs that trains one set of groups.

    Attributes:
        name: For logs and tables.
        train: The groups trained; every other one is frozen.
        lr_factor: Group -> its learning rate over `optim.lr`; `default` serves the rest.
        epochs: How long the phase lasts.
        warmup_steps: The rate climbs linearly over so many steps at the phase's start.
        final_factor: The rate falls along a cosine to this share of itself; 1 keeps it.
    """

    name: str
    train: tuple[str, ...]
    lr_factor: Mapping[str, float]
    epochs: int
    warmup_steps: int = 0
    final_factor: float = 1.0


class Schedule:
    """Phases one after the other.

    The learning rate is a function of (epoch, step in the epoch, group) alone, so that a resumed
    run cannot differ.

    Args:
        phases: At least one.
        groups: The network's group names.
        max_epochs: Cuts the schedule off; phases that shrink keep their decay's shape.

    Raises:
        RequestError: If a group is unknown, repeated or has a rate but is not trained, or a number
            is out of range; the message names the key.
    """

    def __init__(
        self, phases: Sequence[Phase], groups: Collection[str], max_epochs: int | None = None
    ) -> None:
        if not phases:
            raise RequestError("finetune.phases: empty, expected at least one phase")
        for i, phase in enumerate(phases):
            _check(f"finetune.phases[{i}]", phase, groups)
        self.phases = tuple(phases)
        total = sum(phase.epochs for phase in phases)
        self.epochs = total if max_epochs is None else min(total, max_epochs)

    def locate(self, epoch: int) -> tuple[int, int]:
        """The phase of an epoch, and the epoch's number within it, both from 0.

        Args:
            epoch: From 0; beyond the end, the last epoch is meant.
        """
        epoch = min(epoch, self.epochs - 1)
        for i, phase in enumerate(self.phases):
            if epoch < phase.epochs:
                return i, epoch
            epoch -= phase.epochs
        raise AssertionError("phases do not cover the schedule's epochs")

    def start(self, phase: int) -> int:
        """The epoch a phase starts with."""
        return sum(p.epochs for p in self.phases[:phase])

    def lr_factor(self, group: str, epoch: int, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a group over `optim.lr`.

        Args:
            group: Group name.
            epoch: From 0.
            step: Of the epoch, from 0.
            steps_per_epoch: How many there are.

        Returns:
            0 for a frozen group.
        """
        index, inner = self.locate(epoch)
        phase = self.phases[index]
        if group not in phase.train:
            return 0.0
        base = phase.lr_factor.get(group, phase.lr_factor.get("default", 1.0))
        done = inner * steps_per_epoch + step
        # A capped schedule still decays to the end of what is left.
        epochs = min(phase.epochs, self.epochs - self.start(index))
        cosine = (1 + math.cos(math.pi * done / (epochs * steps_per_epoch))) / 2
        decay = phase.final_factor + (1 - phase.final_factor) * cosine
        warmup = min(1.0, (done + 1) / (phase.warmup_steps + 1))
        return base * decay * warmup


def _check(key: str, phase: Phase, groups: Collection[str]) -> None:
    """Refuse a phase that cannot be meant."""
    known = ", ".join(groups)
    if not phase.train:
        raise RequestError(f"{key}.train: empty, expected some of {known}")
    for name in phase.train:
        if name not in groups:
            raise RequestError(f"{key}.train: no group {name!r}; the network has {known}")
    if len(set(phase.train)) < len(phase.train):
        raise RequestError(f"{key}.train: a group is listed twice: {', '.join(phase.train)}")
    for name, factor in phase.lr_factor.items():
        if name != "default" and name not in phase.train:
            raise RequestError(
                f"{key}.lr_factor: {name!r} is not trained in this phase "
                f"({', '.join(phase.train)}, or default)"
            )
        if not (math.isfinite(factor) and factor >= 0):
            raise RequestError(f"{key}.lr_factor.{name}: {factor}, expected a number >= 0")
    if phase.epochs < 1:
        raise RequestError(f"{key}.epochs: {phase.epochs}, expected at least 1")
    if phase.warmup_steps < 0:
        raise RequestError(f"{key}.warmup_steps: {phase.warmup_steps}, expected at least 0")
    if not 0 <= phase.final_factor <= 1:
        raise RequestError(f"{key}.final_factor: {phase.final_factor}, expected 0..1")
