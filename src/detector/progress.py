"""What a user sees while a run lasts: a bar, a line and a row for every epoch, how to go on."""

from __future__ import annotations

import csv
import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from tqdm import tqdm

from detector.finetune.callback import StagedFinetuning

log = logging.getLogger(__name__)


class EvaluationBar(pl.Callback):
    """A bar over an evaluation.

    Args:
        split: What is evaluated.
    """

    def __init__(self, split: str) -> None:
        self.split = split
        self._bar: tqdm | None = None

    @rank_zero_only
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw it."""
        total = int(sum(trainer.num_test_batches))
        self._bar = tqdm(
            desc=self.split, total=total, unit="batch", dynamic_ncols=True, disable=None
        )

    @rank_zero_only
    def on_test_batch_end(self, *_: Any) -> None:
        """Move it."""
        if self._bar is not None:
            self._bar.update()

    @rank_zero_only
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take it away."""
        if self._bar is not None:
            self._bar.close()

    @rank_zero_only
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Take it away."""
        self.on_test_end(trainer, pl_module)


class RunProgress(pl.Callback):
    """A bar over the whole run, and a row for every epoch in `metrics.csv` and the run's log.

    Of several processes the first one speaks; training losses are those of its own batches.

    Args:
        folder: The run's.
        finetuning: Knows the phase.
        epochs: How many there are at most.
        resume_command: What to type to go on after an interruption.
    """

    def __init__(
        self, folder: Path, finetuning: StagedFinetuning, epochs: int, resume_command: str
    ) -> None:
        self.file = folder / "metrics.csv"
        self.finetuning = finetuning
        self.epochs = epochs
        self.resume_command = resume_command
        self.seconds = 0.0  # of training and validation, also before a resume
        self._bar: tqdm | None = None
        self._losses: list[dict[str, Tensor]] = []  # of the epoch's steps
        self._started = 0.0  # the epoch
        self._trained = 0.0  # when its last step so far ended
        self._validation = 0.0  # seconds of it

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Taken from a checkpoint."""
        self.seconds = state_dict["seconds"]

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar, and drop rows of epochs that are about to be repeated."""
        steps = int(trainer.num_training_batches)
        self._bar = tqdm(
            total=steps * self.epochs,
            initial=steps * trainer.current_epoch,
            unit="step",
            dynamic_ncols=True,
            disable=None,  # none where the output is not a terminal
        )
        self._write([r for r in self.rows() if int(r["epoch"]) < trainer.current_epoch])

    @rank_zero_only
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._losses = []
        self._validation = 0.0
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
        """Move the bar."""
        losses = {name: value.detach() for name, value in outputs.items()}
        self._losses.append(losses)
        if self._bar is not None:
            self._bar.update()
            # Reading the loss waits for the device, so not at every step.
            if not self._bar.disable and batch_idx % 5 == 0:
                self._bar.set_postfix(
                    epoch=f"{trainer.current_epoch + 1}/{self.epochs}",
                    loss=f"{float(losses['loss']):.3f}",
                )
        self._trained = time.perf_counter()

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add up what validation took: within the epoch, since the last training step.

        Lightning starts the loaders before the first of its hooks for validation.
        """
        self._validation += time.perf_counter() - self._trained

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what the epoch brought: on the terminal, in metrics.csv and in the log."""
        seconds = time.perf_counter() - self._started
        self.seconds += seconds
        share = self._validation / seconds
        row = self._row(trainer, seconds)
        self._write([*self.rows(), row])
        self._log(trainer, {**row, "validation_share": share})
        with tqdm.external_write_mode():
            log.info(
                "epoch %d/%d  %s  loss %.3f  val/map %.3f  val/map_50 %.3f  "
                "%.0f s, %.0f %% of it validation",
                *(trainer.current_epoch + 1, self.epochs, row["stage"], row["train/loss"]),
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
            "stage": self.finetuning.progress.phases[-1].name,
            "seconds": round(seconds, 2),
            "seconds_validation": round(self._validation, 2),
            **losses,
            **scores,
            **rates,
        }

    def _log(self, trainer: pl.Trainer, row: dict[str, Any]) -> None:
        """Log a row's numbers, and its phase as one: 0 is the first."""
        row["phase"] = len(self.finetuning.progress.phases) - 1
        scalars = {k: float(v) for k, v in row.items() if k != "stage" and math.isfinite(v)}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.global_step)
            logger.save()

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    @rank_zero_only
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """After Ctrl-C: what is kept, and the line to go on."""
        if self._bar is not None:
            self._bar.close()
        if not isinstance(exception, KeyboardInterrupt):
            return
        last = self.file.parent / "checkpoints" / "last.ckpt"
        if last.is_file():
            log.info("interrupted; all finished epochs are kept. To go on:")
            log.info("  %s", self.resume_command)
        else:
            log.info("interrupted before the first epoch was finished: nothing to resume from")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.csv so far; those that were read hold strings."""
        if not self.file.is_file():
            return []
        with self.file.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """Replace metrics.csv in one step."""
        if not rows:
            self.file.unlink(missing_ok=True)
            return
        draft = self.file.with_suffix(".csv.part")
        with draft.open("w", newline="", encoding="utf-8") as stream:
            # What is logged may differ since a resume; the newest row's order comes first.
            columns = dict.fromkeys(name for row in reversed(rows) for name in row)
            writer = csv.DictWriter(stream, list(columns))
            writer.writeheader()
            writer.writerows(rows)
        draft.replace(self.file)
