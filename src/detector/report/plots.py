"""What a report's plots have in common: plain data for plotly, numbers in, traces and layout out.

Colours that begin with two dashes are variables of the page's style: they follow light and dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

Figure = dict[str, Any]

LABEL = 22  # characters of a name beside an axis


def figure(traces: Sequence[Figure], layout: Figure, **more: Any) -> Figure | None:
    """A plot: `data`, `layout` and what the page must know beside them.

    Args:
        traces: plotly's.
        layout: plotly's, without what all plots have in common.
        more: `choose`: what choosing a class does ("only" shows its traces, "highlight" puts it in
            front); `least` and `most`: the width, in pixels; `note`: a sentence below it.

    Returns:
        The plot, without traces that hold no value: they would be names in the legend without a
        line. None if there is no value in it.
    """
    drawn = [
        trace
        for trace in traces
        if _any_finite(trace.get("z") or trace["x" if "orientation" in trace else "y"])
    ]
    return {"data": drawn, "layout": layout, **more} if drawn else None


def line(name: str, color: str, width: float = 2) -> Figure:
    """A trace that is a line; its points are still to be given."""
    look = {"color": color, "width": width}
    return {"type": "scatter", "mode": "lines", "name": name, "line": look}


def label(name: str, most: int = 0) -> str:
    """A name as text, not plotly's markup, cut to `most` characters (0: all)."""
    short = name if not most or len(name) <= most else name[: most - 1] + "…"
    return html.escape(short, quote=False)


def rounded(values: Sequence[float | None]) -> list[float | None]:
    """Five digits, which is more than can be seen; None for what is not finite."""
    return [float(f"{value:.5g}") if is_finite(value) else None for value in values]


def is_finite(value: Any) -> bool:
    """Whether it is a number, and not NaN or infinite."""
    return isinstance(value, int | float) and math.isfinite(value)


def _any_finite(values: Sequence[Any]) -> bool:
    return any(_any_finite(v) if isinstance(v, list) else is_finite(v) for v in values)
