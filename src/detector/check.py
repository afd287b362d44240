"""`python -m detector.check data.root=DIR`: what is wrong with a data set, and worth knowing."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pydantic.dataclasses import dataclass
from rich.table import Table
from rich.text import Text

from detector.cli import run_verb
from detector.config.schema import Config
from detector.core.console import log_table
from detector.core.files import write_json
from detector.core.options import STRICT
from detector.pipeline import check_data, load_data, request

log = logging.getLogger(__name__)

EXAMPLES = 3  # of every kind, on the terminal
NAMED = 12  # classes of a split, on the terminal
PREVIEWED = 16  # images


@dataclass(config=STRICT, frozen=True, kw_only=True)
class CheckKeys(Config):
    """The configuration of a check of a data set."""

    preview: bool = False
    """Also write preview.png, a sheet of augmented training images."""


KEYS = CheckKeys


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
    with request.output_folder("check", cfg) as folder:
        key = check_data.fingerprint(config)
        content = check_data.reuse(key, folder)
        if content is None:
            content = _check_anew(config, folder)
            check_data.keep(key, folder)
        else:
            log.info("nothing has changed since the last check: this is what it found")
        _print(content)
        if config.preview:
            log.info("preview: %s", _write_preview(config, folder))
        log.info("all findings: %s", folder / "check.json")
        log.info("page: %s", folder / "check.html")
        log.info("%s", next_step(content, cfg.overrides))
    return content


def _check_anew(config: CheckKeys, folder: Path) -> dict[str, Any]:
    from detector.report.page import write_check_page

    data = load_data.read_data(config, keep=config.preview)
    content, thumbnails = check_data.inspect(config, data)
    write_json(folder / "check.json", content)
    write_check_page(folder / "check.html", content, thumbnails)
    return content


def _print(content: dict[str, Any]) -> None:
    """The findings as a table."""
    log.info("%s: %s", content["root"], content["recognised"])
    for line in content["division"]:
        log.info("%s", line)
    for name, split in content["splits"].items():
        counts = [f"{name} {count}" for name, count in split["per_class"].items()]
        if len(counts) > NAMED:
            counts[NAMED:] = [f"and {len(counts) - NAMED} more classes"]
        boxes = f"{split['boxes']} boxes: {', '.join(counts)}"
        log.info("%-5s %d images, %s", name, split["images"], boxes)
    if content["findings"]:
        table = Table(title="findings", title_justify="left", show_lines=True)
        for heading in ("", "count", "kind", "examples"):
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


def next_step(content: dict[str, Any], overrides: Sequence[object]) -> str:
    """What to do after a check: the command that trains, or what to mend before.

    Args:
        content: What check.json holds.
        overrides: What was typed for the check; training needs the same keys.
    """
    typed = [str(word) for word in overrides]
    keys = [word for word in typed if not re.match(r"[+~]*(hydra[./]|preview\b)", word)]
    command = ["python", "-m", "detector.train", *keys]
    errors = content["summary"]["errors"]
    if not errors:
        return f"next: {shlex.join(command)}"
    fatal = [f["kind"] for f in content["findings"] if f["kind"] in load_data.FATAL]
    if fatal:
        return f"next: mend what data.on_bad=skip cannot leave out ({', '.join(fatal)})"
    skip = "data.on_bad=skip"
    way_out = shlex.join(dict.fromkeys([*command, skip]))
    faults = "1 error" if errors == 1 else f"the {errors} errors"
    return f"next: mend {faults}, or train without what they concern:\n  {way_out}"


def _print_model(model: dict[str, Any] | None) -> None:
    """What the network would see."""
    if model is None:
        return
    if model["crowded"]:
        log.warning("%s", model["crowded"])
    lost, anchors = model["lost"], model["anchors"]
    log.info(
        "at data.image_size=%d, resizing loses %.1f %% of the training boxes and augmentation "
        "%.1f %%",
        *(model["image_size"], 100 * lost["by_resizing"], 100 * lost["by_augmentation"]),
    )
    if anchors is None:
        return
    log.info(
        "anchors reach IoU 0.5 for %.1f %% of the boxes, 0.7 for %.1f %%",
        *(100 * anchors["recall_50"], 100 * anchors["recall_70"]),
    )
    if (better := anchors["suggestion"]) is not None:
        keys = better["override"].split()
        log.info(
            "others would reach IoU 0.5 for %.1f %% of the boxes, 0.7 for %.1f %%:\n  %s",
            *(100 * better["recall_50"], 100 * better["recall_70"], shlex.join(keys)),
        )


def _write_preview(config: CheckKeys, folder: Path) -> Path:
    """A sheet of training images as the network would get them."""
    import numpy as np

    from detector.data.loading.sampler import Draw
    from detector.pipeline import build
    from detector.report.draw import Boxes, draw_preview

    data = load_data.read_data(config)
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
