"""The pace of training: how long steps, validations and what lies between them take."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import lightning.pytorch as pl

RECENT = 50  # steps that the pace is measured on
DETECTING = 0.4  # time to detect on a batch, in training steps, until it is measured


class Pace(pl.Callback):
    """Measures the time of training; comes before all other callbacks.

    Attributes:
        validation: Duration of the last validation in seconds, from the end of the training step
            before it; None before the first one.
    """

    def __init__(self) -> None:
        self.validation: float | None = None
        self._before = 0.0  # seconds of the run before it was resumed
        self._started: float | None = None  # when training began,
        self._ended: float | None = None  # and ended
        self._moment: float | None = None  # when the last step or batch ended
        self._trained = 0.0  # when the last step ended
        self._first: float | None = None  # seconds of the phase's first step,
        self._steps: deque[float] = deque(maxlen=RECENT)  # and of its last other ones
        self._detected = (0.0, 0)  # seconds and batches of all validations
        self._between = (0.0, 0)  # seconds of the gaps between epochs, and their number

    @property
    def state_key(self) -> str:
        """Key of the time in checkpoints, which another callback wrote in earlier versions."""
        return "RunProgress"

    def state_dict(self) -> dict[str, Any]:
        """All that was measured, for checkpoints: a resumed run decides by it too."""
        return {
            "seconds": self.seconds,
            "validation": self.validation,
            "first": self._first,
            "steps": list(self._steps),
            "detected": list(self._detected),
            "between": list(self._between),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._before = state_dict["seconds"]
        if "steps" in state_dict:  # earlier versions kept the time alone
            self.validation, self._first = state_dict["validation"], state_dict["first"]
            self._steps.extend(state_dict["steps"])
            (seconds, batches), (gaps, count) = state_dict["detected"], state_dict["between"]
            self._detected, self._between = (seconds, batches), (gaps, count)

    @property
    def seconds(self) -> float:
        """Time of training and validation so far, with that before the run was resumed."""
        if self._started is None:
            return self._before
        end = time.perf_counter() if self._ended is None else self._ended
        return self._before + end - self._started

    @property
    def step(self) -> float:
        """Mean duration of the phase's recent training steps, in seconds.

        The first one, which prepares what the others use again, counts only where it is alone.
        """
        steps = self._steps or [self._first or 0.0]
        return sum(steps) / len(steps)

    @property
    def batch(self) -> float:
        """Mean duration of a validation's batch with its share of the scoring, in seconds."""
        seconds, count = self._detected
        return seconds / count if count else DETECTING * self.step

    @property
    def between(self) -> float:
        """Time of an epoch that is neither training nor validation, such as for checkpoints."""
        seconds, count = self._between
        return seconds / count if count else 0.0

    def start_phase(self) -> None:
        """Forget the steps so far: those of another phase have another pace."""
        self._first = None
        self._steps.clear()

    def on_train_start(self, *_: Any) -> None:
        """Start to measure."""
        self._started = time.perf_counter()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Measure the gap since the epoch before, if there was one in this process."""
        if self._moment is not None:
            self._between = (self._between[0] + self._lap(), self._between[1] + 1)
        self._moment = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        """Measure a step."""
        seconds = self._lap()
        if self._first is None:
            self._first = seconds
        else:
            self._steps.append(seconds)
        self._trained = time.perf_counter()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Measure a batch, unless it is of the check that Lightning can make before training."""
        if self._moment is None:
            return
        self._detected = (self._detected[0] + self._lap(), self._detected[1] + 1)

    def on_validation_end(self, *_: Any) -> None:
        """Measure the validation, whose loaders Lightning starts before its first hook."""
        if self._moment is None:
            return
        self._detected = (self._detected[0] + self._lap(), self._detected[1])  # the scores
        self.validation = time.perf_counter() - self._trained

    def on_train_end(self, *_: Any) -> None:
        """Stop to measure."""
        self._ended = time.perf_counter()

    def _lap(self) -> float:
        """Duration of the step or batch that has just ended, in seconds."""
        before, self._moment = self._moment, time.perf_counter()
        return 0.0 if before is None else self._moment - before
