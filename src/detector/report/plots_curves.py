"""Plots of an evaluation: precision and recall by score threshold, size, shape and confidence.

Every function takes a part of the report and returns None if there is nothing to plot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detector.report import formatting
from detector.report.gallery import class_colors
from detector.report.plots import LABEL, Figure, figure, label, line, rounded

DISTINCT = 6  # largest number of classes whose lines differ in colour
SHARE = {"range": [0, 1.03], "tickformat": ".0%", "dtick": 0.2}
PRECISION, RECALL = class_colors(2)


def thresholds(curves: Mapping[str, Any], names: Sequence[str], detections: int) -> Figure | None:
    """Precision, recall and F1 over the score threshold, of all classes and of a chosen one.

    Args:
        curves: `curves` of the analysis.
        names: Class names.
        detections: Number of detections; without any there is no plot.
    """
    if not detections:
        return None
    styles = {
        "precision": line("Precision", PRECISION),
        "recall": line("Recall", RECALL),
        "f1": line("F1", "--ink"),
    }
    chosen = [("", curves["all"]), *((name, curves["classes"].get(name)) for name in names)]
    traces = [
        {
            **style,
            "x": rounded(curves["thresholds"]),
            "y": rounded(values[key]),
            "meta": name,
            "visible": not name,
            "hovertemplate": "%{y:.1%}",
        }
        for name, values in chosen
        if values
        for key, style in styles.items()
    ]
    layout = {
        "hovermode": "x unified",
        "xaxis": {
            "title": {"text": "score threshold"},
            "range": [0, 1],
            "unifiedhovertitle": {"text": "score of at least %{x:.2f}"},
        },
        "yaxis": SHARE,
    }
    return figure(traces, layout, choose="only")


def recall_precision(
    curves: Mapping[str, Any], per_class: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> Figure | None:
    """Precision over recall, a line for each class; many lines are grey until one is chosen."""
    few = len(names) <= DISTINCT
    traces = []
    for name, color in zip(names, class_colors(len(names)), strict=True):
        if not (values := curves["classes"].get(name)):
            continue
        title = f"{label(name, LABEL)}  {formatting.points(per_class[name]['ap_50'])}"
        look = line(title, color) if few else line(title, "--quiet", 1)
        traces.append(
            {
                **look,
                "opacity": 1 if few else 0.45,
                "x": rounded(curves["recall"]),
                "y": rounded(values),
                "meta": name,
                "text": label(name),
                "hovertemplate": "%{text}<br>recall %{x:.0%}, precision %{y:.1%}<extra></extra>",
            }
        )
    layout = {
        "showlegend": few,
        "hovermode": "closest",
        "xaxis": {"title": {"text": "recall"}, **SHARE},
        "yaxis": {"title": {"text": "precision"}, **SHARE},
    }
    return figure(traces, layout, choose="highlight")


def ranges(rows: Sequence[Mapping[str, Any]], title: str) -> Figure | None:
    """Recall and precision of each range of sizes or shapes, as grouped bars."""
    parts = (
        ("recall_any_score", "Recall at any score", {"color": f"{RECALL}59"}, "truths"),
        ("recall", "Recall", {"color": RECALL}, "truths"),
        ("precision", "Precision", {"color": PRECISION}, "detections"),
    )
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": [label(row["range"]).replace(" to ", "<br>to ") for row in rows],
            "y": rounded([row[key] for row in rows]),
            "customdata": [
                formatting.many(row[of], "box" if of == "truths" else "detection") for row in rows
            ],
            "marker": marker,
            "hovertemplate": "%{y:.1%} of %{customdata}",
        }
        for key, name, marker, of in parts
    ]
    layout = {
        "hovermode": "x unified",
        "bargap": 0.3,
        "xaxis": {
            "title": {"text": title},
            "type": "category",
            "showgrid": False,
            "tickangle": 0,
        },
        "yaxis": SHARE,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }
    return figure(traces, layout)


def calibration(calibration: Mapping[str, Any]) -> Figure | None:
    """Precision of the detections by confidence, and how many detections each bin has."""
    bins = calibration["bins"]
    filled = [part for part in bins if part["count"]]
    if not filled:
        return None
    diagonal = line("Perfect", "--quiet", 1) | {"x": [0, 1], "y": [0, 1], "hoverinfo": "skip"}
    diagonal["line"]["dash"] = "dash"
    reliability = {
        **line("Precision", "--bar"),
        "mode": "lines+markers",
        "marker": {"size": 8},
        "x": rounded([part["confidence"] for part in filled]),
        "y": rounded([part["precision"] for part in filled]),
        "customdata": [
            [f"{b['low']:.2f} to {b['high']:.2f}", formatting.many(b["count"], "detection")]
            for b in filled
        ],
        "hovertemplate": "scores %{customdata[0]}: %{customdata[1]}<br>"
        "mean score %{x:.1%}, precision %{y:.1%}<extra></extra>",
    }
    histogram = {
        "type": "bar",
        "name": "Detections",
        "x": rounded([(b["low"] + b["high"]) / 2 for b in bins]),
        "width": rounded([0.94 * (b["high"] - b["low"]) for b in bins]),
        "y": [b["count"] for b in bins],
        "yaxis": "y2",
        "marker": {"color": "--bar"},
        "hovertemplate": "%{y:,} detections<extra></extra>",
    }
    layout = {
        "height": 430,
        "hovermode": "closest",
        "showlegend": False,
        "xaxis": {"title": {"text": "score"}, **SHARE, "range": [0, 1], "anchor": "y2"},
        "yaxis": {"title": {"text": "precision"}, **SHARE, "domain": [0.34, 1]},
        "yaxis2": {"title": {"text": "count"}, "domain": [0, 0.24], "nticks": 3},
    }
    return figure([diagonal, reliability, histogram], layout, most=720)
