"""What a run keeps of its epochs: `last.ckpt` and `best.ckpt` (`checkpoint.py` reads them)."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from detector.finetune.unfreezing import StagedFinetuning


class RunCheckpoints(Checkpoint):
    """Keeps `last.ckpt` and `best.ckpt` so that a run can go on whenever it was killed.

    After every epoch `last.ckpt` is replaced in one step. It also holds which epoch was the best,
    and only then does `best.ckpt` follow: it is never ahead of what `last.ckpt` knows, and if it
    is behind, then by the epoch that `last.ckpt` is itself (`checkpoint.read_best`).

    Args:
        finetuning: Knows which epoch is the best.
        folder: Where the files go.
    """

    def __init__(self, finetuning: StagedFinetuning, folder: Path) -> None:
        self.finetuning = finetuning
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what the epoch brought; Lightning calls this after all other callbacks."""
        last = self.folder / "last.ckpt"
        draft = last.with_suffix(".part")
        try:
            trainer.save_checkpoint(draft)
        except OSError as error:  # which may name a file of the library's own
            draft.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror or str(error), str(last)) from error
        if trainer.is_global_zero:
            draft.replace(last)
            if self.finetuning.progress.best_epoch == trainer.current_epoch:
                link_or_copy(last, self.folder / "best.ckpt")
        # What is read at the start of the next epoch must be there.
        trainer.strategy.barrier()


def link_or_copy(file: Path, copy: Path) -> None:
    """Copy a checkpoint in one step, for nothing where the file system has hard links.

    Checkpoints are replaced and never written into, so that a link stays what it was.
    """
    if copy.exists() and copy.samefile(file):
        return
    draft = copy.with_suffix(".part")
    draft.unlink(missing_ok=True)
    try:
        draft.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, draft)
    draft.replace(copy)
