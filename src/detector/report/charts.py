"""The arithmetic of a page's tables and charts: numbers in, places and texts out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHART_HEIGHT = 132  # pixels, of the bars
NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram; x and width are percent, y and height pixels."""

    x: float
    width: float
    y: float
    height: float
    text: str


@dataclass(frozen=True)
class Tick:
    """A text under (or above) a chart at x percent; `anchor` as in SVG."""

    x: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Chart:
    """A histogram to draw: its bars, its axis, its highest bar, and all of it in words."""

    bars: list[Bar]
    ticks: list[Tick]
    peak: Tick
    words: str


@dataclass(frozen=True)
class Share:
    """A class in one split: its boxes, their share of the split, the share's bar in percent."""

    boxes: int
    share: float
    bar: float


def number(value: float | None) -> str:
    """12345 as 12,345 and 0.5 as 0.5; a dash for nothing."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A fraction as percent; neither 0% nor 100% unless it is."""
    if value is None or not math.isfinite(value):
        return NONE
    if abs(value - round(value)) < 1e-9:  # but for rounding
        value = round(value)
    if 0 < value < 0.0005:
        return "<0.1%"
    if 0.9995 <= value < 1:
        return ">99.9%"
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def points(value: float | None) -> str:
    """A fraction as `percent` writes it, without the sign."""
    return percent(value).replace("%", "")


def interval(pair: Sequence[float | None] | None) -> str:
    """`52.1 to 61.9`, of fractions; empty where there is none."""
    if pair is None or any(end is None or not math.isfinite(end) for end in pair):
        return ""
    return " to ".join(points(end) for end in pair).replace("-", "\N{MINUS SIGN}")


def signed(value: float | None) -> str:
    """A difference of fractions in points with its sign, such as +2.1."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def figure(value: Any) -> str:
    """A number to three digits, small ones as 2.5e-05; a text as it is; a dash for nothing."""
    return NONE if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def setting(value: Any) -> str:
    """A value of a configuration as it is typed: `null`, `true`, `0.001`, `[1, 2]`, a text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def duration(seconds: float | None) -> str:
    """12.3 s, 3 min 53 s or 2 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def many(count: int, one: str, more: str = "") -> str:
    """`1 box` or `2,000 boxes`; `more` is the plural where it is another one."""
    plural = more or one + ("es" if one.endswith(("s", "x", "h")) else "s")
    return f"{number(count)} {one if count == 1 else plural}"


def histogram(edges: Sequence[float], counts: Sequence[int]) -> Chart | None:
    """Lay out a histogram, one bar of equal width a bin (the edges may be logarithmic).

    Args:
        edges: n + 1, rising.
        counts: n.

    Returns:
        The chart; None if nothing was counted.
    """
    if not any(counts):
        return None
    step, most = 100 / len(counts), max(counts)
    bars = []
    for i, count in enumerate(counts):
        height = max(2.0, CHART_HEIGHT * count / most) if count else 0.0
        text = f"{number(edges[i])} to {number(edges[i + 1])}: {number(count)}"
        bars.append(Bar(i * step, step, CHART_HEIGHT - height, height, text))
    even = [gaps for gaps in range(4, 8) if len(counts) % gaps == 0]
    gaps = max(even, default=min(len(counts), 6))
    marked = [round(i * len(counts) / gaps) for i in range(gaps + 1)]  # both ends among them
    ticks = [Tick(i * step, _anchor(i * step), number(edges[i])) for i in marked]
    top = list(counts).index(most)
    center = (top + 0.5) * step
    peak = Tick(center, _anchor(center, 8), number(most))
    words = (
        f"{number(sum(counts))} counted from {number(edges[0])} to {number(edges[-1])}; "
        f"most, {number(most)}, from {number(edges[top])} to {number(edges[top + 1])}"
    )
    return Chart(bars, ticks, peak, words)


def class_balance(
    classes: Sequence[str], splits: Mapping[str, Mapping[str, Any]]
) -> list[tuple[int, str, list[Share]]]:
    """Every class's share of every split, the most frequent class first.

    Args:
        classes: Names, in the order of the labels.
        splits: Name -> `per_class`, among others.

    Returns:
        Label, name, and one share a split, whose bars are comparable over the whole table.
    """
    counts = [
        [int((split.get("per_class") or {}).get(name) or 0) for split in splits.values()]
        for name in classes
    ]
    totals = [max(1, sum(column)) for column in zip(*counts, strict=True)]
    shares = [[n / total for n, total in zip(row, totals, strict=True)] for row in counts]
    most = max((share for row in shares for share in row), default=0) or 1
    rows = []
    for i, name in enumerate(classes):
        pairs = zip(counts[i], shares[i], strict=True)
        rows.append((i + 1, name, [Share(n, share, 100 * share / most) for n, share in pairs]))
    return sorted(rows, key=lambda row: -sum(cell.boxes for cell in row[2]))


def _anchor(x: float, margin: float = 0.1) -> str:
    """Keep a text at x percent inside its chart."""
    return "start" if x < margin else "end" if x > 100 - margin else "middle"
