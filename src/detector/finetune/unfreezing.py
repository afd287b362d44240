"""Applies the schedule: the only code that sets requires_grad, learning rates or DDP's wrapper."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from detector.finetune.averaging import AveragedWeights
from detector.finetune.schedule import STATE_KEY, Progress, Schedule, batch_scale

if TYPE_CHECKING:
    from detector.models.faster_rcnn import FasterRCNN

log = logging.getLogger(__name__)


class StagedFinetuning(pl.Callback):
    """Unfreezes and freezes groups by phase, and sets their learning rates before every step.

    All groups are in the optimiser from the start, frozen ones with learning rate 0 and without
    gradients, so that the optimiser's state always fits, also that of a checkpoint. Whether a phase
    is over is decided at the end of an epoch, before its checkpoint is written; the next phase
    begins with the next epoch, in every process alike. A run that is stopped in between finds the
    decision in its checkpoint.

    Args:
        schedule: The phases.
        lr: Base learning rate.
        batch_size: Number of images in a step of one process.
        reference_batch: Number of images in a step that `lr` is meant for; it is scaled in
            proportion to that of all processes together (arXiv 1706.02677). None: no scaling.
        monitor: Name of the logged score that decides; larger is better.
        best: Checkpoint of the best epoch, which `detector.training.run_checkpoints` writes.

    Attributes:
        progress: Progress of the run in the schedule.
    """

    def __init__(
        self,
        schedule: Schedule,
        lr: float,
        batch_size: int,
        reference_batch: int | None,
        monitor: str,
        best: Path,
    ) -> None:
        self.schedule = schedule
        self.lr = lr
        self.batch_size = batch_size
        self.reference_batch = reference_batch
        self.monitor = monitor
        self.best = best
        self.progress = schedule.start()

    @property
    def state_key(self) -> str:
        """Key of the progress in checkpoints."""
        return STATE_KEY

    def state_dict(self) -> dict[str, Any]:
        """The progress as plain data, for checkpoints."""
        return self.progress.to_plain()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze groups before Lightning wraps the model for several processes."""
        if stage == "fit":
            self.progress = self.schedule.start()
            self._freeze(pl_module)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Freeze groups as in the checkpoint's phase; the model is still not wrapped."""
        saved = Progress.from_plain(checkpoint["callbacks"][STATE_KEY])
        self.progress = self.schedule.resume(saved, int(checkpoint["global_step"]))
        self._freeze(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not train where the schedule has already ended."""
        self._log_phase(trainer, pl_module)
        trainer.should_stop = self.schedule.finished(self.progress)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the next phase if the last epoch ended one."""
        if self.progress.ended:
            self._begin_next(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rates of this step."""
        phase, start = self.progress.phase, self.progress.start_epoch
        per_epoch = int(trainer.num_training_batches)
        step = (trainer.current_epoch - start) * per_epoch + batch_idx
        steps = self.schedule.length(phase, start) * per_epoch
        base = self.base_lr(trainer)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = base * self.schedule.lr_factor(phase, group["group"], step, steps)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide by the epoch's validation score, for all processes by that of the first one."""
        score = float(trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor])))
        self.progress = self.schedule.update(self.progress, score)
        if self.schedule.finished(self.progress):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log why the schedule has ended, if it has."""
        if self.schedule.finished(self.progress):
            with tqdm.external_write_mode():
                self._log_end(self.progress)

    def base_lr(self, trainer: pl.Trainer) -> float:
        """The learning rate that the schedule's factors apply to."""
        return self.lr * batch_scale(self.batch_size * trainer.world_size, self.reference_batch)

    def _begin_next(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a phase: weights, trained groups, optimiser state and wrapper, in this order."""
        ended = self.progress
        self.progress = self.schedule.next_phase(ended, trainer.global_step)
        phase = self.schedule.phases[self.progress.phase]
        content = self._restore(trainer, pl_module) if phase.restore_best else None
        self._freeze(pl_module)
        for optimiser in trainer.optimizers:
            if phase.optimizer_state == "reset":
                optimiser.state.clear()
            elif phase.optimizer_state == "checkpoint":
                assert content is not None  # the schedule allows it with restore_best alone
                optimiser.load_state_dict(content["optimizer_states"][0])
        _rewrap_ddp(trainer)
        with tqdm.external_write_mode():  # the bar stays below
            self._log_end(ended)
            if content is not None:
                best = (ended.best_epoch or 0) + 1, self.monitor, ended.best
                log.info("restored the best weights, of epoch %d (%s %.3f)", *best)
            self._log_phase(trainer, pl_module)

    def _restore(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Load the best epoch's weights, and return its checkpoint."""
        # Every process reads the file, as when Lightning resumes a run.
        content: dict[str, Any] = torch.load(self.best, map_location="cpu", weights_only=True)
        if content["epoch"] != self.progress.best_epoch:
            raise RuntimeError(
                f"{self.best} is of epoch {content['epoch'] + 1}, but the best was "
                f"{(self.progress.best_epoch or 0) + 1}: another run writes there"
            )
        pl_module.load_state_dict(content["state_dict"])
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # a list, which is not annotated
            if isinstance(callback, AveragedWeights):
                callback.restart(pl_module)
        return content

    def _freeze(self, pl_module: pl.LightningModule) -> None:
        """Train the groups of the current phase and no others."""
        pl_module.zero_grad(set_to_none=True)
        network = cast("FasterRCNN", pl_module.network)
        network.set_trainable(self.schedule.phases[self.progress.phase].train)

    def _log_end(self, progress: Progress) -> None:
        """Log why a phase ended."""
        phase = self.schedule.phases[progress.phase]
        wanted = f" by {phase.gain:g}" if phase.gain else ""
        reasons = {
            "max_epochs": "",
            "plateau": f" ({self.monitor} no longer improved)",
            "no gain": f" (the best {self.monitor} did not rise{wanted})",
        }
        epochs = "1 epoch" if progress.epochs == 1 else f"{progress.epochs} epochs"
        log.info("phase %s ended after %s%s", phase.name, epochs, reasons[progress.ended])

    def _log_phase(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what the phase trains, and warn if its warm-up does not end within it."""
        index = self.progress.phase
        phase = self.schedule.phases[index]
        trainable = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        log.info("phase %s: training %s", phase.name, ", ".join(phase.train))
        log.info("  %.2f million trainable parameters", trainable / 1e6)
        epochs = self.schedule.length(index, self.progress.start_epoch)
        steps = epochs * int(trainer.num_training_batches)
        if phase.warmup.steps >= steps:
            log.warning(
                "  its warm-up is not over before it ends: finetune.phases.%d.warmup.steps=%d, but "
                "it has %d steps",
                *(index, phase.warmup.steps, steps),
            )


def _rewrap_ddp(trainer: pl.Trainer) -> None:
    """Create DistributedDataParallel's wrapper again.

    It reduces the gradients of only those parameters that required them when it was created.
    Parameters unfrozen later would silently differ between processes (pytorch-lightning#20340).
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy.model.module
        strategy.configure_ddp()
