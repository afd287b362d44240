"""Seconds that a check takes: the first one, one of unchanged files, one after a small change.

    python benchmarks/check.py [--images N] [--rounds N] [--json FILE]

The whole command `python -m detector.check` is timed, from its start to its exit, on N generated
VOC images of 320x240 pixels with five boxes each, and a cache folder of its own. There is no peer:
no other tool keeps what it found.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

XML = "<annotation><size><width>320</width><height>240</height></size>{}</annotation>"
OBJECT = (
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


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


def run(root: Path, cache: Path) -> float:
    """Seconds of one check."""
    command = [sys.executable, "-m", "detector.check", f"data.root={root}"]
    command += ["backbone=efficientnet_lite0", f"hydra.run.dir={cache}/out"]
    started = time.perf_counter()
    environment = {**os.environ, "DETECTOR_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, and write the JSON that `--json` asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "set", Path(folder) / "cache"
        root.mkdir()
        write_set(root, asked.images)
        found = {"first_s": run(root, cache)}
        again = [run(root, cache) for _ in range(asked.rounds)]
        found |= {"again_s": statistics.median(again), "again_most_s": max(again)}
        annotation = root / "00000.xml"
        annotation.write_text(annotation.read_text() + "\n")
        found["one_changed_s"] = run(root, cache)
    for name, seconds in found.items():
        print(f"{name:14} {seconds:6.2f} s")
    if asked.json:
        asked.json.write_text(json.dumps({"check": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
