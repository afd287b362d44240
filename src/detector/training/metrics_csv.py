"""metrics.csv of a run: a row for each epoch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from detector.core.files import write_csv
from detector.core.run_folder import RunFolder


def read_rows(run: RunFolder) -> list[dict[str, str]]:
    """Read the rows that a run has so far; all values are text, and empty where there was none."""
    if not run.metrics_csv.is_file():
        return []
    with run.metrics_csv.open(newline="", encoding="utf-8") as stream:
        # The column of the phase used to be called `stage`.
        return [
            {"phase" if name == "stage" else name: value for name, value in row.items()}
            for row in csv.DictReader(stream)
        ]


def write_rows(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the rows of a run; without any rows there is no file.

    What is logged may change when a run is resumed, so that rows may have different columns; those
    of the newest row come first.
    """
    if not rows:
        run.metrics_csv.unlink(missing_ok=True)
        return
    columns = dict.fromkeys(name for row in reversed(rows) for name in row)
    write_csv(run.metrics_csv, list(columns), rows)
