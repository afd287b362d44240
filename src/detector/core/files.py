"""Writing files so that each is there whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic(file: Path, suffix: str = ".part") -> Iterator[Path]:
    """Replace a file in one step, when the block has ended without an error.

    If the block fails, the draft is removed and an older file stays as it was.

    Args:
        file: The file to write; its folder exists.
        suffix: Added to the name for the draft; must be unique where several processes may write
            the same file at once.

    Yields:
        The path of the draft, which the block writes to.

    Raises:
        OSError: An OSError of the block, but naming the file: the original may name the draft, a
            temporary file of a library, or nothing.
    """
    draft = file.with_name(file.name[-50:] + suffix)  # a name may already have the greatest length
    try:
        yield draft
        draft.replace(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(file)) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file in one step."""
    with atomic(file) as draft:
        draft.write_bytes(content)


def write_text(file: Path, text: str) -> None:
    """Write a text as UTF-8 in one step.

    File names may hold bytes that are not UTF-8, which Python carries as lone surrogates; these are
    written as escapes.
    """
    with atomic(file) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table as CSV in one step, with a header, and empty cells where a row has no value."""
    with (
        atomic(file) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file in one step, NaN as null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    write_text(file, json.dumps(clean(content), indent=2) + "\n")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # signals reach no other thread
        yield
        return
    received: list[int] = []
    waiting = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda n, _: received.append(n)) for number in waiting]
    try:
        yield
    finally:
        for number, handler in zip(waiting, before, strict=True):
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
