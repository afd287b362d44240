"""Options of training: optimiser, trainer and logger (conf/optim, conf/trainer, conf/logger)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from detector.core.errors import one_of
from detector.core.options import (
    STRICT,
    TYPED,
    Count,
    NotNegative,
    Positive,
    Real,
    Share,
    Wanted,
    fixed,
)
from detector.training.loggers import LOGGERS

Limit = Annotated[
    # Strictly: the text 1.0 would be one batch.
    Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(gt=0, le=1, strict=True)],
    Wanted("a number of batches or a share in 0..1"),
]
Text = Annotated[str, Field(pattern=r"\S"), Wanted("some text")]


@dataclass(config=STRICT, frozen=True, kw_only=True)
class OptimiserOptions:
    """The optimiser."""

    name: Annotated[Literal["sgd", "adamw"], fixed("resume")] = "adamw"
    """Optimiser; optim=NAME chooses it with numbers that suit it."""
    lr: Positive = 1e-3
    """Learning rate, which the phases' factors multiply."""
    reference_batch: Count | None = None
    """Batch that optim.lr is meant for, which scales with the effective batch; null: no scaling."""
    momentum: Annotated[Real, Field(ge=0, lt=1), fixed("resume")] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[NotNegative, fixed("resume")] = 1e-4
    """Weight decay (L2) of convolutions and linear layers."""
    weight_decay_norm: Annotated[NotNegative, fixed("resume")] = 0.0
    """Weight decay of norm layers."""
    weight_decay_bias: Annotated[NotNegative, fixed("resume")] = 0.0
    """Weight decay of biases."""
    l1: NotNegative = 0.0
    """Factor of the L1 norm of the trained weights in the loss."""
    l2_sp: Annotated[NotNegative, fixed("resume")] = 0.0
    """Factor of half the squared distance of the trained weights from the pretrained ones in the
    loss, in place of their weight decay (arXiv 1802.01483)."""
    clip_norm: Positive | None = 10.0
    """Largest norm of the gradient; null: no clipping."""
    ema: Annotated[Share | None, fixed("resume")] = None
    """Decay of a running average of the weights, such as 0.99, which is evaluated and kept."""


@dataclass(config=STRICT, frozen=True, kw_only=True)
class TrainerOptions:
    """Where and how long the trainer runs."""

    max_epochs: Count | None
    """Epochs in all, which the phases share in proportion to their own; null: the schedule's."""
    max_minutes: Positive | None = None
    """Time of training and its validations, in minutes, which the phases share in the same way."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    """Kind of device."""
    devices: Annotated[Count | Literal["auto"], Wanted("auto or a number of devices")]
    """Number of devices; auto: all there are, one process on a CPU."""
    num_nodes: Count
    """Number of machines."""
    precision: Annotated[Literal["auto", "32", "bf16-mixed", "16-mixed"], TYPED]
    """Precision of the network; auto: bf16-mixed where the device computes in bf16, 16-mixed on
    older GPUs, else 32."""
    channels_last: bool
    """Keep images and kernels in the memory layout that convolutions are fastest in."""
    compile: bool
    """Compile the network with torch.compile, which needs a C++ compiler."""
    cache_features: bool = True
    """On a CPU, while the whole backbone is frozen: keep what it computes of each image, where
    images come again unchanged or mirrored (augment=none, flip); in a quarter of free memory."""
    tf32: bool
    """Use TF32 for products of float32 on GPUs that have it."""
    limit_train_batches: Limit
    """Part of the training split for each epoch: 1 is one batch, 1.0 all of it."""
    limit_val_batches: Limit
    """Part of the validation split."""
    limit_test_batches: Annotated[Limit, fixed("scoring")]
    """Part of the test split."""


@dataclass(config=STRICT, frozen=True, kw_only=True)
class LoggerOptions:
    """Where a run is logged beside metrics.csv."""

    name: Annotated[str, Wanted("one of " + ", ".join(LOGGERS))] = "none"
    """Logger; logger=NAME chooses it."""
    project: str | None = None
    """Project of W&B, experiment of MLflow."""
    run: Text | None = None
    """Name of the run there; null: the last two parts of the run's folder."""
    offline: bool = False
    """Keep W&B's files in the run's folder and send nothing."""
    uri: Text | None = None
    """Server or database of MLflow; null: a database in the run's folder."""

    def __post_init__(self) -> None:
        """Check the name, and what the logger itself wants."""
        one_of("logger.name", self.name, LOGGERS)
        LOGGERS[self.name].validate(self)
