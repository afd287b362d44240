"""Applies the schedule: the only code that sets requires_grad, learning rates or DDP's wrapper."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from detector.core.errors import RequestError
from detector.finetune.averaging import AveragedWeights
from detector.finetune.budget import FIRST_STEPS, check_budget, fit
from detector.finetune.pace import Pace
from detector.finetune.schedule import STATE_KEY, Progress, Schedule, batch_scale

if TYPE_CHECKING:
    from detector.models.faster_rcnn import FasterRCNN

log = logging.getLogger(__name__)

NEVER = 2**31  # Lightning's number of epochs between validations, where there is to be none


class StagedFinetuning(pl.Callback):
    """Unfreezes and freezes groups by phase, and sets their learning rates before every step.

    All groups are in the optimiser from the start, frozen ones with learning rate 0 and without
    gradients, so that the optimiser's state always fits, also that of a checkpoint. Whether a phase
    is over is decided at the end of an epoch, before its checkpoint is written; the next phase
    begins with the next epoch, in every process alike. A run that is stopped in between finds the
    decision in its checkpoint.

    It also ends epochs before all images were seen, where a phase has no more steps, and decides
    which of them are validated.

    Args:
        schedule: The phases.
        lr: Base learning rate.
        batch_size: Number of images in a step of one process.
        reference_batch: Number of images in a step that `lr` is meant for; it is scaled in
            proportion to that of all processes together (arXiv 1706.02677). None: no scaling.
        monitor: Name of the logged score that decides; larger is better.
        best: Checkpoint of the best epoch, which `detector.training.run_checkpoints` writes.
        pace: Measures the time of training.

    Attributes:
        progress: Progress of the run in the schedule, at the start of the epoch.
    """

    def __init__(
        self,
        schedule: Schedule,
        lr: float,
        batch_size: int,
        reference_batch: int | None,
        monitor: str,
        best: Path,
        pace: Pace,
    ) -> None:
        self.schedule = schedule
        self.lr = lr
        self.batch_size = batch_size
        self.reference_batch = reference_batch
        self.monitor = monitor
        self.best = best
        self.pace = pace
        self.progress = schedule.start()
        self._done = 0  # steps of the epoch

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
        self.progress = self.schedule.resume(saved)
        self._freeze(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count in steps from here on; do not train where the schedule has already ended."""
        per_epoch = int(trainer.num_training_batches)
        self.progress = self.schedule.resume(self.progress, per_epoch)
        self._log_phase(trainer, pl_module)
        trainer.should_stop = self.schedule.finished(self.progress)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the next phase if the last epoch ended one."""
        if self.progress.ended:
            self._begin_next(trainer, pl_module)
            self.pace.start_phase()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rates of this step."""
        phase, step, steps = self.progress.phase, self.progress.steps, self.progress.planned
        base = self.base_lr(trainer)
        for group in trainer.optimizers[0].param_groups:
            factor = self.schedule.lr_factor(phase, group["group"], step + batch_idx, steps)
            group["lr"] = base * factor

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End the epoch after its number of steps, and decide whether it is validated."""
        self._done = done = batch_idx + 1
        if self.progress.steps + done in FIRST_STEPS or done >= self.progress.epoch_steps:
            self._fit(trainer, done)
        if done >= self.progress.epoch_steps:
            validated = self.schedule.is_validated(self.progress)
            trainer.check_val_every_n_epoch = 1 if validated else NEVER
            trainer.should_stop = True  # of this epoch; the next one begins all the same

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide by the epoch's validation score, for all processes by that of the first one."""
        score = None
        if trainer.check_val_every_n_epoch == 1:
            own = float(trainer.callback_metrics[self.monitor])
            score = float(trainer.strategy.broadcast(own))
        self.progress = self.schedule.update(self.progress, score, self._done)
        if not self.progress.ended and score is not None:
            self._fit(trainer, 0)  # the validation's duration is known now
            self.progress = self.schedule.decide(self.progress)
        trainer.should_stop = self.schedule.finished(self.progress)

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
        self.progress = self.schedule.next_phase(ended)
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

    def _fit(self, trainer: pl.Trainer, done: int) -> None:
        """Decide the length of the phase by the first process's pace, if the run's time is limited.

        Args:
            trainer: Lightning's trainer.
            done: Number of steps done in this epoch.
        """
        if self.schedule.max_minutes is None:
            return
        refusal, decided = "", self.progress
        if trainer.is_global_zero:
            validation = self.pace.validation
            if validation is None:
                validation = self.pace.batch * loader_batches(trainer.num_val_batches)
            try:
                if self.progress.step == 0 and self.progress.planned is None:  # has just begun
                    check_budget(self.schedule, self.pace, validation)
                decided = fit(self.schedule, self.progress, self.pace, done, validation)
            except RequestError as error:
                refusal = str(error)
        refusal, self.progress = trainer.strategy.broadcast((refusal, decided))
        if refusal:
            raise RequestError(refusal)

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
        """Log what the phase trains."""
        phase = self.schedule.phases[self.progress.phase]
        trainable = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        log.info("phase %s: training %s", phase.name, ", ".join(phase.train))
        log.info("  %.2f million trainable parameters", trainable / 1e6)


def loader_batches(batches: int | float | Sequence[int | float]) -> int:
    """Number of batches of one loader, or of several together, as Lightning says them."""
    return int(sum(batches)) if isinstance(batches, Sequence) else int(batches)


def _rewrap_ddp(trainer: pl.Trainer) -> None:
    """Create DistributedDataParallel's wrapper again.

    It reduces the gradients of only those parameters that required them when it was created.
    Parameters unfrozen later would silently differ between processes (pytorch-lightning#20340).
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy.model.module
        strategy.configure_ddp()
