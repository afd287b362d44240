"""A running average of the weights, by Lightning's callback."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights(WeightAveraging):
    """The exponential moving average of the weights: what is validated, kept and used.

    Training goes on with the plain weights, which checkpoints carry beside the average. Unlike
    Lightning's `EMAWeightAveraging` it interpolates (`lerp`), which leaves what is frozen as it is
    to the bit; a sum of two products would not.

    Args:
        decay: The share of the average that a step keeps; about 1 / (1 - decay) steps are averaged.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self._interpolate = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep the average where the model will be, which it is not yet."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def _average(self, average: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        """One step, for tensors of one type; counters (of norms) are not averaged."""
        if average[0].is_floating_point():
            self._interpolate(average, current, count)
        else:
            for old, new in zip(average, current, strict=True):
                old.copy_(new)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the average out again, and what was computed from it."""
        super().on_validation_epoch_end(trainer, pl_module)
        # It is exchanged behind torch's back, and Lightning wakes modules up without `train()`,
        # which is where `PyramidBackbone` drops folded kernels.
        pl_module.eval()

    def restart(self, module: pl.LightningModule) -> None:
        """Go on from a module's weights, as if they had been the average before."""
        assert self._average_model is not None
        self._average_model.module.load_state_dict(module.state_dict())
