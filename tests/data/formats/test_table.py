import subprocess
import sys

import pytest
from conftest import TOY_FORMAT, random_split, read_set, write_image

from detector.core.errors import RequestError
from detector.data.formats import table

IMAGES = {name: boxes for name, boxes in random_split("a", 20).items() if boxes}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A format that is added by a module and a row; its folder of images."""
    (tmp_path / "toy_format.py").write_text(TOY_FORMAT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(table.MODULES, "toy", "toy_format")
    root = tmp_path / "data"
    root.mkdir()
    for name, ((kind, corners), *_) in IMAGES.items():
        write_image(root / f"{name}.jpg", [(kind, corners)])
        (root / f"{name}.toy").write_text(" ".join(map(str, (kind, *corners))))
    yield root
    sys.modules.pop("toy_format", None)


@pytest.mark.parametrize("kind", ["auto", "toy"])
def test_a_format_is_added_by_a_module_and_a_row(toy, kind):
    data = read_set(toy, kind)
    assert (data.format, data.recognised, data.classes.names) == ("toy", "toys", ("disc", "square"))
    images = [image for split in data.splits.values() for image in split]
    boxes = {image.path.stem: image.boxes.tolist() for image in images}
    assert boxes == {name: [list(corners)] for name, ((_, corners), *_) in IMAGES.items()}


def test_an_added_format_is_among_those_expected(toy, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(RequestError, match=r"expected VOC .*, YOLO \(.*\) or toys \(\*\.toy\);"):
        read_set(tmp_path / "none")


def test_a_format_of_no_row_is_refused(tmp_path):
    with pytest.raises(RequestError, match="expected one of voc, coco, yolo"):
        read_set(tmp_path, "labelme")


def test_the_names_are_known_without_importing_a_format():
    program = (
        "import sys; from detector.data.formats.table import NAMES; print(*NAMES); "
        "print(sorted({'numpy', 'torch', 'msgspec', 'yaml'} & {*sys.modules}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "auto voc coco yolo trees\n[]\n", ran.stderr


def test_trees_come_as_a_root_in_another_format(monkeypatch, tmp_path):
    monkeypatch.setattr("detector.data.formats.trees.prepare", lambda: tmp_path)
    embedded = table.EMBEDDED["trees"]
    assert (embedded.format, embedded.prepare()) == ("voc", tmp_path)
