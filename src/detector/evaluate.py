"""`python -m detector.evaluate ckpt=RUN`: the figures of a checkpoint on a split.

`predictions=FILE truth=FILE` gives those of any tool's detections; `compare=` says which of two is
better.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig
from pydantic.dataclasses import dataclass

from detector.cli import run_verb
from detector.config.resolve import saved_config
from detector.config.schema import Config, plain
from detector.core.console import announce, typed, typed_command
from detector.core.errors import RequestError
from detector.core.options import STRICT
from detector.pipeline import external, load_data, request
from detector.training.checkpoint import (
    checkpoint_path,
    load_checkpoint,
    read_checkpoint,
    read_progress,
    read_sidecar,
    read_trained_on,
)

if TYPE_CHECKING:
    from detector.data.read import DataSet
    from detector.evaluation.arrays import Detections, Truth

log = logging.getLogger(__name__)

ASIDE = ("ckpt", "name", "resamples", "gallery")  # settings that are not compared


@dataclass(config=STRICT, frozen=True, kw_only=True)
class EvaluateKeys(Config):
    """The configuration of an evaluation."""

    split: Literal["train", "val", "test"] | None = None
    """Split that is scored; null: test, or val where there is no test."""
    predictions: str | None = None
    """Detections of any tool as COCO results (JSON), scored instead of a checkpoint."""
    truth: str | None = None
    """With predictions=: ground truth as COCO's JSON; null: the split of the data."""
    compare: str | None = None
    """A second checkpoint (with predictions=: file) on the same images: which is better?"""


KEYS = EvaluateKeys


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluate a checkpoint, or score any tool's detections.

    Args:
        cfg: From Hydra or `detector.cli.compose`, with `output_dir` set.

    Returns:
        COCO's and VOC's numbers, fractions in 0..1; nothing on all processes but the first.

    Raises:
        RequestError: If the request is wrong.
    """
    request.check_what_is_evaluated(cfg)
    config = request.resolve("evaluate", cfg)
    command = typed_command("evaluate", cfg.overrides)
    if config.predictions:
        return _score_predictions(config, cfg, command)
    path = checkpoint_path("evaluate", str(config.ckpt))
    thresholds = _thresholds(path, config)
    data = load_data.usable_data(config, request.wanted_split("evaluate", config))
    rival = request.rival(config, data) if config.compare else None
    (split,) = data.splits
    # That val chose the checkpoint is nothing new to who asks for it.
    keys = ("trained_on",) if split == "val" else ("trained_on", "chosen_on")
    found = load_data.seen_in_training(data, split, [read_trained_on(path, key) for key in keys])
    for key, seen in zip(keys, found, strict=True):
        load_data.note_seen(data, split, seen, f"ckpt={config.ckpt} was {key.replace('_', ' ')}")
    with request.output_folder("evaluate", cfg) as folder:
        announce("loading the network of %s", path)
        return _evaluate(config, rival, thresholds, data, folder, command)


def _evaluate(
    config: EvaluateKeys,
    rival: Config | None,
    thresholds: dict[str, Any] | None,
    data: DataSet,
    folder: Path,
    command: str,
) -> dict[str, float]:
    """Evaluate a checkpoint into a folder; the arguments have been checked."""
    from lightning.pytorch.utilities import rank_zero_only

    from detector.training.logger import build_logger, opened

    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        load_data.describe_data(data)
    else:
        logging.getLogger("detector").setLevel(logging.ERROR)  # one process speaks
    if config.split is None and "val" in data.splits:
        log.warning("there is no test split: these are the images that chose the checkpoint")
    logger = build_logger(config.logger, folder)
    with opened(logger, config, folder):
        scores = _score_checkpoint(config, rival, thresholds, data, folder, command)
        if logger is not None:
            from detector.data.images.pixels import read_image
            from detector.training.logger import log_results

            path = checkpoint_path("evaluate", str(config.ckpt))
            step = int(load_checkpoint(path)["global_step"])
            named = {f"{next(iter(data.splits))}/{name}": value for name, value in scores.items()}
            pictures = {p.stem: read_image(p) for p in folder.glob("detections.png")}
            log_results(logger, named, pictures, step)
    return scores


def _thresholds(path: Path, config: EvaluateKeys) -> dict[str, Any] | None:
    """Those that the training chose, if they are there and of use: scores do not depend on them."""
    try:
        return read_sidecar(path, config.data.classes or [])
    except RequestError as error:
        log.warning("thresholds are chosen on this very split: %s", error)
        return None


def _score_checkpoint(
    config: EvaluateKeys,
    rival: Config | None,
    thresholds: dict[str, Any] | None,
    data: DataSet,
    folder: Path,
    command: str,
) -> dict[str, float]:
    """Run a network over a split, and another one beside it if asked for."""
    from detector.evaluation.comparison import differing_settings
    from detector.evaluation.matching import match
    from detector.pipeline.history import read_training
    from detector.pipeline.results import About, compared, write_results
    from detector.pipeline.score import score

    ((split, images),) = data.splits.items()
    path = checkpoint_path("evaluate", str(config.ckpt))
    best, root = read_progress(path).best_epoch, read_checkpoint(path)["config"]["data"]["root"]
    found = _detect(config, data, folder)
    other = None if rival is None else _detect(rival, data, folder)
    if found is None:
        return {}
    scored = score(*found[:2], images, data.classes, split, config.resamples, found[2])
    comparison = settings = None
    if rival is not None and other is not None:
        names = str(config.ckpt), str(config.compare)
        comparison = (compared(scored, match(*other[:2]), config.resamples), *names)
        settings = differing_settings(*(_trained_with(file) for file in (path, rival.ckpt)))
    about = About(
        "evaluate",
        config,
        [
            ("Score it again", command),
            (
                "Detect in other images",
                f"python -m detector.predict {typed('ckpt', path)} source=FOLDER",
            ),
        ],
        data,
        read_training(path.parent.parent, best, config.monitor),
        thresholds=thresholds,
        own=root == config.data.root,
        comparison=comparison,
        settings=settings,
    )
    write_results(scored, about, folder)
    return scored.flat


def _trained_with(path: str | Path | None) -> dict[str, Any]:
    """The configuration of a checkpoint's training, without what says nothing of the detector."""
    config = plain(saved_config(Path(str(path))))
    return {key: value for key, value in config.items() if key not in ASIDE}


def _detect(config: Config, data: DataSet, folder: Path) -> tuple[Detections, Truth, float] | None:
    """A checkpoint's detections on the one split of the data."""
    from detector.pipeline import build
    from detector.pipeline.score import detect

    (split,) = data.splits
    task = build.load_task("evaluate", config)
    return detect(config, task, build.build_datamodule(config, data.splits), split, folder)


def _score_predictions(config: EvaluateKeys, cfg: DictConfig, command: str) -> dict[str, float]:
    """Score a file of detections; no network is needed, nor torch."""
    contest = external.read_contest(config)
    with request.output_folder("evaluate", cfg) as folder:
        return _score_contest(config, contest, folder, command)


def _score_contest(
    config: EvaluateKeys, contest: external.Contest, folder: Path, command: str
) -> dict[str, float]:
    """Score a file of detections into a folder."""
    from detector.evaluation.matching import match
    from detector.pipeline.results import About, compared, write_results
    from detector.pipeline.score import score

    external.describe_contest(config, contest)
    rest = contest.truth, contest.images, contest.classes, contest.split
    scored = score(contest.detections, *rest, config.resamples)
    comparison = None
    if contest.compare is not None:
        names = str(config.predictions), str(config.compare)
        other = match(contest.compare, contest.truth)
        comparison = (compared(scored, other, config.resamples), *names)
    about = About(
        "evaluate",
        config,
        [("Score it again", command)],
        contest.data,
        names=contest.names,
        comparison=comparison,
    )
    write_results(scored, about, folder)
    return scored.flat


if __name__ == "__main__":
    run_verb("evaluate", evaluate)
