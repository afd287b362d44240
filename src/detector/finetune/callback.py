"""Applies the schedule: the only place that touches requires_grad, rates and the DDP wrapper."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from detector.finetune.schedule import Schedule

if TYPE_CHECKING:
    from detector.task import DetectionTask

log = logging.getLogger(__name__)


class StagedFinetuning(pl.Callback):
    """Thaws and freezes by phase, and sets every group's learning rate before every step.

    All groups sit in the optimiser from the start, frozen ones with rate 0 and no gradient, so
    that its state and a checkpoint always fit.

    Args:
        schedule: The phases.
        lr: The base learning rate.
        batch_size: Images a step and process.
        reference_batch: The images a step that `lr` is meant for; it is scaled in proportion to
            those of all processes together (arXiv 1706.02677). None leaves it as it is.
    """

    def __init__(
        self, schedule: Schedule, lr: float, batch_size: int, reference_batch: int | None
    ) -> None:
        self.schedule = schedule
        self.lr = lr
        self.batch_share = batch_size / reference_batch if reference_batch else None
        self._phase: int | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze before the model is wrapped, also on a resume."""
        if stage == "fit":
            self._phase = None
            self._apply(trainer, pl_module, self.schedule.locate(trainer.current_epoch)[0])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Change the phase when its epoch has come."""
        phase = self.schedule.locate(trainer.current_epoch)[0]
        if phase != self._phase:
            self._apply(trainer, pl_module, phase)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rates of this step."""
        steps = int(trainer.num_training_batches)
        scale = 1.0 if self.batch_share is None else self.batch_share * trainer.world_size
        for group in trainer.optimizers[0].param_groups:
            factor = self.schedule.lr_factor(
                group["group"], trainer.current_epoch, batch_idx, steps
            )
            group["lr"] = self.lr * scale * factor

    def _apply(self, trainer: pl.Trainer, pl_module: pl.LightningModule, index: int) -> None:
        """Train the groups of a phase and no others."""
        task: DetectionTask = pl_module  # type: ignore[assignment]
        phase = self.schedule.phases[index]
        task.zero_grad(set_to_none=True)
        task.network.set_trainable(phase.train)
        self._phase = index
        trainable = sum(p.numel() for p in task.parameters() if p.requires_grad)
        log.info("phase %s: training %s", phase.name, ", ".join(phase.train))
        log.info("  %.2f million trainable parameters", trainable / 1e6)
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy) and isinstance(
            strategy.model, DistributedDataParallel
        ):
            # DDP reduces only what required grad when it was wrapped; thawed parameters would
            # drift apart between processes, silently (pytorch-lightning#20340).
            strategy.model = strategy.model.module
            strategy.configure_ddp()
