"""Seconds that a check takes: the first one, one of unchanged files, one after a small change.

The whole command `python -m detector.check` is timed, from its start to its exit, on generated VOC
images of 320x240 pixels with five boxes each, and a cache folder of its own. There is no peer: no
other tool keeps what it found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from common import Report, median_seconds, seconds

XML = "<annotation><size><width>320</width><height>240</height></size>{}</annotation>"
OBJECT = (
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def measure(quick: bool) -> Report:
    """The seconds of each kind of check."""
    images, rounds = (200, 1) if quick else (10_000, 5)
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "set", Path(folder) / "cache"
        root.mkdir()
        write_set(root, images)

        def check() -> None:
            run(root, cache)

        found = {"first_s": seconds(check)}
        found["again_s"] = median_seconds(check, rounds, warmup=0)
        annotation = root / "00000.xml"
        annotation.write_text(annotation.read_text() + "\n")
        found["one_changed_s"] = seconds(check)
    table = (
        f"| check {images:,} images with {5 * images:,} boxes | s |\n|---|--:|\n"
        f"| at first | {found['first_s']:.2f} |\n"
        f"| unchanged | {found['again_s']:.2f} |\n"
        f"| one annotation changed | {found['one_changed_s']:.2f} |"
    )
    return Report({}, table, {"images": images, **found})


def write_set(root: Path, count: int) -> None:
    """Images as smooth random fields, and their annotations."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / f"{i:05d}.jpg"), picture)
        objects = []
        for x, y in rng.integers(1, 180, (5, 2)).tolist():
            objects.append(OBJECT.format(("a", "b")[x % 2], x, y, x + 40, y + 40))
        (root / f"{i:05d}.xml").write_text(XML.format("".join(objects)))


def run(root: Path, cache: Path) -> None:
    """Check the images; what is known of them is kept in the cache folder."""
    command = [sys.executable, "-m", "detector.check", f"data.root={root}"]
    command += ["backbone=efficientnet_lite0", f"hydra.run.dir={cache}/out"]
    environment = {**os.environ, "DETECTOR_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
