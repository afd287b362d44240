"""Whether training in float32 is torchvision's: the losses of the first steps.

The same weights, images and random numbers. The first losses differ by rounding alone. After that
two proposals whose scores are almost equal may change places, so that others are sampled, and the
two runs part, as two runs of torchvision's in different memory layouts do.
"""

from __future__ import annotations

import torch
from common import Report
from networks import as_floats, build_ours, build_torchvision, make_batch, sizes, training_step

STEPS = 20


def measure(quick: bool) -> Report:
    """Compare the losses with the backbone frozen and its upper three stages trained.

    Args:
        quick: Small images.
    """
    images, targets = make_batch(2, *((96, 128) if quick else (480, 640)))
    rows, extra = [], {}
    for state, trained in (("frozen", 0), ("partial", 3)):
        ours = build_ours(trained)
        theirs = build_torchvision(ours, trained, sizes(images))
        losses = []
        for step in (
            training_step(ours, images, targets, mixed=False),
            training_step(theirs, as_floats(images), targets, mixed=False),
        ):
            losses.append([])
            for seed in range(STEPS):
                torch.manual_seed(seed)
                losses[-1].append(step())
        a, b = torch.tensor(losses, dtype=torch.float64)
        first = abs(a[0] / b[0] - 1).item()
        mean = abs(a.mean() / b.mean() - 1).item()
        rows.append(f"| {state} | {first:.1e} | {mean:.1e} |")
        extra[state] = {"first": first, "mean": mean, "ours": losses[0], "torchvision": losses[1]}
    lines = [
        f"Losses of training in float32 beside torchvision's, relative difference: of the first "
        f"step, and of the mean over {STEPS} steps (wanted: 1e-4 and 1e-2):",
        "",
        "| backbone | first step | mean |",
        "|---|--:|--:|",
        *rows,
    ]
    return Report({}, "\n".join(lines), extra)
