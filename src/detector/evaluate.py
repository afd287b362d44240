"""`python -m detector.evaluate ckpt=RUN`: the figures of a checkpoint on a split.

`predictions=FILE truth=FILE` gives those of any tool's detections.
"""

from __future__ import annotations

from omegaconf import DictConfig

from detector import inputs, predictions, request
from detector.checkpoint import checkpoint_path, load_checkpoint
from detector.cli import run_verb
from detector.config import Config


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluate a checkpoint, or score any tool's detections.

    Args:
        cfg: From Hydra or `detector.cli.compose`, with `output_dir` set.

    Returns:
        COCO's and VOC's numbers, fractions in 0..1.

    Raises:
        RequestError: If the request is wrong.
    """
    config = request.resolve("evaluate", cfg)
    if config.predictions:
        return _score_predictions(config, cfg)
    data = inputs.usable_data(config, request.wanted_split("evaluate", config))
    (split,) = data.splits

    from detector import build
    from detector.data.images import read_image
    from detector.logger import build_logger, log_results, opened
    from detector.scoring import score

    task = build.load_task("evaluate", config)
    step = int(load_checkpoint(checkpoint_path("evaluate", str(config.ckpt)))["global_step"])
    folder = request.output_folder(cfg)
    inputs.describe_data(data)
    module = build.build_datamodule(config, data.splits)
    logger = build_logger(config.logger, folder)
    with opened(logger, config, folder):
        scores = score(config, task, module, split, folder, written_for=data)
        named = {f"{split}/{name}": value for name, value in scores.items()}
        picture = read_image(folder / "detections.png")
        log_results(logger, named, {"detections": picture}, step)
    return scores


def _score_predictions(config: Config, cfg: DictConfig) -> dict[str, float]:
    """Score a file of detections; no network is needed, nor torch."""
    contest = predictions.read_contest(config)

    from detector.scoring import score_arrays

    folder = request.output_folder(cfg)
    predictions.describe_contest(config, contest)
    return score_arrays(
        config,
        contest.detections,
        contest.truth,
        contest.classes,
        contest.images,
        contest.split,
        folder,
    )


if __name__ == "__main__":
    run_verb("evaluate", evaluate)
