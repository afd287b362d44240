"""The schedule as pure arithmetic: which groups train when, at which learning rate, for how long.

Nothing here depends on networks or trainers. A run alternates between two steps: `Schedule.update`
takes an epoch's validation score and decides whether the phase is over; if it is,
`Schedule.next_phase` begins the next one when the next epoch begins. `Progress` is the whole state
in between, and is part of every checkpoint.

Lengths are steps of the optimiser. A phase has as many as its epochs have, its share of
`trainer.max_epochs`, or what its share of `trainer.max_minutes` allows (see `budget`). It is
trained in epochs of equal length, each at most one pass over the training images.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from detector.finetune.phases import Phase, check_phases

# Key of the run's `Progress` among the callbacks of a checkpoint.
STATE_KEY = "finetune"


@dataclass(frozen=True)
class Entry:
    """The record of a phase that has begun.

    Attributes:
        phase: Index of the phase in the schedule.
        name: Name of the phase.
        start_epoch: First epoch of the phase, from 0 over the whole run.
        start_step: Number of optimiser steps before the phase.
        restored_epoch: Epoch whose weights the phase began with; None: those of the epoch before.
        ended: Why the phase ended (see `Progress.ended`), or `changed` if the run was resumed with
            another schedule; empty while the phase lasts.
        train: Names of the trained groups.
        steps: Number of optimiser steps that the phase is to have, at most; None while its share of
            the time is not yet known in steps.
    """

    phase: int
    name: str
    start_epoch: int
    start_step: int
    restored_epoch: int | None = None
    ended: str = ""
    train: tuple[str, ...] = ()
    steps: int | None = None


@dataclass(frozen=True)
class Progress:
    """Progress of a run in its schedule, after an epoch.

    Attributes:
        phases: Records of the phases begun so far; the last one is the current phase.
        per_epoch: Number of optimiser steps of one pass over the training images.
        minutes: Time of the whole run, for which the lengths of phases were decided, if any.
        epochs: Number of epochs done in the current phase.
        steps: Number of optimiser steps done in the current phase.
        bad_epochs: Number of validated epochs since the last improvement in the current phase.
        unvalidated: Number of epochs since the last validation.
        every: Number of epochs between two validations.
        phase_best: Score that an improvement is measured from; None before the first epoch of the
            phase.
        best: Best score of the run; None before the first epoch.
        best_epoch: Epoch of the best score.
        best_before: Best score of the run when the current phase began.
        ended: Why the current phase has ended: `max_epochs`, `plateau`, or `no gain`, which also
            ends the schedule; empty if the phase continues. The next phase begins with the next
            epoch.
    """

    phases: tuple[Entry, ...]
    per_epoch: int
    minutes: float | None = None
    epochs: int = 0
    steps: int = 0
    bad_epochs: int = 0
    unvalidated: int = 0
    every: int = 1
    phase_best: float | None = None
    best: float | None = None
    best_epoch: int | None = None
    best_before: float | None = None
    ended: str = ""

    @property
    def phase(self) -> int:
        """Index of the current phase."""
        return self.phases[-1].phase

    @property
    def start_epoch(self) -> int:
        """First epoch of the current phase."""
        return self.phases[-1].start_epoch

    @property
    def done(self) -> int:
        """Number of epochs done in the run."""
        return self.start_epoch + self.epochs

    @property
    def step(self) -> int:
        """Number of optimiser steps done in the run."""
        return self.phases[-1].start_step + self.steps

    @property
    def planned(self) -> int | None:
        """Number of steps that the current phase is to have, as far as that is decided."""
        return self.phases[-1].steps

    @property
    def epoch_steps(self) -> int:
        """Number of steps of the next epoch of the current phase."""
        if self.planned is None:
            return self.per_epoch
        left = max(1, self.planned - self.steps)
        return -(-left // -(-left // self.per_epoch))

    def spans(self) -> list[tuple[Entry, int, int]]:
        """Every phase that has begun, with the first epoch and the first step after it."""
        after = [(entry.start_epoch, entry.start_step) for entry in self.phases[1:]]
        ends = [*after, (self.done, self.step)]
        return [(entry, *end) for entry, end in zip(self.phases, ends, strict=True)]

    def to_plain(self) -> dict[str, Any]:
        """The progress as dictionaries, lists, strings and numbers, for checkpoints."""
        plain = asdict(self)
        return {**plain, "phases": list(plain["phases"])}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Progress:
        """The inverse of `to_plain`."""
        phases = [Entry(**{**entry, "train": tuple(entry["train"])}) for entry in plain["phases"]]
        if "per_epoch" not in plain:  # an earlier version's, which counted epochs alone
            plain = {**plain, "per_epoch": 1, "steps": plain["epochs"]}
            phases = [replace(entry, start_step=entry.start_epoch) for entry in phases]
        return cls(**{**plain, "phases": tuple(phases)})


def batch_scale(images: int, reference: int | None) -> float:
    """The factor of the learning rate for another batch size (arXiv 1706.02677).

    Args:
        images: Images in a step, of all processes together.
        reference: Images in a step that the learning rate is meant for; None: no scaling.
    """
    return 1.0 if reference is None else images / reference


class Schedule:
    """A sequence of phases.

    Args:
        phases: The phases, at least one.
        groups: Names of the network's groups.
        max_epochs: Number of epochs of the whole run, which the phases share in proportion to their
            own; what a phase leaves by ending early goes to those after it. None: their own.
        max_minutes: Time of the whole run in minutes, which the phases share in the same way; None:
            as long as it takes. With `max_epochs`, whichever ends a phase sooner.

    Raises:
        RequestError: If a phase is invalid; the message names the key.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        groups: Collection[str],
        max_epochs: int | None = None,
        max_minutes: float | None = None,
    ) -> None:
        check_phases(phases, groups)
        self.phases = tuple(phases)
        self.max_epochs = max_epochs
        self.max_minutes = max_minutes

    def start(self, per_epoch: int = 1) -> Progress:
        """The progress before the first epoch.

        Args:
            per_epoch: Number of optimiser steps of one pass over the training images.
        """
        return Progress((self._entry(0, 0, 0, per_epoch),), per_epoch, self.max_minutes)

    def update(self, progress: Progress, score: float | None, steps: int = 1) -> Progress:
        """Add an epoch to the progress, and decide whether its phase is over.

        Args:
            progress: The progress before the epoch.
            score: Validation score of the epoch; larger is better, and NaN counts as the worst.
                None if it was not validated.
            steps: Number of optimiser steps of the epoch.
        """
        trained = replace(progress, epochs=progress.epochs + 1, steps=progress.steps + steps)
        if score is None:
            return self.decide(replace(trained, unvalidated=progress.unvalidated + 1))
        score = -math.inf if math.isnan(score) else score
        phase = self.phases[progress.phase]
        best, best_epoch = progress.best, progress.best_epoch
        if best is None or score > best:
            best, best_epoch = score, progress.done
        min_delta = phase.plateau.min_delta if phase.plateau else 0.0
        reference = progress.phase_best
        improved = reference is None or score > reference + min_delta
        after = replace(
            trained,
            bad_epochs=0 if improved else progress.bad_epochs + 1,
            unvalidated=0,
            phase_best=score if improved else reference,
            best=best,
            best_epoch=best_epoch,
        )
        return self.decide(after)

    def decide(self, progress: Progress) -> Progress:
        """Decide whether the current phase is over, by the limits that this schedule has."""
        phase, epochs, planned = self.phases[progress.phase], progress.epochs, progress.planned
        plateau, ended = phase.plateau, ""
        if epochs and planned is not None and progress.steps >= planned:
            ended = "max_epochs"
        elif plateau is not None and epochs >= plateau.min_epochs:
            ended = "plateau" if progress.bad_epochs >= plateau.patience else ""
        best, before = progress.best, progress.best_before
        if ended and phase.gain is not None and best is not None and before is not None:
            ended = "no gain" if best < before + phase.gain or best <= before else ended
        record = replace(progress.phases[-1], ended=ended)
        return replace(progress, phases=(*progress.phases[:-1], record), ended=ended)

    def finished(self, progress: Progress) -> bool:
        """Whether no phase is left to train."""
        last = progress.phase == len(self.phases) - 1
        return bool(progress.ended) and (last or progress.ended == "no gain")

    def is_validated(self, progress: Progress) -> bool:
        """Whether the next epoch ends with a validation.

        Every `progress.every`-th does, the last one of the run, and the last one of a phase that
        the next one is to begin with the best weights of.
        """
        planned = progress.planned
        last = planned is not None and progress.steps + progress.epoch_steps >= planned
        due = progress.unvalidated + 1 >= progress.every
        return due or (last and self.needs_validation(progress.phase))

    def needs_validation(self, phase: int) -> bool:
        """Whether a phase must end with a validation."""
        return phase + 1 == len(self.phases) or self.phases[phase + 1].restore_best

    def upcoming_phase(self, progress: Progress) -> Phase:
        """The phase of the next epoch; the last phase where none is left."""
        begins = bool(progress.ended) and not self.finished(progress)
        return self.phases[progress.phase + begins]

    def next_phase(self, progress: Progress) -> Progress:
        """Begin the next phase; the current one has ended and is not the last."""
        index = progress.phase + 1
        restored = progress.best_epoch if self.phases[index].restore_best else None
        entry = self._entry(index, progress.done, progress.step, progress.per_epoch, restored)
        return _begin(progress, (*progress.phases, entry))

    def resume(self, progress: Progress, per_epoch: int | None = None) -> Progress:
        """The progress in this schedule of a run that may have been trained by another one.

        If this schedule has a phase with the name and the groups of the current phase, that phase
        continues. Otherwise a phase begins with the current weights: the one with the same name, or
        else the one with the same index.

        Args:
            progress: Progress of the run so far.
            per_epoch: Number of optimiser steps of one pass over the training images now, which
                other batches change; None: as before.
        """
        if per_epoch is not None:
            progress = _rescaled(progress, per_epoch)
        current, past = progress.phases[-1], progress.phases[:-1]
        names = [phase.name for phase in self.phases]
        known = current.name in names
        index = names.index(current.name) if known else min(current.phase, len(names) - 1)
        if known and self.phases[index].train == current.train:
            steps: int | None = self._steps(index, current.start_step, progress.per_epoch)
            if self.max_minutes is not None:  # what was decided for the same time holds
                steps = current.steps if progress.minutes == self.max_minutes else None
            entry = replace(current, phase=index, steps=steps)
            phases = (*past, entry)
            return self.decide(replace(progress, phases=phases, minutes=self.max_minutes))
        if progress.epochs:
            past = (*past, replace(current, ended="changed"))
        entry = self._entry(index, progress.done, progress.step, progress.per_epoch)
        return _begin(replace(progress, minutes=self.max_minutes), (*past, entry))

    def _entry(
        self, index: int, epoch: int, step: int, per_epoch: int, restored: int | None = None
    ) -> Entry:
        """The record of a phase that begins with an epoch."""
        phase = self.phases[index]
        steps = None if self.max_minutes is not None else self._steps(index, step, per_epoch)
        return Entry(index, phase.name, epoch, step, restored, train=phase.train, steps=steps)

    @property
    def by_time(self) -> bool:
        """Whether only the time limits the run, so that no number of epochs is known before."""
        return self.max_minutes is not None and self.max_epochs is None

    def ends_at(self, phase: int) -> float:
        """Share of the run that is over when a phase is, by the phases' own epochs."""
        epochs = [p.max_epochs for p in self.phases]
        return sum(epochs[: phase + 1]) / sum(epochs)

    def most_steps(self, progress: Progress) -> int | None:
        """The greatest number of steps of the current phase by epochs; None: only time counts."""
        if self.by_time:
            return None
        return self._steps(progress.phase, progress.phases[-1].start_step, progress.per_epoch)

    def _steps(self, phase: int, start_step: int, per_epoch: int) -> int:
        """The greatest number of steps of a phase that begins at a step, by the number of epochs.

        Where there are enough epochs for that, phases have whole ones.
        """
        if self.max_epochs is None:
            return max(1, round(self.phases[phase].max_epochs * per_epoch))
        left = self.max_epochs * per_epoch - start_step
        epochs = [p.max_epochs for p in self.phases[phase:]]
        own, after = left * epochs[0] / sum(epochs), len(epochs) - 1
        if after and left >= (after + 1) * per_epoch:
            most = left // per_epoch - after
            own = max(1, min(round(own / per_epoch), most)) * per_epoch
        return max(1, round(own))

    def remaining(self, progress: Progress, done: int = 0) -> list[tuple[int, int, int]]:
        """What is left of the run at most, as far as it is decided.

        Args:
            progress: The progress at the start of an epoch.
            done: Number of steps done in this epoch.

        Returns:
            For each phase its index, its remaining steps and its remaining epochs, with the one
            under way.
        """
        left, step = [], progress.step
        planned = progress.planned or self.most_steps(progress)
        if not progress.ended and planned is not None:
            steps = max(0, planned - progress.steps)
            left.append((progress.phase, max(0, steps - done), -(-steps // progress.per_epoch)))
            step += steps
        for phase in range(progress.phase + 1, len(self.phases)):
            if self.finished(progress) or self.by_time:
                break
            steps = self._steps(phase, step, progress.per_epoch)
            left.append((phase, steps, -(-steps // progress.per_epoch)))
            step += steps
        return left

    def total(self, progress: Progress) -> int | None:
        """The greatest number of epochs of the run, with those done; None if not yet decided."""
        left = self.remaining(progress)
        if self.finished(progress) or (left and left[-1][0] == len(self.phases) - 1):
            return progress.done + sum(epochs for _, _, epochs in left)
        return None

    def lr_factor(self, phase: int, group: str, step: int, steps: int | None) -> float:
        """The factor of a group's learning rate at a step, relative to `optim.lr`.

        Warm-up takes at most a quarter of a phase.

        Args:
            phase: Index of the phase.
            group: Name of the group.
            step: Step within the phase, from 0.
            steps: Greatest number of steps of the phase; None if it is not yet decided.

        Returns:
            The factor; 0 for a frozen group.
        """
        this = self.phases[phase]
        if group not in this.train:
            return 0.0
        trained_before = phase > 0 and group in self.phases[phase - 1].train
        exempt = this.warmup.groups == "new" and trained_before
        warmup = 1.0 if exempt else this.warmup.share(step, steps)
        done = 0.0 if steps is None else min(1.0, step / steps)
        return this.factor(group) * warmup * this.decay.share(done)


def _rescaled(progress: Progress, per_epoch: int) -> Progress:
    """The progress with all steps counted as if every pass had had `per_epoch` of them."""

    def scaled(steps: int) -> int:
        return round(steps * per_epoch / progress.per_epoch)

    phases = tuple(
        replace(
            entry,
            start_step=scaled(entry.start_step),
            steps=None if entry.steps is None else max(1, scaled(entry.steps)),
        )
        for entry in progress.phases
    )
    return replace(progress, phases=phases, per_epoch=per_epoch, steps=scaled(progress.steps))


def _begin(progress: Progress, phases: tuple[Entry, ...]) -> Progress:
    """The progress at the start of a phase: the best score of the run and validations are kept."""
    return Progress(
        phases,
        progress.per_epoch,
        progress.minutes,
        unvalidated=progress.unvalidated,
        every=progress.every,
        best=progress.best,
        best_epoch=progress.best_epoch,
        best_before=progress.best,
    )
