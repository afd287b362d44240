"""How time grows: slopes of log time over log size.

1 is in proportion, 0 not at all. Steps and detections are of a ResNet-50 FPN with its backbone
frozen; data sets are folders of VOC annotations, read, split and validated as before a run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from check import write_set
from common import Report, median_seconds, seconds
from networks import build_ours, detection, make_batch, our_step

from detector.data.read import DataSetSpec, read
from detector.data.validation.image_info import ImageInfoCache


def measure(quick: bool) -> Report:
    """Time each thing at several sizes.

    Args:
        quick: Small sizes, few rounds.
    """
    height, width, rounds = (96, 128, 1) if quick else (480, 640, 5)
    sides = [(96, 128), (128, 160)] if quick else [(240, 320), (480, 640), (720, 960)]
    images = [20, 40] if quick else [500, 2000, 8000]
    boxes, classes = [1, 4, 16, 64, 256], [1, 10, 100, 1000]
    grown = {
        "step, boxes an image": _times(
            boxes, lambda n: our_step(0, make_batch(2, height, width, boxes=n)), rounds
        ),
        "step, pixels an image": _times(
            [h * w for h, w in sides],
            lambda n: our_step(0, make_batch(2, *next(s for s in sides if s[0] * s[1] == n))),
            rounds,
        ),
        "step, classes": _times(
            classes, lambda n: our_step(0, make_batch(2, height, width, classes=n), n), rounds
        ),
        "detection, classes": _times(
            classes,
            lambda n: detection(
                build_ours(0, n).eval(), make_batch(1, height, width)[0], mixed=True
            ),
            rounds,
        ),
        **_data_sets(images, rounds),
    }
    slopes = {name: slope(times) for name, times in grown.items()}
    rows = [
        f"| {name} | {', '.join(f'{n:,}' for n in times)} "
        f"| {', '.join(f'{t:.3g}' for t in times.values())} | {slopes[name]:.2f} |"
        for name, times in grown.items()
    ]
    lines = ["| what grows | sizes | seconds | slope |", "|---|---|---|--:|", *rows]
    return Report({}, "\n".join(lines), {"seconds": grown, "slopes": slopes})


def _times(
    sizes: Sequence[int], make: Callable[[int], Callable[[], object]], rounds: int
) -> dict[int, float]:
    """Median seconds at each size."""
    return {n: median_seconds(make(n), rounds) for n in sizes}


def _data_sets(sizes: Sequence[int], rounds: int) -> dict[str, dict[int, float]]:
    """Reading a data set at first, and again with what is known of its images."""
    first, again = {}, {}
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            root, cache = Path(folder, "set"), Path(folder, "facts.sqlite")
            root.mkdir()
            write_set(root, count)
            named = dict.fromkeys(("train", "val", "test"))
            source = DataSetSpec(root, "voc", {**named}, {"val": 0.15, "test": 0.15})

            def work(source: DataSetSpec = source, cache: Path = cache) -> object:
                return read(source, ImageInfoCache(cache))

            first[count] = seconds(work)
            again[count] = median_seconds(work, rounds, warmup=0)
    return {"data set read at first, images": first, "data set read again, images": again}


def slope(times: dict[int, float]) -> float:
    """Of the straight line nearest to the points, both axes logarithmic."""
    return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])
