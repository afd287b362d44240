"""The page of the data check: one HTML file that needs nothing beside it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from detector.report import charts
from detector.report.thumbnail import (
    PALETTE,
    Thumbnail,
    class_color,
    data_uri,
    draw_thumbnail,
)

__all__ = ["Thumbnail", "write_check_page"]

TEMPLATES = Path(__file__).with_name("templates")
SHOWN_ITEMS = 50  # of one kind of finding; check.json has all
SHOWN_CLASSES = 20  # before the others fold away


def write_check_page(file: Path, content: dict[str, Any], thumbnails: Sequence[Thumbnail]) -> None:
    """Write the page in one step: on failure nothing is left, and an older page stays.

    Args:
        file: An `.html`; its folder exists.
        content: What check.json holds; `histograms`, `model` and single values may be missing.
        thumbnails: Shown beside the finding of their kind, in this order.

    Raises:
        ValueError: If a thumbnail illustrates no finding of `content`.
    """
    page = _render(content, thumbnails)
    draft = file.with_name(file.name + ".part")
    try:
        # File names may hold bytes that are not UTF-8; Python carries them as lone surrogates.
        draft.write_text(page, encoding="utf-8", errors="backslashreplace")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _render(content: dict[str, Any], thumbnails: Sequence[Thumbnail]) -> str:
    """The page's text."""
    classes = content["classes"]
    pictures: dict[str, list[tuple[Thumbnail, str, tuple[int, ...]]]] = {
        finding["kind"]: [] for finding in content["findings"]
    }
    for thumbnail in thumbnails:
        if thumbnail.kind not in pictures:
            raise ValueError(f"{thumbnail.name}: no finding is called {thumbnail.kind!r}")
        picture = draw_thumbnail(thumbnail, len(classes))
        pictures[thumbnail.kind].append((thumbnail, data_uri(picture), picture.shape))
    colors = [
        "#{:02x}{:02x}{:02x}".format(*class_color(i + 1, len(classes)))
        for i in range(len(classes) if thumbnails and len(classes) <= len(PALETTE) else 0)
    ]
    template = _environment().get_template("check.html")
    return template.render(
        check=content,
        pictures=pictures,
        colors=colors,
        balance=charts.class_balance(classes, content["splits"]),
        shown_items=SHOWN_ITEMS,
        shown_classes=SHOWN_CLASSES,
    )


def _environment() -> jinja2.Environment:
    """Templates in which every value is escaped and a misspelt one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": charts.number,
        "percent": charts.percent,
        "many": charts.many,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "shell": lambda text: shlex.join(shlex.split(text)),
    }
    environment.globals |= {"histogram": charts.histogram, "chart_height": charts.CHART_HEIGHT}
    return environment
