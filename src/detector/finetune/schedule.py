"""The schedule as pure arithmetic: which groups train when, at which rate, and what ends a phase.

Nothing here knows of networks or trainers. What happens in a run is a sequence of two steps:
`Schedule.observe` takes an epoch's validation score and decides, `Schedule.advance` carries the
decision out when the next epoch begins. `Progress` is everything that is remembered in between, and
goes into every checkpoint.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from detector.types import RequestError

# Under which name checkpoints keep a run's `Progress`.
STATE_KEY = "finetune"

DECAYS = ("none", "linear", "cosine")
OPTIMIZER_STATES = ("current", "checkpoint", "reset")
WARMUP_GROUPS = ("all", "new")


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


@dataclass(frozen=True)
class Decay:
    """The rate falls over the epochs that a phase may last.

    Attributes:
        type: `none`, `linear` or `cosine`.
        final_factor: The share of the rate that it ends with.
    """

    type: str = "none"
    final_factor: float = 0.0


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
    """A stretch of epochs that trains one set of groups.

    Attributes:
        name: For logs and tables; no two phases share one.
        train: The groups trained; every other one is frozen.
        max_epochs: How long the phase lasts at most.
        plateau: What ends it sooner, if anything.
        lr_factor: Group -> its learning rate over `optim.lr`; `default` serves the rest.
        warmup: The rate at its start.
        decay: The rate towards its end.
        restore_best: Begin with the weights of the best epoch so far.
        optimizer_state: What the optimiser remembers at the start: its `current` state, that of
            the best epoch's `checkpoint`, or nothing (`reset`).
        gain: The schedule goes on after this phase only if it raised the run's best score by so
            much; None: in any case.
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


@dataclass(frozen=True)
class Entry:
    """A phase that was begun, for the record.

    Attributes:
        phase: Its index in the schedule.
        name: Its name.
        start_epoch: The first epoch, from 0 over the whole run.
        start_step: The optimiser's steps before it.
        restored_epoch: The epoch whose weights it began with; None: those of the epoch before.
        ended: Why it ended (see `Progress.ended`); empty while it lasts.
    """

    phase: int
    name: str
    start_epoch: int
    start_step: int
    restored_epoch: int | None = None
    ended: str = ""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after an epoch.

    Attributes:
        phases: The phases begun so far; the last one is under way.
        epochs: Epochs done in it.
        bad_epochs: The last of them that brought no improvement.
        phase_best: The score that an improvement is measured from; None before the first.
        best: The run's best score; None before the first.
        best_epoch: Whose it is.
        best_before: `best` when the phase began.
        ended: A decision that waits for the next epoch: why the phase ended (`max_epochs`,
            `plateau`, or `no gain`, which ends the schedule too); empty if it goes on.
    """

    phases: tuple[Entry, ...]
    epochs: int = 0
    bad_epochs: int = 0
    phase_best: float | None = None
    best: float | None = None
    best_epoch: int | None = None
    best_before: float | None = None
    ended: str = ""

    @property
    def phase(self) -> int:
        """The index of the phase under way."""
        return self.phases[-1].phase

    @property
    def start_epoch(self) -> int:
        """The first epoch of the phase under way."""
        return self.phases[-1].start_epoch

    def to_plain(self) -> dict[str, Any]:
        """As dictionaries, lists, strings and numbers."""
        plain = asdict(self)
        return {**plain, "phases": list(plain["phases"])}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Progress:
        """The inverse of `to_plain`."""
        return cls(**{**plain, "phases": tuple(Entry(**entry) for entry in plain["phases"])})


class Schedule:
    """Phases one after the other.

    Args:
        phases: At least one.
        groups: The network's group names.
        max_epochs: Cuts the schedule off; the decay of a phase that is cut ends where it does.

    Raises:
        RequestError: If the phases cannot be meant; the message names the key.
    """

    def __init__(
        self, phases: Sequence[Phase], groups: Collection[str], max_epochs: int | None = None
    ) -> None:
        if not phases:
            raise RequestError("finetune.phases: empty, expected at least one phase")
        for i, phase in enumerate(phases):
            _check(f"finetune.phases[{i}]", phase, groups)
        _check_order(phases)
        self.phases = tuple(phases)
        total = sum(phase.max_epochs for phase in phases)
        self.epochs = total if max_epochs is None else min(total, max_epochs)  # at most

    def start(self) -> Progress:
        """Before the first epoch."""
        return Progress((Entry(0, self.phases[0].name, 0, 0),))

    def observe(self, progress: Progress, score: float) -> Progress:
        """Take in an epoch's validation score, and decide whether its phase is over.

        Args:
            progress: Before the epoch.
            score: Larger is better; NaN is worse than all.
        """
        score = -math.inf if math.isnan(score) else score
        phase = self.phases[progress.phase]
        best, best_epoch = progress.best, progress.best_epoch
        if best is None or score > best:
            best, best_epoch = score, progress.start_epoch + progress.epochs
        min_delta = phase.plateau.min_delta if phase.plateau else 0.0
        reference = progress.phase_best
        improved = reference is None or score > reference + min_delta
        after = replace(
            progress,
            epochs=progress.epochs + 1,
            bad_epochs=0 if improved else progress.bad_epochs + 1,
            phase_best=score if improved else reference,
            best=best,
            best_epoch=best_epoch,
        )
        return self.decide(after)

    def decide(self, progress: Progress) -> Progress:
        """Judge anew whether the phase under way is over; for a schedule that was changed."""
        phase = self.phases[progress.phase]
        ended = ""
        if progress.epochs:
            if progress.epochs >= phase.max_epochs:
                ended = "max_epochs"
            elif (
                phase.plateau is not None
                and progress.epochs >= phase.plateau.min_epochs
                and progress.bad_epochs >= phase.plateau.patience
            ):
                ended = "plateau"
        if ended and phase.gain is not None and progress.best_before is not None:
            assert progress.best is not None
            if not progress.best >= progress.best_before + phase.gain:
                ended = "no gain"
        record = replace(progress.phases[-1], ended=ended)
        return replace(progress, phases=(*progress.phases[:-1], record), ended=ended)

    def finished(self, progress: Progress) -> bool:
        """Whether no phase is left to run."""
        last = progress.phase == len(self.phases) - 1
        return bool(progress.ended) and (last or progress.ended == "no gain")

    def advance(self, progress: Progress, step: int) -> Progress:
        """Begin the next phase.

        Args:
            progress: With a phase that has ended, and is not the last.
            step: The optimiser's steps so far.
        """
        index = progress.phase + 1
        phase = self.phases[index]
        entry = Entry(
            index,
            phase.name,
            progress.start_epoch + progress.epochs,
            step,
            progress.best_epoch if phase.restore_best else None,
        )
        return Progress(
            (*progress.phases, entry),
            best=progress.best,
            best_epoch=progress.best_epoch,
            best_before=progress.best,
        )

    def adopt(self, progress: Progress) -> Progress:
        """Where a run of another schedule stands in this one.

        The phase under way is the one of the same name, or else of the same number.
        """
        current = progress.phases[-1]
        names = [phase.name for phase in self.phases]
        index = (
            names.index(current.name)
            if current.name in names
            else min(current.phase, len(names) - 1)
        )
        entry = replace(current, phase=index, name=names[index])
        return self.decide(replace(progress, phases=(*progress.phases[:-1], entry)))

    def length(self, phase: int, start_epoch: int) -> int:
        """How many epochs a phase may last that begins with an epoch."""
        return max(1, min(self.phases[phase].max_epochs, self.epochs - start_epoch))

    def unreached(self) -> list[str]:
        """The phases that `max_epochs` leaves no epoch, even if none before them ends early."""
        starts = [sum(p.max_epochs for p in self.phases[:i]) for i in range(len(self.phases))]
        pairs = zip(self.phases, starts, strict=True)
        return [phase.name for phase, start in pairs if start >= self.epochs]

    def lr_factor(self, phase: int, group: str, step: int, steps: int) -> float:
        """The learning rate of a group over `optim.lr`.

        Args:
            phase: Index of the phase.
            group: Group name.
            step: Of the phase, from 0.
            steps: How many there are at most in the phase.

        Returns:
            0 for a frozen group.
        """
        this = self.phases[phase]
        if group not in this.train:
            return 0.0
        base = this.lr_factor.get(group, this.lr_factor.get("default", 1.0))
        return base * self._warmup(phase, group, step) * _decay(this.decay, min(1.0, step / steps))

    def _warmup(self, phase: int, group: str, step: int) -> float:
        """The share of the rate that warm-up allows."""
        warmup = self.phases[phase].warmup
        known = phase > 0 and group in self.phases[phase - 1].train
        if step >= warmup.steps or (warmup.groups == "new" and known):
            return 1.0
        return warmup.start_factor + (1 - warmup.start_factor) * step / warmup.steps


def _decay(decay: Decay, done: float) -> float:
    """The share of the rate that is left after a share of the phase."""
    if decay.type == "none":
        return 1.0
    left = 1 - done if decay.type == "linear" else (1 + math.cos(math.pi * done)) / 2
    return decay.final_factor + (1 - decay.final_factor) * left


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


def _require(good: bool, key: str, value: object, wanted: str) -> None:
    """Refuse a value."""
    if not good:
        raise RequestError(f"{key}: {value}, expected {wanted}")


def _check(key: str, phase: Phase, groups: Collection[str]) -> None:
    """Refuse a phase that cannot be meant."""
    known = ", ".join(groups)
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
        _require(_at_least(factor, 0), f"{key}.lr_factor.{name}", factor, "a number >= 0")
    good = phase.max_epochs is not None and phase.max_epochs >= 1
    _require(good, f"{key}.until.max_epochs", phase.max_epochs, "at least 1, also with a plateau")
    warmup, decay, plateau = phase.warmup, phase.decay, phase.plateau
    _require(warmup.steps >= 0, f"{key}.warmup.steps", warmup.steps, "at least 0")
    good = 0 <= warmup.start_factor <= 1
    _require(good, f"{key}.warmup.start_factor", warmup.start_factor, "0..1")
    good = warmup.groups in WARMUP_GROUPS
    _require(good, f"{key}.warmup.groups", warmup.groups, " or ".join(WARMUP_GROUPS))
    _require(decay.type in DECAYS, f"{key}.decay.type", decay.type, "one of " + ", ".join(DECAYS))
    _require(0 <= decay.final_factor <= 1, f"{key}.decay.final_factor", decay.final_factor, "0..1")
    if plateau is not None:
        _check_plateau(f"{key}.until.plateau", plateau, phase.max_epochs)
    good = phase.optimizer_state in OPTIMIZER_STATES
    states = "one of " + ", ".join(OPTIMIZER_STATES)
    _require(good, f"{key}.optimizer_state", phase.optimizer_state, states)
    if phase.optimizer_state == "checkpoint" and not phase.restore_best:
        raise RequestError(f"{key}.optimizer_state: checkpoint, which needs restore_best: true")


def _check_plateau(key: str, plateau: Plateau, max_epochs: int) -> None:
    """Refuse a plateau that cannot be meant."""
    _require(plateau.patience >= 1, f"{key}.patience", plateau.patience, "at least 1")
    _require(_at_least(plateau.min_delta, 0), f"{key}.min_delta", plateau.min_delta, "at least 0")
    good = 1 <= plateau.min_epochs <= max_epochs
    wanted = f"1..{max_epochs}, the phase's max_epochs"
    _require(good, f"{key}.min_epochs", plateau.min_epochs, wanted)


def _check_order(phases: Sequence[Phase]) -> None:
    """Refuse what phases cannot be together."""
    names = [phase.name for phase in phases]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise RequestError(
                f"finetune.phases[{i}].name: {name} is phase {names.index(name)} too"
            )
    if phases[0].restore_best:
        raise RequestError("finetune.phases[0].restore_best: there is nothing yet to restore")


def _at_least(value: float, limit: float) -> bool:
    """Whether a number is finite and no smaller."""
    return math.isfinite(value) and value >= limit
