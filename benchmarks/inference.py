"""Seconds to detect in an image: ours beside torchvision's.

ResNet-50 FPN, the same weights, images of 480x640, in float32 for torchvision and with the
project's defaults for ours. With random weights both end in 100 detections an image.
"""

from __future__ import annotations

from functools import partial

from common import Report, compare_processes
from limit import at_most, multiply_adds
from networks import make_batch, our_detection, torchvision_detection


def measure(quick: bool) -> Report:
    """Compare, one image at a time and in batches of four.

    Args:
        quick: Small images, few rounds.
    """
    height, width, rounds = (96, 128, 2) if quick else (480, 640, 11)
    figures = {}
    for name, count, target in (("inference", 1, 5.0), ("inference_batch", 4, None)):
        batch = make_batch(count, height, width)
        ours = partial(our_detection, batch)
        total = multiply_adds(ours())
        figures[name] = compare_processes(
            ours,
            partial(torchvision_detection, batch),
            rounds,
            what=f"detection, an image in a batch of {count}; ResNet-50 FPN, {height}x{width}, "
            f"{total / count / 1e9:.1f} billion multiply-adds",
            target=target,
            count=count,
            bound=at_most(total),
        )
    return Report(figures)
