"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file in one step, NaN as null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    draft = file.with_name(file.name + ".part")
    with whole(draft, file):
        draft.write_text(json.dumps(clean(content), indent=2) + "\n", encoding="utf-8")


@contextmanager
def whole(draft: Path, file: Path) -> Iterator[None]:
    """Write a draft in the block, which then takes a file's name; if that fails, it is removed.

    Raises:
        OSError: Of the block, naming the file: libraries name files of their own, or none.
    """
    try:
        yield
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(file)) from error


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield
        return
    came: list[int] = []
    waiting = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda n, _: came.append(n)) for number in waiting]
    try:
        yield
    finally:
        for number, handler in zip(waiting, before, strict=True):
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
