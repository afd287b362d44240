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

WIDTH = 80  # of text that is made for a terminal, characters


class Terminal(logging.StreamHandler[Any]):
    """Hydra's handler for the terminal, which goes on in silence when nobody reads any more."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do not print a traceback where a pipe was closed, as by `| head`."""
        if isinstance(sys.exc_info()[1], OSError):
            stop_showing()
        else:
            super().handleError(record)


class LogFile(logging.FileHandler):
    """Hydra's handler for the run's log, which a full disk must not turn into tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave a line out where nothing can be written: what else is written says why."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def show_what_can_be_shown() -> None:
    """Have characters that the terminal has not replaced: lines of tables by ASCII, others by code.

    Else a table of scores would end in an error on a terminal that is not UTF-8.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by whoever started this, as by `2>&-`
            # Else a file that is opened later would be written to as if it were the stream.
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "r" if not number else "w"))  # noqa: PTH123, SIM115
    codecs.register_error("detector", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="detector")


def _replace(error: UnicodeError) -> tuple[str, int]:
    """What to write instead of characters that an encoding has not."""
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
    """Write what is still to be printed; where that is not possible any more, drop it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def first_process() -> bool:
    """Whether this is the only process, or the first of several, as their launchers say."""
    names = ("LOCAL_RANK", "RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def tell(text: str) -> None:
    """Print a line at once: before a run there is no log."""
    try:
        print(harmless(text), flush=True)
    except BrokenPipeError:
        stop_showing()


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


def typed(key: str, value: object, *, shell: bool = True) -> str:
    """`key=value` as it is typed: quoted for Hydra, and for the shell, where it needs to be."""
    text = str(value)
    if re.fullmatch(r"[\w./:-]+", text, re.ASCII):
        return f"{key}={text}"
    # Hydra takes a backslash as it is, but for those before a quote.
    quoted = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return shlex.quote(f"{key}='{quoted}'") if shell else f"{key}='{quoted}'"


def typed_command(verb: str, overrides: Sequence[object]) -> str:
    """The command that was typed, to be typed again anywhere."""
    words = ["python", "-m", f"detector.{verb}", *map(str, overrides)]
    return f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(words)}"


def hang(label: str, text: str) -> list[str]:
    """Wrap a text beside its label."""
    return textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label))
