"""History of a run: writes `schedule.png` and `phases.json`, reads them and `metrics.csv`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from detector.core.files import write_json
from detector.core.run_folder import RunFolder
from detector.finetune.schedule import Entry, Progress, Schedule
from detector.report.schedule import Curve, ShadedPhase, draw_schedule
from detector.training.metrics_csv import read_rows

POINTS = 60  # points of a curve in an epoch


def write_history(
    run: RunFolder,
    schedule: Schedule,
    progress: Progress,
    lr: float,
    groups: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    monitor: str,
) -> None:
    """Write `phases.json` and `schedule.png`, each in one step.

    Learning rates are computed for the phases of this schedule. For phases that the run had under
    another schedule they are taken from metrics.csv, which has those at the ends of epochs.

    Args:
        run: Folder of the run.
        schedule: Schedule in force.
        progress: Progress of the schedule.
        lr: Base learning rate, scaled to the batch size, which factors are multiplied with.
        groups: Names of the parameter groups.
        rows: Rows of metrics.csv.
        monitor: Column of the monitored score.
    """
    scores = {int(row["epoch"]): _number(row.get(monitor)) for row in rows}
    spans = progress.spans()
    write_json(run.phases, [_record(entry, end, scores) for entry, end, _ in spans])
    draw_schedule(
        run.schedule,
        [
            ShadedPhase(entry.name, entry.start_epoch, end, entry.restored_epoch, entry.ended)
            for entry, end, _ in spans
        ],
        [_curve(schedule, spans, lr, group, rows) for group in groups],
        scores,
        progress.best_epoch,
        monitor,
    )


def read_training(run: RunFolder, best_epoch: int | None, monitor: str) -> dict[str, Any] | None:
    """Read metrics.csv and phases.json of a run.

    Args:
        run: Folder of the run.
        best_epoch: Best epoch, from 0; None if there is none.
        monitor: Score by which it is the best.

    Returns:
        `monitor`, `best_epoch`, `rows` (numbers, None for empty cells) and `phases`; None if the
        files are missing or have other content.
    """
    if not (run.metrics_csv.is_file() and run.phases.is_file()):
        return None
    try:
        rows = [_numbers(row) for row in read_rows(run)]
        kept = [
            {key: phase[key] for key in ("name", "train", "start_epoch", "epochs")}
            for phase in json.loads(run.phases.read_text(encoding="utf-8"))
        ]
    except (ValueError, KeyError, TypeError):
        return None  # files of another program
    return {"monitor": monitor, "best_epoch": best_epoch, "rows": rows, "phases": kept}


def _numbers(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of metrics.csv."""
    cells = {key: float(value) if value else None for key, value in row.items() if key != "phase"}
    return {**cells, "epoch": int(row["epoch"]), "phase": row["phase"]}


def _index(schedule: Schedule, entry: Entry) -> int | None:
    """Index of the phase in the schedule; None if it was a phase of another schedule."""
    same = [(phase.name, phase.train) == (entry.name, entry.train) for phase in schedule.phases]
    return same.index(True) if any(same) else None


def _record(entry: Entry, end: int, scores: Mapping[int, float]) -> dict[str, Any]:
    """Entry of a phase in phases.json; epochs count from 0, as in metrics.csv."""
    own = [scores.get(epoch, math.nan) for epoch in range(entry.start_epoch, end)]
    return {
        "name": entry.name,
        "train": list(entry.train),
        "start_epoch": entry.start_epoch,
        "start_step": entry.start_step,
        "epochs": end - entry.start_epoch,
        "restored_epoch": entry.restored_epoch,
        "ended": entry.ended,
        "best": max((score for score in own if math.isfinite(score)), default=None),
    }


def _curve(
    schedule: Schedule,
    spans: Sequence[tuple[Entry, int, int]],
    lr: float,
    group: str,
    rows: Sequence[Mapping[str, Any]],
) -> Curve:
    """Learning rate of a group over the run, whose phases are those of `Progress.spans`."""
    recorded = {int(row["epoch"]): _number(row.get(f"lr/{group}")) for row in rows}
    epochs: list[float] = []
    rates: list[float] = []
    for entry, end, end_step in spans:
        start, done = entry.start_epoch, end_step - entry.start_step
        index = _index(schedule, entry)
        if index is None:
            epochs += range(start + 1, end + 1)
            rates += [recorded.get(epoch, math.nan) for epoch in range(start, end)]
        elif end > start:
            length = entry.steps or done
            warmup = min(schedule.phases[index].warmup.steps, length // 4)
            steps = _sampled_steps(warmup, end - start, done)
            factors = [schedule.lr_factor(index, group, step, length) for step in steps]
            # The last step lasts to the end of the phase, whose epochs are equally long.
            epochs += [*(start + step * (end - start) / done for step in steps), end]
            rates += [lr * factor for factor in (*factors, factors[-1])]
    return Curve(group, epochs, rates)


def _sampled_steps(warmup: int, epochs: int, steps: int) -> list[int]:
    """Steps of a phase with a number of epochs and of steps that a curve is drawn through.

    The end of warm-up is among them: it is a corner, which a line between other steps would cut.
    """
    last = steps - 1
    return sorted({*range(0, steps, -(-steps // (POINTS * epochs))), min(warmup, last), last})


def _number(text: str | float | None) -> float:
    """Number in a cell of metrics.csv; NaN if it is empty."""
    return float(text) if text not in (None, "") else math.nan
