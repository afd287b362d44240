"""The data that is asked for: in which order they are looked at, what is refused, what is said."""

import shutil
from pathlib import Path

import cv2
import pytest
from conftest import TINY, ask, data_of, in_force, prepare, write_image, write_xml

from detector.core.errors import RequestError
from detector.data.formats.folder import Folder
from detector.data.validation import image_info
from detector.pipeline import load_data


def asked(root, *overrides, verb="train"):
    return ask(verb, *TINY, f"data.root={root}", *overrides, out=None)


def spoil(file):
    """Make an image file one whose header and end are right, and which does not decode."""
    png = bytearray(cv2.imencode(".png", cv2.imread(str(file)))[1].tobytes())
    png[len(png) // 2] ^= 0xFF
    file.write_bytes(png)


@pytest.fixture
def pool(voc_root):
    """Data that do not divide themselves."""
    shutil.rmtree(voc_root / "ImageSets")
    return voc_root


@pytest.mark.parametrize("divided", [True, False])
@pytest.mark.parametrize("fault", ["box", "augment", "weights"])
def test_what_is_wrong_at_once_is_refused_before_images_are_decoded(
    voc_root, monkeypatch, divided, fault
):
    if divided:
        shutil.rmtree(voc_root / "ImageSets")
    typed, said = "data.workers=null", "no width or no height"
    if fault == "box":
        write_xml(voc_root / "Annotations/train0.xml", [("square", (9, 9, 9, 9))])
    if fault == "augment":
        typed, said = "augment.steps=[{name: Nothing}]", "Nothing"
    if fault == "weights":
        typed, said = f"model.weights={voc_root}/Annotations/train0.xml", "train0.xml"

    def decoded(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(image_info, "_inspect_pixels", decoded)
    with pytest.raises(RequestError, match=said):
        prepare(asked(voc_root, typed))


def test_an_image_that_does_not_decode_is_refused_before_the_run(voc_root):
    spoil(voc_root / "JPEGImages/test1.jpg")
    with pytest.raises(RequestError, match=r"JPEGImages/test1\.jpg: not a readable image"):
        prepare(asked(voc_root))


def test_the_division_follows_a_seed_of_its_own(pool):
    def files(*overrides):
        return data_of(in_force(asked(pool, *overrides))).files()

    assert files() == files("seed=1")
    assert files() != files("data.auto_split.seed=1")


def test_an_expression_is_typed_in_quotes_of_its_own(pool):
    cfg = asked(pool, r'data.auto_split.group="^(\w+?)(\d+)\.jpg$"')
    assert in_force(cfg).data.auto_split.group == r"^(\w+?)(\d+)\.jpg$"


def test_more_boxes_than_are_detected_are_pointed_out(voc_root, caplog):
    data = data_of(in_force(asked(voc_root)))
    load_data.describe_data(data, 100)
    assert "more than" not in caplog.text
    # of the fixture's images, those with two boxes and three
    counts = {name: [len(image.labels) for image in s] for name, s in data.splits.items()}
    load_data.describe_data(data, 1)
    parts = {name: sum(n > 1 for n in each) for name, each in counts.items()}
    assert all(parts.values())
    where = ", ".join(f"{number} in {name}" for name, number in parts.items())
    assert f"images with more than 1 boxes: {where} (up to 3 boxes)" in caplog.text
    assert "model.detections_per_image=50" in caplog.text


def names(source: Path) -> list[str]:
    return [file.relative_to(source).as_posix() for file in load_data.source_files(str(source), 3)]


def test_a_source_is_walked_as_data_sets_are(tmp_path):
    root, far = tmp_path / "root", tmp_path / "far"
    for file in (root / "a.jpg", root / "sub/B.JPE", root / ".hidden/c.jpg", far / "d.png"):
        write_image(file.with_suffix(file.suffix.lower()), [])
    (root / "linked").symlink_to(far)
    (root / "loop").symlink_to(root)
    (root / "self.jpg").symlink_to("self.jpg")
    assert names(root) == ["a.jpg", "linked/d.png", "sub/B.jpe"]
    assert names(root / ".hidden") == ["c.jpg"]
    said = "1 link that lead nowhere, or no files, such as self.jpg"
    assert load_data.unread_pictures(Folder(root)) == said


def test_pictures_of_a_source_that_are_not_read_are_counted(tmp_path):
    for name in ("a.HEIC", "b.heic", "c.nef"):
        (tmp_path / name).touch()
    said = "3 files of kinds that are not read, .heic, .nef: convert to PNG or JPEG"
    with pytest.raises(RequestError, match=rf"no images in it \({said}\)"):
        load_data.source_files(str(tmp_path), 3)
    write_image(tmp_path / "d.jpg", [])
    assert names(tmp_path) == ["d.jpg"]
    assert load_data.unread_pictures(Folder(tmp_path)) == said


def test_a_picture_without_a_suffix_can_be_named(tmp_path):
    write_image(tmp_path / "a.jpg", [])
    (tmp_path / "a.jpg").rename(tmp_path / "a")
    assert load_data.source_files(str(tmp_path / "a"), 3) == [tmp_path / "a"]
