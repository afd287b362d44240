"""The report of a trained or evaluated detector: one self-contained HTML file."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median_low
from typing import Any

from detector.core.files import write_text
from detector.evaluation.metrics import METRICS
from detector.report import formatting, plot_table
from detector.report.gallery import REASONS, Picture, class_colors, describe, encode_pictures
from detector.report.render import environment, tidy

__all__ = ["Picture", "write_run_page"]

CONFUSIONS = 10  # confused pairs listed below the matrix
START = 0.5  # initial threshold of the gallery without ground truth
LOWEST = 0.05  # lowest threshold of the slider
MORE_LINES = 12  # rows of the longest table that does not scroll


def write_run_page(file: Path, content: dict[str, Any], pictures: Sequence[Picture]) -> None:
    """Write the page in one step: on failure nothing is left, and an older page stays.

    Args:
        file: An `.html` in a folder that exists.
        content: Results of the evaluation and of the training, if there was one; undefined numbers
            are None or NaN.
        pictures: Pictures of the gallery in their order; may be empty.
    """
    run = tidy(content)
    shown = [_pictured(picture, number, run) for number, picture in enumerate(pictures)]
    encoded = encode_pictures([picture.image for picture in pictures])
    colors = class_colors(len(run["classes"]))
    page = (
        environment()
        .get_template("run.html")
        .render(
            run=run,
            headline=headline(run),
            metrics=METRICS,
            colors=colors,
            plots=plot_table.PLOTS,
            figures=(figures := {plot.name: plot.draw(run) for plot in plot_table.PLOTS}),
            confused=(confused := _confused(run["confusion"]))[:CONFUSIONS],
            confusions=len(confused),
            suspects=_suspects(run["suspects"], shown),
            pictures=list(zip(shown, encoded, strict=True)),
            reasons={
                reason: sum(reason in picture["reasons"] for picture in shown) for reason in REASONS
            },
            threshold=_start(run["per_class"]),
            long=MORE_LINES,
            script={
                "figures": figures,
                "pictures": shown,
                "classes": run["classes"],
                "colors": colors,
            },
            plotly=_packed_plotly(),
        )
    )
    write_text(file, page)


def headline(run: Mapping[str, Any]) -> str:
    """The main result in one line."""
    images = formatting.many(run["images"], "image")
    if run["split"] in ("train", "val", "test"):
        images = formatting.many(run["images"], f"{run['split']} image")
    ap_50 = run["coco"]["map_50"]
    if not run["truths"]:
        return f"No AP: there are no boxes to find in {images}"
    if not run["detections"]:
        return f"Nothing was detected on {images}"
    bounds = formatting.interval((run["intervals"] or {}).get("map_50"))
    return f"AP50 {formatting.points(ap_50)}{f' ({bounds})' if bounds else ''} on {images}"


def _pictured(picture: Picture, number: int, run: Mapping[str, Any]) -> dict[str, Any]:
    """A picture without its pixels, with the suspected label errors in it."""
    suspects = [suspect for suspect in run["suspects"] if suspect["image"] == picture.index]
    pictured: dict[str, Any] = tidy(
        {
            "id": f"picture-{number + 1}",
            "index": picture.index,
            "name": picture.name,
            "note": picture.note,
            "reasons": list(picture.reasons),
            "suspects": [[*s["box"], s["kind"], s["class"], s["suspicion"]] for s in suspects],
            **describe(picture),
        }
    )
    return pictured


def _suspects(
    suspects: Sequence[Mapping[str, Any]], pictures: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], str | None]]:
    """Each suspected label error with the id of its picture, None if it is not in the gallery."""
    places = {picture["index"]: picture["id"] for picture in pictures}
    return [(suspect, places.get(suspect["image"])) for suspect in suspects]


def _confused(confusion: Mapping[str, Any]) -> list[tuple[str, str, int, float]]:
    """Confused pairs of classes, most frequent first.

    Each is the true class, the detected class, the count and the share of the true class.
    """
    names, matrix = confusion["labels"][:-1], confusion["matrix"]
    pairs = [
        (names[i], names[j], matrix[i][j], matrix[i][j] / sum(matrix[i]))
        for i in range(len(names))
        for j in range(len(names))
        if i != j and matrix[i][j]
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def _start(per_class: Mapping[str, Mapping[str, Any]]) -> float:
    """Initial threshold of the gallery: the median of those of the classes with ground truth."""
    thresholds = [row["threshold"] for row in per_class.values() if row["truths"]]
    return max(LOWEST, median_low(thresholds)) if thresholds else START


@cache
def _packed_plotly() -> str:
    """plotly.js, compressed to a third of its size; the page decompresses it."""
    # Slow to import.
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode("utf-8"), mtime=0)
    return base64.b64encode(packed).decode("ascii")
