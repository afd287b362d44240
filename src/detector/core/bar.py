"""Progress of work: a bar on a terminal, or lines in the log where there is no terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST, USUAL, LONGEST = 10.0, 30.0, 300.0  # seconds before a line
NOTED = 0.5  # seconds between two notes beside a bar, at least
TIMED = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"  # the note says the remaining time


class Bar:
    """Shows progress as a bar on a terminal, or as lines in the log where output is redirected.

    Lines become less frequent the longer the work takes.

    Args:
        what: Name of the work, such as `reading train`; may be empty where notes say it.
        total: Number of units of work; None if it is not known.
        unit: Unit that is counted, such as `image`.
        initial: Number of units that were done before.
        delay: Seconds of work before the bar appears.
        leave: Whether the bar stays on the terminal when the work is done.
        noted: Whether `update` is given notes, which say the remaining time.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        *,
        initial: int = 0,
        delay: float = 0.0,
        leave: bool = True,
        noted: bool = False,
    ) -> None:
        self.what, self.unit = what, unit
        self.done = initial
        self._units = unit + ("es" if unit.endswith("ch") else "s")
        self._initial = initial
        self._bar = tqdm(
            desc=what or None,
            total=total,
            unit=unit,
            initial=initial,
            delay=delay,
            leave=leave,
            dynamic_ncols=True,
            bar_format=TIMED if noted else None,
            disable=None,  # no bar where standard error is not a terminal
        )
        self._lines = self._bar.disable or not sys.stdout.isatty()
        self._began = self._noted = time.perf_counter()
        self._due = FIRST

    @property
    def total(self) -> int | None:
        """Number of units of work, which may become known, or change, on the way."""
        total: int | None = self._bar.total
        return total

    @total.setter
    def total(self, total: int | None) -> None:
        self._bar.total = total

    def update(self, count: int = 1, note: Callable[[], str] | None = None) -> None:
        """Advance the progress.

        Args:
            count: Number of units done since the last call.
            note: Returns the text beside the bar or in the line; called only when one is due.
        """
        self.done += count
        now = time.perf_counter()
        if note is not None and not self._bar.disable and now - self._noted >= NOTED:
            self._noted = now
            self._bar.set_postfix_str(note(), refresh=not count)
        self._bar.update(count)
        elapsed = now - self._began
        finished = note is None and self.done == self.total
        if self._lines and elapsed >= self._due and not finished:
            self._due = elapsed + pause(elapsed)
            text = self._counted(elapsed) if note is None else note()
            say(f"{self.what}: {text}" if self.what else text)

    def close(self) -> None:
        """Close the bar, which stays on the terminal or not, as `leave` says."""
        self._bar.close()

    def _counted(self, elapsed: float) -> str:
        """The number of units done, and the remaining time at the same pace."""
        if self.total is None:
            return f"{self.done} {self.unit if self.done == 1 else self._units}"
        pace = elapsed / max(self.done - self._initial, 1)
        left = in_words((self.total - self.done) * pace)
        return f"{self.done} of {self.total} {self._units}, {left} left"


def over(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Iterate over items with a bar that appears only after two seconds.

    Args:
        items: The items.
        what: Name of the work, as in `Bar`.
        unit: Unit that is counted, as in `Bar`.
        total: Number of items, if `items` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    bar = Bar(what, total, unit, delay=2, leave=False)
    try:
        for item in items:
            yield item
            bar.update()
    finally:
        bar.close()


def say(text: str) -> None:
    """Log a line, or print it while a request is checked, before there is a log."""
    if logging.getLogger().handlers:
        log.info("%s", text)
    else:
        with suppress(BrokenPipeError):  # the reader has closed the pipe
            print(text, flush=True)


def pause(elapsed: float) -> float:
    """Seconds until the next line after `elapsed` seconds of work; longer work has fewer lines."""
    return min(max(USUAL, elapsed / 20), LONGEST)


def in_words(seconds: float) -> str:
    """An estimated time as text: `40 s`, `12 min` or `2 h 5 min`."""
    if seconds < 59.5:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
