"""`python -m detector.train`: train a detector, then evaluate its best checkpoint."""

from __future__ import annotations

import logging
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from detector.cli import run_verb
from detector.config.schedules import frozen_at_random, read_schedule
from detector.config.schema import WEIGHTS, Config, plain
from detector.core.console import announce, typed, typed_command
from detector.core.errors import RequestError
from detector.core.files import write_json
from detector.finetune.schedule import Progress, Schedule
from detector.pipeline import load_data, request
from detector.pipeline.dry_run import print_phases
from detector.pipeline.model_summary import summary_table
from detector.training.checkpoint import (
    SIDECAR,
    Fingerprint,
    checkpoint_path,
    load_checkpoint,
    pack_fingerprints,
    read_best,
    read_progress,
    read_trained_on,
)

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from torch import Tensor

    from detector.data.loading.datamodule import DetectionDataModule
    from detector.data.read import DataSet
    from detector.models.faster_rcnn import FasterRCNN
    from detector.models.weights.report import LoadReport
    from detector.training.module import DetectionTask

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> dict[str, float]:
    """Train and evaluate.

    Args:
        cfg: From Hydra or `detector.cli.compose`, with `output_dir` set.

    Returns:
        The best validation score by its name, and the final scores as `test/<name>` (`val/<name>`
        where there is no test split); fractions in 0..1. Nothing of a dry run.

    Raises:
        RequestError: If the request is wrong.
    """
    config = request.resolve("train", cfg)
    if config.dry_run:
        print_phases(config)
        return {}
    schedule = read_schedule(config)
    data_set = load_data.usable_data(config)
    with request.output_folder("train", cfg) as folder:
        start = f"the checkpoint {config.ckpt}" if config.ckpt else None
        start = start or f"model.weights={config.model.weights}"
        announce("building the network (%s), starting from %s", config.backbone.name, start)
        return _train(config, schedule, data_set, folder, typed_command("train", cfg.overrides))


def _train(
    config: Config, schedule: Schedule, data_set: DataSet, folder: Path, command: str
) -> dict[str, float]:
    """Train into a folder, and evaluate; the arguments have been checked."""
    import lightning.pytorch as pl

    from detector.data.loading.watchdog import named_ends
    from detector.pipeline import build
    from detector.pipeline.history import write_history
    from detector.training.logger import build_logger, opened
    from detector.training.run_checkpoints import link_or_copy

    resumed = checkpoint_path("train", config.ckpt) if config.ckpt else None
    pl.seed_everything(config.seed, workers=True, verbose=False)
    task = build.build_task(config, data_set.classes)
    task.trained_on = record_images(config, data_set, resumed)
    task.chosen_on = pack_fingerprints(load_data.fingerprints(data_set, "val").values())
    loaded = None
    if resumed is None:
        loaded = build.load_pretrained(config, task.network, data_set.classes.names)
    stand = schedule.adopt(read_progress(resumed)) if resumed else schedule.start()
    epochs = schedule.total(stand)
    finetuning, progress, callbacks = build.build_callbacks(config, schedule, folder, epochs)
    steps = int(load_checkpoint(resumed)["global_step"]) if resumed else 0
    logger = build_logger(config.logger, folder, steps)
    trainer = build.build_trainer(config, folder, callbacks, epochs, logger)
    if trainer.is_global_zero:
        OmegaConf.save(OmegaConf.create(plain(config)), folder / "config.yaml")
        load_data.describe_data(data_set, config.model.detections_per_image)
        if resumed is None:
            log_weights(config, task.network, loaded)
        for name in schedule.unreached():
            log.warning("phase %s is never reached within %d epochs", name, epochs)
        if data_set.divided:
            write_json(
                folder / "splits.json", {"root": str(data_set.root), "splits": data_set.files()}
            )
    else:
        logging.getLogger("detector").setLevel(logging.ERROR)  # one process speaks
    data = build.build_datamodule(config, data_set.splits)
    best = finetuning.best
    if resumed is not None:
        log_resume(schedule, stand)
        if trainer.is_global_zero:
            best.parent.mkdir(exist_ok=True)
            link_or_copy(read_best(resumed), best)
            past = resumed.parent.parent / progress.file.name
            if past.is_file() and not progress.file.exists():
                shutil.copyfile(past, progress.file)
    if config.model.summary != "false" and trainer.is_global_zero:
        if resumed is not None:
            build.load_weights(task, resumed)  # as `fit` will: proposals depend on them
        lines = summary_table(config, task.network, schedule.next_phase(stand), trainer)
        log.info("%s", "\n".join(lines))
    with opened(logger, config, folder):
        try:
            with named_ends():
                trainer.fit(task, data, ckpt_path=resumed, weights_only=True)
        except SystemExit as end:  # Lightning's way to end after Ctrl-C
            raise KeyboardInterrupt from end

        if trainer.is_global_zero:
            write_history(
                folder,
                schedule,
                finetuning.progress,
                finetuning.base_rate(trainer),
                list(task.network.groups()),
                int(trainer.num_training_batches),
                progress.rows(),
                config.monitor,
            )
        build.load_weights(task, best)
        done = finetuning.progress
        try:
            final = evaluate_best(
                config, task, data, data_set, folder, done, progress.seconds, command
            )
        except KeyboardInterrupt:
            log.info("interrupted; the trained epochs are kept. To evaluate them:")
            log.info("  python -m detector.train %s", typed("ckpt", folder))
            raise
        log_final(logger, final, folder, trainer.global_step)
    best_score = finetuning.progress.best
    assert best_score is not None  # at least one epoch was validated
    return {config.monitor: best_score, **final}


def evaluate_best(
    config: Config,
    task: DetectionTask,
    data: DetectionDataModule,
    data_set: DataSet,
    folder: Path,
    progress: Progress,
    seconds: float,
    command: str,
) -> dict[str, float]:
    """Score the best checkpoint, choose its score thresholds, and write both.

    The validation split chooses the thresholds: the test split is to judge them.

    Args:
        config: The run's.
        task: With the best weights.
        data: The loaders.
        data_set: What they load.
        folder: The run's.
        progress: What was done of the schedule.
        seconds: That training took.
        command: That was typed.

    Returns:
        The scores of the test split as `test/<name>`, where there is none of the validation split
        as `val/<name>`; nothing on all processes but the first.
    """
    from detector.evaluation.matching import match
    from detector.pipeline.history import read_training
    from detector.pipeline.results import About, thresholds_of, write_results
    from detector.pipeline.score import detect, score

    split = "test" if "test" in data_set.splits else "val"
    if progress.best_epoch is not None:
        log.info("evaluating the best epoch, %d, on %s", progress.best_epoch + 1, split)
    found = detect(config, task, data, split, folder)
    validated = found
    if split != "val":
        log.info("once more on val with the best weights, to choose the score thresholds there")
        limits = replace(config.trainer, limit_test_batches=config.trainer.limit_val_batches)
        validated = detect(replace(config, trainer=limits), task, data, "val", folder)
    if validated is None or found is None:
        return {}
    thresholds = thresholds_of(match(*validated[:2]), task.classes.names, "val")
    thresholds["epoch"] = progress.best_epoch
    write_json(folder / "checkpoints" / SIDECAR, thresholds)
    run = typed("ckpt", folder)
    about = About(
        "train",
        config,
        [
            ("Train it again", command),
            ("Score it again", f"python -m detector.evaluate {run}"),
            ("Detect in other images", f"python -m detector.predict {run} source=FOLDER"),
        ],
        data_set,
        read_training(folder, progress.best_epoch, config.monitor),
        round(seconds, 2),
        thresholds,
    )
    images, resamples = data.splits[split], config.resamples
    scored = score(*found[:2], images, task.classes, split, resamples, found[2])
    write_results(scored, about, folder)
    return {f"{split}/{name}": value for name, value in scored.flat.items()}


def record_images(config: Config, data_set: DataSet, resumed: Path | None) -> Tensor:
    """All images that the weights are trained on, in this run and before it, for checkpoints.

    Images of the split that is scored at the end, on which the first weights were trained, are
    added to the findings.

    Args:
        config: Configuration of the run.
        data_set: Its training split is recorded.
        resumed: The checkpoint that training goes on from, if any.
    """
    earlier: list[Fingerprint] = []
    source = resumed or (None if config.model.weights in WEIGHTS else Path(config.model.weights))
    if source is not None:
        with suppress(RequestError):  # weights of another program
            earlier = read_trained_on(source)
    if resumed is None:
        split = "test" if "test" in data_set.splits else "val"
        (seen,) = load_data.seen_in_training(data_set, split, [earlier])
        load_data.note_seen(
            data_set, split, seen, f"model.weights={config.model.weights} was trained on"
        )
    return pack_fingerprints([*earlier, *load_data.fingerprints(data_set, "train").values()])


def log_final(logger: Logger | None, final: dict[str, float], folder: Path, step: int) -> None:
    """Hand the final scores and pictures to the run's log."""
    from detector.data.images.pixels import read_image
    from detector.training.logger import log_results

    if logger is not None:
        files = {name: folder / f"{name}.png" for name in ("detections", "schedule")}
        pictures = {name: read_image(file) for name, file in files.items() if file.is_file()}
        # The names of the epochs' validation scores are taken.
        scores = {re.sub("^val/", "best_val/", name): value for name, value in final.items()}
        log_results(logger, scores, pictures, step)


def log_weights(config: Config, network: FasterRCNN, loaded: LoadReport | None) -> None:
    """Say which weights a run starts from."""
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
    """Say where a run goes on, or that nothing is left to do."""
    done, epochs = progress.done, schedule.total(progress)
    if schedule.finished(progress):
        log.info("the schedule has ended after %d epochs", done)
    elif done < epochs:
        log.info("going on after epoch %d of %d", done, epochs)
    else:
        log.info("all %d epochs are done; a larger trainer.max_epochs goes on", epochs)


def main() -> None:
    """The command: hands the monitored score to Hydra's sweepers."""

    def job(cfg: DictConfig) -> float | None:
        return train(cfg).get(cfg.monitor)  # None of a dry run

    run_verb("train", job)


if __name__ == "__main__":
    main()
