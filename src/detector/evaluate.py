"""`python -m detector.evaluate ckpt=RUN`: the figures of a checkpoint on a split."""

from __future__ import annotations

from omegaconf import DictConfig

from detector import inputs, request
from detector.checkpoint import checkpoint_path, load_checkpoint
from detector.cli import run_verb


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluate a checkpoint.

    Args:
        cfg: From Hydra or `detector.cli.compose`, with `output_dir` set.

    Returns:
        COCO's and VOC's numbers, fractions in 0..1.

    Raises:
        RequestError: If the request is wrong.
    """
    config = request.resolve("evaluate", cfg)
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
    logger = build_logger(config.logger, folder)
    with opened(logger, config, folder):
        scores = score(config, task, build.build_datamodule(config, data.splits), split, folder)
        named = {f"{split}/{name}": value for name, value in scores.items()}
        picture = read_image(folder / "detections.png")
        log_results(logger, named, {"detections": picture}, step)
    return scores


if __name__ == "__main__":
    run_verb("evaluate", evaluate)
