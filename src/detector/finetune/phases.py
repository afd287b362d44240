"""Phases as validated data, and the phases of `finetune.phases=auto`."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from detector.core.errors import RequestError, require
from detector.finetune.options import AutoOptions, Decay, Plateau, Warmup


@dataclass(frozen=True)
class Phase:
    """A number of epochs that train the same groups.

    Attributes:
        name: Name for logs and tables; unique in a schedule.
        train: Names of the trained groups; all others are frozen.
        max_epochs: Greatest number of epochs; where the run has a length of its own, in proportion
            to it.
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
    max_epochs: float
    plateau: Plateau | None = None
    lr_factor: Mapping[str, float] = field(default_factory=dict)
    warmup: Warmup = field(default_factory=Warmup)
    decay: Decay = field(default_factory=Decay)
    restore_best: bool = False
    optimizer_state: str = "current"
    gain: float | None = None

    def factor(self, group: str) -> float:
        """Factor of a trained group's full learning rate, relative to `optim.lr`."""
        return self.lr_factor.get(group, self.lr_factor.get("default", 1.0))


def work_backwards(stages: Sequence[str], options: AutoOptions) -> list[Phase]:
    """The phases of `phases: auto`: one more stage at a time, from the top, while the score rises.

    The new layers are trained first; then every phase begins with the best weights so far and
    unfreezes the next stage below. The first phase that gains less than `min_delta` is the last.

    Args:
        stages: Stages of the backbone, from the image upwards.
        options: Lengths and learning rates of the phases.
    """
    top_down = list(reversed(stages))
    rates = {name: options.stage_factor * options.falloff**i for i, name in enumerate(top_down)}
    phases = []
    for count in range(len(top_down) + 1):
        unfrozen = top_down[:count]
        phases.append(
            Phase(
                name=unfrozen[-1] if unfrozen else "heads",
                train=(*reversed(unfrozen), "neck", "head"),
                max_epochs=options.max_epochs,
                plateau=Plateau(options.patience, options.min_delta),
                lr_factor={"default": options.head_factor if unfrozen else 1.0}
                | {name: rates[name] for name in unfrozen},
                warmup=options.warmup,
                decay=options.decay,
                restore_best=bool(unfrozen),
                optimizer_state="checkpoint" if unfrozen else "current",
                gain=options.min_delta if unfrozen else None,
            )
        )
    return phases


def check_phases(phases: Sequence[Phase], groups: Collection[str]) -> None:
    """Refuse invalid phases.

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
    """Refuse an invalid phase."""
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
        good = 0 <= factor <= 1000
        require(good, f"{key}.lr_factor.{name}", factor, "0..1000, times optim.lr")
    if phase.plateau is not None:
        good, wanted = phase.plateau.min_epochs <= phase.max_epochs, f"1..{phase.max_epochs:g}"
        wanted += ", the phase's length"
        require(good, f"{key}.until.plateau.min_epochs", phase.plateau.min_epochs, wanted)
    if phase.optimizer_state == "checkpoint" and not phase.restore_best:
        raise RequestError(f"{key}.optimizer_state: checkpoint, which needs restore_best: true")
