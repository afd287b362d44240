"""The headline of a scored split on the terminal, and what to know of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from detector.core.console import log_table
from detector.evaluation.metrics import METRICS
from detector.pipeline.network_view import crowded
from detector.pipeline.score import Scored
from detector.report.formatting import setting

log = logging.getLogger(__name__)

TABLED = 40  # classes
NAMED = 5  # classes named in a warning
SETTINGS = 10  # that differ, on the terminal


def print_scores(
    scored: Scored, content: Mapping[str, Any], threshold_source: str, warnings: Sequence[str]
) -> None:
    """Log the scores as a table.

    Args:
        scored: The scored split.
        content: Content of metrics.json.
        threshold_source: Which thresholds precision and recall are measured at, in words.
        warnings: Warnings about the scores, a line each.
    """
    ground_truth, per_class = scored.matches.ground_truth, content["per_class"]
    images = f"{content['images']} image{'s' * (content['images'] != 1)}"
    title = f"{scored.inputs.split}: {images}, percent"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True, max_width=30)
    for heading in ("boxes", "mAP", "95 %", "AP50", "95 %", "precision", "recall"):
        table.add_column(heading, justify="right")
    for name, row in list(per_class.items())[:TABLED]:
        table.add_row(
            Text(name),
            str(row["truths"]),
            *(_percent(row["ap"]), _range(row["ap_interval"])),
            *(_percent(row["ap_50"]), _range(row["ap_50_interval"])),
            *(_percent(row["precision"]), _percent(row["recall"])),
        )
    if len(per_class) > TABLED:
        table.add_row(f"... and {len(per_class) - TABLED} more")
    table.add_section()
    coco = scored.scores.overall["coco"]
    bounds = content["intervals"] or {"map": None, "map_50": None}
    table.add_row(
        "all",
        str(int((~ground_truth.ignore).sum())),
        *(_percent(coco["map"]), _range(bounds["map"])),
        *(_percent(coco["map_50"]), _range(bounds["map_50"])),
    )
    log_table(table, width=100)
    for metric in METRICS:
        if metric.logged:
            values = scored.scores.overall[metric.key]
            said = [f"{title} {_percent(values[key])}" for key, title in metric.titles.items()]
            log.info("%s: %s", metric.name, ", ".join(said))
    log.info("precision and recall at %s", threshold_source)
    for line in warnings:
        log.warning("%s", line)
    if content["comparison"]:
        _print_comparison(content["comparison"])


def _print_comparison(comparison: Mapping[str, Any]) -> None:
    """Log a comparison's headline."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in ("A", "B", "B - A", "95 %"):
        table.add_column(heading, justify="right")
    for row in comparison["rows"][:2]:
        numbers = [_percent(row[key]) for key in ("a", "b", "difference")]
        table.add_row(row["name"], *numbers, _range(row["interval"]))
    log.info("A: %(a)s\nB: %(b)s", comparison)
    log_table(table, width=100)
    log.info("%s", comparison["sentence"])
    settings = comparison["settings"]
    if settings is None:  # files of detections have none
        return
    if not settings:
        log.info("A and B were trained with the same settings")
        return
    log.info("settings that differ (A, B):")
    for row in settings[:SETTINGS]:
        log.info("  %s: %s, %s", row["key"], *(_shortened(setting(row[k])) for k in ("a", "b")))
    if len(settings) > SETTINGS:
        log.info("  ... and %d more in the report", len(settings) - SETTINGS)


def score_warnings(scored: Scored, content: Mapping[str, Any], limit: int | None) -> list[str]:
    """Warnings that explain undefined, zero or imprecise scores, a line each.

    Args:
        scored: The scored split.
        content: Content of metrics.json.
        limit: Most detections in an image; None where another tool made them.
    """
    ground_truth = scored.matches.ground_truth
    there = set(ground_truth.labels[~ground_truth.ignore].tolist())
    absent = [n for k, n in enumerate(scored.inputs.classes.names, start=1) if k not in there]
    lines = []
    if len(ground_truth.images) < len(scored.inputs.images):
        lines.append(
            f"only {len(ground_truth.images)} of the {len(scored.inputs.images)} images were "
            "evaluated (trainer.limit_test_batches)"
        )
    if not len(scored.matches.detections.labels):
        lines.append("nothing was detected, so all scores are 0 or undefined")
    if not there:
        lines.append(f"{scored.inputs.split} has no true boxes: scores are undefined")
    elif absent:
        lines.append(f"no true boxes of {_some(absent)}: left out of all means over classes")
    if content["intervals"]:
        rows = content["per_class"]
        rare = [n for n in rows if n not in absent and rows[n]["ap_interval"] is None]
        if rare:
            lines.append(
                f"too few images for an interval: {_some(rare)}; those of the means are rough"
            )
    if limit is not None and (said := crowded({scored.inputs.split: scored.inputs.images}, limit)):
        lines.append(said)
    return lines


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _shortened(text: str, most: int = 40) -> str:
    """A text, cut if it is long."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _percent(value: float) -> str:
    """A fraction as a percentage."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _range(bounds: Sequence[float] | None) -> str:
    """An interval in percent."""
    return "-" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"
