"""What a run did, for people and programs: `schedule.png` and `phases.json`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from detector.core.files import write_json
from detector.core.run_folder import RunFolder
from detector.finetune.schedule import Entry, Progress, Schedule
from detector.report.schedule import Curve, ShadedPhase, draw_schedule

POINTS = 60  # of a curve in an epoch


def write_history(
    run: RunFolder,
    schedule: Schedule,
    progress: Progress,
    lr: float,
    groups: Sequence[str],
    steps_per_epoch: int,
    rows: Sequence[Mapping[str, Any]],
    monitor: str,
) -> None:
    """Write `phases.json` and `schedule.png`, each in one step.

    Rates are computed for the phases of this schedule, with the rate in force. Of phases that the
    run had under another schedule they are those at the ends of epochs, as metrics.csv has them.

    Args:
        run: Folder of the run.
        schedule: The one in force.
        progress: What was done of it.
        lr: The learning rate that factors are multiplied with, scaled to the batch.
        groups: The network's group names.
        steps_per_epoch: The optimiser's.
        rows: Of metrics.csv.
        monitor: The column of the score that the schedule follows.
    """
    scores = {int(row["epoch"]): _number(row.get(monitor)) for row in rows}
    spans = _spans(progress)
    write_json(run.phases, [_record(entry, end, scores) for entry, end in spans])
    draw_schedule(
        run.schedule,
        [
            ShadedPhase(entry.name, entry.start_epoch, end, entry.restored_epoch, entry.ended)
            for entry, end in spans
        ],
        [_curve(schedule, spans, lr, group, steps_per_epoch, rows) for group in groups],
        scores,
        progress.best_epoch,
        monitor,
    )


def read_training(run: RunFolder, best_epoch: int | None, monitor: str) -> dict[str, Any] | None:
    """What metrics.csv and phases.json say of a run.

    Args:
        run: Folder of the run.
        best_epoch: From 0.
        monitor: The score that chose it.

    Returns:
        `monitor`, `best_epoch`, `rows` (numbers, None for empty cells) and `phases`; None if the
        files are not there, or are no such files.
    """
    if not (run.metrics_csv.is_file() and run.phases.is_file()):
        return None
    try:
        with run.metrics_csv.open(newline="", encoding="utf-8") as stream:
            rows = [_numbers(row) for row in csv.DictReader(stream)]
        kept = [
            {key: phase[key] for key in ("name", "train", "start_epoch", "epochs")}
            for phase in json.loads(run.phases.read_text(encoding="utf-8"))
        ]
    except (ValueError, KeyError, TypeError):
        return None  # those of another program
    return {"monitor": monitor, "best_epoch": best_epoch, "rows": rows, "phases": kept}


def _numbers(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of metrics.csv."""
    cells = {key: float(value) if value else None for key, value in row.items() if key != "stage"}
    return {**cells, "epoch": int(row["epoch"]), "stage": row["stage"]}


def _spans(progress: Progress) -> list[tuple[Entry, int]]:
    """Every phase begun, and the first epoch that is not its own."""
    ends = [entry.start_epoch for entry in progress.phases[1:]]
    ends.append(progress.done)
    return list(zip(progress.phases, ends, strict=True))


def _index(schedule: Schedule, entry: Entry) -> int | None:
    """Which phase of the schedule it is; None: one of another schedule, whatever its number."""
    same = [(phase.name, phase.train) == (entry.name, entry.train) for phase in schedule.phases]
    return same.index(True) if any(same) else None


def _record(entry: Entry, end: int, scores: Mapping[int, float]) -> dict[str, Any]:
    """A phase's item in phases.json; epochs count from 0, as in metrics.csv."""
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
    spans: Sequence[tuple[Entry, int]],
    lr: float,
    group: str,
    steps_per_epoch: int,
    rows: Sequence[Mapping[str, Any]],
) -> Curve:
    """A group's rate at some of the run's steps, and at the end of every phase."""
    recorded = {int(row["epoch"]): _number(row.get(f"lr/{group}")) for row in rows}
    epochs: list[float] = []
    rates: list[float] = []
    for entry, end in spans:
        index = _index(schedule, entry)
        start = entry.start_epoch
        done = (end - start) * steps_per_epoch
        if index is None:
            epochs += range(start + 1, end + 1)
            rates += [recorded.get(epoch, math.nan) for epoch in range(start, end)]
            continue
        if not done:
            continue
        steps = schedule.length(index, start) * steps_per_epoch
        # The end of warm-up is a corner, which a line between samples would cut.
        corner = min(schedule.phases[index].warmup.steps, done - 1)
        sampled = sorted({*range(0, done, -(-steps_per_epoch // POINTS)), corner, done - 1})
        epochs += [start + step / steps_per_epoch for step in sampled] + [end]
        these = [lr * schedule.lr_factor(index, group, step, steps) for step in sampled]
        rates += [*these, these[-1]]  # the last step lasts to the end
    return Curve(group, epochs, rates)


def _number(text: str | float | None) -> float:
    """A cell of metrics.csv; NaN where it is empty."""
    return float(text) if text not in (None, "") else math.nan
