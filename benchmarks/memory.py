"""Memory of training: ours beside torchvision's.

Each trains in a process of its own for three steps. The figure is the most memory the process has
held, above what it held with its libraries loaded: weights, gradients, activations, and what the
allocator keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from common import Report, Work, Worker
from networks import TRAINED, make_batch, our_step, torchvision_step

STEPS = 3


def measure(quick: bool) -> Report:
    """Compare the three states of the backbone.

    Args:
        quick: Small images.
    """
    height, width = (96, 128) if quick else (480, 640)
    batch = make_batch(2, height, width)
    peaks = {
        state: {
            "ours": peak(partial(our_step, trained, batch)),
            "torchvision": peak(partial(torchvision_step, trained, batch)),
        }
        for state, trained in TRAINED.items()
    }
    lines = [
        f"Peak memory of training, ResNet-50 FPN, 2 images of {height}x{width}:",
        "",
        "| backbone | ours | torchvision | ours over torchvision's |",
        "|---|--:|--:|--:|",
        *(
            f"| {state} | {p['ours']:.0f} MiB | {p['torchvision']:.0f} MiB "
            f"| {p['ours'] / p['torchvision']:.2f} |"
            for state, p in peaks.items()
        ),
    ]
    return Report({}, "\n".join(lines), {"peak_mib": peaks})


def peak(make: Callable[[], Work]) -> float:
    """Of some steps, MiB."""
    with Worker(make) as worker:
        for _ in range(STEPS):
            worker.seconds()
        return worker.peak_bytes() / 2**20
