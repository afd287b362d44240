"""What conf/finetune may hold, and the schedule that it means."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from detector.core.errors import RequestError, one_of, require
from detector.finetune.phases import Decay, Phase, Plateau, Warmup, check_course, work_backwards
from detector.finetune.schedule import Schedule

if TYPE_CHECKING:
    from detector.config.schema import Config

# Every network has these; `FasterRCNN.groups` says what they hold.
GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4", "neck", "head")


@dataclass
class WarmupConfig:
    """The start of a phase; `detector.finetune.phases.Warmup` says what it means."""

    steps: int
    start_factor: float = 0.001
    groups: str = "all"


@dataclass
class DecayConfig:
    """The course of a phase; `detector.finetune.phases.Decay` says what it means."""

    type: str
    final_factor: float = 0.0


@dataclass
class PlateauConfig:
    """An early end; `detector.finetune.phases.Plateau` says what it means."""

    patience: int
    min_delta: float = 0.0
    min_epochs: int = 1


@dataclass
class UntilConfig:
    """The end of a phase: whichever comes first."""

    max_epochs: int
    plateau: PlateauConfig | None = None


@dataclass
class PhaseConfig:
    """One phase of the schedule; `detector.finetune.phases.Phase` says what it means."""

    name: str
    train: list[str]
    until: UntilConfig
    lr_factor: dict[str, float] = field(default_factory=dict)
    warmup: WarmupConfig | None = None
    decay: DecayConfig | None = None
    restore_best: bool = False
    optimizer_state: str = "current"


@dataclass
class AutoConfig:
    """The phases of `auto`; `detector.finetune.phases.work_backwards` says what it means."""

    max_epochs: int
    patience: int
    min_delta: float
    head_factor: float
    stage_factor: float
    falloff: float
    warmup: WarmupConfig
    decay: DecayConfig

    def __post_init__(self) -> None:
        """Check what no phase would name."""
        for key in ("max_epochs", "patience"):
            value = getattr(self, key)
            require(value >= 1, f"finetune.auto.{key}", value, "at least 1")
        for key in ("min_delta", "head_factor", "stage_factor", "falloff"):
            value = getattr(self, key)
            good = math.isfinite(value) and value >= 0
            require(good, f"finetune.auto.{key}", value, "a number >= 0")


@dataclass
class EarlyStoppingConfig:
    """The end of the run when the last phase no longer improves; no patience: never."""

    patience: int | None
    min_delta: float

    def __post_init__(self) -> None:
        """Check ranges."""
        good = self.patience is None or self.patience >= 1
        key = "finetune.early_stopping"
        require(good, f"{key}.patience", self.patience, "null or at least 1")
        good = math.isfinite(self.min_delta) and self.min_delta >= 0
        require(good, f"{key}.min_delta", self.min_delta, "a number >= 0")


@dataclass
class FinetuneConfig:
    """What is frozen when (conf/finetune).

    Attributes:
        norm: How norm layers behave (`detector.models.backbones.pyramid`).
        phases: A list of `PhaseConfig`, or the word `auto`.
        auto: How `auto` makes its phases.
        early_stopping: A plateau for the last phase.
        allow_changed: Go on from a checkpoint with another schedule than it was trained with.
    """

    norm: str
    phases: Any
    early_stopping: EarlyStoppingConfig
    allow_changed: bool
    auto: AutoConfig | None = None

    def __post_init__(self) -> None:
        """Check ranges; the phases are checked against the network's groups later."""
        one_of("finetune.norm", self.norm, ("frozen", "eval_when_frozen", "train"))
        if self.phases == "auto":
            if self.auto is None:
                raise RequestError(
                    "finetune.phases=auto: needs finetune.auto; finetune=auto has both"
                )
            return
        good = isinstance(self.phases, list)
        require(good, "finetune.phases", self.phases, "auto or a list of phases")
        self.phases = [_phase(i, values) for i, values in enumerate(self.phases)]


def _phase(index: int, values: object) -> PhaseConfig:
    """Check the keys and types of a phase, which OmegaConf cannot in a list that may be a word."""
    key = f"finetune.phases[{index}]"
    if isinstance(values, PhaseConfig):
        return values
    if not isinstance(values, dict):
        raise RequestError(f"{key}={values}: expected keys such as name, train and until")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(PhaseConfig), values)
        phase = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise RequestError(explain(error, f"{key}.")) from error
    assert isinstance(phase, PhaseConfig)
    return phase


def read_schedule(config: Config) -> Schedule:
    """The schedule, checked against the groups that every network has.

    Raises:
        RequestError: If it cannot be meant; the message names the key.
    """
    settings = config.finetune
    if settings.phases == "auto":
        assert settings.auto is not None  # checked by FinetuneConfig
        numbers = dict(vars(settings.auto))
        warmup, decay = Warmup(**vars(numbers.pop("warmup"))), Decay(**vars(numbers.pop("decay")))
        check_course("finetune.auto", warmup, decay)
        phases = work_backwards(GROUPS[:-2], warmup=warmup, decay=decay, **numbers)
    else:
        phases = [_read_phase(phase) for phase in settings.phases]
    stopping = settings.early_stopping
    if phases and stopping.patience is not None:
        if phases[-1].plateau is not None:
            raise RequestError(
                f"finetune.early_stopping.patience={stopping.patience}: the last phase has a "
                "plateau of its own"
            )
        plateau = Plateau(stopping.patience, stopping.min_delta)
        phases[-1] = replace(phases[-1], plateau=plateau)
    return Schedule(phases, GROUPS, config.trainer.max_epochs)


def frozen_at_random(config: Config, random: Collection[str], batch_norms: bool) -> str | None:
    """A warning of what the first phase freezes although it has learnt nothing; None: nothing.

    Args:
        config: The run's.
        random: The groups that start at random.
        batch_norms: Whether the backbone has any at random, which may be frozen in groups that are
            trained.
    """
    first = read_schedule(config).phases[0]
    frozen = [name for name in GROUPS if name in random and name not in first.train]
    if batch_norms and config.finetune.norm == "frozen" and set(GROUPS[:-2]) & {*random}:
        frozen.append("norm layers")
    if not frozen:
        return None
    return (
        f"model.weights={config.model.weights}, but phase {first.name} freezes "
        f"{', '.join(frozen)}: what is random there learns nothing; finetune="
        f"{'scratch' if 'norm layers' in frozen else 'full'} trains all"
    )


def _read_phase(phase: PhaseConfig) -> Phase:
    """A phase as the schedule has it."""
    plateau, warmup, decay = phase.until.plateau, phase.warmup, phase.decay
    return Phase(
        name=phase.name,
        train=tuple(phase.train),
        max_epochs=phase.until.max_epochs,
        plateau=None if plateau is None else Plateau(**vars(plateau)),
        lr_factor=phase.lr_factor,
        warmup=Warmup() if warmup is None else Warmup(**vars(warmup)),
        decay=Decay() if decay is None else Decay(**vars(decay)),
        restore_best=phase.restore_best,
        optimizer_state=phase.optimizer_state,
    )


def explain(error: OmegaConfBaseException, prefix: str = "") -> str:
    """What OmegaConf found, after the key it is about."""
    reason = str(error).splitlines()[0]
    if "not a ListConfig" in reason:
        reason = "expected a list, such as [a, b]"
    elif nested := re.search(r"is not a subclass of (\w+)", reason):
        there = getattr(globals().get(nested[1]), "__dataclass_fields__", {})
        group = f"a group; {str(error.full_key).replace('.', '/')}=NAME chooses one of its files"
        reason = "expected the keys " + ", ".join(there) if there else group
    elif "has missing mandatory value" in reason:
        reason = "missing"
    elif isinstance(error, ConfigKeyError) and error.object_type is not None:
        there = getattr(error.object_type, "__dataclass_fields__", {})
        reason = "no such key; there are " + ", ".join(there) if there else reason
    return f"{prefix}{getattr(error, 'full_key', None) or 'configuration'}: {reason}"
