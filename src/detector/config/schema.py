"""The configuration of every command, put together from the options of the rooms.

Nothing in a configuration names code to run, so that one read from a checkpoint is as harmless as
one that was typed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

from detector.config.messages import explain
from detector.core.errors import RequestError
from detector.core.options import STRICT, Int, Seed, Wanted, fixed
from detector.data.options import AugmentOptions, DataOptions
from detector.finetune.options import FinetuneOptions
from detector.models.backbones.table import check_weights
from detector.models.options import BackboneOptions, ModelOptions
from detector.training.options import LoggerOptions, OptimiserOptions, TrainerOptions


@dataclass(config=STRICT, frozen=True, kw_only=True)
class Config:
    """What every command is told; a command's own keys are the fields of a subclass."""

    # The most used of the keys that all commands have, in the order of --help.
    shown: ClassVar[tuple[str, ...]] = (
        *("data.root", "data.classes", "data.image_size", "data.batch_size", "data.workers"),
        *("data.on_bad", "data.auto_split.val", "data.auto_split.test", "model.weights"),
        *("model.in_channels", "optim.lr", "optim.ema", "finetune.early_stopping.patience"),
        *("trainer.max_epochs", "trainer.max_minutes", "trainer.accelerator", "trainer.devices"),
        *("trainer.precision", "trainer.limit_train_batches", "trainer.limit_val_batches"),
        *("seed", "ckpt", "name", "monitor", "resamples"),
    )

    name: str
    """Name of the folder below outputs/."""
    seed: Annotated[Seed, fixed("resume")]
    """Seed of everything random in training."""
    ckpt: Annotated[str | None, fixed("command")]
    """A run's folder or a checkpoint; train continues it."""
    monitor: Annotated[Literal["val/map", "val/map_50"], fixed("resume")]
    """Score that chooses the best checkpoint and ends phases, and that a sweep maximises."""
    data: DataOptions
    augment: AugmentOptions
    backbone: BackboneOptions
    model: ModelOptions
    finetune: FinetuneOptions
    optim: OptimiserOptions
    trainer: TrainerOptions
    logger: Annotated[LoggerOptions, fixed("scoring")] = LoggerOptions()
    resamples: Annotated[
        Literal[0] | Annotated[Int, Field(ge=100, le=100_000)],
        Wanted("0 (no intervals) or 100..100000"),
        fixed("scoring"),
    ] = 1000
    """Bootstrap resamples of the images, for 95 % intervals of the scores; 0: no intervals."""
    gallery: Annotated[Int, Field(ge=0, le=1000), fixed("scoring")] = 100
    """Most pictures in the report."""

    def __post_init__(self) -> None:
        """Check what concerns several rooms."""
        check_weights(self.model.weights, self.backbone.key)
        if self.optim.l2_sp and self.model.weights == "none":
            raise RequestError(
                f"optim.l2_sp={self.optim.l2_sp:g}: a distance from pretrained weights, but "
                "model.weights=none; name some, or leave optim.l2_sp out"
            )
        if self.model.summary == "profile" and self.trainer.compile:
            raise RequestError(
                "model.summary=profile: trainer.compile=true runs all stages as one, which cannot "
                "be timed apart; leave one of them out"
            )


C = TypeVar("C", bound=Config)


def parse(values: dict[str, Any], kind: type[C] = Config) -> C:  # type: ignore[assignment]
    """Turn a configuration of plain data into a checked one.

    Args:
        values: As composed, or from a checkpoint.
        kind: Configuration of the command.

    Raises:
        RequestError: If a key is unknown or missing, or a value is of the wrong type or out of
            range; the message names the key.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise RequestError(explain(error, kind, conf_folder())) from error


def plain(config: object) -> dict[str, Any]:
    """A configuration or a part of it as dictionaries, lists, strings and numbers."""
    data = to_jsonable_python(config)
    assert isinstance(data, dict)
    return data


def command_names() -> list[str]:
    """The names of all commands: modules of the package with a YAML file of the same name."""
    package = Path(__file__).resolve().parents[1]
    names = sorted(file.stem for file in conf_folder().glob("*.yaml"))
    return [name for name in names if (package / f"{name}.py").is_file()]


def conf_folder() -> Path:
    """The folder of the YAML files: beside this module in a wheel, else the source tree's."""
    here = Path(__file__).resolve()
    packaged = here.parents[1] / "conf"
    return packaged if packaged.is_dir() else here.parents[3] / "conf"
