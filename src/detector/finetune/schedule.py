"""The schedule as pure arithmetic: which groups train when, at which learning rate, for how long.

Nothing here depends on networks or trainers. A run alternates between two steps: `Schedule.update`
takes an epoch's validation score and decides whether the phase is over; if it is,
`Schedule.next_phase` begins the next one when the next epoch begins. `Progress` is the whole state
in between, and is part of every checkpoint.
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
    """

    phase: int
    name: str
    start_epoch: int
    start_step: int
    restored_epoch: int | None = None
    ended: str = ""
    train: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Progress of a run in its schedule, after an epoch.

    Attributes:
        phases: Records of the phases begun so far; the last one is the current phase.
        epochs: Number of epochs done in the current phase.
        bad_epochs: Number of epochs since the last improvement in the current phase.
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
    epochs: int = 0
    bad_epochs: int = 0
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

    def to_plain(self) -> dict[str, Any]:
        """The progress as dictionaries, lists, strings and numbers, for checkpoints."""
        plain = asdict(self)
        return {**plain, "phases": list(plain["phases"])}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Progress:
        """The inverse of `to_plain`."""
        phases = (Entry(**{**entry, "train": tuple(entry["train"])}) for entry in plain["phases"])
        return cls(**{**plain, "phases": tuple(phases)})


def _begin(progress: Progress, phases: tuple[Entry, ...]) -> Progress:
    """The progress at the start of a phase: only the best score of the run is kept."""
    best, epoch = progress.best, progress.best_epoch
    return Progress(phases, best=best, best_epoch=epoch, best_before=best)


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
        max_epochs: Number of epochs after which training stops at the latest. Where it cuts a phase
            short, the decay of the learning rate ends there too.

    Raises:
        RequestError: If a phase is invalid; the message names the key.
    """

    def __init__(
        self, phases: Sequence[Phase], groups: Collection[str], max_epochs: int | None = None
    ) -> None:
        check_phases(phases, groups)
        self.phases = tuple(phases)
        self.cap = max_epochs
        self.epochs = self.total(self.start())  # at most; phases may end early

    def start(self) -> Progress:
        """The progress before the first epoch."""
        return Progress((self._entry(0, 0, 0),))

    def update(self, progress: Progress, score: float) -> Progress:
        """Add an epoch's validation score to the progress, and decide whether its phase is over.

        Args:
            progress: The progress before the epoch.
            score: Score of the epoch; larger is better, and NaN counts as the worst.
        """
        score = -math.inf if math.isnan(score) else score
        phase = self.phases[progress.phase]
        best, best_epoch = progress.best, progress.best_epoch
        if best is None or score > best:
            best, best_epoch = score, progress.done
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
        """Decide whether the current phase is over, by the limits that this schedule has."""
        phase, epochs = self.phases[progress.phase], progress.epochs
        plateau, ended = phase.plateau, ""
        if epochs >= phase.max_epochs:
            ended = "max_epochs"
        elif plateau is not None and epochs >= plateau.min_epochs:
            ended = "plateau" if progress.bad_epochs >= plateau.patience else ""
        if ended and phase.gain is not None and progress.best_before is not None:
            assert progress.best is not None
            wanted = progress.best_before + phase.gain
            if progress.best < wanted or progress.best <= progress.best_before:
                ended = "no gain"
        record = replace(progress.phases[-1], ended=ended)
        return replace(progress, phases=(*progress.phases[:-1], record), ended=ended)

    def finished(self, progress: Progress) -> bool:
        """Whether no phase is left to train."""
        last = progress.phase == len(self.phases) - 1
        return bool(progress.ended) and (last or progress.ended == "no gain")

    def upcoming_phase(self, progress: Progress) -> Phase:
        """The phase of the next epoch; the last phase where none is left."""
        begins = bool(progress.ended) and not self.finished(progress)
        return self.phases[progress.phase + begins]

    def next_phase(self, progress: Progress, step: int) -> Progress:
        """Begin the next phase.

        Args:
            progress: Progress with a current phase that has ended and is not the last one.
            step: Number of optimiser steps so far.
        """
        index = progress.phase + 1
        restored = progress.best_epoch if self.phases[index].restore_best else None
        entry = self._entry(index, progress.done, step, restored)
        return _begin(progress, (*progress.phases, entry))

    def resume(self, progress: Progress, step: int = 0) -> Progress:
        """The progress in this schedule of a run that may have been trained by another one.

        If this schedule has a phase with the name and the groups of the current phase, that phase
        continues. Otherwise a phase begins with the current weights: the one with the same name, or
        else the one with the same index.

        Args:
            progress: Progress of the run so far.
            step: Number of optimiser steps so far.
        """
        current, past = progress.phases[-1], progress.phases[:-1]
        names = [phase.name for phase in self.phases]
        known = current.name in names
        index = names.index(current.name) if known else min(current.phase, len(names) - 1)
        if known and self.phases[index].train == current.train:
            entry = replace(current, phase=index)
            return self.decide(replace(progress, phases=(*past, entry)))
        if progress.epochs:
            past = (*past, replace(current, ended="changed"))
        entry = self._entry(index, progress.done, step)
        return _begin(progress, (*past, entry))

    def _entry(self, index: int, epoch: int, step: int, restored: int | None = None) -> Entry:
        """The record of a phase that begins with an epoch."""
        phase = self.phases[index]
        return Entry(index, phase.name, epoch, step, restored, train=phase.train)

    def length(self, phase: int, start_epoch: int) -> int:
        """The greatest number of epochs of a phase that begins with an epoch."""
        most = self.phases[phase].max_epochs
        return most if self.cap is None else max(1, min(most, self.cap - start_epoch))

    def total(self, progress: Progress) -> int:
        """The greatest number of epochs of the run, including those already done."""
        if self.finished(progress):
            return progress.done
        here = 0 if progress.ended else self.phases[progress.phase].max_epochs - progress.epochs
        total = progress.done + here + sum(p.max_epochs for p in self.phases[progress.phase + 1 :])
        return total if self.cap is None else min(total, self.cap)

    def unreached(self) -> list[str]:
        """Names of the phases that `max_epochs` excludes, even if all earlier ones end early."""
        starts = [sum(p.min_epochs for p in self.phases[:i]) for i in range(len(self.phases))]
        pairs = zip(self.phases, starts, strict=True)
        return [phase.name for phase, start in pairs if start >= self.epochs]

    def lr_factor(self, phase: int, group: str, step: int, steps: int) -> float:
        """The factor of a group's learning rate at a step, relative to `optim.lr`.

        Args:
            phase: Index of the phase.
            group: Name of the group.
            step: Step within the phase, from 0.
            steps: Greatest number of steps of the phase.

        Returns:
            The factor; 0 for a frozen group.
        """
        this = self.phases[phase]
        if group not in this.train:
            return 0.0
        trained_before = phase > 0 and group in self.phases[phase - 1].train
        exempt = this.warmup.groups == "new" and trained_before
        warmup = 1.0 if exempt else this.warmup.share(step)
        return this.factor(group) * warmup * this.decay.share(min(1.0, step / steps))
