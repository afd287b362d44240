"""How many steps fit into the time of a run: pure arithmetic on the pace that `Pace` measures.

Every phase has a share of the time, and its number of steps is decided after its first ones; it is
changed at the end of an epoch where the phase would miss its share by more than a twentieth. What
was decided is part of the run's `Progress`, and so of its checkpoints.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from detector.core.errors import RequestError
from detector.finetune.schedule import Progress, Schedule

if TYPE_CHECKING:
    from detector.finetune.pace import Pace

FIRST_STEPS = (2, 8)  # of a phase, after which its number of steps is decided
VALIDATING = 0.1  # share of the time that validations take, at most, where there are many
TOLERANCE = 0.05  # relative change of a phase's number of steps that is not worth one


def fit(
    schedule: Schedule, progress: Progress, pace: Pace, done: int, validation: float
) -> Progress:
    """Decide how many steps the current phase is to have, and how often to validate.

    Args:
        schedule: A schedule with `max_minutes`.
        progress: The progress at the start of the epoch.
        pace: The pace so far.
        done: Number of steps done in this epoch.
        validation: Duration of a validation, in seconds.
    """
    assert schedule.max_minutes is not None
    per_epoch, phase = progress.per_epoch, progress.phase
    step = max(pace.step, 1e-6) + pace.between / per_epoch
    left = schedule.ends_at(phase) * 60 * schedule.max_minutes - pace.seconds
    epoch = per_epoch * step
    every = max(1, math.ceil(validation * (1 - VALIDATING) / VALIDATING / epoch))
    needed = schedule.needs_validation(phase)
    for validations in itertools.count(needed):
        more = math.floor((left - validations * validation) / step)
        epochs = math.ceil((done + more) / per_epoch)
        if max(needed, (progress.unvalidated + epochs) // every) <= validations:
            break
    planned, before = progress.steps + done + max(0, more), progress.planned
    if (most := schedule.most_steps(progress)) is not None:
        planned = min(planned, most)
    if before is not None and abs(planned - before) <= TOLERANCE * before:
        planned = before
    entry = replace(progress.phases[-1], steps=planned)
    return replace(progress, phases=(*progress.phases[:-1], entry), every=every)


def check_budget(schedule: Schedule, pace: Pace, validation: float) -> None:
    """Refuse a budget that does not allow a step of each phase and a validation.

    Args:
        schedule: A schedule with `max_minutes`.
        pace: The pace after the first steps of the run.
        validation: Duration of a validation, in seconds.

    Raises:
        RequestError: With the shortest time that would do.
    """
    assert schedule.max_minutes is not None
    shortest = pace.seconds + (len(schedule.phases) - 1) * pace.step + validation
    if shortest > 60 * schedule.max_minutes:
        least = math.ceil(shortest / 0.6) / 100
        raise RequestError(
            f"trainer.max_minutes={schedule.max_minutes:g}: expected at least {least:g} here, "
            f"where a step takes {pace.step:.2g} s and a validation about {validation:.2g} s"
        )
