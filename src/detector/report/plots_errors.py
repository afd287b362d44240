"""Plots of an evaluation: confusion matrix, cost of errors, difference of two models.

Every function takes a part of the report and returns None if there is nothing to plot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detector.report import formatting
from detector.report.plots import LABEL, Figure, figure, is_finite, label, rounded

NUMBERED = 12  # largest confusion matrix whose cells show their counts


def confusion(confusion: Mapping[str, Any]) -> Figure | None:
    """The confusion matrix as a heat map.

    The row of a class is shaded by shares of its true boxes. The last row, detections on the
    background, is shaded by shares of the detections of the class, which is the column.
    """
    matrix, names = confusion["matrix"], confusion["labels"]
    count = len(names)
    wholes = [("true box", [sum(row)] * count) for row in matrix[:-1]]
    wholes.append(("detection", [sum(column) for column in zip(*matrix, strict=True)]))
    if not any(map(any, matrix)):
        return None
    shares = [
        rounded([n / whole if whole else None for n, whole in zip(row, of, strict=True)])
        for row, (_, of) in zip(matrix, wholes, strict=True)
    ]
    shares[-1][-1] = None  # background detected as background is not counted
    numbered = count <= NUMBERED
    places = _categories(names)
    trace = {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": shares,
        "customdata": [
            [
                [formatting.number(n), formatting.many(whole, unit)]
                for n, whole in zip(row, of, strict=True)
            ]
            for row, (unit, of) in zip(matrix, wholes, strict=True)
        ],
        "zmin": 0,
        "zmax": 1,
        # Steep at the start, so that a share of 1% can be seen.
        "colorscale": [[0, "--panel"], [0.01, "--heat-1"], [0.1, "--heat-2"], [1, "--strong"]],
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "colorbar": {"tickformat": ".0%", "thickness": 10, "outlinewidth": 0, "len": 0.6},
        "hovertemplate": "truth: %{y}<br>detected: %{x}<br>%{customdata[0]} of "
        "%{customdata[1]} (%{z:.1%})<extra></extra>",
    }
    if numbered:
        texts = [[formatting.number(n) for n in row] for row in matrix]
        texts[-1][-1] = ""
        trace |= {"text": texts, "texttemplate": "%{text}"}
    cell = min(76.0, max(9.6, 620 / count))
    width = cell * count + (230 if numbered else 160)  # with the names and the scale
    layout = _matrix_layout(names, cell, numbered)
    # A large one scrolls rather than shrinks.
    return figure([trace], layout, least=0 if numbered else width, most=max(width, 460))


def errors(errors: Mapping[str, Any]) -> Figure | None:
    """AP50 that each type of error costs."""
    types = errors["types"]
    costs = rounded([kind["cost"] for kind in types])
    ends = [cost for cost in costs if cost is not None] or [0.0]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": costs,
        "y": [label(kind["name"]) for kind in types],
        "customdata": [[formatting.number(k["count"]), label(k["meaning"])] for k in types],
        "marker": {"color": "--bar"},
        "texttemplate": "%{x:.1%}",
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{customdata[1]}<br>%{customdata[0]} of them cost "
        "%{x:.1%} of AP50<extra></extra>",
    }
    layout = {
        "height": 50 + 40 * len(types),
        "hovermode": "closest",
        "showlegend": False,
        "xaxis": {
            "tickformat": ".1%",
            "nticks": 6,
            # Room for the numbers beside the bars.
            "range": [1.2 * min(0.0, *ends), 1.2 * max(0.01, *ends)],
        },
        "yaxis": _names_axis(),
    }
    return figure([trace], layout)


def differences(comparison: Mapping[str, Any]) -> Figure | None:
    """Difference of the scores of two models, B minus A, with intervals."""
    rows = [row for row in comparison["rows"] if is_finite(row["difference"])]
    reaches = [
        [abs(end - row["difference"]) for end in row["interval"]]
        if formatting.interval(row["interval"])
        else [0, 0]
        for row in rows
    ]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded([row["difference"] for row in rows]),
        "y": list(range(len(rows))),
        "text": [label(row["name"]) for row in rows],
        "customdata": [formatting.interval(row["interval"]) or "no interval" for row in rows],
        "error_x": {
            "array": rounded([high for _, high in reaches]),
            "arrayminus": rounded([low for low, _ in reaches]),
            "thickness": 1.5,
            "width": 4,
            "color": "--quiet",
        },
        "marker": {"size": 9, "color": "--bar"},
        "hovertemplate": "%{text}: %{x:+.1%}<br>%{customdata}<extra></extra>",
    }
    names = [label(row["name"], LABEL) for row in rows]
    layout = {
        "height": 80 + 26 * len(rows),
        "hovermode": "closest",
        "showlegend": False,
        "xaxis": {
            "title": {"text": "B better →"},
            "tickformat": "+.1%",
            "nticks": 6,
            "zeroline": True,
            "zerolinecolor": "--quiet",
            "side": "top",  # of a long list the top is seen first
        },
        "margin": {"t": 50, "b": 12},
        "yaxis": {
            "tickvals": trace["y"],
            "ticktext": names,
            "range": [len(rows) - 0.4, -0.6],
            "automargin": True,
        },
    }
    return figure([trace], layout)


def _matrix_layout(names: Sequence[str], cell: float, numbered: bool) -> Figure:
    """Layout with all names on the axes, for cells of about `cell` pixels."""
    axis = _names_axis() | {
        "tickvals": _categories(names),
        "ticktext": [label(name, LABEL if numbered else 14) for name in names],
        "tickfont": {"size": 12 if cell > 20 else 9},
        "ticks": "",
    }
    return {
        "hovermode": "closest",
        "height": round(cell * len(names) * (0.75 if numbered else 1) + 150),
        "xaxis": axis | {"title": {"text": "detected"}, "autorange": True},
        "yaxis": axis | {"title": {"text": "truth"}},
    }


def _categories(names: Sequence[str]) -> list[str]:
    """Names as categories of an axis; with a space, as plotly would lose "constructor"."""
    return [f"{label(name)} " for name in names]


def _names_axis() -> Figure:
    """A category axis from top to bottom."""
    return {"type": "category", "autorange": "reversed", "automargin": True, "showgrid": False}
