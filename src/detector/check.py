"""`python -m detector.check data.root=DIR`: what is wrong with a data set, and worth knowing."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import DictConfig
from pydantic.dataclasses import dataclass as options
from rich.table import Table
from rich.text import Text

from detector.config.resolve import resolve
from detector.config.schema import Config
from detector.core.console import log_table
from detector.core.files import write_json
from detector.core.options import STRICT
from detector.core.run_folder import RunFolder
from detector.data.read import Reading
from detector.pipeline import fitting, load_data, request_checks
from detector.pipeline.check_data import inspect, write_preview
from detector.pipeline.command import Outcome

log = logging.getLogger(__name__)

EXAMPLES = 3  # of every kind, on the terminal
NAMED = 12  # classes of a split, on the terminal


@options(config=STRICT, frozen=True, kw_only=True)
class CheckKeys(Config):
    """Check a data set before it costs a training run.

    Examples:
      python -m detector.check data.root=DIR
      python -m detector.check data.root=DIR preview=true augment=strong
      python -m detector.check data=yolo data.root=DIR data.image_size=640
    """

    shown: ClassVar[tuple[str, ...]] = (
        *("data.root", "data.format", "data.splits.train", "data.splits.val", "data.splits.test"),
        *("data.auto_split.val", "data.auto_split.test", "data.auto_split.group", "data.classes"),
        *("data.image_size", "data.download", "model.in_channels", "model.anchor_scales"),
        *("model.anchor_ratios", "augment.min_visibility"),
    )

    preview: bool = False
    """Also write preview.png, a sheet of augmented training images."""


KEYS = CheckKeys


@dataclass(frozen=True)
class Prepared:
    """A request to check data that was found good.

    Attributes:
        config: Configuration in force.
        reading: The data set, whose annotation files have been read.
        overrides: Keys as typed.
    """

    config: CheckKeys
    reading: Reading
    overrides: list[str]


def prepare(cfg: DictConfig) -> Prepared:
    """Check a request to check data.

    Args:
        cfg: As composed, with `overrides`.

    Raises:
        RequestError: If there is nothing to check; errors in the data are part of the answer.
    """
    config = resolve(KEYS, cfg)
    request_checks.check_backbone(config)
    reading = load_data.open_data(config)
    load_data.validate(reading, briefly=True)
    request_checks.check_augmentation(config)
    return Prepared(config, reading, list(map(str, cfg.overrides)))


def run(prepared: Prepared, folder: RunFolder) -> Outcome:
    """Check a data set, and write check.json, check.html and, if asked for, preview.png.

    Args:
        prepared: Result of `prepare`.
        folder: Folder for the outputs.

    Returns:
        The content of check.json; exit code 1 where there are errors.
    """
    from detector.report.page import write_check_page

    data = load_data.validate(prepared.reading)
    config, fitted = fitting.fit(prepared.config, data)
    content, thumbnails = inspect(config, data, fitted)
    write_json(folder.check_json, content)
    write_check_page(folder.check_html, content, thumbnails)
    _print(content)
    if config.preview:
        write_preview(config, data, folder.preview)
        log.info("preview: %s", folder.preview)
    log.info("all findings: %s", folder.check_json)
    log.info("page: %s", folder.check_html)
    log.info("%s", next_step(content, prepared.overrides))
    return Outcome(content, exit_code=1 if content["summary"]["errors"] else 0)


def _print(content: dict[str, Any]) -> None:
    """Log what was found."""
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
        _print_findings(content["findings"])
    if content["model"] is not None:
        _print_model(content["model"], content["fitted"])
    log.info("%d errors, %d leakage, %d warnings", *content["summary"].values())


def _print_findings(findings: Sequence[dict[str, Any]]) -> None:
    """Log the findings as a table."""
    table = Table(title="findings", title_justify="left", show_lines=True)
    for heading in ("", "count", "kind", "examples"):
        table.add_column(heading, justify="right" if heading == "count" else "left")
    for finding in findings:
        items = finding["items"][:EXAMPLES]
        lines = [f"{i['file']}: {i['message']}" if i["file"] else i["message"] for i in items]
        if finding["count"] > len(lines):
            lines.append(f"... and {finding['count'] - len(lines)} more")
        # As text: names in brackets are not markup.
        cells = (finding["severity"], str(finding["count"]), finding["kind"], "\n".join(lines))
        table.add_row(*map(Text, cells))
    log_table(table, width=120)


def next_step(content: dict[str, Any], overrides: Sequence[str]) -> str:
    """What to do after a check: the command that trains, or what to mend before.

    Args:
        content: Content of check.json.
        overrides: Keys as typed for the check; training needs the same ones.
    """
    keys = [word for word in overrides if not re.match(r"[+~]*(hydra[./]|preview\b)", word)]
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


def _print_model(model: dict[str, Any], fitted: Sequence[str]) -> None:
    """Log what the network would see, and what training would fit to the data."""
    if model["crowded"]:
        log.warning("%s", model["crowded"])
    lost, anchors = model["lost"], model["anchors"]
    log.info(
        "at data.image_size=%d, resizing loses %.1f %% of the training boxes and augmentation "
        "%.1f %%",
        *(model["image_size"], 100 * lost["by_resizing"], 100 * lost["by_augmentation"]),
    )
    for line in fitted:
        log.info("%s", line)
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


if __name__ == "__main__":
    from detector.cli import run_command

    run_command("check")
