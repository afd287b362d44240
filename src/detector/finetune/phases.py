"""What a phase is: pure data, checked, and the phases that `auto` makes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from detector.core.errors import RequestError, require

DECAYS = ("none", "linear", "cosine")
OPTIMIZER_STATES = ("current", "checkpoint", "reset")
WARMUP_GROUPS = ("all", "new")
MAX_EPOCHS = 100_000


@dataclass(frozen=True)
class Warmup:
    """The rate climbs linearly at the start of a phase.

    Attributes:
        steps: How many steps that takes.
        start_factor: The share of the rate that the first step has.
        groups: `all`, or only the `new` ones, which the phase before did not train.
    """

    steps: int = 0
    start_factor: float = 0.001
    groups: str = "all"

    def share(self, step: int) -> float:
        """The share of the rate at a step of the phase, from 0."""
        if step >= self.steps:
            return 1.0
        return self.start_factor + (1 - self.start_factor) * step / self.steps


@dataclass(frozen=True)
class Decay:
    """The rate falls over the epochs that a phase may last.

    Attributes:
        type: `none`, `linear` or `cosine`.
        final_factor: The share of the rate that it ends with.
    """

    type: str = "none"
    final_factor: float = 0.0

    def share(self, done: float) -> float:
        """The share of the rate that is left after a share of the phase, 0..1."""
        if self.type == "none":
            return 1.0
        left = 1 - done if self.type == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final_factor + (1 - self.final_factor) * left


@dataclass(frozen=True)
class Plateau:
    """A phase ends when validation no longer improves.

    Attributes:
        patience: So many epochs in a row without an improvement end it.
        min_delta: What an improvement is at least, over the best score of the phase.
        min_epochs: The phase lasts at least so long.
    """

    patience: int
    min_delta: float = 0.0
    min_epochs: int = 1


@dataclass(frozen=True)
class Phase:
    """A number of epochs that train the same groups.

    Attributes:
        name: Name for logs and tables; unique in a schedule.
        train: Names of the trained groups; all others are frozen.
        max_epochs: Greatest number of epochs.
        plateau: Condition that ends the phase sooner; None: no such condition.
        lr_factor: Factor of each group's learning rate, relative to `optim.lr`; that of `default`
            applies to groups that are not listed.
        warmup: Change of the learning rate at the start of the phase.
        decay: Change of the learning rate towards the end of the phase.
        restore_best: Whether the phase begins with the weights of the best epoch so far.
        optimizer_state: State of the optimiser at the start: its `current` state, that of the best
            epoch's `checkpoint`, or none (`reset`).
        gain: Amount by which the phase must raise the best score of the run, or the schedule ends
            after it; None: the schedule continues in any case.
    """

    name: str
    train: tuple[str, ...]
    max_epochs: int
    plateau: Plateau | None = None
    lr_factor: Mapping[str, float] = field(default_factory=dict)
    warmup: Warmup = Warmup()
    decay: Decay = Decay()
    restore_best: bool = False
    optimizer_state: str = "current"
    gain: float | None = None

    @property
    def min_epochs(self) -> int:
        """Least number of epochs; the first epoch of a phase always counts as an improvement."""
        if self.plateau is None:
            return self.max_epochs
        return min(self.max_epochs, max(self.plateau.min_epochs, self.plateau.patience + 1))

    def factor(self, group: str) -> float:
        """Factor of a trained group's full learning rate, relative to `optim.lr`."""
        return self.lr_factor.get(group, self.lr_factor.get("default", 1.0))


def work_backwards(
    stages: Sequence[str],
    *,
    max_epochs: int,
    patience: int,
    min_delta: float,
    head_factor: float,
    stage_factor: float,
    falloff: float,
    warmup: Warmup,
    decay: Decay,
) -> list[Phase]:
    """The phases of `phases: auto`: one more stage at a time, from the top, while that pays.

    The new layers are trained first; then every phase begins with the best weights so far and thaws
    the next stage below. The first phase that gains less than `min_delta` is the last.

    Args:
        stages: The backbone's, from the image upwards.
        max_epochs: Of each phase.
        patience: Epochs without improvement that end a phase.
        min_delta: What counts as an improvement, of an epoch and of a phase.
        head_factor: The rate of neck and head once stages are thawed, over `optim.lr`.
        stage_factor: The rate of the topmost stage.
        falloff: The rate of each stage over that of the stage above it.
        warmup: Of each phase.
        decay: Of each phase.
    """
    new = ("neck", "head")
    top_down = list(reversed(stages))
    rates = {name: stage_factor * falloff**i for i, name in enumerate(top_down)}
    phases = []
    for count in range(len(top_down) + 1):
        thawed = top_down[:count]
        phases.append(
            Phase(
                name=thawed[-1] if thawed else "heads",
                train=(*reversed(thawed), *new),
                max_epochs=max_epochs,
                plateau=Plateau(patience, min_delta),
                lr_factor={"default": head_factor if thawed else 1.0}
                | {name: rates[name] for name in thawed},
                warmup=warmup,
                decay=decay,
                restore_best=bool(thawed),
                optimizer_state="checkpoint" if thawed else "current",
                gain=min_delta if thawed else None,
            )
        )
    return phases


def check_phases(phases: Sequence[Phase], groups: Collection[str]) -> None:
    """Refuse phases that cannot be meant.

    Raises:
        RequestError: Naming the key.
    """
    if not phases:
        raise RequestError("finetune.phases: empty, expected at least one phase")
    for i, phase in enumerate(phases):
        _check(f"finetune.phases[{i}]", phase, groups)
    names = [phase.name for phase in phases]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise RequestError(f"finetune.phases[{i}].name: there is another phase {name!r}")
    if phases[0].restore_best:
        raise RequestError("finetune.phases[0].restore_best: there is nothing yet to restore")


def _check(key: str, phase: Phase, groups: Collection[str]) -> None:
    """Refuse a phase that cannot be meant."""
    known = ", ".join(groups)
    good = bool(phase.name.strip()) and phase.name.isprintable()
    require(good, f"{key}.name", repr(phase.name), "a name on one line")
    if not phase.train:
        raise RequestError(f"{key}.train: empty, expected some of {known}")
    for name in phase.train:
        if name not in groups:
            close = difflib.get_close_matches(name, list(groups), n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise RequestError(f"{key}.train: no group {name!r}; {hint}the network has {known}")
    if len(set(phase.train)) < len(phase.train):
        raise RequestError(f"{key}.train: a group is listed twice: {', '.join(phase.train)}")
    for name, factor in phase.lr_factor.items():
        if name != "default" and name not in phase.train:
            raise RequestError(
                f"{key}.lr_factor: {name!r} is not trained in this phase "
                f"({', '.join(phase.train)}, or default)"
            )
        good = _at_least(factor, 0) and factor <= 1000
        require(good, f"{key}.lr_factor.{name}", factor, "0..1000, times optim.lr")
    good = phase.max_epochs is not None and 1 <= phase.max_epochs <= MAX_EPOCHS
    wanted = f"1..{MAX_EPOCHS}, also with a plateau"
    require(good, f"{key}.until.max_epochs", phase.max_epochs, wanted)
    check_course(key, phase.warmup, phase.decay)
    if phase.plateau is not None:
        _check_plateau(f"{key}.until.plateau", phase.plateau, phase.max_epochs)
    good = phase.optimizer_state in OPTIMIZER_STATES
    states = "one of " + ", ".join(OPTIMIZER_STATES)
    require(good, f"{key}.optimizer_state", phase.optimizer_state, states)
    if phase.optimizer_state == "checkpoint" and not phase.restore_best:
        raise RequestError(f"{key}.optimizer_state: checkpoint, which needs restore_best: true")


def check_course(key: str, warmup: Warmup, decay: Decay) -> None:
    """Refuse a warm-up or a decay that cannot be meant.

    Raises:
        RequestError: Naming the key, after the one that they belong to.
    """
    require(warmup.steps >= 0, f"{key}.warmup.steps", warmup.steps, "at least 0")
    good = 0 <= warmup.start_factor <= 1
    require(good, f"{key}.warmup.start_factor", warmup.start_factor, "0..1")
    good = warmup.groups in WARMUP_GROUPS
    require(good, f"{key}.warmup.groups", warmup.groups, " or ".join(WARMUP_GROUPS))
    require(decay.type in DECAYS, f"{key}.decay.type", decay.type, "one of " + ", ".join(DECAYS))
    require(0 <= decay.final_factor <= 1, f"{key}.decay.final_factor", decay.final_factor, "0..1")


def _check_plateau(key: str, plateau: Plateau, max_epochs: int) -> None:
    """Refuse a plateau that cannot be meant."""
    require(plateau.patience >= 1, f"{key}.patience", plateau.patience, "at least 1")
    require(_at_least(plateau.min_delta, 0), f"{key}.min_delta", plateau.min_delta, "at least 0")
    good = 1 <= plateau.min_epochs <= max_epochs
    wanted = f"1..{max_epochs}, the phase's max_epochs"
    require(good, f"{key}.min_epochs", plateau.min_epochs, wanted)


def _at_least(value: float, limit: float) -> bool:
    """Whether a number is finite and no smaller."""
    return math.isfinite(value) and value >= limit
