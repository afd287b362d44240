"""`python -m detector.check data.root=DIR`: what is wrong with a data set, and worth knowing."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from detector import inputs, inspection, request
from detector.cli import run_verb
from detector.config import Config
from detector.output import log_table, write_json

log = logging.getLogger(__name__)

EXAMPLES = 3  # of every kind, on the terminal
PREVIEWED = 16  # images


def check(cfg: DictConfig) -> dict[str, Any]:
    """Check a data set, and write check.json, check.html and, if asked for, preview.png.

    Args:
        cfg: From Hydra or `detector.cli.compose`, with `output_dir` set.

    Returns:
        What check.json holds.

    Raises:
        RequestError: If there is nothing to check; faults are part of the answer.
    """
    config = request.resolve("check", cfg)
    folder = request.output_folder(cfg)
    key = inspection.fingerprint(config)
    content = inspection.reuse(key, folder)
    if content is None:
        content = _check_anew(config, folder)
        inspection.keep(key, folder)
    else:
        log.info("nothing has changed since the last check: this is what it found")
    _print(content)
    if config.preview:
        log.info("preview: %s", _write_preview(config, folder))
    log.info("all of it: %s", folder / "check.json")
    log.info("page: %s", folder / "check.html")
    return content


def _check_anew(config: Config, folder: Path) -> dict[str, Any]:
    from detector.report.page import write_check_page

    data = inputs.read_data(config, keep=config.preview)
    content, thumbnails = inspection.inspect(config, data)
    write_json(folder / "check.json", content)
    write_check_page(folder / "check.html", content, thumbnails)
    return content


def _print(content: dict[str, Any]) -> None:
    """The findings as a table."""
    log.info("%s: %s", content["root"], content["recognised"])
    for line in content["division"]:
        log.info("%s", line)
    for name, split in content["splits"].items():
        per_class = ", ".join(f"{n} {c}" for n, c in list(split["per_class"].items())[:12])
        log.info("%-5s %d images, %d boxes: %s", name, split["images"], split["boxes"], per_class)
    if content["findings"]:
        table = Table(title="found", title_justify="left", show_lines=True)
        for heading in ("", "count", "kind", "such as"):
            table.add_column(heading, justify="right" if heading == "count" else "left")
        for finding in content["findings"]:
            items = finding["items"][:EXAMPLES]
            lines = [f"{i['file']}: {i['message']}" if i["file"] else i["message"] for i in items]
            if finding["count"] > len(lines):
                lines.append(f"... and {finding['count'] - len(lines)} more")
            # As text: names in brackets are not markup.
            cells = (finding["severity"], str(finding["count"]), finding["kind"], "\n".join(lines))
            table.add_row(*map(Text, cells))
        log_table(table, width=120)
    _print_model(content["model"])
    summary = content["summary"]
    log.info("%d errors, %d leakage, %d warnings", *summary.values())


def _print_model(model: dict[str, Any] | None) -> None:
    """What the network would see."""
    if model is None:
        return
    if model["crowded"]:
        log.warning("%s", model["crowded"])
    lost, anchors = model["lost"], model["anchors"]
    log.info(
        "at data.image_size=%d: %.1f %% of the training boxes are lost by resizing, %.1f %% by "
        "augmentation",
        *(model["image_size"], 100 * lost["by_resizing"], 100 * lost["by_augmentation"]),
    )
    if anchors is None:
        return
    log.info(
        "anchors reach IoU 0.5 for %.1f %% of the boxes, 0.7 for %.1f %%",
        *(100 * anchors["recall_50"], 100 * anchors["recall_70"]),
    )
    if (better := anchors["suggestion"]) is not None:
        log.info(
            "better: %s (%.1f %%, %.1f %%)",
            *(better["override"], 100 * better["recall_50"], 100 * better["recall_70"]),
        )


def _write_preview(config: Config, folder: Path) -> Path:
    """A sheet of training images as the network would get them."""
    import numpy as np

    from detector import build
    from detector.data.sampler import Draw
    from detector.report.draw import Boxes, draw_preview

    data = inputs.read_data(config)
    samples = build.build_datamodule(config, data.splits).train_dataloader().dataset
    count = len(data.splits["train"])
    pictures = []
    for index in np.linspace(0, count - 1, min(PREVIEWED, count)).astype(int).tolist():
        image, target = samples[Draw(0, index)]
        name = Path(str(data.splits["train"].paths[index])).name
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        pictures.append((name, pixels, Boxes(target.boxes.numpy(), target.labels.numpy())))
    file = folder / "preview.png"
    draw_preview(pictures, data.classes.names, file)
    return file


def main() -> None:
    """The command: exit code 1 where there are errors."""
    errors: list[int] = []

    def job(cfg: DictConfig) -> None:
        errors.append(check(cfg)["summary"]["errors"])

    run_verb("check", job)
    sys.exit(1 if any(errors) else 0)


if __name__ == "__main__":
    main()
