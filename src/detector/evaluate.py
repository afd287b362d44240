"""`python -m detector.evaluate ckpt=RUN`: the scores of a checkpoint on a split.

`predictions=FILE truth=FILE` scores any tool's detections; `compare=` says which of two detectors
is better.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from omegaconf import DictConfig
from pydantic.dataclasses import dataclass as options

from detector.config.resolve import resolve
from detector.config.schema import Config, plain
from detector.core.console import announce, typed, typed_command
from detector.core.errors import RequestError
from detector.core.options import STRICT
from detector.core.run_folder import RunFolder
from detector.data.read import DataSet
from detector.pipeline import leakage, load_data, request_checks
from detector.pipeline.baseline import baseline_path, read_baseline, trained_with
from detector.pipeline.command import Outcome
from detector.pipeline.external import ExternalInputs, describe_external, read_external
from detector.training.checkpoint import (
    checkpoint_path,
    load_checkpoint,
    read_checkpoint,
    read_progress,
    read_sidecar,
    read_trained_on,
)

log = logging.getLogger(__name__)


@options(config=STRICT, frozen=True, kw_only=True)
class EvaluateKeys(Config):
    """Score a checkpoint on a split, or any tool's detections.

    Examples:
      python -m detector.evaluate ckpt=RUN
      python -m detector.evaluate ckpt=RUN data.root=DIR split=val
      python -m detector.evaluate ckpt=RUN compare=RUN2        which is better?
      python -m detector.evaluate predictions=FILE truth=FILE
    """

    shown: ClassVar[tuple[str, ...]] = (
        *("ckpt", "resamples", "gallery", "data.root", "data.format", "data.splits.test"),
        *("data.on_bad", "data.batch_size", "data.workers", "trainer.accelerator"),
        *("trainer.devices", "trainer.precision", "trainer.limit_test_batches", "logger.name"),
    )

    split: Literal["train", "val", "test"] | None = None
    """Split that is scored; null: test, or val where there is no test."""
    predictions: str | None = None
    """Detections of any tool as COCO results (JSON), scored instead of a checkpoint."""
    truth: str | None = None
    """With predictions=: ground truth as COCO's JSON; null: the split of the data."""
    compare: str | None = None
    """A second checkpoint, or with predictions= a second file, to compare on the same images."""


KEYS = EvaluateKeys
DISTRIBUTED = True


@dataclass(frozen=True)
class PreparedCheckpoint:
    """A request to evaluate a checkpoint that was found good.

    Attributes:
        config: Configuration in force.
        path: The checkpoint.
        thresholds: Content of the thresholds.json that the training wrote, if it is of use.
        data: The data set, which has one split.
        baseline: Configuration of the checkpoint to compare with, if any.
        command: The command that was typed.
    """

    config: EvaluateKeys
    path: Path
    thresholds: dict[str, Any] | None
    data: DataSet
    baseline: Config | None
    command: str


@dataclass(frozen=True)
class PreparedFiles:
    """A request to score files of detections that was found good.

    Attributes:
        config: Configuration in force.
        external: Detections and ground truth that were read.
        command: The command that was typed.
    """

    config: EvaluateKeys
    external: ExternalInputs
    command: str


def prepare(cfg: DictConfig) -> PreparedCheckpoint | PreparedFiles:
    """Check a request to evaluate.

    Args:
        cfg: As composed, with `overrides`.

    Raises:
        RequestError: If the request is wrong.
    """
    _check_keys(cfg)
    if cfg.ckpt and cfg.compare:
        baseline_path(str(cfg.compare))
    config = resolve(KEYS, cfg)
    command = typed_command("evaluate", cfg.overrides)
    if config.predictions:
        given = config.predictions, config.truth, config.compare, config.split
        return PreparedFiles(config, read_external(config, *given), command)
    request_checks.check_machine(config)
    path = checkpoint_path("evaluate", str(config.ckpt))
    data = load_data.usable_data(
        config, config.split or "final", lambda data: request_checks.check_loading(config, data)
    )
    baseline = read_baseline(config, data, config.compare) if config.compare else None
    return PreparedCheckpoint(config, path, _thresholds(path, config), data, baseline, command)


def _check_keys(cfg: DictConfig) -> None:
    """Refuse keys that say nothing, or two things at once."""
    for override in cfg.overrides:
        if cfg.predictions and re.match(r"[+~]*logger\b", override):
            raise RequestError(f"{override}: what predictions= says is not logged; leave it out")
    for override in cfg.overrides if cfg.ckpt and cfg.compare else ():
        if re.match(r"[+~]*(model|backbone|data\.image_size)\b", override):
            raise RequestError(
                f"{override}: compare= takes both detectors as they were trained; leave it out"
            )
    if not cfg.ckpt and not cfg.predictions:
        raise RequestError(
            "ckpt= is required, or predictions=FILE to score another tool's detections (see "
            "python -m detector.evaluate --help)"
        )
    if cfg.ckpt and cfg.predictions:
        raise RequestError(
            f"predictions={cfg.predictions}: ckpt={cfg.ckpt} makes its own; leave one of them out"
        )
    if cfg.compare and not cfg.resamples:
        raise RequestError("resamples=0: compare= needs some, such as resamples=1000")
    _check_truth(cfg)


def _check_truth(cfg: DictConfig) -> None:
    """Refuse ground truth that is not needed, or is missing."""
    if cfg.truth and not cfg.predictions:
        raise RequestError(
            f"truth={cfg.truth}: is for predictions=FILE; a checkpoint is evaluated with "
            "data.root= and split="
        )
    if cfg.truth and cfg.split:
        raise RequestError(f"split={cfg.split}: truth={cfg.truth} is all of a file; leave it out")
    if cfg.predictions and not cfg.truth and not cfg.data.root and cfg.data.format != "trees":
        raise RequestError(
            "truth=FILE is required with predictions= (COCO's JSON), or data.root=DIR and split="
        )


def _thresholds(path: Path, config: Config) -> dict[str, Any] | None:
    """The thresholds that the training chose, if they are of use: scores do not depend on them."""
    try:
        return read_sidecar(path, config.data.classes or [])
    except RequestError as error:
        log.warning("thresholds are chosen on this very split: %s", error)
        return None


def run(prepared: PreparedCheckpoint | PreparedFiles, folder: RunFolder) -> Outcome:
    """Score detections, and write the results.

    Args:
        prepared: Result of `prepare`.
        folder: Folder for the outputs.

    Returns:
        COCO's scores, and VOC's as `voc_<name>`, fractions in 0..1; nothing on all processes but
        the first.
    """
    if isinstance(prepared, PreparedFiles):
        return Outcome(_evaluate_files(prepared, folder))
    return Outcome(_evaluate_checkpoint(prepared, folder))


def _evaluate_files(prepared: PreparedFiles, folder: RunFolder) -> dict[str, float]:
    """Score a file of detections; no network is needed, nor torch."""
    from detector.pipeline.results import ReportContext, evaluate

    config, external = prepared.config, prepared.external
    files = {key: str(getattr(config, key)) for key in ("predictions", "truth", "compare")}
    describe_external(external, files)
    context = ReportContext(
        "evaluate",
        config,
        [("Score it again", prepared.command)],
        external.data,
        title=config.truth,
        image_names=external.names,
        compared=(files["predictions"], files["compare"]),
        own_detections=False,
    )
    return evaluate(external.inputs, context, folder)


def _evaluate_checkpoint(prepared: PreparedCheckpoint, folder: RunFolder) -> dict[str, float]:
    """Run a network over a split, and another one beside it if asked for."""
    from lightning.pytorch.utilities import rank_zero_only

    from detector.pipeline.results import evaluate, log_to
    from detector.training.loggers import build_logger

    config, data = prepared.config, prepared.data
    _note_seen(prepared)
    announce("loading the network of %s", prepared.path)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        load_data.describe_data(data)
    else:
        logging.getLogger("detector").setLevel(logging.ERROR)  # one process speaks
    if config.split is None and "val" in data.splits:
        log.warning("there is no test split: these are the images that chose the checkpoint")
    logger = build_logger(config.logger, folder)
    with logger.opened(plain(config)):
        inputs = _detect(config, data, folder)
        other = None if prepared.baseline is None else _detect(prepared.baseline, data, folder)
        if inputs is None:
            return {}
        if other is not None:
            inputs = replace(inputs, baseline=other.detections)
        scores = evaluate(inputs, _context(prepared), folder)
        named = {f"{inputs.split}/{name}": value for name, value in scores.items()}
        log_to(logger, named, folder, int(load_checkpoint(prepared.path)["global_step"]))
    return scores


def _note_seen(prepared: PreparedCheckpoint) -> None:
    """Add images that the checkpoint was trained or chosen on to the findings of the data."""
    path, data = prepared.path, prepared.data
    (split,) = data.splits
    # That val chose the checkpoint is nothing new to who asks for it.
    keys = ("trained_on",) if split == "val" else ("trained_on", "chosen_on")
    found = leakage.seen_in_training(data, split, [read_trained_on(path, key) for key in keys])
    for key, seen in zip(keys, found, strict=True):
        by = f"ckpt={prepared.config.ckpt} was {key.replace('_', ' ')}"
        leakage.note_seen(data, split, seen, by)


def _detect(config: Config, data: DataSet, folder: RunFolder) -> Any:
    """A checkpoint's detections on the one split of the data."""
    from detector.pipeline import build
    from detector.pipeline.score import detect

    (split,) = data.splits
    loaders = build.build_datamodule(config, data.splits)
    return detect(config, build.load_task(config), loaders, split, folder)


def _context(prepared: PreparedCheckpoint) -> Any:
    """What the report says beside the scores."""
    from detector.evaluation.comparison import differing_settings
    from detector.pipeline.history import read_training
    from detector.pipeline.results import ReportContext

    config, path, baseline = prepared.config, prepared.path, prepared.baseline
    settings = None
    if baseline is not None:
        both = trained_with(path), trained_with(Path(str(baseline.ckpt)))
        settings = differing_settings(*both)
    root = read_checkpoint(path)["config"]["data"]["root"]
    detect = f"python -m detector.predict {typed('ckpt', path)} source=FOLDER"
    best_epoch = read_progress(path).best_epoch
    return ReportContext(
        "evaluate",
        config,
        [("Score it again", prepared.command), ("Detect in other images", detect)],
        prepared.data,
        read_training(RunFolder.of_checkpoint(path), best_epoch, config.monitor),
        thresholds=prepared.thresholds,
        same_data=root == config.data.root,
        compared=(str(config.ckpt), str(config.compare)),
        settings=settings,
    )


if __name__ == "__main__":
    from detector.cli import run_command

    run_command("evaluate")
