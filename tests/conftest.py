"""Small data sets and overrides that every test shares; nothing is downloaded."""

from __future__ import annotations

import copy
import functools
import gc
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf

from detector import cli
from detector.cli import compose, load_command
from detector.config.resolve import RUN_KEYS, resolve
from detector.data.read import DataSet, DataSetSpec, read
from detector.data.validation.image_info import ImageInfoCache
from detector.pipeline import load_data

# Property tests judge what they find, not how long it took, and find the same every time.
settings.register_profile("detector", deadline=None, derandomize=True, database=None)
settings.load_profile("detector")

# Several tests run at once, and threads of their small tensors cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Processes that reach each other are forked from a server that has imported what takes seconds.
PRELOADED = ["torch._dynamo", "torchmetrics.detection", "hypothesis", "detector.training.module"]
PRELOADED += ["detector.training.run_checkpoints", "detector.evaluation.metric"]
multiprocessing.set_forkserver_preload(PRELOADED)


def composed(command: str, *overrides: str) -> dict[str, Any]:
    """The values that are composed for a command, as plain data."""
    return copy.deepcopy(_values(command, overrides))


@functools.cache
def _values(command: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    cfg = compose(command, overrides)
    values = OmegaConf.to_container(
        OmegaConf.masked_copy(cfg, [key for key in cfg if key not in RUN_KEYS]), resolve=True
    )
    assert isinstance(values, dict)
    return values


def pytest_collection_finish() -> None:
    """Keep what is imported out of garbage collections, each of which would go through it all."""
    gc.collect()
    gc.freeze()


Box = tuple[str, tuple[float, float, float, float]]
WriteVoc = Callable[..., Path]

# A network small enough to train for a step in well under a second.
TINY = [
    "backbone=efficientnet_lite0",
    "model.weights=none",
    "finetune.norm=train",
    "model.fpn_channels=16",
    "model.head.hidden=[16]",
    "model.rpn_top_n_train=50",
    "model.rpn_top_n_test=50",
    "data.image_size=96",
    "data.batch_size=2",
    "trainer.precision='32'",
    "trainer.accelerator=cpu",
    "logger=none",
]


# The module of a format that tests add: one box an image, in a file such as `a.toy`.
TOY_FORMAT = '''
from detector.data.formats.raw import POOL, Format, RawBuilder, Sign


class ToyReader:
    """One box an image, in a file such as `a.toy`: class, x1, y1, x2, y2."""

    first_pixel = 0
    relative = False
    where = "box {}"
    recognised = "toys"
    splits = (POOL,)

    def __init__(self, folder, wanted):
        self.folder, self.root = folder, folder.root
        self.names, self.ids, self.groups = [], None, set()

    def read(self, split):
        builder = RawBuilder()
        for file in self.folder.with_suffix(".toy"):
            name, *box = self.folder.read_text(file).split()
            if name not in self.names:
                self.names.append(name)
            image = self.folder.image_for(file)
            number = self.names.index(name)
            builder.add(image, file, (0, 0), [list(map(float, box))], [number], [False], [1])
        return builder.build()


def sign(folder):
    return Sign.SURE if folder.with_suffix(".toy") else Sign.NONE


FORMAT = Format(ToyReader, sign, "toys (*.toy)")
'''


def write_image(path: Path, boxes: Sequence[Box], height: int = 60, width: int = 80) -> None:
    """Noise with a bright patch where a box is, so that there is something to learn."""
    rng = np.random.default_rng(len(path.name))
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    for name, (x1, y1, x2, y2) in boxes:
        if all(np.isfinite((x1, y1, x2, y2))):
            color = (255, 80, 0) if name == "square" else (0, 80, 255)
            cv2.rectangle(image, (int(x1), int(y1)), (int(x2), int(y2)), color, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def write_xml(
    path: Path, boxes: Sequence[Box], size: tuple[int, int] | None = (60, 80), difficult: str = ""
) -> None:
    """A VOC annotation; boxes are in the file's own 1-based coordinates."""
    root = ElementTree.Element("annotation")
    if size:
        node = ElementTree.SubElement(root, "size")
        ElementTree.SubElement(node, "width").text = str(size[1])
        ElementTree.SubElement(node, "height").text = str(size[0])
    for name, corners in boxes:
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = name
        ElementTree.SubElement(item, "difficult").text = str(int(name == difficult))
        bndbox = ElementTree.SubElement(item, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ElementTree.SubElement(bndbox, key).text = f"{value:g}"
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path)


def write_voc(
    root: Path, splits: dict[str, dict[str, Sequence[Box]]], suffix: str = ".jpg"
) -> Path:
    """A VOC tree: split -> image id -> boxes."""
    for split, images in splits.items():
        for image_id, boxes in images.items():
            write_image(root / "JPEGImages" / f"{image_id}{suffix}", boxes)
            write_xml(root / "Annotations" / f"{image_id}.xml", boxes)
        listing = root / "ImageSets" / "Main" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("".join(f"{i}\n" for i in images))
    return root


def write_coco(root: Path, splits: dict[str, dict[str, Sequence[Box]]]) -> Path:
    """The same images as COCO: a JSON and a folder of images for each split; ids have gaps."""
    ids = {"square": 7, "disc": 40}
    for split, images in splits.items():
        content: dict[str, list[dict[str, object]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": n, "supercategory": "thing"} for n, i in ids.items()],
        }
        for number, (image_id, boxes) in enumerate(images.items(), start=100):
            write_image(root / split / f"{image_id}.jpg", boxes)
            entry = {"id": number, "file_name": f"{image_id}.jpg", "height": 60, "width": 80}
            content["images"].append(entry)
            for name, (x1, y1, x2, y2) in boxes:
                note = {"id": len(content["annotations"]) + 1, "image_id": number, "iscrowd": 0}
                # The boxes are VOC's: 1-based and inclusive.
                bbox = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
                note |= {"category_id": ids[name], "bbox": bbox, "area": bbox[2] * bbox[3]}
                content["annotations"].append(note)
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return root


def write_yolo(root: Path, splits: dict[str, dict[str, Sequence[Box]]]) -> Path:
    """The same images as YOLO, in Roboflow's folders."""
    names = ["disc", "square"]
    for split, images in splits.items():
        folder = root / {"val": "valid"}.get(split, split)
        (folder / "labels").mkdir(parents=True)
        for image_id, boxes in images.items():
            write_image(folder / "images" / f"{image_id}.jpg", boxes)
            lines = []
            for name, (x1, y1, x2, y2) in boxes:
                w, h = x2 - x1 + 1, y2 - y1 + 1
                x, y = x1 - 1 + w / 2, y1 - 1 + h / 2
                numbers = (x / 80, y / 60, w / 80, h / 60)
                lines.append(f"{names.index(name)} " + " ".join(f"{n:.8f}" for n in numbers))
            (folder / "labels" / f"{image_id}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
        "nc: 2\nnames: ['disc', 'square']\n"
    )
    return root


USUAL: dict[str, Sequence[str] | None] = {"train": None, "val": None, "test": None}


def read_set(
    root: Path, kind: str = "auto", wanted: str | None = None, **options: object
) -> DataSet:
    """Read a data set as the program does, without a cache."""
    given: dict[str, object] = {"splits": USUAL, "ratios": {"val": 0.2, "test": 0.2}, **options}
    return read(DataSetSpec(root, kind, **given), ImageInfoCache(None), wanted)  # type: ignore[arg-type]


def found(data: DataSet) -> dict[str, list[str]]:
    """The issues by kind, as lines."""
    return {issue.kind: [str(item) for item in issue.items] for issue in data.issues}


def assert_same(one, other, where=""):
    """Equal to the bit, tensors, numbers and all."""
    import torch

    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{i}")
    else:
        assert one == other, where


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is known of files from other runs must not matter to a test."""
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch looks for pretrained weights: an empty folder, with no network behind it."""
    import torch

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    monkeypatch.setattr("detector.models.weights.sources.urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def random_split(prefix: str, count: int, seed: int = 0) -> dict[str, list[Box]]:
    """Images with one to three boxes each; of more than four, one has none."""
    rng = np.random.default_rng(seed)
    images: dict[str, list[Box]] = {}
    for i in range(count):
        boxes: list[Box] = []
        for _ in range(0 if i == count // 2 and count > 4 else int(rng.integers(1, 4))):
            x, y = rng.integers(1, 50), rng.integers(1, 35)
            side = rng.integers(12, 25)
            name = ("square", "disc")[int(rng.integers(2))]
            boxes.append((name, (int(x), int(y), int(x + side), int(y + side))))
        images[f"{prefix}{i}"] = boxes
    return images


def three_splits() -> dict[str, dict[str, Sequence[Box]]]:
    """Two classes: 5 training, 3 validation and 3 test images."""
    return {
        "train": {
            **random_split("train", 4, 0),
            "both": [("square", (3, 3, 30, 30)), ("disc", (40, 20, 70, 50))],
        },
        "val": random_split("val", 3, 1),
        "test": random_split("test", 3, 2),
    }


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """A tiny VOC tree with two classes: 5 training, 3 validation and 3 test images."""
    return write_voc(tmp_path / "voc", three_splits())


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """A tiny VOCdevkit with two years, in VOC's own classes."""
    names = {"square": "dog", "disc": "car"}
    for year, splits in {"VOC2007": ("trainval", "test"), "VOC2012": ("trainval",)}.items():
        content = {
            split: {
                image_id: [(names[name], corners) for name, corners in boxes]
                for image_id, boxes in random_split(f"{year}_{split}_", 11, seed).items()
            }
            # Other pictures in each: copies would stay together.
            for seed, split in enumerate(splits, start=int(year[-1]))
        }
        write_voc(tmp_path / "devkit" / "VOCdevkit" / year, content)
    return tmp_path / "devkit"


class Asked(NamedTuple):
    """What is typed, and the folder for the outputs."""

    command: str
    overrides: tuple[str, ...]
    out: Path | None


def ask(command: str, *overrides: str, out: Path | None = None) -> Asked:
    """A request as it is typed."""
    return Asked(command, overrides, out)


def _composed(asked: Asked) -> DictConfig:
    HydraConfig.instance().cfg = None
    return compose(asked.command, asked.overrides)


def in_force(asked: Asked) -> Any:
    """The configuration in force of a request."""
    kind = load_command(asked.command).KEYS
    return resolve(kind, _composed(asked), resume=asked.command == "train")


def prepare(asked: Asked) -> Any:
    """What a command has read when it has found a request good."""
    return load_command(asked.command).prepare(_composed(asked))


def data_of(config: Any, wanted: str | None = None) -> DataSet:
    """The data set of a configuration, with whatever is wrong with it."""
    return load_data.validate(load_data.open_data(config, wanted))


def call(asked: Asked) -> Any:
    """Do what is asked for in this process; the result."""
    HydraConfig.instance().cfg = None
    outcome, _ = cli.call(asked.command, asked.overrides, asked.out)
    return outcome.result


Shared = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Gives a folder that whoever needs it first has filled, for the tests of all processes.

    Tests copy what they change.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def folder_of(name: str, fill: Callable[[Path], object]) -> Path:
        folder, made = base / f"shared-{name}", base / f"shared-{name}.made"
        with FileLock(base / f"shared-{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("DETECTOR_CACHE", str(base / f"shared-{name}.cache"))
                    fill(folder)
                made.touch()
        return folder

    return folder_of


# Three epochs: what most tests of a finished run need.
PHASES = (
    "finetune.phases=[{name: heads, train: [neck, head], until: {max_epochs: 2}},"
    "{name: top, train: [layer4, neck, head], lr_factor: {layer4: 0.1}, until: {max_epochs: 1}}]"
)


class Runs(NamedTuple):
    """Two finished runs that differ in their seed."""

    root: Path
    first: Path
    second: Path
    scores: dict[str, float]  # what the first returned


@pytest.fixture(scope="session")
def runs(shared: Shared) -> Runs:
    """A VOC tree with 7 training, 5 validation and 5 test images, and two runs on it.

    All detections count, however unsure. Nothing may be changed in these folders.
    """

    def fill(folder: Path) -> None:
        splits: dict[str, dict[str, Sequence[Box]]] = {
            "train": {**random_split("train", 6, 0), "both": [("disc", (40, 20, 70, 50))]},
            "val": {**random_split("val", 5, 1)},
            "test": {**random_split("test", 5, 2)},
        }
        root = write_voc(folder / "voc", splits)
        (root / "JPEGImages" / "notes.txt").write_text("no image")
        keys = [*TINY, f"data.root={root}", PHASES, "model.score_threshold=0", "resamples=200"]
        keys += ["logger=tensorboard"]
        scores: list[Any] = [
            call(ask("train", *keys, f"seed={seed}", out=folder / f"run{seed}")) for seed in (0, 1)
        ]
        (folder / "scores.json").write_text(json.dumps(scores[0]))

    folder = shared("runs", fill)
    scores = json.loads((folder / "scores.json").read_text())
    return Runs(folder / "voc", folder / "run0", folder / "run1", scores)
