"""The schedule that conf/finetune means."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from detector.config.schema import Config
from detector.core.errors import RequestError
from detector.finetune.options import PhaseOptions, Plateau
from detector.finetune.phases import Phase, work_backwards
from detector.finetune.schedule import Schedule

# Every network has these; `FasterRCNN.groups` says what they hold.
GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4", "neck", "head")


def read_schedule(config: Config) -> Schedule:
    """The schedule, checked against the groups that every network has.

    Raises:
        RequestError: If it contradicts itself; the message names the key.
    """
    settings = config.finetune
    if isinstance(settings.phases, str):
        assert settings.auto is not None  # checked by FinetuneOptions
        phases = work_backwards(GROUPS[:-2], settings.auto)
    else:
        phases = [_phase(options, settings.length or 1) for options in settings.phases]
    stopping = settings.early_stopping
    if phases and stopping.patience is not None:
        if phases[-1].plateau is not None:
            raise RequestError(
                f"finetune.early_stopping.patience={stopping.patience}: the last phase has a "
                "plateau of its own"
            )
        plateau = Plateau(stopping.patience, stopping.min_delta)
        phases[-1] = replace(phases[-1], plateau=plateau)
    trainer = config.trainer
    epochs = trainer.max_epochs
    if epochs is None and trainer.max_minutes is None:
        epochs = settings.length
    return Schedule(phases, GROUPS, epochs, trainer.max_minutes)


def _phase(options: PhaseOptions, length: int) -> Phase:
    """A phase as the schedule has it.

    Args:
        options: The phase as it is configured.
        length: Number of epochs that its share is of, if it has one.
    """
    until = options.until
    most = until.max_epochs if until.share is None else until.share * length
    assert most is not None  # checked by FinetuneOptions
    return Phase(
        name=options.name,
        train=tuple(options.train),
        max_epochs=most,
        plateau=until.plateau,
        lr_factor=options.lr_factor,
        warmup=options.warmup,
        decay=options.decay,
        restore_best=options.restore_best,
        optimizer_state=options.optimizer_state,
    )


def frozen_at_random(config: Config, random: Collection[str], batch_norms: bool) -> str | None:
    """A warning of what the first phase freezes although it is random; None: nothing.

    Args:
        config: Configuration of the run.
        random: The groups that start with random weights.
        batch_norms: Whether the backbone has random batch norms, which may be frozen in groups
            that are trained.
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
