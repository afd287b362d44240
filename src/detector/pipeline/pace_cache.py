"""The pace of earlier runs: by it a dry run says how many epochs fit into a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detector.config.schema import Config
from detector.core.files import write_json
from detector.data.formats.paths import cache_folder
from detector.finetune.budget import VALIDATING
from detector.finetune.phases import Phase
from detector.finetune.schedule import Progress

KEPT = 200  # phases, the newest


class PhasePace(NamedTuple):
    """The pace of a phase of an earlier run.

    Attributes:
        epoch: Seconds of a pass over the training images, without validation.
        validation: Seconds of a validation.
    """

    epoch: float
    validation: float

    @property
    def each(self) -> float:
        """Seconds of an epoch with its part of the validations, which are a tenth at most."""
        return self.epoch + min(self.validation, self.epoch * VALIDATING / (1 - VALIDATING))


def remember_pace(
    config: Config, progress: Progress, rows: Sequence[Mapping[str, str]], phases: Sequence[Phase]
) -> None:
    """Keep the pace of each phase of a run in the cache.

    Args:
        config: Configuration in force.
        progress: Progress of the run.
        rows: Rows of metrics.csv.
        phases: Phases of the schedule.
    """
    known = _read()
    for entry, end, end_step in progress.spans():
        own = [row for row in rows if entry.start_epoch <= int(row["epoch"]) < end]
        validations = [s for row in own if (s := float(row["seconds_validation"] or 0))]
        passes = (end_step - entry.start_step) / progress.per_epoch
        if not validations or not passes or entry.ended == "changed":
            continue
        training = sum(float(row["seconds"]) for row in own) - sum(validations)
        pace = PhasePace(training / passes, sum(validations) / len(validations))
        key = _key(config, phases[entry.phase])
        known.pop(key, None)  # the newest come last
        known[key] = list(pace)
    _file().parent.mkdir(parents=True, exist_ok=True)
    write_json(_file(), dict(list(known.items())[-KEPT:]))


def recall_pace(config: Config, phase: Phase) -> PhasePace | None:
    """The pace of a phase in an earlier run on the same data, with the same network and batches."""
    found = _read().get(_key(config, phase))
    return None if found is None else PhasePace(*found)


def _key(config: Config, phase: Phase) -> str:
    """What the pace of a phase depends on."""
    run, data = config.trainer, config.data
    parts = data.root, data.image_size, data.batch_size, config.backbone.key, config.model
    limits = run.limit_train_batches, run.limit_val_batches
    where = run.accelerator, run.devices, run.num_nodes, run.precision, run.compile
    return repr((*parts, *limits, *where, sorted(phase.train)))


def _read() -> dict[str, list[float]]:
    """All that is kept; nothing if the file is not there or not ours."""
    try:
        content: Any = json.loads(_file().read_text(encoding="utf-8"))
        return {str(key): [float(a), float(b)] for key, (a, b) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _file() -> Path:
    return cache_folder() / "pace.json"
