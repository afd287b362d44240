"""A running average of the weights, by Lightning's callback."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights(WeightAveraging):
    """The exponential moving average of the weights, which is validated, saved and used.

    Training continues with the plain weights, which checkpoints hold beside the average. Unlike
    Lightning's `EMAWeightAveraging`, this class interpolates (`lerp`), so that frozen weights stay
    bitwise identical; a sum of two products would change them.

    Args:
        decay: Weight of the old average in each update; about 1 / (1 - decay) steps are averaged.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self._interpolate = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep the average on the device that the model will be moved to."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def _average(self, average: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        """Update the average of tensors of one type; the counters of norms are copied."""
        if average[0].is_floating_point():
            self._interpolate(average, current, count)
        else:
            for old, new in zip(average, current, strict=True):
                old.copy_(new)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Exchange the average for the plain weights, and drop what was computed from it."""
        super().on_validation_epoch_end(trainer, pl_module)
        # Weights are exchanged in place, and Lightning restores the training mode of each module
        # without calling `train()`, in which `PyramidBackbone` drops its folded kernels.
        pl_module.eval()

    def restart(self, module: pl.LightningModule) -> None:
        """Continue from a module's weights, as if the average had been equal to them."""
        assert self._average_model is not None
        self._average_model.module.load_state_dict(module.state_dict())
