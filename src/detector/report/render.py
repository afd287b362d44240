"""Rendering of the pages: templates in which every value is escaped, and writing in one step."""

from __future__ import annotations

import functools
import json
import math
import shlex
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from detector.report import formatting

TEMPLATES = Path(__file__).with_name("templates")
# Functions of `formatting` that templates use as filters.
FILTERS = (
    *("number", "percent", "points", "interval", "many"),
    *("signed", "short", "setting", "duration"),
)


@functools.cache
def environment() -> jinja2.Environment:
    """Templates in which every value is escaped and an undefined one is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: getattr(formatting, name) for name in FILTERS} | {
        "json": script_json,
        "sentence": lambda words: words[:1].upper() + words[1:],
        "shell": lambda words: shlex.join(shlex.split(words)),
    }
    return made


def tidy(value: Any) -> Any:
    """Plain data without values that JSON and UTF-8 cannot represent.

    Args:
        value: Nested dictionaries and lists of texts and numbers.

    Returns:
        The same data, with None for numbers that are not finite and readable escapes for bytes of
        file names that are not UTF-8.
    """
    if isinstance(value, dict):
        return {tidy(key): tidy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def script_json(value: Any) -> Markup:
    """JSON for a script element; `</script>` and `<!--` in a text cannot end the element."""
    encoded = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(encoded.replace("<", "\\u003c"))
