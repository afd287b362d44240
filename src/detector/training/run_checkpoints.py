"""Writes the checkpoints of a run, `last.ckpt` and `best.ckpt`; `checkpoint.py` reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from detector.core.files import atomic, uninterrupted
from detector.core.run_folder import RunFolder
from detector.finetune.unfreezing import StagedFinetuning
from detector.training.progress import RunProgress


class RunCheckpoints(Checkpoint):
    """Keeps `last.ckpt` and `best.ckpt` so that a run can be resumed whenever it was killed.

    After every epoch `last.ckpt` is replaced in one step. It also records which epoch is the best,
    and only then is `best.ckpt` replaced: it is never newer than what `last.ckpt` records, and if
    it is older, then `last.ckpt` itself is the best epoch (see `checkpoint.read_best`).

    Args:
        finetuning: The callback that determines the best epoch.
        run: Folder of the run.
        rows: Writes an epoch's row and line; with its checkpoint, Ctrl-C leaves all or none.
    """

    def __init__(
        self, finetuning: StagedFinetuning, run: RunFolder, rows: RunProgress | None = None
    ) -> None:
        self.finetuning = finetuning
        self.run = run
        self.rows = rows

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's row and checkpoint; Lightning calls this after all other callbacks."""
        with uninterrupted():
            if self.rows is not None:
                self.rows.end_epoch(trainer)
            self.save(trainer)
        # The next epoch may begin by reading the best checkpoint, in all processes.
        trainer.strategy.barrier()

    def save(self, trainer: pl.Trainer) -> None:
        """Write `last.ckpt`, and `best.ckpt` if the epoch is the best."""
        last = self.run.last_checkpoint
        if trainer.is_global_zero:
            with atomic(last) as draft:
                trainer.save_checkpoint(draft)
            if self.finetuning.progress.best_epoch == trainer.current_epoch:
                link_or_copy(last, self.run.best_checkpoint)
        else:
            trainer.save_checkpoint(last)  # all processes take part, the first one writes


def link_or_copy(file: Path, copy: Path) -> None:
    """Copy a checkpoint in one step, by a hard link where the file system has them.

    Checkpoints are replaced and never modified in place, so that the link keeps its content.
    """
    if copy.exists() and copy.samefile(file):
        return
    with atomic(copy) as draft:
        draft.unlink(missing_ok=True)
        try:
            draft.hardlink_to(file)
        except OSError:
            shutil.copyfile(file, draft)
