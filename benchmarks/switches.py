"""What each switch for speed is worth: a training step with one of them the other way.

ResNet-50 FPN, 2 images of 480x640, in a process for each.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from functools import partial
from typing import Any

from common import Report, Worker
from networks import TRAINED, make_batch, our_step

from detector.models.faster_rcnn import SpeedOptions

SWITCHES: dict[str, dict[str, Any]] = {
    "as it is by default": {},
    "`trainer.precision=32`": {"mixed": False},
    "`trainer.channels_last=false`": {"speed": SpeedOptions(channels_last=False)},
    "`trainer.compile=true`": {"speed": SpeedOptions(compiled=True)},
}


def measure(quick: bool) -> Report:
    """Time every switch in turn, with the backbone frozen and its upper three stages trained.

    Args:
        quick: Small images, few rounds.
    """
    height, width, rounds = (96, 128, 1) if quick else (480, 640, 7)
    batch = make_batch(2, height, width)
    took: dict[str, dict[str, float]] = {name: {} for name in SWITCHES}
    for state in ("frozen", "partial"):
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(Worker(partial(our_step, TRAINED[state], batch, **how)))
                for name, how in SWITCHES.items()
            }
            for worker in workers.values():  # a compiler works here
                worker.seconds()
                worker.seconds()
            every = [{n: w.seconds() for n, w in workers.items()} for _ in range(rounds)]
        for name in SWITCHES:
            took[name][state] = statistics.median(each[name] for each in every)
    lines = [
        f"A training step with one switch the other way, seconds; 2 images of {height}x{width}:",
        "",
        "| | backbone frozen | upper three stages trained |",
        "|---|--:|--:|",
        *(f"| {name} | {t['frozen']:.2f} | {t['partial']:.2f} |" for name, t in took.items()),
    ]
    return Report({}, "\n".join(lines), {"seconds": took})
