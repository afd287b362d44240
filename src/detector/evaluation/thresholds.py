"""Score thresholds of a checkpoint: thresholds.json and the choice of thresholds from it.

Its values were measured on one split, at IoU 0.5; on other images precision and recall differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detector.core.errors import RequestError
from detector.evaluation.curves import GRID, Curve, best_threshold, threshold_for

IOU = 0.5


def thresholds_content(
    split: str, images: int, names: Sequence[str], each: Sequence[Curve]
) -> dict[str, Any]:
    """Content of thresholds.json, to be written as JSON with NaN as null.

    Args:
        split: Name of the split where it was measured.
        images: Number of images of the split.
        names: Class names.
        each: Curve of each class.

    Returns:
        `split`, `images`, `iou`, `thresholds` (the grid) and `classes`: by name `best`
        (`threshold`, `precision`, `recall`, `f1`), `precision` and `recall` over the grid. For a
        class without ground truth the curves are empty, and `best` is a threshold of 0.5 with NaN.
    """
    classes = {}
    for name, curve in zip(names, each, strict=True):
        best = best_threshold(curve)
        values = curve.at(best) if curve.positives else (math.nan,) * 3
        classes[name] = {
            "best": {
                "threshold": best,
                **dict(zip(("precision", "recall", "f1"), values, strict=True)),
            },
            "precision": curve.precision.tolist() if curve.positives else [],
            "recall": curve.recall.tolist() if curve.positives else [],
        }
    return {
        "split": split,
        "images": images,
        "iou": IOU,
        "thresholds": GRID.tolist(),
        "classes": classes,
    }


def read_thresholds(file: Path) -> dict[str, Any]:
    """Read thresholds.json and validate its content against that of `thresholds_content`.

    Raises:
        RequestError: If it cannot be read or is invalid; the message names the file and the issue.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "no JSON"
        raise RequestError(f"{file}: cannot be read as score thresholds ({reason})") from error
    if issue := _issue(content):
        raise RequestError(f"{file}: {issue}")
    assert isinstance(content, dict)
    return {**content, "file": str(file)}


def choose(
    content: Mapping[str, Any],
    names: Sequence[str],
    *,
    precision: float | None = None,
    recall: float | None = None,
) -> list[float]:
    """The score threshold of every class: that of the highest F1, or for a minimum value.

    Args:
        content: Content of thresholds.json.
        names: Class names in the order of their labels.
        precision: Minimum precision of each class; or
        recall: minimum recall. Not both.

    Returns:
        A threshold for each class; 0.5 for classes without ground truth (`unmeasured`).

    Raises:
        RequestError: If a class is missing or cannot reach the minimum.
    """
    where = content.get("file", "thresholds.json")
    if precision is not None and recall is not None:
        raise RequestError(
            f"min_precision={precision} and min_recall={recall}: expected one of the two"
        )
    missing = [name for name in names if name not in content["classes"]]
    if missing:
        raise RequestError(f"{where}: has no class {missing[0]!r}, so it is of another checkpoint")
    chosen = []
    for name in names:
        row = content["classes"][name]
        threshold = row["best"]["threshold"]
        if (precision is not None or recall is not None) and row["precision"]:
            curves = (np.array(row[key], np.float64) for key in ("precision", "recall"))
            threshold = threshold_for(*curves, precision=precision, recall=recall)
        if threshold is None:
            key = "recall" if precision is None else "precision"
            most = max((value for value in row[key] if _number(value)), default=0.0)
            raise RequestError(
                f"min_{key}={recall if precision is None else precision}: class {name!r} reaches "
                f"at most {math.floor(1000 * most) / 1000:g} on {content['split']} ({where})"
            )
        chosen.append(float(threshold))
    return chosen


def unmeasured(content: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Classes without ground truth, whose thresholds could not be measured."""
    return [name for name in names if not content["classes"][name]["precision"]]


def _issue(content: Any) -> str | None:
    """What is wrong with the content of a file; None if it is valid."""
    if not isinstance(content, dict):
        return "is not an object"
    if not isinstance(content.get("split"), str):
        return "split is not a name"
    images = content.get("images")
    if not isinstance(images, int) or isinstance(images, bool) or images < 0:
        return "images is not a number of images"
    if content.get("iou") != IOU:
        return f"iou is not {IOU}"
    if content.get("thresholds") != GRID.tolist():
        return f"thresholds are not 0 to 1 in {len(GRID) - 1} steps"
    classes = content.get("classes")
    if not isinstance(classes, dict) or not classes:
        return "classes is not an object with classes"
    issues = (_class_issue(name, row) for name, row in classes.items())
    return next((issue for issue in issues if issue), None)


def _class_issue(name: str, row: Any) -> str | None:
    """What is wrong with the entry of a class; None if it is valid."""
    if not isinstance(row, dict):
        return f"class {name!r} is not an object"
    best = row.get("best")
    if not isinstance(best, dict) or not _number(best.get("threshold")):
        return f"class {name!r} has no best threshold from 0 to 1"
    for key in ("precision", "recall", "f1"):
        if not _number(best.get(key)) and not _undefined(best.get(key)):
            return f"class {name!r} has a best {key} that is not from 0 to 1"
    lengths = set()
    for key in ("precision", "recall"):
        values = row.get(key)
        if not isinstance(values, list) or len(values) not in (0, len(GRID)):
            return f"class {name!r} has no {key} for every threshold"
        if not all(_number(value) or _undefined(value) for value in values):
            return f"class {name!r} has a {key} that is not from 0 to 1"
        lengths.add(len(values))
    return None if len(lengths) == 1 else f"class {name!r} has only one of precision and recall"


def _number(value: Any) -> bool:
    """Whether it is a number from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _undefined(value: Any) -> bool:
    """Whether it is null (in a file) or NaN (in memory)."""
    return value is None or (isinstance(value, float) and math.isnan(value))
