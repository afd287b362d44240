"""Plots of a training: losses, scores and learning rates over the epochs, with shaded phases.

Every function takes the `training` of the report and returns None if there is nothing to plot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detector.report.gallery import class_colors
from detector.report.plots import Figure, figure, label, line, rounded
from detector.report.schedule import Curve, merge_curves

LETTERS = 50  # characters that fit above a plot on a wide screen
SHOWN = ("val/map", "val/map_50", "val/map_75")  # scores shown beside the monitored one


def losses(training: Mapping[str, Any]) -> Figure | None:
    """All losses, the total in front."""
    keys = [key for key in _keys(training) if key.split("/")[-1].startswith("loss")]
    lines = _read(training, keys)
    return _over_epochs(training, lines, "train/loss", {"rangemode": "tozero"}, "%{y:.4f}")


def scores(training: Mapping[str, Any]) -> Figure | None:
    """Validation scores, the monitored one in front; most are hidden until chosen in the legend."""
    keys = [k for k in _keys(training) if k.startswith("val/") and not k.startswith("val/loss")]
    axis = {"tickformat": ".0%", "rangemode": "tozero"}
    first = training["monitor"]
    plot = _over_epochs(training, _read(training, keys), first, axis, "%{y:.1%}")
    for trace in plot["data"] if plot else ():
        trace["visible"] = True if trace["name"] in (first, *SHOWN) else "legendonly"
    return plot


def rates(training: Mapping[str, Any]) -> Figure | None:
    """Learning rates of the groups, equal ones as one line; a frozen group has a gap.

    Groups that are always frozen have no line; the `note` of the figure names them.
    """
    keys = [key for key in _keys(training) if key.startswith("lr/")]
    curves = [
        Curve(key.removeprefix("lr/"), [], [value or 0.0 for value in values])
        for key, values in _read(training, keys).items()
    ]
    lines: dict[str, list[float | None]] = {
        curve.label: [rate if rate > 0 else None for rate in curve.rates]
        for curve in merge_curves(curves)
    }
    axis = {"type": "log", "tickformat": "~g", "dtick": "D2"}
    plot = _over_epochs(training, lines, "", axis, "%{y:.2e}")
    frozen = [name for name, values in lines.items() if not any(values)]
    if plot and frozen:
        plot["note"] = f"Frozen in every epoch: {', '.join(frozen)}."
    return plot


def _keys(training: Mapping[str, Any]) -> list[str]:
    """Keys of all rows, in the order of their first occurrence."""
    return list(dict.fromkeys(key for row in training["rows"] for key in row))


def _read(training: Mapping[str, Any], keys: Sequence[str]) -> dict[str, list[float | None]]:
    """Columns of the rows by key."""
    return {key: rounded([row.get(key) for row in training["rows"]]) for key in keys}


def _over_epochs(
    training: Mapping[str, Any],
    lines: Mapping[str, Sequence[float | None]],
    first: str,
    axis: Figure,
    template: str,
) -> Figure | None:
    """Lines over the epochs; the value of the third epoch is at 3, its end."""
    ends = [row["epoch"] + 1 for row in training["rows"]]
    if not ends:
        return None
    names = sorted(lines, key=lambda name: name != first)
    colors = ["--ink" if name == first else "" for name in names]
    spare = iter(class_colors(colors.count("")))
    traces = [
        {
            **line(label(name, 30), color or next(spare), 3 if name == first else 2),
            "mode": "lines+markers",
            "marker": {"size": 5},
            "x": ends,
            "y": lines[name],
            "hovertemplate": template,
        }
        for name, color in zip(names, colors, strict=True)
    ]
    phases = [p for p in training["phases"] if p["start_epoch"] < ends[-1] and p["epochs"]]
    best = training["best_epoch"]
    layout = {
        "height": 350,
        "hovermode": "x unified",
        "margin": {"t": 26},
        "xaxis": {
            "title": {"text": "epochs trained"},
            "range": [0, 1.02 * ends[-1]],
            "tickformat": "d",
            "unifiedhovertitle": {"text": "epoch %{x}"},
            "nticks": min(12, ends[-1] + 1),
        },
        "yaxis": axis,
        "shapes": [_shade(i, phase, ends[-1]) for i, phase in enumerate(phases)]
        + ([] if best is None else [_mark(best + 1)]),
        "annotations": [_name(phase, ends[-1]) for phase in phases],
    }
    return figure(traces, layout)


def _shade(number: int, phase: Mapping[str, Any], end: int) -> Figure:
    """The shaded area of a phase."""
    start = phase["start_epoch"]
    return {
        "type": "rect",
        "layer": "below",
        "yref": "paper",
        "x0": start,
        "x1": min(start + phase["epochs"], end),
        "y0": 0,
        "y1": 1,
        "line": {"width": 0},
        "fillcolor": ("--shade", "--shade-2")[number % 2],
    }


def _name(phase: Mapping[str, Any], end: int) -> Figure:
    """The name of a phase above it, cut to the room there is."""
    room = int(LETTERS * min(phase["epochs"], end - phase["start_epoch"]) / end)
    return {
        "text": label(phase["name"], room) if room > 2 else "",
        "x": phase["start_epoch"],
        "y": 1,
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 11, "color": "--quiet"},
    }


def _mark(epoch: int) -> Figure:
    """A dotted line at the end of the best epoch."""
    look = {"color": "--quiet", "width": 1.5, "dash": "dot"}
    place = {"x0": epoch, "x1": epoch, "y0": 0, "y1": 1}
    return {"type": "line", "yref": "paper", "line": look, **place}
