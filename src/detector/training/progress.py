"""Progress of a run for the user: bars, a line and a row for each epoch, how to resume."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from tqdm import tqdm

from detector.core.bar import Bar, in_words
from detector.core.run_folder import RunFolder
from detector.finetune.unfreezing import StagedFinetuning, loader_batches
from detector.training.metrics_csv import read_rows, write_rows

log = logging.getLogger(__name__)


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
        batches = loader_batches(trainer.num_test_batches)
        self._bar = Bar(f"detecting on {self.split}", batches, "batch")

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
        finetuning: The callback that knows the current phase and the pace.
        costs: Cost of a training step in each phase of the schedule, in any unit.
        resume_command: Command that resumes the run after an interruption.
    """

    def __init__(
        self,
        run: RunFolder,
        finetuning: StagedFinetuning,
        costs: Sequence[float],
        resume_command: str,
    ) -> None:
        self.run = run
        self.finetuning = finetuning
        self.pace = finetuning.pace
        self.costs = costs
        self.resume_command = resume_command
        self._bar: Bar | None = None
        self._losses: list[dict[str, Tensor]] = []  # of the epoch's steps
        self._started = 0.0  # time when the epoch began
        self._detected = 0  # batches of the epoch's validation

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, and remove the rows of epochs that are about to be repeated."""
        self._bar = Bar("", None, "step", initial=self.finetuning.progress.step, noted=True)
        write_rows(self.run, [r for r in self.rows() if int(r["epoch"]) < trainer.current_epoch])

    @rank_zero_only
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to measure the epoch's time."""
        self._losses, self._detected = [], 0
        self._started = time.perf_counter()

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
        if self._bar is not None:
            # The note reads the loss, which waits for the device: not at every step.
            place = f"step {len(self._losses)}/{self.finetuning.progress.epoch_steps}"
            self._bar.total = self._total_steps()
            self._bar.update(note=lambda: self._note(trainer, place))

    @rank_zero_only
    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Show the progress of the validation."""
        self._detected += 1
        if self._bar is not None:
            place = f"validating {self._detected}/{loader_batches(trainer.num_val_batches)}"
            self._bar.update(0, lambda: self._note(trainer, place))

    def _note(self, trainer: pl.Trainer, place: str) -> str:
        """The progress as text: epoch, place in it, loss, pace, remaining time."""
        return (
            f"{self._epoch(self.finetuning.progress.done)} {place}, "
            f"loss {float(self._losses[-1]['loss']):.3f}, {self.pace.step:.2g} s/step, "
            f"{in_words(self.seconds_left(trainer))} left"
        )

    def _epoch(self, epoch: int) -> str:
        """An epoch, from 0, as text: of how many, if that is decided."""
        total = self.finetuning.schedule.total(self.finetuning.progress)
        return f"epoch {epoch + 1}" if total is None else f"epoch {epoch + 1}/{total}"

    def _total_steps(self) -> int:
        """Number of steps of the run; where only time limits it, by the share that is over."""
        schedule, progress = self.finetuning.schedule, self.finetuning.progress
        done = progress.step + len(self._losses)
        if schedule.by_time:
            assert schedule.max_minutes is not None
            return max(done, round(done * 60 * schedule.max_minutes / self.pace.seconds))
        left = schedule.remaining(progress, len(self._losses))
        return done + sum(steps for _, steps, _ in left)

    def evaluation_seconds(self, trainer: pl.Trainer) -> float:
        """Estimate the time of the final evaluation, by the pace of the validations."""
        return _final_batches(trainer) * self.pace.batch

    def seconds_left(self, trainer: pl.Trainer) -> float:
        """Estimate the remaining time of the run, with validations and the final evaluation.

        The steps of later phases are expected to take longer as their arithmetic does.
        """
        schedule, progress = self.finetuning.schedule, self.finetuning.progress
        final = self.evaluation_seconds(trainer)
        limit = math.inf
        if schedule.max_minutes is not None:
            limit = max(0.0, 60 * schedule.max_minutes - self.pace.seconds)
            if schedule.by_time:
                return limit + final
        phases = schedule.remaining(progress, len(self._losses))
        here = self.costs[progress.phase]
        training = sum(steps * self.costs[p] / here for p, steps, _ in phases) * self.pace.step
        epochs = sum(epochs for _, _, epochs in phases)
        batches = epochs / progress.every * loader_batches(trainer.num_val_batches)
        validating = max(0.0, batches - self._detected) * self.pace.batch
        return min(limit, training + validating + epochs * self.pace.between) + final

    @rank_zero_only
    def end_epoch(self, trainer: pl.Trainer) -> None:
        """Write the epoch's results to metrics.csv, the run's log and the terminal."""
        seconds = time.perf_counter() - self._started
        validated = trainer.check_val_every_n_epoch == 1
        validation = (self.pace.validation or 0.0) if validated else 0.0
        share = validation / seconds
        row = self._row(trainer, seconds, validation, validated=validated)
        write_rows(self.run, [*self.rows(), row])
        self._log(trainer, {**row, "validation_share": share})
        with tqdm.external_write_mode():
            log.info("%s", self._line(row, share))

    def _line(self, row: dict[str, Any], share: float) -> str:
        """The line of an epoch."""
        scores = "  ".join(f"{n} {row[n]:.3f}" for n in ("val/map", "val/map_50") if n in row)
        return (
            f"{self._epoch(row['epoch'])}  {row['phase']}  loss {row['train/loss']:.3f}  "
            f"{scores or 'not validated'}  {row['seconds']:.0f} s"
            + (f", {100 * share:.0f} % of it validation" if scores else "")
        )

    def _row(
        self, trainer: pl.Trainer, seconds: float, validation: float, *, validated: bool
    ) -> dict[str, Any]:
        """The epoch's row of metrics.csv; scores of an epoch that was not validated are empty."""
        scores = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/") and validated
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
            "seconds_validation": round(validation, 2),
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


def _final_batches(trainer: pl.Trainer) -> int:
    """Number of batches of the final evaluation.

    These are the batches of the test split and, once more, those of the validation split.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    again = loader_batches(trainer.num_val_batches)
    if data is None or "test" not in data.splits:
        return again
    limit = trainer.limit_test_batches
    batches = -(-len(data.splits["test"]) // (data.options.batch_size * trainer.world_size))
    return again + (min(batches, limit) if isinstance(limit, int) else int(batches * limit))
