"""Numbers and values as text, as pages and the terminal show them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

NONE = "\N{EN DASH}"  # for values that are missing or not finite


def number(value: float | None) -> str:
    """A number such as 12,345 or 0.5; a dash for None and NaN."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A fraction as a percentage; 0% and 100% only where it is exactly that."""
    if value is None or not math.isfinite(value):
        return NONE
    if abs(value - round(value)) < 1e-9:  # rounding errors
        value = round(value)
    if 0 < value < 0.0005:
        return "<0.1%"
    if 0.9995 <= value < 1:
        return ">99.9%"
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def points(value: float | None) -> str:
    """A fraction as a percentage without the percent sign."""
    return percent(value).replace("%", "")


def interval(pair: Sequence[float | None] | None) -> str:
    """An interval of fractions in percent, such as `52.1 to 61.9`; empty for None."""
    if pair is None or any(end is None or not math.isfinite(end) for end in pair):
        return ""
    return " to ".join(points(end) for end in pair).replace("-", "\N{MINUS SIGN}")


def signed(value: float | None) -> str:
    """A difference of fractions in percentage points with its sign, such as +2.1."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def short(value: Any) -> str:
    """A number with three digits, such as 2.5e-05; text as it is; a dash for None."""
    return NONE if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def setting(value: Any) -> str:
    """A value of a configuration as users type it: `null`, `true`, `0.001`, `[1, 2]` or text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def duration(seconds: float | None) -> str:
    """A duration such as 12.3 s, 3 min 53 s or 2 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def many(count: int, one: str, more: str = "") -> str:
    """A count with its noun, `1 box` or `2,000 boxes`; `more` is an irregular plural."""
    plural = more or one + ("es" if one.endswith(("s", "x", "h")) else "s")
    return f"{number(count)} {one if count == 1 else plural}"
