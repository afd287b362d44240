"""Seconds and memory to read a COCO JSON of train2017's size: ours beside pycocotools' index.

A synthetic instances JSON with 118,287 images and 860,001 boxes, and as many (empty) image files,
are made in a temporary folder. Each round reads it in two new processes, one after the other, so
that a process' peak memory (Linux' VmHWM) is its own; what importing takes is not counted. Ours is
everything from the file to the packed, validated split, but for reading the images' headers;
pycocotools' is `COCO(file)`. The bound is the time that ours' decoder of JSON takes for the few
fields that are used.

Then four loader workers go through all annotations; what memory each has of its own (unique set
size) is compared with that of a worker that does nothing: annotations that were copied would show.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
from common import Figure, Report

IMAGES, BOXES = 118_287, 860_001  # of train2017
CATEGORIES = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]

OURS = """
import json, sys, time
from pathlib import Path
from detector.data.formats.coco import CocoReader
from detector.data.validation.image_info import ImageInfo
from detector.data.formats.folder import Folder
from detector.data.validation.validate import Validator, choose_classes
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
before, started = peak(), time.perf_counter()
reader = CocoReader(Folder(Path(sys.argv[1])), {"train": None, "val": None, "test": None})
raw = reader.read("train")
infos = {i: ImageInfo(w, h, 1) for i, (h, w) in zip(raw.images, raw.sizes.tolist(), strict=True)}
classes = choose_classes(reader, {"train": raw}, None)
images = Validator(reader, infos, classes, "x", 3).validate("train", raw).images
seconds = time.perf_counter() - started
print(json.dumps([seconds, peak() - before, len(images), len(images.boxes)]))
"""
THEIRS = """
import contextlib, io, json, sys, time
from pycocotools.coco import COCO
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
before, started = peak(), time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    index = COCO(sys.argv[1] + "/annotations/instances_train2017.json")
seconds = time.perf_counter() - started
print(json.dumps([seconds, peak() - before, len(index.imgs), len(index.anns)]))
"""
LEAST = """
import json, sys, time
from pathlib import Path
import msgspec
class Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int
class Note(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: msgspec.Raw
    iscrowd: int
class Content(msgspec.Struct, gc=False):
    images: list[Image]
    annotations: list[Note]
started = time.perf_counter()
text = Path(sys.argv[1], "annotations/instances_train2017.json").read_bytes()
content = msgspec.json.decode(text, type=Content)
seconds = time.perf_counter() - started
print(json.dumps([seconds, 0, len(content.images), len(content.annotations)]))
"""


def measure(quick: bool) -> Report:
    """The comparison, and the workers' memory."""
    if quick:
        return measure_at(2_000, 15_000, rounds=1)
    return measure_at(IMAGES, BOXES, rounds=5)


def measure_at(images: int, boxes: int, rounds: int) -> Report:
    """As `measure`, at a size."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_set(root, images, boxes)
        every = [[read(code, root) for code in (OURS, THEIRS, LEAST)] for _ in range(rounds)]
    ours, theirs, least = (np.array(values) for values in zip(*every, strict=True))
    for found in (ours, theirs, least):
        assert found[0, 2:].tolist() == [images, boxes]
    figure = Figure.of(
        ours[:, 0].tolist(),
        theirs[:, 0].tolist(),
        f"read a COCO JSON of {images:,} images and {boxes:,} boxes and validate it; "
        "pycocotools' index alone",
        bound=least[:, 0].tolist(),
        bound_by="msgspec's decoding of the JSON, the boxes left as text",
    )
    ours_mib, peer_mib = (float(np.median(values[:, 1])) for values in (ours, theirs))
    packed, own = workers_memory(images, boxes)
    table = (
        f"| memory for {boxes:,} boxes | MiB |\n|---|--:|\n"
        f"| peak beyond the start, ours | {ours_mib:.0f} |\n"
        f"| peak beyond the start, pycocotools' index | {peer_mib:.0f} |\n"
        f"| annotations, packed | {packed:.0f} |\n"
        f"| a loader worker's own, of four | {max(own):.1f} |"
    )
    extra = {"ours_mib": ours_mib, "peer_mib": peer_mib, "workers_mib": own}
    return Report({"coco_load": figure}, table, extra)


def write_set(root: Path, count: int, boxes_count: int) -> None:
    """The JSON and its empty image files."""
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(600_000, count, replace=False)).tolist()
    sizes = rng.choice([640, 480, 500, 427], (count, 2)).tolist()
    images = [
        {"license": 1, "file_name": f"{i:012d}.jpg", "height": h, "width": w, "id": i}
        | {"coco_url": f"http://images.cocodataset.org/train2017/{i:012d}.jpg"}
        for i, (h, w) in zip(ids, sizes, strict=True)
    ]
    owners = rng.integers(0, count, boxes_count)
    corner = rng.uniform(0, 0.7, (boxes_count, 2))
    side = rng.uniform(0.01, 0.3, (boxes_count, 2))
    scale = np.array(sizes)[owners][:, ::-1]
    boxes = (np.concatenate([corner, side], 1) * np.tile(scale, 2)).round(2)
    kinds = rng.choice(CATEGORIES, boxes_count).tolist()
    crowds = (rng.random(boxes_count) < 0.01).astype(int).tolist()
    annotations = [
        {"id": k + 1, "image_id": ids[owner], "category_id": kind, "bbox": box, "iscrowd": crowd}
        | {"area": round(box[2] * box[3], 2)}
        for k, (owner, kind, box, crowd) in enumerate(
            zip(owners.tolist(), kinds, boxes.tolist(), crowds, strict=True)
        )
    ]
    categories = [{"id": c, "name": f"class {c}", "supercategory": "thing"} for c in CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations/instances_train2017.json").write_text(json.dumps(content))
    (root / "train2017").mkdir()
    for image in images:
        os.close(os.open(root / "train2017" / str(image["file_name"]), os.O_CREAT | os.O_WRONLY))


def read(code: str, root: Path) -> list[float]:
    """Seconds, MiB, images and boxes, in a process of their own."""
    command = [sys.executable, "-c", code, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: list[float] = json.loads(done.stdout)
    return values


def read_all(images: object, results: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    """A worker: touch every box, as an epoch does."""
    total = sum(float(image.boxes.sum()) for image in images)  # type: ignore[attr-defined, misc]
    results.put((total, psutil.Process().memory_full_info().uss / 2**20))


def workers_memory(count: int, boxes: int) -> tuple[float, list[float]]:
    """MiB of the packed arrays, and of what each of four forked workers has of its own."""
    from detector.core.structures import AnnotatedImages

    counts = np.bincount(np.random.default_rng(0).integers(0, count, boxes), minlength=count)
    images = AnnotatedImages(
        paths=np.array([f"/data/coco/train2017/{i:012d}.jpg" for i in range(count)]),
        sizes=np.full((count, 2), 480, np.int32),
        offsets=np.concatenate(([0], np.cumsum(counts))),
        boxes=np.ones((boxes, 4), np.float32),
        labels=np.ones(boxes, np.int64),
        ignore=np.zeros(boxes, bool),
    )
    arrays = [array for array in vars(images).values() if array is not None]
    packed = sum(array.nbytes for array in arrays) / 2**20
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    idle = context.Process(target=read_all, args=([], results))
    idle.start()
    empty = results.get()[1]
    running = [context.Process(target=read_all, args=(images, results)) for _ in range(4)]
    for process in running:
        process.start()
    return packed, [results.get()[1] - empty for _ in running]
