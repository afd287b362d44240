"""How far a training step is from what the machine can multiply.

The multiply-adds of the step's convolutions and matrix products, over the rate of one large bf16
matrix product on this machine: the time that the step would take if it did nothing else, as fast.
"""

from __future__ import annotations

import torch
from common import Figure, Report, median_seconds, seconds
from networks import (
    TRAINED,
    Batch,
    build_ours,
    make_batch,
    mixed_dtype,
    our_step,
    training_step,
)
from torch.utils.flop_counter import FlopCounterMode

SIDE = 4096


def measure(quick: bool) -> Report:
    """Compare the step with the limit, with the backbone frozen and trained.

    Args:
        quick: Small images, few rounds.
    """
    height, width, rounds = (96, 128, 2) if quick else (480, 640, 9)
    batch = make_batch(2, height, width)
    dtype = mixed_dtype() or torch.float32
    a, b = torch.randn(2, SIDE, SIDE).to(dtype).unbind()
    figures, extra = {}, {}
    for state, trained in TRAINED.items():
        count = multiply_adds(trained, batch)
        step = our_step(trained, batch)
        step()
        took, limits = [], []
        for _ in range(rounds):
            took.append(seconds(step))
            product = median_seconds(lambda: a @ b, 3, warmup=1)
            limits.append(count / (SIDE**3 / product))
        figures[f"limit_{state}"] = Figure.of(
            took,
            limits,
            what=f"training step, backbone {state}; peer: its {count / 1e9:.0f} billion "
            f"multiply-adds at the rate of a {SIDE}x{SIDE} matrix product in {str(dtype)[6:]}",
            target=1 / 1.5 if state == "frozen" else None,
        )
        extra[f"multiply_adds_{state}"] = count
    return Report(figures, extra=extra)


def multiply_adds(trained: int, batch: Batch) -> int:
    """Of one training step: what its convolutions and matrix products multiply, both ways.

    Args:
        trained: Backbone stages that are trained, from the top.
        batch: Images and targets.
    """
    images, targets = batch
    network = build_ours(trained)
    step = training_step(network, images, targets, mixed=True)
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops()) // 2
