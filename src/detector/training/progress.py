"""Progress of a run for the user: bars, a line and a row for each epoch, how to resume."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from tqdm import tqdm

from detector.core.bar import Bar, in_words
from detector.core.run_folder import RunFolder
from detector.finetune.unfreezing import StagedFinetuning
from detector.training.metrics_csv import read_rows, write_rows

log = logging.getLogger(__name__)

RECENT = 50  # steps that the pace is measured on; the phases of a run differ in pace
DETECTING = 0.4  # time to detect on a batch, in training steps, until it is measured


def seconds_left(
    steps: int, batches: int, recent: Sequence[float], validation: tuple[float, int]
) -> float:
    """Estimate the remaining time of a run, with its validations and the final evaluation.

    Args:
        steps: Number of remaining training steps.
        batches: Number of remaining batches of all validations and of the final evaluation.
        recent: Durations of the last training steps, in seconds; at least one.
        validation: Duration of all validations so far, in seconds, and their number of batches.
    """
    step = sum(recent) / len(recent)
    seconds, done = validation
    batch = seconds / done if done else DETECTING * step
    return steps * step + batches * batch


class EvaluationBar(pl.Callback):
    """Shows the progress of an evaluation.

    Args:
        split: Name of the evaluated split.
    """

    def __init__(self, split: str) -> None:
        self.split = split
        self._bar: Bar | None = None

    @rank_zero_only
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        self._bar = Bar(f"detecting on {self.split}", _total(trainer.num_test_batches), "batch")

    @rank_zero_only
    def on_test_batch_end(self, *_: Any) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.update()

    @rank_zero_only
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    @rank_zero_only
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        self.on_test_end(trainer, pl_module)


class RunProgress(pl.Callback):
    """Shows the progress of a run, and writes each epoch's row to `metrics.csv` and the run's log.

    Of several processes, only the first one does this; training losses are those of its batches.

    Args:
        run: Folder of the run.
        finetuning: The callback that knows the current phase.
        epochs: Greatest number of epochs of the run.
        resume_command: Command that resumes the run after an interruption.
    """

    def __init__(
        self, run: RunFolder, finetuning: StagedFinetuning, epochs: int, resume_command: str
    ) -> None:
        self.run = run
        self.finetuning = finetuning
        self.epochs = epochs
        self.resume_command = resume_command
        self.seconds = 0.0  # of training and validation, with those before the run was resumed
        self._bar: Bar | None = None
        self._losses: list[dict[str, Tensor]] = []  # of the epoch's steps
        self._started = 0.0  # time when the epoch began
        self._trained = 0.0  # time when its last step so far ended
        self._moment = 0.0  # time when the last step or batch ended
        self._validation = 0.0  # duration of the epoch's validation, in seconds
        self._recent: deque[float] = deque(maxlen=RECENT)  # durations of the last steps, in seconds
        self._validated = (0.0, 0)  # seconds and batches of all validations
        self._batches = 0  # remaining batches of all validations and of the final evaluation

    def state_dict(self) -> dict[str, Any]:
        """The training time, for checkpoints."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue to count the training time of a checkpoint."""
        self.seconds = state_dict["seconds"]

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, and remove the rows of epochs that are about to be repeated."""
        steps, done = int(trainer.num_training_batches), trainer.current_epoch
        self._bar = Bar("", steps * self.epochs, "step", initial=steps * done, noted=True)
        validations = (self.epochs - done) * _total(trainer.num_val_batches)
        self._batches = validations + _final_batches(trainer)
        write_rows(self.run, [r for r in self.rows() if int(r["epoch"]) < trainer.current_epoch])

    @rank_zero_only
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to measure the epoch's time."""
        self._losses = []
        self._validation = 0.0
        self._started = self._trained = self._moment = time.perf_counter()

    @rank_zero_only
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance the bar."""
        self._losses.append({name: value.detach() for name, value in outputs.items()})
        self._recent.append(self._lap())
        self._trained = self._moment
        if self._bar is not None:
            # The note reads the loss, which waits for the device: not at every step.
            place = f"step {batch_idx + 1}/{int(trainer.num_training_batches)}"
            self._bar.update(note=lambda: self._note(trainer, place))

    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *_: Any,
    ) -> None:
        """Show the progress of the validation."""
        self._batches -= 1
        self._validated = (self._validated[0] + self._lap(), self._validated[1] + 1)
        if self._bar is not None:
            place = f"validating {batch_idx + 1}/{_total(trainer.num_val_batches)}"
            self._bar.update(0, lambda: self._note(trainer, place))

    def _lap(self) -> float:
        """Duration of the step or batch that has just ended, in seconds."""
        before, self._moment = self._moment, time.perf_counter()
        return self._moment - before

    def _note(self, trainer: pl.Trainer, place: str) -> str:
        """The progress as text: epoch, place in it, loss, pace, remaining time."""
        assert self._bar is not None
        assert self._bar.total is not None
        steps = self._bar.total - self._bar.done
        left = seconds_left(steps, self._batches, self._recent, self._validated)
        pace = sum(self._recent) / len(self._recent)
        return (
            f"epoch {trainer.current_epoch + 1}/{self.epochs} {place}, "
            f"loss {float(self._losses[-1]['loss']):.3f}, {pace:.2g} s/step, "
            f"{in_words(left)} left"
        )

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the time of the validation, from the end of the last training step.

        Lightning starts the loaders before it calls the first hook of the validation.
        """
        self._validated = (self._validated[0] + self._lap(), self._validated[1])  # the scores
        self._validation += self._moment - self._trained

    @rank_zero_only
    def end_epoch(self, trainer: pl.Trainer) -> None:
        """Write the epoch's results to metrics.csv, the run's log and the terminal."""
        seconds = time.perf_counter() - self._started
        self.seconds += seconds
        share = self._validation / seconds
        row = self._row(trainer, seconds)
        write_rows(self.run, [*self.rows(), row])
        self._log(trainer, {**row, "validation_share": share})
        with tqdm.external_write_mode():
            log.info(
                "epoch %d/%d  %s  loss %.3f  val/map %.3f  val/map_50 %.3f  "
                "%.0f s, %.0f %% of it validation",
                *(trainer.current_epoch + 1, self.epochs, row["phase"], row["train/loss"]),
                *(row.get(f"val/{name}", float("nan")) for name in ("map", "map_50")),
                *(seconds, 100 * share),
            )

    def _row(self, trainer: pl.Trainer, seconds: float) -> dict[str, Any]:
        """The epoch's row of metrics.csv."""
        scores = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        losses = {
            f"train/{name}": float(torch.stack([step[name] for step in self._losses]).mean())
            for name in sorted(self._losses[0])
        }
        rates = {f"lr/{g['group']}": g["lr"] for g in trainer.optimizers[0].param_groups}
        return {
            "epoch": trainer.current_epoch,
            "phase": self.finetuning.progress.phases[-1].name,
            "seconds": round(seconds, 2),
            "seconds_validation": round(self._validation, 2),
            **losses,
            **scores,
            **rates,
        }

    def _log(self, trainer: pl.Trainer, row: dict[str, Any]) -> None:
        """Log a row's numbers, with the phase as a number: 0 is the first."""
        row["phase"] = len(self.finetuning.progress.phases) - 1
        scalars = {name: float(value) for name, value in row.items() if math.isfinite(value)}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.global_step)
            logger.save()

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    @rank_zero_only
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """After Ctrl-C, log what is kept and the command that resumes the run."""
        if self._bar is not None:
            self._bar.close()
        if not isinstance(exception, KeyboardInterrupt):
            return
        if self.run.last_checkpoint.is_file():
            log.info("interrupted; all finished epochs are kept. To go on:")
            log.info("  %s", self.resume_command)
        else:
            log.info("interrupted before the first epoch was finished: nothing to resume from")

    def rows(self) -> list[dict[str, str]]:
        """The rows of metrics.csv so far, as text."""
        return read_rows(self.run)


def _total(batches: int | float | Sequence[int | float]) -> int:
    """Number of batches of one loader, or of several together."""
    return int(sum(batches)) if isinstance(batches, Sequence) else int(batches)


def _final_batches(trainer: pl.Trainer) -> int:
    """Number of batches of the final evaluation.

    These are the batches of the test split and, once more, those of the validation split.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    again = _total(trainer.num_val_batches)
    if data is None or "test" not in data.splits:
        return again
    limit = trainer.limit_test_batches
    batches = -(-len(data.splits["test"]) // (data.options.batch_size * trainer.world_size))
    return again + (min(batches, limit) if isinstance(limit, int) else int(batches * limit))
