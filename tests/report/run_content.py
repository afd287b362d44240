"""What a report is made of, small enough to be worked out by hand."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from detector.report.draw import Boxes
from detector.report.run_page import Picture, write_run_page

COCO = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)


def class_row(**parts):
    return {
        **{"truths": 3, "detections": 5, "ap": 0.4, "ap_50": 0.6},
        **{"ap_interval": [0.35, 0.45], "ap_50_interval": None},
        **{"voc_ap_50": 0.61, "voc_ap_50_11point": 0.62},
        **{"threshold": 0.5, "precision": 0.7, "recall": 0.8, "f1": 0.75},
    } | parts


def content(classes=("cat", "dog"), **parts):
    """Of two images; without training, comparison and suspects."""
    curve = {"precision": [0.2, 0.6, 1.0], "recall": [0.9, 0.8, 0.1], "f1": [0.33, 0.69, 0.18]}
    count = len(classes)
    matrix = np.full((count + 1, count + 1), 1) + 7 * np.eye(count + 1, dtype=int)
    matrix[-1, -1] = 0
    measures = {"truths": 3, "detections": 4, "recall": 0.5, "recall_any_score": 0.9}
    return {
        **{"verb": "evaluate", "remarks": [], "title": "pets", "created": "2026-11-23 02:10"},
        **{"folder": "outputs/pets", "split": "test", "images": 2, "truths": 6, "ignored": 0},
        **{"detections": 10, "classes": list(classes)},
        "protocol": {"coco": "COCO: as pycocotools does", "voc": "PASCAL VOC: as in 2010"},
        "coco": {name: 0.01 * i for i, name in enumerate(COCO, 40)},
        "voc": {"ap_50_11point": 0.55, "ap_50": 0.56},
        "intervals": {"level": 0.95, "resamples": 1000, "map": [0.3, 0.5], "map_50": [0.35, 0.47]},
        "per_class": {name: class_row() for name in classes},
        "curves": {
            "thresholds": [0.0, 0.5, 1.0],
            "all": curve,
            "classes": dict.fromkeys(classes, curve),
        },
        "recall_precision": {
            "recall": [0.0, 0.5, 1.0],
            "classes": {name: [1.0, 0.5, 0.0] for name in classes},
        },
        "sizes": [{"range": "< 16", "precision": 0.4, **measures}],
        "aspects": [{"range": "1:2 to 1:1", "precision": 0.4, **measures}],
        "operating_point": "the score threshold of best F1 of each class",
        "confusion": {"iou": 0.5, "labels": [*classes, "background"], "matrix": matrix.tolist()},
        "errors": {
            "ap_50": 0.41,
            "types": [
                {"name": "missed", "count": 9, "cost": 0.25, "meaning": "nothing found it"},
                {"name": "duplicate", "count": 2, "cost": 0.01, "meaning": "found again"},
            ],
        },
        "calibration": {
            "d_ece": 0.12,
            "bins": [
                {"low": 0.0, "high": 0.5, "confidence": 0.3, "precision": 0.2, "count": 8},
                {"low": 0.5, "high": 1.0, "confidence": None, "precision": None, "count": 0},
            ],
        },
        "suspects": [],
        "suspects_total": 0,
        "training": None,
        "data": {
            "root": "/data/pets",
            "recognised": "PASCAL VOC: lists train and test",
            "splits": {"train": {"images": 4, "boxes": 9}, "test": {"images": 2, "boxes": 6}},
            "left_out": 0,
        },
        "config": "seed: 0\n",
        "environment": {"torch": "2.14.1"},
        "seconds": {"train": None, "evaluate": 12.0},
        "commands": [{"what": "evaluate it again", "command": "python -m detector.evaluate"}],
        "comparison": None,
    } | parts


def training(epochs=3):
    """Two phases: one epoch of the head, then the rest of all."""
    rows = [
        {
            "epoch": epoch,
            "phase": "head" if epoch == 0 else "all",
            "train/loss_classifier": 0.5,
            "train/loss": 1.0 - 0.1 * epoch,
            "val/map_50": 0.5,
            "val/map": 0.1 * epoch,
            "lr/head": 0.01,
            "lr/neck": 0.01,
            "lr/stem": 0.001 if epoch else 0.0,
        }
        for epoch in range(epochs)
    ]
    phases = [
        {"name": "head", "train": ["neck", "head"], "start_epoch": 0, "epochs": 1},
        {"name": "all", "train": ["head", "neck", "stem"], "start_epoch": 1, "epochs": 9},
    ]
    return {"monitor": "val/map", "best_epoch": epochs - 1, "rows": rows, "phases": phases}


def comparison(settings=None):
    return {
        "settings": settings,
        **{"a": "runs/x", "b": "runs/y", "sentence": "B is better by 2.0 points."},
        "rows": [
            {"name": "mAP", "a": 0.4, "b": 0.42, "difference": 0.02, "interval": [-0.01, 0.05]},
            {"name": "cat", "a": None, "b": 0.4, "difference": None, "interval": None},
        ],
    }


def suspect(**parts):
    values = {"kind": "detection without truth", "file": "a.jpg", "class": "cat", "suspicion": 0.93}
    return values | {"box": [10.0, 10.0, 20.0, 20.0], "image": 0} | parts


def picture(index=0, scores=(0.9, 0.5, 0.2), truths=1, size=(60, 80), **parts):
    """Boxes of 10 pixels in a row: detections at y 10, truth at y 40; none is matched."""
    lefts = 12.0 * np.arange(max(len(scores), truths, 1))
    boxes = np.stack([lefts, lefts * 0 + 10, lefts + 10, lefts * 0 + 20], axis=1)
    values = {
        "name": f"image_{index}.jpg",
        "reasons": ("best",),
        "note": "F1 0.50: 1 missed",
        "image": np.full((*size, 3), 120, np.uint8),
        "size": size,
        "ground_truth": Boxes(boxes[:truths] + np.array([0, 30, 0, 30]), np.ones(truths, np.int64)),
        "predictions": Boxes(
            boxes[: len(scores)], np.ones(len(scores), np.int64), np.array(scores, np.float32)
        ),
    } | parts
    unmatched = {
        "match_scores": np.full(len(values["ground_truth"].labels), np.nan),
        "outcomes": np.zeros(len(values["predictions"].labels), np.int64),
    }
    return Picture(index=index, **(unmatched | values))


def write(folder, pictures=(), **parts):
    """The page's text."""
    write_run_page(folder / "index.html", content(**parts), pictures)
    return (folder / "index.html").read_text(encoding="utf-8")


def embedded(page):
    """What the page's scripts are given."""
    (text,) = re.findall(r'id="report-data">(.*?)</script>', page)
    return json.loads(text, parse_constant=pytest.fail)


def section(page, name):
    return re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)[0]
