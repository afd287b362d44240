"""The recipes of CONTRIBUTING.md, each done in a copy of the sources: what it names is enough."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOY_FORMAT, write_image

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = re.findall(r"^### Add an? ([^\n]+)\n(.+?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)


class Copy:
    """A copy of the sources in a temporary place.

    Attributes:
        changed: Files that were written, relative.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "copy"
        self.cwd = folder / "cwd"
        self.cwd.mkdir()
        self.changed: list[str] = []
        for name in ("src", "conf"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.root / name, ignore=ignored)

    def write(self, file: str, text: str) -> None:
        """Add a file."""
        assert not (self.root / file).exists()
        self.changed.append(file)
        (self.root / file).write_text(text)

    def insert(self, file: str, after: str, text: str) -> None:
        """Add text after the only place that has some other text."""
        before = (self.root / file).read_text()
        assert before.count(after) == 1
        self.changed.append(file)
        (self.root / file).write_text(before.replace(after, after + text))

    def run(self, *words: str) -> str:
        """What `python -m detector` prints."""
        environment = {**os.environ, "PYTHONPATH": str(self.root / "src")}
        command = [sys.executable, "-W", "ignore", "-m", "detector", *words]
        ran = subprocess.run(
            command, cwd=self.cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode in (0, 1), ran.stderr
        return ran.stdout


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


@pytest.fixture
def recipe(copy, request):
    """Checks that the recipe names every file that was changed, and none that is not there."""
    yield
    (text,) = [text for name, text in RECIPES if name == request.param]
    for file in copy.changed:
        general = re.sub(r"\b(toy|count)\b", "NAME", file)
        assert general in text or Path(file).name in text or general.split("/")[0] + "/" in text


def test_recipes_are_short_and_name_files_that_are_there():
    assert [name for name, _ in RECIPES] == [
        *("backbone", "data format", "option", "command", "metric"),
    ]
    for _, text in RECIPES:
        assert len(text.strip().splitlines()) <= 10
        for file in re.findall(r"`((?:src|conf|tests)/[\w/.]+)`", text):
            assert "NAME" in file or (ROOT / file).exists(), file


@pytest.mark.parametrize("recipe", ["backbone"], indirect=True)
@pytest.mark.usefixtures("recipe")
def test_a_backbone_is_a_row(copy):
    table = "src/detector/models/backbones/table.py"
    row = '    _resnet("wide_resnet50_2", "Wide ResNet-50-2 (2016).", 256),\n'
    copy.insert(table, '    _resnet("resnet34", "ResNet-34.", 64),\n', row)
    said = copy.run("train", "backbone=wide_resnet50_2", "dry_run=true", "data.classes=[a]")
    assert re.search(r"network +wide_resnet50_2, \d+\.\d+ M parameters", said)
    assert "wide_resnet50_2" in copy.run("train", "--help")


@pytest.mark.parametrize("recipe", ["data format"], indirect=True)
@pytest.mark.usefixtures("recipe")
def test_a_format_is_a_module_and_a_row(copy):
    copy.write("src/detector/data/formats/toy.py", TOY_FORMAT)
    table, row = "src/detector/data/formats/table.py", '    "toy": "detector.data.formats.toy",\n'
    copy.insert(table, '    "yolo": "detector.data.formats.yolo",\n', row)
    for i in range(9):
        write_image(copy.cwd / f"data/{i}.jpg", [("disc", (5 + i, 5, 40, 40))])
        (copy.cwd / f"data/{i}.toy").write_text(f"disc {5 + i} 5 40 40")
    assert "data: toys" in copy.run("check", "data.root=data", "data.format=toy")


@pytest.mark.parametrize("recipe", ["option"], indirect=True)
@pytest.mark.usefixtures("recipe")
def test_an_option_is_a_field_and_its_value(copy):
    field = '\n    toys: Count = 3\n    """Number of toys."""\n'
    head = 'class TrainerOptions:\n    """Where and how long the trainer runs."""\n'
    copy.insert("src/detector/training/options.py", head, field)
    copy.insert("conf/trainer/default.yaml", "num_nodes: 1\n", "toys: 5\n")
    said = copy.run("train", "--help-all")
    assert re.search(r"trainer\.toys=5 +Number of toys\. \[at least 1\]", said)
    with pytest.raises(AssertionError, match=r"trainer\.toys=0: expected at least 1"):
        copy.run("train", "trainer.toys=0")


COMMAND = '''
from pydantic.dataclasses import dataclass

from detector.config.resolve import resolve
from detector.config.schema import Config
from detector.core.options import STRICT, Count
from detector.pipeline import load_data
from detector.pipeline.command import Outcome


@dataclass(config=STRICT, frozen=True, kw_only=True)
class CountKeys(Config):
    """Count images."""

    times: Count = 1
    """How often."""


KEYS = CountKeys


def prepare(cfg):
    config = resolve(KEYS, cfg)
    return config, load_data.usable_data(config)


def run(prepared, folder):
    config, data = prepared
    print("counted", config.times * sum(map(len, data.splits.values())))
    return Outcome(None)


if __name__ == "__main__":
    from detector.cli import run_command

    run_command("count")
'''


@pytest.mark.parametrize("recipe", ["command"], indirect=True)
@pytest.mark.usefixtures("recipe")
def test_a_command_is_a_module_and_a_file(copy, voc_root):
    copy.write("src/detector/count.py", COMMAND)
    keys = "defaults:\n  - base\n  - _self_\n\nname: count\ntimes: 1\n\n"
    text = f"# Counts images.\n{keys}hydra:\n  job:\n    name: count\n"
    copy.write("conf/count.yaml", text)
    assert re.search("count +Counts images", copy.run())
    assert "counted 22" in copy.run("count", f"data.root={voc_root}", "times=2")


METRIC = """
def function(detections, ground_truth, classes):
    return {"sum": float(len(detections.labels))}, [{"toy_sum": 1.0}] * classes
"""


@pytest.mark.parametrize("recipe", ["metric"], indirect=True)
@pytest.mark.usefixtures("recipe")
def test_a_metric_is_a_function_and_a_row(copy):
    copy.write("src/detector/evaluation/toy.py", METRIC)
    table = "src/detector/evaluation/metrics.py"
    copy.insert(table, "from detector.evaluation import coco, ", "toy, ")
    row = '    Metric("toy", "Toy", toy.function, lambda _: "by toys", {"sum": "Sum"}),\n'
    copy.insert(table, "METRICS = (\n", row)
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    found = [{**box, "score": 0.5}]
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 60}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{**box, "id": 1, "area": 81, "iscrowd": 0}],
    }
    (copy.cwd / "truth.json").write_text(json.dumps(truth))
    (copy.cwd / "found.json").write_text(json.dumps(found))
    said = copy.run("evaluate", "predictions=found.json", "truth=truth.json", "hydra.run.dir=out")
    assert "Toy: Sum" in said
    written = json.loads((copy.cwd / "out/metrics.json").read_text())
    assert (written["toy"], written["protocol"]["toy"]) == ({"sum": 1.0}, "by toys")
    assert written["per_class"]["a"]["toy_sum"] == 1.0
