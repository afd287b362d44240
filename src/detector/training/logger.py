"""Where a run is logged beside metrics.csv: TensorBoard, W&B or MLflow, by Lightning's loggers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from detector.config.schema import Config, plain
from detector.training.options import LoggerOptions

log = logging.getLogger(__name__)


class TensorBoard(TensorBoardLogger):
    """Writes event files alone: Lightning's hparams.yaml would be a second config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        """Let nothing that was logged be lost if the run is killed."""
        self.experiment.flush()


def build_logger(config: LoggerOptions, folder: Path, step: int = 0) -> Logger | None:
    """The logger that `logger.name` means, for the first of several processes.

    Args:
        config: Which, and what it is told.
        folder: The run's.
        step: Steps that the run has done before. Its log in this folder, if any, is continued
            from there; without any it begins anew.

    Returns:
        None for `logger=none`, and for all other processes.
    """
    rank = rank_zero_only.rank  # type: ignore[attr-defined]
    if config.name == "none" or rank != 0:
        return None
    if config.name == "tensorboard":
        # What is later than the checkpoint, of epochs that are about to be repeated, is void.
        return TensorBoard(
            folder, name="tensorboard", version="", default_hp_metric=False, purge_step=step + 1
        )
    name = config.run or "/".join(folder.resolve().parts[-2:])
    id_file = _id_file(config.name, folder)
    run_id = id_file.read_text().strip() if step and id_file.is_file() else None
    if config.name == "wandb":
        return WandbLogger(
            project=config.project,
            name=name,
            id=run_id,
            save_dir=folder,
            # Not Lightning's `offline`, which would set this for all later runs of the process.
            mode="offline" if config.offline else None,
            settings={"silent": True},  # the last line printed is ours
        )
    import mlflow  # sets up its logging

    for chatty in (mlflow.__name__, "alembic", "lightning.pytorch.loggers.mlflow"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    own = (folder / "mlflow").resolve()
    return MLFlowLogger(
        experiment_name=str(config.project),
        run_name=name,
        tracking_uri=config.uri or f"sqlite:///{own / 'mlflow.db'}",
        artifact_location=None if config.uri else (own / "artifacts").as_uri(),
        run_id=run_id,
    )


@contextmanager
def opened(logger: Logger | None, config: Config, folder: Path) -> Iterator[None]:
    """Begin or continue a log, and end it whatever happens.

    Args:
        logger: From `build_logger`.
        config: Goes into the log as the run's parameters.
        folder: The run's.
    """
    if logger is None:
        yield
        return
    _begin(logger, config, folder)
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        _end(logger, status)


def log_results(
    logger: Logger | None,
    scores: Mapping[str, float],
    images: Mapping[str, NDArray[np.uint8]],
    step: int,
) -> None:
    """Log final figures and pictures.

    Args:
        logger: Of the run, if it has one.
        scores: By their names; those that are no numbers are left out.
        images: `(H, W, 3)` RGB.
        step: Steps of the optimiser done.
    """
    if logger is None:
        return
    logger.log_metrics({k: v for k, v in scores.items() if math.isfinite(v)}, step)
    for name, image in images.items():
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, image, key=name, step=step)
    logger.save()


def _begin(logger: Logger, config: Config, folder: Path) -> None:
    """Log the configuration, remember the log's id for a resume, and say where the log is."""
    own = folder / config.logger.name
    where: str | Path | None = own
    if isinstance(logger, WandbLogger):
        logger.log_hyperparams(plain(config))
        _remember(logger.experiment.id, _id_file("wandb", folder))
        where = own if logger.experiment.offline else logger.experiment.url
    elif isinstance(logger, MLFlowLogger):
        assert logger.run_id is not None
        if logger.experiment.get_run(logger.run_id).data.params:
            logger.experiment.update_run(logger.run_id, "RUNNING")  # parameters cannot change
        else:
            logger.log_hyperparams(plain(config))
        _remember(logger.run_id, _id_file("mlflow", folder))
        where = config.logger.uri or own
    log.info("log: %s, %s", config.logger.name, where)


def _end(logger: Logger, status: str) -> None:
    """Write what is left; a sweep's next trial has a log of its own."""
    logger.finalize(status)
    if isinstance(logger, WandbLogger):
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=0 if status == "success" else 1)


def _id_file(name: str, folder: Path) -> Path:
    """Keeps the id of a run with W&B or MLflow."""
    return folder / name / "run_id"


def _remember(run_id: str, file: Path) -> None:
    """Write an id."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{run_id}\n", encoding="utf-8")
