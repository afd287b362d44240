"""A training run in a process of its own that dies by SIGKILL at a chosen moment."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from commands import run_script

# Of each epoch, so that phases end early, and the best epoch is not always the last.
SCORES = (0.3, 0.2, 0.25, 0.4, 0.35, 0.5, 0.1)

MOMENTS = ("in the epoch", "decided, not saved", "last.ckpt saved, best.ckpt not", "saved")


def run(overrides: Sequence[str], out: Path, kill: tuple[str, int] | None = None) -> int:
    """Train, and return the process's exit code.

    Args:
        overrides: As typed.
        out: The run's folder.
        kill: One of `MOMENTS`, and the epoch.
    """
    script = "import json, sys, killable; killable.train(*json.loads(sys.argv[1]))"
    asked = json.dumps([list(overrides), str(out), kill])
    ended = run_script(script, asked, cwd=Path.cwd(), heavy=True)
    print(ended.stderr, file=sys.stderr)
    return ended.code


def train(overrides: list[str], out: str, kill: tuple[str, int] | None) -> None:
    """Train in this process, which dies at the moment chosen."""
    from detector.cli import call
    from detector.training import run_checkpoints
    from detector.training.module import DetectionTask

    moment, epoch = kill or ("", -1)
    here = {"epoch": -1}
    steps, save, keep = (
        DetectionTask.on_train_batch_start,
        run_checkpoints.RunCheckpoints.save,
        run_checkpoints.link_or_copy,
    )

    def die(at: str) -> None:
        if (at, here["epoch"]) == (moment, epoch):
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self, batch, index):
        here["epoch"] = self.current_epoch
        if index == 1:
            die("in the epoch")
        steps(self, batch, index)

    def save_or_die(self, trainer):
        die("decided, not saved")
        save(self, trainer)
        die("saved")

    def keep_or_die(file, copy):
        die("last.ckpt saved, best.ckpt not")
        keep(file, copy)

    def scripted(self):
        self.log("val/map", SCORES[self.current_epoch], logger=False)
        self.log("val/map_50", float(self.metric.compute()["map_50"]), logger=False)

    DetectionTask.on_train_batch_start = step
    run_checkpoints.RunCheckpoints.save = save_or_die
    run_checkpoints.link_or_copy = keep_or_die
    DetectionTask.on_validation_epoch_end = scripted
    call("train", overrides, Path(out))
