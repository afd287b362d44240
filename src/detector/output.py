"""What verbs write and print: JSON files, tables, text."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import shlex
import signal
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

log = logging.getLogger(__name__)

WIDTH = 80  # of text that is made for a terminal, characters


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file in one step, NaN as null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    draft = file.with_name(file.name + ".part")
    draft.write_text(json.dumps(clean(content), indent=2) + "\n", encoding="utf-8")
    draft.replace(file)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


def first_process() -> bool:
    """Whether this is the process that speaks, as launchers of several say: torch is not needed."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def announce(text: str, *values: object) -> None:
    """Log what is about to be done, in the first process alone."""
    if first_process():
        log.info(text, *values)


class PlainText(logging.Formatter):
    """Shows characters that would steer a terminal, in names from files, as their codes."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        return harmless(super().format(record))


def harmless(text: str) -> str:
    """A text without control characters and changes of direction, but for tabs and lines' ends."""
    steering = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
    return re.sub(steering, lambda found: ascii(found[0])[1:-1], text)


def log_table(table: Table, width: int) -> None:
    """Log a table as plain text, because it also goes to the log's file."""
    text = io.StringIO()
    Console(file=text, force_terminal=False, force_jupyter=False, width=width).print(table)
    log.info("%s", text.getvalue().rstrip())


def percent(share: float) -> str:
    """A share; what is not quite all, or not quite nothing, does not look like it."""
    value = 100 * share
    return f"{value:.1f} %" if 0 < value < 1 or 99 < value < 100 else f"{value:.0f} %"


def typed(key: str, value: object) -> str:
    """`key=value` as it is typed: quoted for Hydra and for the shell where it needs to be."""
    text = str(value)
    if re.fullmatch(r"[\w./:-]+", text):
        return f"{key}={text}"
    return shlex.quote(f"{key}='{text}'")


def typed_command(verb: str, overrides: Sequence[object]) -> str:
    """The command that was typed, to be typed again anywhere."""
    words = ["python", "-m", f"detector.{verb}", *map(str, overrides)]
    return f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(words)}"


def hang(label: str, text: str) -> list[str]:
    """Wrap a text beside its label."""
    return textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label))
