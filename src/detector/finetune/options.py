"""Options of fine-tuning: what is frozen when, and the learning rates (conf/finetune)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from detector.core.errors import RequestError
from detector.core.options import STRICT, Count, Int, NotNegative, Real, Wanted, fixed

MAX_EPOCHS = 100_000
Epochs = Annotated[Int, Field(ge=1, le=MAX_EPOCHS), Wanted(f"1..{MAX_EPOCHS}")]
Factor = Annotated[Real, Field(ge=0, le=1)]


@dataclass(config=STRICT, frozen=True)
class Warmup:
    """The learning rate climbs linearly at the start of a phase."""

    steps: Annotated[Int, Field(ge=0)] = 0
    """Number of steps of the climb."""
    start_factor: Factor = 0.001
    """Share of the learning rate at the first step."""
    groups: Literal["all", "new"] = "all"
    """all groups, or only the new ones, which the phase before did not train."""

    def share(self, step: int, phase_steps: int | None = None) -> float:
        """The share of the learning rate at a step of the phase, from 0.

        The climb takes at most a quarter of the phase, where its number of steps is given.
        """
        steps = self.steps if phase_steps is None else min(self.steps, phase_steps // 4)
        if step >= steps:
            return 1.0
        return self.start_factor + (1 - self.start_factor) * step / steps


@dataclass(config=STRICT, frozen=True)
class Decay:
    """The learning rate falls over the epochs that a phase may last."""

    type: Literal["none", "linear", "cosine"] = "none"
    """Form of the fall."""
    final_factor: Factor = 0.0
    """Share of the learning rate at the end."""

    def share(self, done: float) -> float:
        """The share of the learning rate that is left after a share of the phase, 0..1."""
        if self.type == "none":
            return 1.0
        left = 1 - done if self.type == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final_factor + (1 - self.final_factor) * left


@dataclass(config=STRICT, frozen=True)
class Plateau:
    """A phase ends when validation no longer improves."""

    patience: Count
    """Epochs in a row without an improvement that end the phase."""
    min_delta: NotNegative = 0.0
    """Smallest improvement over the best score of the phase that counts."""
    min_epochs: Count = 1
    """Fewest epochs of the phase."""


@dataclass(config=STRICT, frozen=True, kw_only=True)
class Until:
    """The end of a phase: its length, and perhaps a plateau before."""

    share: Annotated[Real, Field(gt=0, le=1)] | None = None
    """Length of the phase over that of the run; the shares of all phases add up to 1."""
    max_epochs: Epochs | None = None
    """Most epochs of the phase, in place of a share."""
    plateau: Plateau | None = None


@dataclass(config=STRICT, frozen=True, kw_only=True)
class PhaseOptions:
    """One phase of the schedule."""

    name: str
    """Name for logs and tables; no two phases have the same."""
    train: list[str]
    """Groups that are trained; every other one is frozen."""
    until: Until
    lr_factor: dict[str, Real] = Field(default_factory=dict)
    """Learning rate of each group over optim.lr; default is for the rest."""
    warmup: Warmup = Warmup()
    decay: Decay = Decay()
    restore_best: bool = False
    """Begin with the weights of the best epoch so far."""
    optimizer_state: Literal["current", "checkpoint", "reset"] = "current"
    """State of the optimiser at the start: the current one, that of the best epoch's checkpoint,
    or none."""


@dataclass(config=STRICT, frozen=True, kw_only=True)
class AutoOptions:
    """How phases=auto makes its phases: one more stage at a time, from the top."""

    max_epochs: Epochs
    """Most epochs of each phase."""
    patience: Count
    """Epochs without an improvement that end a phase."""
    min_delta: NotNegative
    """Smallest improvement that counts, of an epoch and of a phase."""
    head_factor: NotNegative
    """Learning rate of neck and head once a stage is unfrozen, over optim.lr."""
    stage_factor: NotNegative
    """Learning rate of the topmost stage over optim.lr."""
    falloff: NotNegative
    """Learning rate of each stage over that of the stage above it."""
    warmup: Warmup
    decay: Decay


@dataclass(config=STRICT, frozen=True, kw_only=True)
class EarlyStopping:
    """The end of the run when the last phase no longer improves."""

    patience: Count | None = None
    """Epochs without an improvement that end the last phase; null: it runs to its end."""
    min_delta: NotNegative = 0.0
    """Smallest improvement that counts."""


@dataclass(config=STRICT, frozen=True, kw_only=True)
class FinetuneOptions:
    """What is trained when.

    The phases are checked against the network's groups later.
    """

    norm: Literal["frozen", "eval_when_frozen", "train"]
    """How norm layers behave; see docs/finetune.md."""
    phases: Annotated[Literal["auto"] | list[PhaseOptions], Wanted("auto or a list of phases")]
    """Phases of the schedule; finetune=NAME chooses a list, or auto."""
    epochs: Epochs | None = None
    """Length of the run where phases have shares and neither trainer.max_epochs nor
    trainer.max_minutes is set."""
    auto: AutoOptions | None = None
    early_stopping: EarlyStopping = EarlyStopping()
    allow_changed: Annotated[bool, fixed("command")] = False
    """With ckpt=: continue with another schedule than the run began with."""

    def __post_init__(self) -> None:
        """Check that `auto` says how, and that every phase has a length."""
        if isinstance(self.phases, str):
            if self.auto is None:
                why = "needs finetune.auto; finetune=auto has both"
                raise RequestError(f"finetune.phases=auto: {why}")
            return
        for i, phase in enumerate(self.phases):
            if (phase.until.share is None) == (phase.until.max_epochs is None):
                raise RequestError(
                    f"finetune.phases[{i}].until: expected one of the keys share and max_epochs"
                )
        shares = self._shares()
        if not shares:
            return
        if len(shares) < len(self.phases):
            raise RequestError("finetune.phases: some have a share, some max_epochs; expected one")
        if abs(sum(shares) - 1) > 1e-6:
            terms = " + ".join(f"{share:g}" for share in shares)
            raise RequestError(
                f"finetune.phases: the shares add up to {terms} = {sum(shares):g}, expected 1"
            )
        if self.epochs is None:
            raise RequestError("finetune.epochs: missing; phases with shares need a length")

    @property
    def length(self) -> int | None:
        """Number of epochs that the phases' shares are of; None where phases have their own."""
        return self.epochs if self._shares() else None

    def _shares(self) -> list[float]:
        """The shares of the phases that have one."""
        phases = [] if isinstance(self.phases, str) else self.phases
        return [phase.until.share for phase in phases if phase.until.share is not None]
