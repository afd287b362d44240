"""Where a run is logged beside metrics.csv: a class and a row of `LOGGERS` for each logger.

Lightning and the loggers' packages take seconds to import, so a logger imports them when it is
built; the table and the checks of a request do without.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from detector.core.errors import RequestError, require
from detector.core.files import write_text
from detector.core.run_folder import RunFolder

if TYPE_CHECKING:
    import numpy as np
    from lightning.pytorch.loggers import Logger
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class Settings(Protocol):
    """What a logger is told, by the keys of `logger`."""

    @property
    def name(self) -> str:
        """Name of the logger in `LOGGERS`."""

    @property
    def project(self) -> str | None:
        """Project of W&B, experiment of MLflow."""

    @property
    def run(self) -> str | None:
        """Name of the run there; None: the last two parts of the path of the run's folder."""

    @property
    def offline(self) -> bool:
        """Whether W&B keeps its files in the run's folder and sends nothing."""

    @property
    def uri(self) -> str | None:
        """Server or database of MLflow; None: a database in the run's folder."""


class RunLogger:
    """Logs a run; this class itself logs nothing, for `logger=none`.

    Args:
        settings: Settings of the logger.
        run: Folder of the run.
        step: Steps of the optimiser that the run has done before. Its log in this folder, if any,
            is continued from there; at 0 a new log begins.

    Attributes:
        name: Value of `logger.name`, which is also the name of the Python package.
        lightning: Lightning's logger, for the trainer; None if nothing is logged.
    """

    name: ClassVar[str] = "none"

    def __init__(self, settings: Settings, run: RunFolder, step: int = 0) -> None:
        self.settings = settings
        self.run = run
        self.lightning = self._build(step)

    @classmethod
    def validate(cls, settings: Settings) -> None:
        """Refuse settings that the logger cannot use.

        Raises:
            RequestError: Naming the key.
        """

    @classmethod
    def check(cls, settings: Settings) -> None:
        """Refuse a logger that is not installed, or cannot be used by this user.

        Raises:
            RequestError: Saying what to do.
        """
        if cls is not RunLogger and importlib.util.find_spec(cls.name) is None:
            raise RequestError(
                f"logger={cls.name} needs the package {cls.name}: pip install {cls.name}"
            )

    @contextmanager
    def opened(self, parameters: dict[str, Any]) -> Iterator[None]:
        """Begin or continue the log, and end it however the block ends.

        Args:
            parameters: The configuration of the run, as plain data.
        """
        place = self._begin(parameters)
        if place is not None:
            log.info("log: %s, %s", self.name, place)
        status = "failed"
        try:
            yield
            status = "success"
        finally:
            self._end(status)

    def log_results(
        self, scores: Mapping[str, float], images: Mapping[str, NDArray[np.uint8]], step: int
    ) -> None:
        """Log final scores and pictures.

        Args:
            scores: Scores by name; those that are not finite are left out.
            images: `(H, W, 3)` RGB by name.
            step: Steps of the optimiser done.
        """
        if self.lightning is None:
            return
        finite = {name: value for name, value in scores.items() if math.isfinite(value)}
        self.lightning.log_metrics(finite, step)
        for name, image in images.items():
            self._log_image(name, image, step)
        self.lightning.save()

    def _build(self, step: int) -> Logger | None:
        """Create Lightning's logger."""
        return None

    def _begin(self, parameters: dict[str, Any]) -> str | Path | None:
        """Log the parameters; returns where the log is."""
        return None

    def _log_image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Log a picture."""

    def _end(self, status: str) -> None:
        """Write what is left."""
        if self.lightning is not None:
            self.lightning.finalize(status)

    @property
    def _run_name(self) -> str:
        return self.settings.run or "/".join(self.run.path.resolve().parts[-2:])

    def _known_id(self, step: int) -> str | None:
        """The id of the log to continue; None for a new one."""
        file = self.run.log_id(self.name)
        return file.read_text().strip() if step and file.is_file() else None

    def _remember(self, run_id: str) -> None:
        """Keep the id of the log, so that a resumed run continues it."""
        file = self.run.log_id(self.name)
        file.parent.mkdir(exist_ok=True)
        write_text(file, f"{run_id}\n")


class TensorBoard(RunLogger):
    """Writes event files into the run's folder."""

    name = "tensorboard"

    def _build(self, step: int) -> Logger:
        from lightning.pytorch.loggers import TensorBoardLogger

        class EventFiles(TensorBoardLogger):
            """Writes event files alone: Lightning's hparams.yaml would be a second config.yaml."""

            def save(self) -> None:
                """Write what was logged, so that it is not lost if the run is killed."""
                self.experiment.flush()

        # What is later than the checkpoint, of epochs that are about to be repeated, is void.
        rest = {"version": "", "default_hp_metric": False, "purge_step": step + 1}
        return EventFiles(self.run.path, name=self.name, **rest)  # type: ignore[arg-type]

    def _begin(self, parameters: dict[str, Any]) -> Path:
        return self.run.log(self.name)  # config.yaml is beside it

    def _log_image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        writer: Any = self.lightning
        writer.experiment.add_image(name, image, step, dataformats="HWC")


class Wandb(RunLogger):
    """Logs to a project of Weights & Biases."""

    name = "wandb"

    @classmethod
    def validate(cls, settings: Settings) -> None:
        """Refuse a project without a name, or with characters that W&B does not allow."""
        project = settings.project or ""
        good = bool(project.strip()) and not set(project) & set("/\\#?%:")
        require(good, "logger.project", settings.project, "a name without / \\ # ? % :")

    @classmethod
    def check(cls, settings: Settings) -> None:
        """Refuse W&B where it is not installed, or nobody is logged in."""
        super().check(settings)
        if settings.offline or os.environ.get("WANDB_MODE", "online") != "online":
            return
        import wandb

        try:
            known = wandb.login(prompt=False, verify=False)
        except TypeError:
            return  # an older version, which asks or ends by itself
        if not known:
            raise RequestError(
                "logger=wandb: nobody is logged in; type wandb login, or logger.offline=true"
            )

    def _build(self, step: int) -> Logger:
        from lightning.pytorch.loggers import WandbLogger

        return WandbLogger(
            project=self.settings.project,
            name=self._run_name,
            id=self._known_id(step),
            save_dir=self.run.path,
            # Not Lightning's `offline`, which would set this for all later runs of the process.
            mode="offline" if self.settings.offline else None,
            settings={"silent": True},  # the last line printed is ours
        )

    def _begin(self, parameters: dict[str, Any]) -> str | Path:
        wandb: Any = self.lightning
        wandb.log_hyperparams(parameters)
        self._remember(wandb.experiment.id)
        return self.run.log(self.name) if wandb.experiment.offline else str(wandb.experiment.url)

    def _log_image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        wandb: Any = self.lightning
        wandb.log_image(name, [image], step)

    def _end(self, status: str) -> None:
        """Finish the log: the next trial of a sweep has a log of its own."""
        super()._end(status)
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=0 if status == "success" else 1)


class MLflow(RunLogger):
    """Logs to an experiment of MLflow, by default into a database in the run's folder."""

    name = "mlflow"

    @classmethod
    def validate(cls, settings: Settings) -> None:
        """Refuse an experiment without a name."""
        good = bool((settings.project or "").strip())
        require(good, "logger.project", settings.project, "a name")

    def _build(self, step: int) -> Logger:
        import mlflow  # sets up its logging
        from lightning.pytorch.loggers import MLFlowLogger

        for chatty in (mlflow.__name__, "alembic", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        uri, own = self.settings.uri, self.run.log(self.name).resolve()
        return MLFlowLogger(
            experiment_name=str(self.settings.project),
            run_name=self._run_name,
            tracking_uri=uri or f"sqlite:///{own / 'mlflow.db'}",
            artifact_location=None if uri else (own / "artifacts").as_uri(),
            run_id=self._known_id(step),
        )

    def _begin(self, parameters: dict[str, Any]) -> str | Path:
        mlflow: Any = self.lightning
        assert mlflow.run_id is not None
        if mlflow.experiment.get_run(mlflow.run_id).data.params:
            mlflow.experiment.update_run(mlflow.run_id, "RUNNING")  # parameters cannot change
        else:
            mlflow.log_hyperparams(parameters)
        self._remember(mlflow.run_id)
        return self.settings.uri or self.run.log(self.name)

    def _log_image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        mlflow: Any = self.lightning
        mlflow.experiment.log_image(mlflow.run_id, image, key=name, step=step)


# By the value of `logger.name`.
LOGGERS: dict[str, type[RunLogger]] = {
    kind.name: kind for kind in (TensorBoard, Wandb, MLflow, RunLogger)
}


def build_logger(settings: Settings, run: RunFolder, step: int = 0) -> RunLogger:
    """Build the logger that `logger.name` means; for all processes but the first, `none`.

    Args:
        settings: Settings of the logger.
        run: Folder of the run.
        step: Steps of the optimiser that the run has done before.
    """
    from lightning.pytorch.utilities import rank_zero_only

    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    kind = LOGGERS[settings.name] if first else RunLogger
    return kind(settings, run, step)
