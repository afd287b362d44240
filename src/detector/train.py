"""`python -m detector.train`: train a detector, then evaluate its best checkpoint."""

from __future__ import annotations

import logging

from omegaconf import DictConfig, OmegaConf

from detector import inputs, request
from detector.cli import run_verb
from detector.config import plain
from detector.output import write_json


def train(cfg: DictConfig) -> dict[str, float]:
    """Train and evaluate.

    Args:
        cfg: From Hydra or `detector.cli.compose`, with `output_dir` set.

    Returns:
        The best validation score by its name, and the final scores as `test/<name>` (`val/<name>`
        where there is no test split); fractions in 0..1.

    Raises:
        RequestError: If the request is wrong.
    """
    config = request.resolve("train", cfg)
    data_set = inputs.usable_data(config)
    schedule = request.read_schedule(config)
    resumed = request.checkpoint_path("train", config.ckpt) if config.ckpt else None
    folder = request.output_folder(cfg)

    import lightning.pytorch as pl

    from detector import build
    from detector.finetune.callback import StagedFinetuning
    from detector.progress import RunProgress
    from detector.scoring import score

    pl.seed_everything(config.seed, workers=True, verbose=False)
    task = build.build_task(config, data_set.classes, pretrained=resumed is None)
    optim = config.optim
    finetuning = StagedFinetuning(schedule, optim.lr, config.data.batch_size, optim.reference_batch)
    progress = RunProgress(folder, schedule, ["python", "-m", "detector.train", f"ckpt={folder}"])
    best, last = build.build_checkpoints(folder / "checkpoints", config.monitor)
    # `last` comes last, so that it holds what the others know of the epoch.
    callbacks = [finetuning, progress, best, last]
    trainer = build.build_trainer(config, folder, callbacks, schedule.epochs)
    if trainer.is_global_zero:
        OmegaConf.save(OmegaConf.create(plain(config)), folder / "config.yaml")
        inputs.describe_data(data_set)
        if data_set.divided:
            write_json(
                folder / "splits.json", {"root": str(data_set.root), "splits": data_set.files()}
            )
    else:
        logging.getLogger("detector").setLevel(logging.WARNING)  # one process speaks
    data = build.build_datamodule(config, data_set.splits)
    if resumed is not None:
        build.log_resume(resumed, schedule.epochs)
        if trainer.is_global_zero and resumed.parent != folder / "checkpoints":
            build.copy_best(resumed, folder / "checkpoints")
    try:
        trainer.fit(task, data, ckpt_path=resumed, weights_only=True)
    except SystemExit as end:  # Lightning's way to end after Ctrl-C
        raise KeyboardInterrupt from end

    build.load_weights(task, folder / "checkpoints" / "best.ckpt")
    split = "test" if "test" in data_set.splits else "val"
    final = score(config, task, data, split, folder, train_seconds=progress.seconds)
    best_score = float(best.best_model_score) if best.best_model_score is not None else 0.0
    return {config.monitor: best_score, **{f"{split}/{k}": value for k, value in final.items()}}


def main() -> None:
    """The command: hands the monitored score to Hydra's sweepers."""

    def job(cfg: DictConfig) -> float:
        return train(cfg)[cfg.monitor]

    run_verb("train", job)


if __name__ == "__main__":
    main()
