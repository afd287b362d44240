"""The schedule as pure arithmetic: which groups train when, at which rate, and what ends a phase.

Nothing here knows of networks or trainers. What happens in a run is a sequence of two steps:
`Schedule.observe` takes an epoch's validation score and decides, `Schedule.advance` carries the
decision out when the next epoch begins. `Progress` is everything that is remembered in between, and
goes into every checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from detector.finetune.phases import Phase, check_phases

# Under which name checkpoints keep a run's `Progress`.
STATE_KEY = "finetune"


@dataclass(frozen=True)
class Entry:
    """A phase that was begun, for the record.

    Attributes:
        phase: Its index in the schedule.
        name: Its name.
        start_epoch: The first epoch, from 0 over the whole run.
        start_step: The optimiser's steps before it.
        restored_epoch: The epoch whose weights it began with; None: those of the epoch before.
        ended: Why it ended (see `Progress.ended`), or `changed` if the run went on with another
            schedule; empty while it lasts.
        train: The groups it trained.
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

    @property
    def done(self) -> int:
        """Epochs done in the run."""
        return self.start_epoch + self.epochs

    def to_plain(self) -> dict[str, Any]:
        """As dictionaries, lists, strings and numbers."""
        plain = asdict(self)
        return {**plain, "phases": list(plain["phases"])}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Progress:
        """The inverse of `to_plain`."""
        phases = (Entry(**{**entry, "train": tuple(entry["train"])}) for entry in plain["phases"])
        return cls(**{**plain, "phases": tuple(phases)})


def _begin(progress: Progress, phases: tuple[Entry, ...]) -> Progress:
    """Nothing of the last phase yet, and the run's best so far."""
    best, epoch = progress.best, progress.best_epoch
    return Progress(phases, best=best, best_epoch=epoch, best_before=best)


def batch_scale(images: int, reference: int | None) -> float:
    """What a learning rate is multiplied by for other batches than it is meant for.

    Args:
        images: A step, of all processes together.
        reference: The images a step that it is meant for (arXiv 1706.02677); None: any.
    """
    return 1.0 if reference is None else images / reference


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
        check_phases(phases, groups)
        self.phases = tuple(phases)
        self.cap = max_epochs
        self.epochs = self.total(self.start())  # at most

    def start(self) -> Progress:
        """Before the first epoch."""
        return Progress((self._entry(0, 0, 0),))

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
            wanted = progress.best_before + phase.gain
            if progress.best < wanted or progress.best <= progress.best_before:
                ended = "no gain"
        record = replace(progress.phases[-1], ended=ended)
        return replace(progress, phases=(*progress.phases[:-1], record), ended=ended)

    def finished(self, progress: Progress) -> bool:
        """Whether no phase is left to run."""
        last = progress.phase == len(self.phases) - 1
        return bool(progress.ended) and (last or progress.ended == "no gain")

    def next_phase(self, progress: Progress) -> Phase:
        """The phase of the next epoch; where none is left, of the last one."""
        begins = bool(progress.ended) and not self.finished(progress)
        return self.phases[progress.phase + begins]

    def advance(self, progress: Progress, step: int) -> Progress:
        """Begin the next phase.

        Args:
            progress: With a phase that has ended, and is not the last.
            step: The optimiser's steps so far.
        """
        index = progress.phase + 1
        restored = progress.best_epoch if self.phases[index].restore_best else None
        entry = self._entry(index, progress.done, step, restored)
        return _begin(progress, (*progress.phases, entry))

    def adopt(self, progress: Progress, step: int = 0) -> Progress:
        """Where a run stands in this schedule, if it was trained by another one so far.

        It goes on in the phase under way if there is one of the same name with the same groups.
        Otherwise a phase begins, with the weights as they are: that of the same name, or else of
        the same number.

        Args:
            progress: So far.
            step: The optimiser's steps so far.
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
        """The record of a phase that begins."""
        phase = self.phases[index]
        return Entry(index, phase.name, epoch, step, restored, train=phase.train)

    def length(self, phase: int, start_epoch: int) -> int:
        """How many epochs a phase may last that begins with an epoch."""
        most = self.phases[phase].max_epochs
        return most if self.cap is None else max(1, min(most, self.cap - start_epoch))

    def total(self, progress: Progress) -> int:
        """How many epochs the run has at most, the past ones included."""
        if self.finished(progress):
            return progress.done
        here = 0 if progress.ended else self.phases[progress.phase].max_epochs - progress.epochs
        total = progress.done + here + sum(p.max_epochs for p in self.phases[progress.phase + 1 :])
        return total if self.cap is None else min(total, self.cap)

    def unreached(self) -> list[str]:
        """The phases that the cap leaves no epoch, even if all before them end early."""
        starts = [sum(p.min_epochs for p in self.phases[:i]) for i in range(len(self.phases))]
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
        known = phase > 0 and group in self.phases[phase - 1].train
        warm = this.warmup.groups == "new" and known
        warmup = 1.0 if warm else this.warmup.share(step)
        return this.factor(group) * warmup * this.decay.share(min(1.0, step / steps))
