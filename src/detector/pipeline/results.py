"""Score a split and write it: metrics.json, analysis.json, suspects.csv, pictures, the report."""

from __future__ import annotations

import csv
import logging
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from detector.config.schema import Config, plain
from detector.core.errors import RequestError
from detector.core.files import write_json
from detector.core.run_folder import RunFolder
from detector.core.version import __version__
from detector.data.read import DataSet
from detector.evaluation.analysis import BEST, analyse
from detector.evaluation.comparison import Difference, sentence
from detector.evaluation.curves import curves
from detector.evaluation.matching import Matches
from detector.evaluation.ranking import outcomes
from detector.evaluation.thresholds import choose, thresholds_content
from detector.pipeline.console_summary import print_scores, score_warnings
from detector.pipeline.external import write_detections
from detector.pipeline.leakage import leakage_of, leakage_sentence
from detector.pipeline.score import LEVEL, EvaluationInputs, Scored, score

if TYPE_CHECKING:
    from detector.report.draw import Boxes
    from detector.training.loggers import RunLogger

log = logging.getLogger(__name__)

PICTURED = 6  # images in detections.png
WEAKEST = 0.05  # score of detections that the gallery has
PACKAGES = ("torch", "torchvision", "lightning", "hotcoco", "pycocotools", "albumentations")


@dataclass(frozen=True)
class ReportContext:
    """Content of the report beside the scores.

    Attributes:
        command: `train` or `evaluate`.
        config: Configuration in force.
        commands: Commands to type next, each after a word for it.
        data: The data set, if there is one.
        training: Training history from `history.read_training`, if the detector was trained here.
        train_seconds: Training time, seconds.
        thresholds: Content of the thresholds.json that the training wrote; None if there is none.
        same_data: Whether the split belongs to the data set of the training.
        title: Name of the data in the report; None: that of the data set.
        image_names: What each image is called, where there is no data set.
        compared: What the detector and its baseline are called.
        settings: Settings in which the two differ, from `comparison.differing_settings`; None where
            they have none, as files of detections.
        own_detections: Whether the network made the detections, so that they are worth keeping.
    """

    command: str
    config: Config
    commands: Sequence[tuple[str, str]]
    data: DataSet | None = None
    training: dict[str, Any] | None = None
    train_seconds: float | None = None
    thresholds: Mapping[str, Any] | None = None
    same_data: bool = True
    title: str | None = None
    image_names: Sequence[str] = ()
    compared: tuple[str, str] = ("", "")
    settings: Sequence[Mapping[str, Any]] | None = None
    own_detections: bool = True


def evaluate(
    inputs: EvaluationInputs, context: ReportContext, folder: RunFolder
) -> dict[str, float]:
    """Score detections of any origin, write everything into a folder, and print the summary.

    An interrupted run leaves what was there before; results of an earlier evaluation are replaced.
    If the process is killed while files are replaced, there is no metrics.json.

    Args:
        inputs: Detections and ground truth.
        context: Content of the report beside the scores.
        folder: Folder of the results, which exists.

    Returns:
        COCO's scores, and VOC's as `voc_<name>`.
    """
    scored = score(inputs, context.config.resamples)
    with folder.replace() as draft:
        content, where, warnings = _write(scored, context, folder, draft)
    print_scores(scored, content, where, warnings)
    log.info("metrics: %s", folder.metrics_json)
    log.info("report: %s", folder.report)
    return scored.flat


def _write(
    scored: Scored, context: ReportContext, folder: RunFolder, draft: RunFolder
) -> tuple[dict[str, Any], str, list[str]]:
    """Write all files into a draft folder.

    Returns:
        Content of metrics.json, where the thresholds come from, and warnings about the scores.
    """
    inputs, names = scored.inputs, scored.inputs.classes.names
    chosen = None if context.thresholds is None else choose(context.thresholds, names)
    where = _threshold_source(inputs.split, context)
    matches, probable = _with_probabilities(scored.matches)
    gallery_size = context.config.gallery
    analysis = analyse(matches, names, chosen, threshold_source=where, pictures=gallery_size)
    if not probable:
        analysis["calibration"] = {"d_ece": math.nan, "bins": []}
    gallery, per_class = analysis.pop("gallery"), analysis.pop("per_class")
    scored = replace(scored, matches=matches)
    files = _image_names(inputs, context)
    for suspect in analysis["suspects"]:
        suspect["file"] = files[suspect["image"]]
    content = _headline(scored, context, per_class)
    write_json(draft.metrics_json, content)
    write_json(draft.analysis, analysis)
    _write_suspects(draft.label_errors, analysis["suspects"])
    _write_own(scored, context, draft, probable=probable)
    thresholds = [row["threshold"] for row in content["per_class"].values()]
    _draw_some(scored, thresholds, draft.detections_png)
    whole = _report_content(scored, context, content, analysis, folder)
    _write_report(draft.report, whole, _pictures(scored, gallery, files))
    return content, where, [*filter(None, [whole["leak"]]), *whole["warnings"]]


def _image_names(inputs: EvaluationInputs, context: ReportContext) -> Sequence[str]:
    """Name of each image."""
    return inputs.images.files(context.data.root) if context.data else context.image_names


def _write_own(scored: Scored, context: ReportContext, draft: RunFolder, *, probable: bool) -> None:
    """Write what an evaluation adds: a training keeps its thresholds beside its checkpoints."""
    if context.command != "evaluate":
        return
    inputs = scored.inputs
    if context.own_detections and context.data:
        rest = inputs.images, inputs.classes, context.data.root
        write_detections(draft.detections_json, scored.matches.detections, *rest)
    if probable:
        here = thresholds_of(scored.matches, inputs.classes.names, inputs.split)
        write_json(draft.thresholds, here)


def _threshold_source(split: str, context: ReportContext) -> str:
    """Which thresholds precision and recall are measured at, in words."""
    points = context.thresholds
    if points is None or (context.same_data and points["split"] == split):
        return f"{BEST} this very split"
    return f"{BEST} the training's {points['split']} split"


def _with_probabilities(matches: Matches) -> tuple[Matches, bool]:
    """Matches with scores rescaled to 0..1, and whether they were in that range already."""
    scores = matches.detections.scores
    if not len(scores) or (scores.min() >= 0 and scores.max() <= 1):
        return matches, True
    scaled = (scores - scores.min()) / max(np.ptp(scores), 1e-12)
    return replace(matches, detections=replace(matches.detections, scores=scaled)), False


def thresholds_of(matches: Matches, names: Sequence[str], split: str) -> dict[str, Any]:
    """Content of thresholds.json: precision and recall over the score, measured on a split."""
    images = len(matches.ground_truth.images)
    each = curves(matches, len(names))
    return thresholds_content(split, images, names, each)


def _headline(
    scored: Scored, context: ReportContext, per_class: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Content of metrics.json."""
    intervals = None
    if scored.resampled is not None:
        intervals = {"level": LEVEL, "resamples": context.config.resamples} | {
            name: scored.interval(name) for name in ("map", "map_50")
        }
    names = scored.inputs.classes.names
    rows = {
        name: {
            **scored.scores.per_class[label - 1],
            **{f"{key}_interval": scored.interval(key, label) for key in ("ap", "ap_50")},
            **per_class[name],
        }
        for label, name in enumerate(names, start=1)
    }
    return {
        "split": scored.inputs.split,
        "images": len(scored.matches.ground_truth.images),
        "protocol": scored.scores.protocol,
        **scored.scores.overall,
        "intervals": intervals,
        "per_class": rows,
        "comparison": _comparison(scored, context),
        "leakage": leakage_of(context.data, scored.inputs.split),
        "seconds": {"train": context.train_seconds, "evaluate": scored.seconds},
        "environment": environment(),
    }


def _comparison(scored: Scored, context: ReportContext) -> dict[str, Any] | None:
    """The comparison as plain data."""
    found = scored.comparison
    if found is None:
        return None
    named = [("mAP", found.map), ("AP50", found.map_50)]
    pairs = zip(scored.inputs.classes.names, found.ap, strict=True)
    named += [(f"AP of {name}", one) for name, one in pairs]
    a, b = context.compared
    rows = [_difference(name, one) for name, one in named]
    said = sentence(found.map)
    return {"a": a, "b": b, "sentence": said, "rows": rows, "settings": context.settings}


def _difference(name: str, one: Difference) -> dict[str, Any]:
    """A row of the comparison."""
    bounds = None if one.interval is None else list(one.interval)
    values = {"a": one.a, "b": one.b, "difference": one.difference, "interval": bounds}
    return {"name": name, **values}


def _write_suspects(file: Path, suspects: Sequence[Mapping[str, Any]]) -> None:
    """A table of labels that may be wrong, the most suspicious first."""
    columns = ("kind", "file", "class", "truth", "suspicion", "x1", "y1", "x2", "y2")
    with file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for one in suspects:
            words = [one["kind"], one["file"], one["class"], one.get("truth", "")]
            numbers = [round(one["suspicion"], 4), *(round(x, 1) for x in one["box"])]
            writer.writerow([*words, *numbers])


def _write_report(file: Path, content: dict[str, Any], pictures: list[Any]) -> None:
    """Write the report."""
    from detector.report.run_page import write_run_page

    file.parent.mkdir(exist_ok=True)
    write_run_page(file, content, pictures)


def _report_content(
    scored: Scored,
    context: ReportContext,
    content: Mapping[str, Any],
    analysis: Mapping[str, Any],
    folder: RunFolder,
) -> dict[str, Any]:
    """Content of the report, as plain data."""
    ground_truth, data = scored.matches.ground_truth, context.data
    root = None if data is None else str(data.root)
    splits = {} if data is None else data.splits
    title = context.title or root or context.config.name
    own = context.own_detections
    limit = context.config.model.most_detections if own else None
    return {
        **content,
        **analysis,
        "command": context.command,
        "leak": leakage_sentence(context.data, scored.inputs.split, len(scored.inputs.images)),
        "warnings": score_warnings(scored, content, limit),
        "title": Path(title).name,
        "created": f"{datetime.now():%Y-%m-%d %H:%M}",
        "folder": str(folder),
        "truths": int((~ground_truth.ignore).sum()),
        "ignored": int(ground_truth.ignore.sum()),
        "detections": len(scored.matches.detections.labels),
        "classes": list(scored.inputs.classes.names),
        "training": context.training,
        "data": {
            "root": root or context.title,
            "recognised": "" if data is None else data.recognised,
            "splits": {
                name: {"images": len(split), "boxes": len(split.labels)}
                for name, split in splits.items()
            },
            "left_out": 0 if data is None else sum(f.count for f in data.issues.of("error")),
        },
        "config": OmegaConf.to_yaml(OmegaConf.create(plain(context.config))),
        "commands": [{"what": what, "command": command} for what, command in context.commands],
    }


def _pictures(
    scored: Scored, gallery: Sequence[Mapping[str, Any]], files: Sequence[str]
) -> list[Any]:
    """Pictures of the gallery, for images that can be read."""
    from detector.data.images.pixels import read_image
    from detector.report.gallery import SIDE, Picture, shrink

    ground_truth, found = scored.matches.ground_truth, scored.matches.detections
    kept = found.scores >= WEAKEST
    came, match_scores = outcomes(scored.matches)
    pictures = []
    for choice in gallery:
        index = choice["image"]
        path = str(scored.inputs.images.paths[index])
        if not path:
            continue
        try:
            image = read_image(Path(path))
        except RequestError as error:  # beside a truth, where nothing but pictures needs it
            log.warning("not pictured: %s", error)
            continue
        labels, boxes = _boxes(scored, index, kept)
        pictures.append(
            Picture(
                index=index,
                name=files[index],
                reasons=tuple(choice["reasons"]),
                note=choice["note"],
                image=shrink(image, SIDE),
                size=(image.shape[0], image.shape[1]),
                ground_truth=labels,
                predictions=boxes,
                match_scores=match_scores[ground_truth.image == index],
                outcomes=came[(found.image == index) & kept],
            )
        )
    return pictures


def _boxes(scored: Scored, index: int, kept: NDArray[np.bool_]) -> tuple[Boxes, Boxes]:
    """Ground truth and kept detections of an image, to be drawn."""
    from detector.report.draw import Boxes

    ground_truth, found = scored.matches.ground_truth, scored.matches.detections
    there, rows = ground_truth.image == index, (found.image == index) & kept
    return (
        Boxes(
            ground_truth.boxes[there], ground_truth.labels[there], ignore=ground_truth.ignore[there]
        ),
        Boxes(found.boxes[rows], found.labels[rows], found.scores[rows]),
    )


def _draw_some(scored: Scored, thresholds: Sequence[float], file: Path) -> None:
    """Draw some images, ground truth beside detections; nothing if no image can be read."""
    from detector.data.images.pixels import read_image
    from detector.report.draw import Panel, draw_sheet

    ground_truth, found = scored.matches.ground_truth, scored.matches.detections
    seen = ground_truth.images[scored.inputs.images.paths[ground_truth.images] != ""]
    chosen = np.linspace(0, len(seen) - 1, min(PICTURED, len(seen))).round().astype(int)
    strong = found.scores >= np.array(thresholds)[found.labels - 1]
    panels = []
    for index in seen[chosen].tolist():
        labels, boxes = _boxes(scored, index, strong)
        path = Path(str(scored.inputs.images.paths[index]))
        try:
            panels.append(Panel(path.name, read_image(path), labels, boxes))
        except RequestError:
            continue
    if panels:
        lowest = f"score >= {thresholds[0]:g}" if len(thresholds) == 1 else "scores of best F1"
        draw_sheet(panels, scored.inputs.classes.names, lowest, file)


def environment() -> dict[str, Any]:
    """Versions and machine that the scores were computed with."""
    return {
        "detector": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def log_to(logger: RunLogger, scores: Mapping[str, float], folder: RunFolder, step: int) -> None:
    """Log final scores and pictures.

    Args:
        logger: Logger of the run.
        scores: Scores by name.
        folder: Folder of the pictures.
        step: Number of optimiser steps done.
    """
    from detector.data.images.pixels import read_image

    if logger.lightning is None:
        return
    files = {"detections": folder.detections_png, "schedule": folder.schedule}
    pictures = {name: read_image(file) for name, file in files.items() if file.is_file()}
    logger.log_results(scores, pictures, step)
