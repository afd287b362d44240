"""Text for the terminal and the log: lines, tables, commands to type."""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import shlex
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

log = logging.getLogger(__name__)

WIDTH = 80  # characters in a line of text that is formatted for a terminal


class Terminal(logging.StreamHandler[Any]):
    """Hydra's log handler for the terminal, which ignores that the reader has closed the pipe."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Print no traceback where a pipe was closed, such as by `| head`."""
        if isinstance(sys.exc_info()[1], OSError):
            stop_showing()
        else:
            super().handleError(record)


class LogFile(logging.FileHandler):
    """Hydra's log handler for the run's log file, which is silent when the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave out a line that cannot be written; other files will fail with a message."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def show_what_can_be_shown() -> None:
    """Replace characters that the terminal cannot show: table lines by ASCII, others by codes.

    Without this, a table of scores would be an error on a terminal that is not UTF-8.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by whoever started this, as by `2>&-`
            # Otherwise a file opened later could get the number of the stream and its output.
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "r" if not number else "w"))  # noqa: PTH123, SIM115
    codecs.register_error("detector", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="detector")


def _replace(error: UnicodeError) -> tuple[str, int]:
    """The text to write instead of characters that an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = ""
    for character in error.object[error.start : error.end]:
        name = unicodedata.name(character, "")
        if name.startswith("BOX DRAWINGS"):
            words = name.split()
            text += "-" if words[-1] == "HORIZONTAL" else "|" if words[-1] == "VERTICAL" else "+"
        else:
            text += ascii(character)[1:-1]
    return text, error.end


def stop_showing() -> None:
    """Flush the output; where that is no longer possible, discard it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def first_process() -> bool:
    """Whether this is the only process or the first of several, by their launcher's variables."""
    names = ("LOCAL_RANK", "RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def tell(text: str) -> None:
    """Print a line at once, before there is a log."""
    try:
        print(harmless(text), flush=True)
    except BrokenPipeError:
        stop_showing()


def announce(text: str, *values: object) -> None:
    """Log what is about to be done, in the first process only."""
    if first_process():
        log.info(text, *values)


class PlainText(logging.Formatter):
    """Formats log records; control characters, such as in file names, are shown as their codes."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return harmless(super().format(record))


def harmless(text: str) -> str:
    """Replace control characters and changes of text direction, except tabs and line breaks."""
    steering = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
    return re.sub(steering, lambda found: ascii(found[0])[1:-1], text)


def log_table(table: Table, width: int) -> None:
    """Log a table as plain text, without colours, as for a file."""
    text = io.StringIO()
    Console(file=text, force_terminal=False, force_jupyter=False, width=width).print(table)
    log.info("%s", text.getvalue().rstrip())


def percent(share: float) -> str:
    """A share as a percentage; 0 % and 100 % mean exactly none and all."""
    value = 100 * share
    return f"{value:.1f} %" if 0 < value < 1 or 99 < value < 100 else f"{value:.0f} %"


def typed(key: str, value: object, *, shell: bool = True) -> str:
    """`key=value` as it is typed, quoted for Hydra and for the shell where needed."""
    text = str(value)
    if re.fullmatch(r"[\w./:-]+", text, re.ASCII):
        return f"{key}={text}"
    # Hydra takes backslashes literally, except those before a quote.
    quoted = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return shlex.quote(f"{key}='{quoted}'") if shell else f"{key}='{quoted}'"


def typed_command(command: str, overrides: Sequence[object]) -> str:
    """The command that was typed, in a form that works from any folder."""
    words = ["python", "-m", f"detector.{command}", *map(str, overrides)]
    return f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(words)}"


def hang(label: str, text: str) -> list[str]:
    """Wrap a text; its lines are indented by the width of the label."""
    return textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label))
