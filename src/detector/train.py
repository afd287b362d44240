"""`python -m detector.train`: train a detector, then evaluate its best checkpoint."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from pydantic.dataclasses import dataclass as options

from detector.config.resolve import resolve, saved_config
from detector.config.schedules import frozen_at_random, read_schedule
from detector.config.schema import Config, plain
from detector.core.bar import in_words
from detector.core.console import announce, typed, typed_command
from detector.core.errors import RequestError
from detector.core.files import write_json
from detector.core.options import STRICT
from detector.core.run_folder import RunFolder
from detector.data.read import DataSet
from detector.finetune.schedule import Progress, Schedule
from detector.models.options import WEIGHTS
from detector.pipeline import fitting, leakage, load_data, request_checks
from detector.pipeline.command import Outcome
from detector.pipeline.dry_run import print_phases
from detector.pipeline.model_summary import summary_table
from detector.training.checkpoint import (
    Fingerprint,
    checkpoint_path,
    load_checkpoint,
    pack_fingerprints,
    read_best,
    read_progress,
    read_trained_on,
)

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import Tensor

    from detector.data.loading.datamodule import DetectionDataModule
    from detector.finetune.unfreezing import StagedFinetuning
    from detector.models.faster_rcnn import FasterRCNN
    from detector.models.weights.report import LoadReport
    from detector.training.loggers import RunLogger
    from detector.training.module import DetectionTask
    from detector.training.progress import RunProgress

log = logging.getLogger(__name__)


@options(config=STRICT, frozen=True, kw_only=True)
class TrainKeys(Config):
    """Train a detector, then evaluate its best checkpoint.

    Examples:
      python -m detector.train data.root=DIR
      python -m detector.train data.root=DIR backbone=efficientnet_lite0 data.batch_size=8
      python -m detector.train data.root=DIR finetune=staged trainer.max_epochs=12
      python -m detector.train ckpt=RUN                        continues a run
      python -m detector.train +experiment=trees               the demo
    """

    dry_run: bool = False
    """Print the phases (what is trained, at which learning rates, how long), and stop."""


KEYS = TrainKeys
DISTRIBUTED = True


@dataclass(frozen=True)
class Prepared:
    """A request to train that was found good.

    Attributes:
        config: Configuration in force.
        asked: The configuration before what is auto was fitted to the data, as a dry run has it.
        fitted: What was fitted to the data set, a line each.
        schedule: Phases of the training.
        data: The data set.
        resumed: The checkpoint that training goes on from, if any.
        command: The command that was typed.
    """

    config: TrainKeys
    asked: TrainKeys
    fitted: list[str]
    schedule: Schedule
    data: DataSet
    resumed: Path | None
    command: str


def prepare(cfg: DictConfig) -> Prepared | None:
    """Check a request to train; a dry run is all done with that.

    Args:
        cfg: As composed, with `overrides`.

    Raises:
        RequestError: If the request is wrong.
    """
    config = resolve(KEYS, cfg, resume=True)
    request_checks.check_backbone(config)
    if config.dry_run:
        print_phases(config)
        return None
    schedule = read_schedule(config)
    request_checks.check_machine(config)

    def check(data: DataSet) -> None:
        sized, _ = fitting.fit_image_size(config, data)
        request_checks.check_loading(sized, data)
        request_checks.check_augmentation(config)
        if not config.ckpt:
            request_checks.check_weights(config)

    data = load_data.usable_data(config, check=check)
    resumed = checkpoint_path("train", config.ckpt) if config.ckpt else None
    if resumed is not None:
        refuse_other_data(config, data, resumed)
    fixed, fitted = fitting.fit(config, data)
    command = typed_command("train", cfg.overrides)
    return Prepared(fixed, config, fitted, schedule, data, resumed, command)


def refuse_other_data(config: Config, data: DataSet, resumed: Path) -> None:
    """Refuse to continue a run with another data set, which would replace the run's results.

    The same images in another place may be read, such as on another machine.

    Raises:
        RequestError: If another folder or format has training images that are new to the run.
    """
    before = saved_config(resumed).data
    if (config.data.root, config.data.format) == (before.root, before.format):
        return
    files = set(data.files()["train"])
    (seen,) = leakage.seen_in_training(data, "train", [read_trained_on(resumed)])
    if new := files - seen.same:
        raise RequestError(
            f"data.root={data.root}: {resumed} was not trained on {len(new)} of the {len(files)} "
            f"training images, such as {min(new)}; a new run begins with its weights: "
            f"{typed('model.weights', config.ckpt)}"
        )


def run(prepared: Prepared, folder: RunFolder) -> Outcome:
    """Train, and evaluate the best epoch.

    Args:
        prepared: Result of `prepare`.
        folder: Folder for the outputs.

    Returns:
        The best validation score by its name, which a sweep maximises, and the final scores as
        `test/<name>` (`val/<name>` where there is no test split); fractions in 0..1.
    """
    config = prepared.config
    start = f"the checkpoint {config.ckpt}" if config.ckpt else None
    start = start or f"model.weights={config.model.weights}"
    announce("building the network (%s), starting from %s", config.backbone.name, start)
    training = _set_up(prepared, folder)
    if training.trainer.is_global_zero:
        _describe(prepared, training, folder)
        _bring_along(prepared.resumed, folder)
    else:
        logging.getLogger("detector").setLevel(logging.ERROR)  # one process speaks
    try:
        with training.logger.opened(plain(config)):
            _fit(prepared, training, folder)
            final = _evaluate_or_say_how(prepared, training, folder)
            _log_final(training, final, folder)
    except RequestError:  # such as of a time that is too short, which is known only now
        if training.trainer.is_global_zero and not folder.last_checkpoint.exists():
            folder.discard(config.logger.name)
        raise
    best = training.finetuning.progress.best
    assert best is not None  # at least one epoch was validated
    return Outcome({config.monitor: best, **final}, score=best)


@dataclass(frozen=True)
class _Training:
    """The objects of a training.

    Attributes:
        task: The network in its LightningModule.
        loaded: What became of pretrained weights; None if all are random, or a checkpoint's.
        progress: Where the schedule begins.
        finetuning: Applies the schedule.
        rows: Writes metrics.csv and shows the progress.
        logger: Logs the run.
        trainer: Lightning's trainer.
        data: The loaders.
    """

    task: DetectionTask
    loaded: LoadReport | None
    progress: Progress
    finetuning: StagedFinetuning
    rows: RunProgress
    logger: RunLogger
    trainer: pl.Trainer
    data: DetectionDataModule


def _set_up(prepared: Prepared, folder: RunFolder) -> _Training:
    """Build network, callbacks, logger, trainer and loaders."""
    import lightning.pytorch as pl

    from detector.pipeline import build
    from detector.training.loggers import build_logger

    config, schedule, data, resumed = (
        *(prepared.config, prepared.schedule, prepared.data, prepared.resumed),
    )
    pl.seed_everything(config.seed, workers=True, verbose=False)
    task = build.build_task(config, data.classes)
    task.trained_on = record_images(config, data, resumed)
    task.chosen_on = pack_fingerprints(leakage.fingerprints(data, "val").values())
    loaded = None
    if resumed is None:
        loaded = build.load_pretrained(config, task.network, data.classes.names)
        if config.optim.l2_sp and loaded is not None:
            task.remember_pretrained(loaded.names)
    progress = schedule.resume(read_progress(resumed)) if resumed else schedule.start()
    finetuning, rows, callbacks = build.build_callbacks(config, schedule, folder)
    task.network.backbone.store = build.feature_store(config)
    steps = int(load_checkpoint(resumed)["global_step"]) if resumed else 0
    logger = build_logger(config.logger, folder, steps)
    trainer = build.build_trainer(config, folder.path, callbacks, logger.lightning)
    loaders = build.build_datamodule(config, data.splits)
    return _Training(task, loaded, progress, finetuning, rows, logger, trainer, loaders)


def _describe(prepared: Prepared, training: _Training, folder: RunFolder) -> None:
    """Write the configuration and the split, and log what is trained, on what, from where."""
    config, schedule, data = prepared.config, prepared.schedule, prepared.data
    OmegaConf.save(OmegaConf.create(plain(config)), folder.config)
    if data.divided:
        write_json(folder.splits, {"root": str(data.root), "splits": data.files()})
    load_data.describe_data(data, config.model.most_detections)
    for line in prepared.fitted:
        log.info("%s", line)
    if prepared.resumed is None:
        log_weights(config, training.task.network, training.loaded)
    if prepared.resumed is not None:
        log_resume(schedule, training.progress)
    if config.model.summary != "false":
        _log_summary(prepared, training)


def _log_summary(prepared: Prepared, training: _Training) -> None:
    """Log the network as a table."""
    from detector.pipeline import build

    task = training.task
    if prepared.resumed is not None:
        build.load_weights(task, prepared.resumed)  # as `fit` will: proposals depend on them
    phase = prepared.schedule.upcoming_phase(training.progress)
    lines = summary_table(prepared.config, task.network, phase, training.trainer)
    log.info("%s", "\n".join(lines))


def _bring_along(resumed: Path | None, folder: RunFolder) -> None:
    """Take over the best checkpoint and metrics.csv of the run that is resumed elsewhere."""
    from detector.training.run_checkpoints import link_or_copy

    if resumed is None:
        return
    folder.checkpoints.mkdir(exist_ok=True)
    link_or_copy(read_best(resumed), folder.best_checkpoint)
    past = RunFolder.of_checkpoint(resumed).metrics_csv
    if past.is_file() and not folder.metrics_csv.exists():
        shutil.copyfile(past, folder.metrics_csv)


def _fit(prepared: Prepared, training: _Training, folder: RunFolder) -> None:
    """Train, and write the history; the best weights are in the network afterwards."""
    from detector.data.loading.watchdog import named_ends
    from detector.pipeline import build
    from detector.pipeline.history import write_history
    from detector.pipeline.pace_cache import remember_pace

    trainer, task, finetuning = training.trainer, training.task, training.finetuning
    try:
        with named_ends():
            trainer.fit(task, training.data, ckpt_path=prepared.resumed, weights_only=True)
    except SystemExit as end:  # Lightning's way to end after Ctrl-C
        raise KeyboardInterrupt from end
    if trainer.is_global_zero:
        if seconds := training.rows.evaluation_seconds(trainer):
            log.info("the evaluation takes about %s", in_words(seconds))
        rows = training.rows.rows()
        remember_pace(prepared.asked, finetuning.progress, rows, prepared.schedule.phases)
        write_history(
            folder,
            prepared.schedule,
            finetuning.progress,
            finetuning.base_lr(trainer),
            list(task.network.groups()),
            rows,
            prepared.config.monitor,
        )
    task.network.backbone.store = None  # other images follow
    build.load_weights(task, finetuning.best)


def _evaluate_or_say_how(
    prepared: Prepared, training: _Training, folder: RunFolder
) -> dict[str, float]:
    """Evaluate; after Ctrl-C say how to evaluate what was trained."""
    try:
        return evaluate_best(prepared, training, folder)
    except KeyboardInterrupt:
        log.info("interrupted; the trained epochs are kept. To evaluate them:")
        log.info("  python -m detector.train %s", typed("ckpt", folder))
        raise


def evaluate_best(prepared: Prepared, training: _Training, folder: RunFolder) -> dict[str, float]:
    """Evaluate the best checkpoint, choose its score thresholds, and write both.

    The validation split chooses the thresholds, and the test split measures what they give.

    Args:
        prepared: The request.
        training: Its network has the best weights.
        folder: Folder for the outputs.

    Returns:
        The scores of the test split as `test/<name>`, where there is none those of the validation
        split as `val/<name>`; nothing on all processes but the first.
    """
    from detector.evaluation.matching import match
    from detector.pipeline.history import read_training
    from detector.pipeline.results import ReportContext, evaluate, thresholds_of
    from detector.pipeline.score import detect

    config, data, task = prepared.config, prepared.data, training.task
    best_epoch = training.finetuning.progress.best_epoch
    split = "test" if "test" in data.splits else "val"
    if best_epoch is not None:
        log.info("evaluating the best epoch, %d, on %s", best_epoch + 1, split)
    inputs = detect(config, task, training.data, split, folder)
    validation = inputs
    if split != "val":
        log.info("once more on val with the best weights, to choose the score thresholds there")
        limits = replace(config.trainer, limit_test_batches=config.trainer.limit_val_batches)
        limited = replace(config, trainer=limits)
        validation = detect(limited, task, training.data, "val", folder)
    if validation is None or inputs is None:
        return {}
    matches = match(validation.detections, validation.ground_truth)
    thresholds = thresholds_of(matches, task.classes.names, "val") | {"epoch": best_epoch}
    write_json(folder.checkpoint_thresholds, thresholds)
    context = ReportContext(
        "train",
        config,
        _next_commands(prepared.command, folder),
        data,
        read_training(folder, best_epoch, config.monitor),
        round(training.rows.pace.seconds, 2),
        thresholds,
    )
    scores = evaluate(inputs, context, folder)
    return {f"{split}/{name}": value for name, value in scores.items()}


def _next_commands(command: str, folder: RunFolder) -> list[tuple[str, str]]:
    """What may be typed next, for the report."""
    ckpt = typed("ckpt", folder)
    return [
        ("Train it again", command),
        ("Score it again", f"python -m detector.evaluate {ckpt}"),
        ("Detect in other images", f"python -m detector.predict {ckpt} source=FOLDER"),
    ]


def record_images(config: Config, data: DataSet, resumed: Path | None) -> Tensor:
    """Record all images that the weights are trained on, in this run and before, for checkpoints.

    Images of the split that is scored at the end on which the weights were trained before become
    issues of the data; those that this run trains on were found when the data were validated.

    Args:
        config: Configuration in force.
        data: Its training split is recorded.
        resumed: The checkpoint that training goes on from, if any.
    """
    earlier: list[Fingerprint] = []
    source = resumed or (None if config.model.weights in WEIGHTS else Path(config.model.weights))
    if source is not None:
        with suppress(RequestError):  # weights of another program
            earlier = read_trained_on(source)
    now = leakage.fingerprints(data, "train").values()
    split = "test" if "test" in data.splits else "val"
    (seen,) = leakage.seen_in_training(data, split, [{*earlier} - {*now}])
    by = f"ckpt={config.ckpt}" if resumed else f"model.weights={config.model.weights}"
    leakage.note_seen(data, split, seen, f"{by} was trained on")
    return pack_fingerprints([*earlier, *now])


def _log_final(training: _Training, final: dict[str, float], folder: RunFolder) -> None:
    """Hand the final scores and pictures to the run's logger."""
    from detector.pipeline.results import log_to

    # The names of the epochs' validation scores are taken.
    scores = {
        f"best_{name}" if name.startswith("val/") else name: value for name, value in final.items()
    }
    log_to(training.logger, scores, folder, training.trainer.global_step)


def log_weights(config: Config, network: FasterRCNN, loaded: LoadReport | None) -> None:
    """Log which weights a run starts from.

    Args:
        config: Configuration in force.
        network: The network.
        loaded: What became of pretrained weights; None if all are random.
    """
    from detector.models.backbones.build import backbone_spec

    if loaded is None:
        none = backbone_spec(config.backbone.key).imagenet is None
        why = f" (nobody has published any for {config.backbone.name})" if none else ""
        log.info("model.weights=none%s: all layers start at random", why)
        random = list(network.groups())
    else:
        for line in loaded.lines():
            log.info("%s", line)
        random = [k for k, group in loaded.groups.items() if group.loaded < group.random]
        other = [k for k, group in loaded.groups.items() if group.replaced > group.loaded]
        if other:
            log.warning("most of %s is of another shape in the file: random", ", ".join(other))
    norms = network.backbone.has_batch_norms and any(
        loaded is None or not loaded.groups[k].loaded for k in random
    )
    if warning := frozen_at_random(config, random, norms):
        log.warning("%s", warning)


def log_resume(schedule: Schedule, progress: Progress) -> None:
    """Log where a run goes on, or that nothing is left to do."""
    done, epochs = progress.done, schedule.total(progress)
    if schedule.finished(progress):
        log.info("the schedule has ended after %d epochs; more: trainer.max_epochs=N", done)
    else:
        log.info("going on after epoch %d%s", done, "" if epochs is None else f" of {epochs}")


if __name__ == "__main__":
    from detector.cli import run_command

    run_command("train")
