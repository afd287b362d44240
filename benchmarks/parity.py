"""Whether training in float32 is torchvision's: the losses of the first steps.

The same weights, images and random numbers. The losses differ by rounding alone. But two
proposals whose scores are almost equal may change places, so that others are sampled; then the two
runs part, as do two runs of torchvision's own in different memory layouts, the control.
"""

from __future__ import annotations

import torch
from common import Report
from networks import (
    Targets,
    as_floats,
    build_ours,
    build_torchvision,
    make_batch,
    sizes,
    training_step,
)
from torch import Tensor, nn

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
        peer, control = (build_torchvision(ours, trained, sizes(images)) for _ in range(2))
        control.to(memory_format=torch.channels_last)
        found = {
            "ours": losses(ours, images, targets),
            "control": losses(control, as_floats(images), targets),
            "torchvision": losses(peer, as_floats(images), targets),
        }
        expected = torch.tensor(found["torchvision"])
        for name in ("ours", "control"):
            values = torch.tensor(found[name])
            first = abs(values[0] / expected[0] - 1).item()
            mean = abs(values.mean() / expected.mean() - 1).item()
            who = "ours" if name == "ours" else "torchvision's own, channels-last"
            rows.append(f"| {state} | {who} | {first:.1e} | {mean:.1e} |")
        extra[state] = found
    lines = [
        "Losses of training in float32 beside torchvision's, relative difference: of the first "
        f"step, and of the mean over {STEPS} steps (wanted: 1e-4 and 1e-2):",
        "",
        "| backbone | whose | first step | mean |",
        "|---|---|--:|--:|",
        *rows,
    ]
    return Report({}, "\n".join(lines), extra)


def losses(network: nn.Module, images: list[Tensor], targets: Targets) -> list[float]:
    """Of some steps; the same random numbers for every network."""
    step = training_step(network, images, targets, mixed=False)
    found = []
    for seed in range(STEPS):
        torch.manual_seed(seed)
        found.append(step())
    return found
