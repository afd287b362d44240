"""Helpers for the report's plots, which are traces and layouts for plotly as plain data.

Colours that begin with two dashes are CSS variables of the page, which depend on light and dark
mode.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

Figure = dict[str, Any]

LABEL = 22  # longest name beside an axis, characters


def figure(traces: Sequence[Figure], layout: Figure, **more: Any) -> Figure | None:
    """A figure: `data`, `layout` and further keys for the page.

    Args:
        traces: Traces as plotly takes them.
        layout: Layout as plotly takes it, without the parts that all plots have in common.
        more: `choose`: what the choice of a class does ("only" shows its traces alone, "highlight"
            its line in front); `least` and `most`: lowest and highest width, pixels; `note`: a
            sentence below the plot.

    Returns:
        The figure without traces that have no value, whose names would be in the legend without a
        line; None without any value.
    """
    drawn = [
        trace
        for trace in traces
        if _any_finite(trace.get("z") or trace["x" if "orientation" in trace else "y"])
    ]
    return {"data": drawn, "layout": layout, **more} if drawn else None


def line(name: str, color: str, width: float = 2) -> Figure:
    """A line trace without its points."""
    look = {"color": color, "width": width}
    return {"type": "scatter", "mode": "lines", "name": name, "line": look}


def label(name: str, most: int = 0) -> str:
    """A name escaped for plotly's markup, cut to `most` characters (0: not cut)."""
    short = name if not most or len(name) <= most else name[: most - 1] + "…"
    return html.escape(short, quote=False)


def rounded(values: Sequence[float | None]) -> list[float | None]:
    """Values with five digits, which is more than can be seen; None if not finite."""
    return [float(f"{value:.5g}") if is_finite(value) else None for value in values]


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _any_finite(values: Sequence[Any]) -> bool:
    """Whether nested lists have a finite number."""
    return any(_any_finite(v) if isinstance(v, list) else is_finite(v) for v in values)
