"""Transfer-learning object detection: Faster R-CNN, staged unfreezing, honest evaluation.

From Python: `train` a detector, `load` it, and have it `predict`; `read_data` says what a data set
holds. Nothing is imported before it is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from detector.core.version import __version__ as __version__

if TYPE_CHECKING:
    from detector.data.read import DataSet as DataSet
    from detector.pipeline.detector import Detector as Detector
    from detector.pipeline.detector import Prediction as Prediction

__all__ = ["DataSet", "Detector", "Prediction", "Run", "load", "read_data", "train"]


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: Absolute path of the run's folder, with checkpoints, metrics and the report.
        scores: The best validation score by its name, and the final scores as `test/<name>`
            (`val/<name>` where there is no test split); fractions in 0..1.
    """

    folder: Path
    scores: dict[str, float]

    def load(self) -> Detector:
        """Load the detector of the best epoch."""
        return load(self.folder)


def train(overrides: Sequence[str], folder: str | Path | None = None) -> Run:
    """Train a detector, and evaluate its best epoch, as `python -m detector.train` does.

    Args:
        overrides: Keys as typed on the command line.
        folder: Folder for the outputs; None: a new one, `outputs/<name>/<date_time>`.

    Raises:
        RequestError: If the request is wrong; the message names the key, file or box.

    Example:
        >>> keys = ["data.root=my_images", "backbone=efficientnet_lite0", "trainer.max_epochs=1"]
        >>> run = train(keys, folder="runs/first")
        >>> sorted(run.scores)[:2]
        ['test/map', 'test/map_50']
    """
    from detector.cli import call

    outcome, used = call("train", overrides, None if folder is None else Path(folder))
    return Run(used.path.absolute(), outcome.result)


def load(run: str | Path, *, device: Literal["auto", "cpu", "gpu"] = "auto") -> Detector:
    """Load a trained detector.

    Args:
        run: Folder of a run, of which the best checkpoint is taken, or a checkpoint.
        device: `auto`, `cpu`, `gpu` or `mps`.

    Raises:
        RequestError: If there is no such run, or it is no checkpoint of this package.

    Example:
        >>> model = load("runs/first")
        >>> model.classes
        ('disc', 'square')
    """
    from detector.pipeline.detector import load as load_detector

    return load_detector(run, device=device)


def read_data(root: str | Path | None = None, overrides: Sequence[str] = ()) -> DataSet:
    """Read a data set, and find what is wrong with it; nothing is left out or refused for that.

    Args:
        root: Folder of images and annotations; None where `overrides` say which data.
        overrides: Further keys as typed on the command line, such as `data.auto_split.val=0.2`.

    Raises:
        RequestError: If there is no data set.

    Example:
        >>> data = read_data("my_images")
        >>> data.classes.names
        ('disc', 'square')
        >>> len(data.splits["train"])
        5
    """
    from detector.cli import compose, load_command
    from detector.core.console import typed
    from detector.pipeline.load_data import validate

    keys = [typed("data.root", root, shell=False)] * (root is not None)
    keys += [overrides] if isinstance(overrides, str) else overrides
    return validate(load_command("check").prepare(compose("check", keys)).reading)


def __getattr__(name: str) -> Any:
    """Import the classes of the API when they are asked for."""
    if name == "DataSet":
        from detector.data.read import DataSet

        return DataSet
    if name in ("Detector", "Prediction"):
        from detector.pipeline import detector

        return getattr(detector, name)
    raise AttributeError(f"module 'detector' has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps `detector.train` the function where the module of the command is imported too."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "train" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
