"""How right the remaining time of a run is, as the bar says it, from the second epoch on.

    python benchmarks/time_left.py +experiment=trees finetune=staged trainer.max_epochs=6 ...

What follows the name is typed as after `python -m detector.train`. The estimate after every step is
compared with the time that really remained until the final evaluation had ended.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import detector
from detector.training.progress import RunProgress


def main(overrides: list[str]) -> int:
    """The command.

    Args:
        overrides: What is typed after `python -m detector.train`.
    """
    said: list[tuple[int, float, float]] = []  # epoch, when, seconds left
    update = RunProgress.on_train_batch_end

    def record(self: RunProgress, trainer: Any, *others: Any) -> None:
        update(self, trainer, *others)
        said.append((trainer.current_epoch, time.monotonic(), self.seconds_left(trainer)))

    RunProgress.on_train_batch_end = record  # type: ignore[method-assign]
    detector.train(overrides)
    end = time.monotonic()
    print(
        "\n| epoch | left, s | said, s: median | off by, median | at most |\n|--:|--:|--:|--:|--:|"
    )
    for epoch in sorted({e for e, _, _ in said} - {0}):
        rows = [(end - when, left) for e, when, left in said if e == epoch]
        off = [left / real - 1 for real, left in rows]
        print(
            f"| {epoch + 1} | {rows[0][0]:.0f}-{rows[-1][0]:.0f} "
            f"| {statistics.median(left for _, left in rows):.0f} | {statistics.median(off):+.0%} "
            f"| {max(off, key=abs):+.0%} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
