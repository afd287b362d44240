"""The check as a user runs it: exit codes, files, table and page."""

import json
import os
import re
import shlex
import shutil

import cv2
import numpy as np
import pytest
from commands import refused, run_cli
from conftest import (
    ask,
    call,
    random_split,
    three_splits,
    write_coco,
    write_image,
    write_voc,
    write_xml,
)

from detector import check as verb

LIGHT = ["backbone=efficientnet_lite0", "data.image_size=96", "hydra.run.dir=out"]


@pytest.fixture
def cwd(tmp_path):
    folder = tmp_path / "cwd"
    folder.mkdir()
    return folder


def inspect(root, out, *overrides):
    """Check in this process; what check.json holds."""
    asked = [f"data.root={root}", *LIGHT[:2], *overrides]
    return call(ask("check", *asked, out=out))


def kinds(content):
    return {
        f["kind"]: [f"{i['file']}: {i['message']}" for i in f["items"]] for f in content["findings"]
    }


def test_a_good_data_set_passes_with_0(cwd, voc_root):
    code, out, err = run_cli("check", f"data.root={voc_root}", *LIGHT, cwd=cwd, heavy=True)
    assert code == 0, err
    assert "VOC with lists in ImageSets/Main" in out
    assert "0 errors, 0 leakage" in out
    *_, page, step = out.strip().splitlines()
    assert page.endswith("check.html")
    words = [f"data.root={voc_root}", *LIGHT[:2]]
    assert step == f"next: python -m detector.train {shlex.join(words)}"
    content = json.loads((cwd / "out/check.json").read_text())
    assert content["splits"]["train"]["images"] == 5
    assert (cwd / "out/check.html").read_text().startswith("<!DOCTYPE html>")


def test_errors_exit_with_1_and_are_all_named(cwd, voc_root):
    write_xml(voc_root / "Annotations/train0.xml", [("square", (9, 9, 9, 9))])
    (voc_root / "JPEGImages/val0.jpg").unlink()
    (voc_root / "Annotations/test0.xml").write_text("<annotation")
    code, out, err = run_cli("check", f"data.root={voc_root}", *LIGHT, cwd=cwd, heavy=True)
    assert code == 1, err
    for said in ("train0.xml: object 1", "val0.xml: no image", "test0.xml: not a readable XML"):
        assert said in re.sub(r"\s*│\n│\s*│\s*│\s*│ ", " ", out)
    assert "3 errors" in out


def test_what_cannot_be_checked_at_all_is_refused_with_2(cwd, tmp_path):
    assert "no such folder" in refused("check", f"data.root={tmp_path}/none", cwd=cwd)
    root = write_coco(tmp_path / "coco", three_splits())
    (root / "annotations/instances_train.json").write_text("{")
    assert "not COCO instances" in refused("check", f"data.root={root}", cwd=cwd)


def test_a_broken_image_that_has_a_good_header_is_found(voc_root, tmp_path):
    file = voc_root / "JPEGImages/train0.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    png = bytearray(cv2.imencode(".png", noise)[1].tobytes())
    png[len(png) // 2] ^= 0xFF  # amid the pixels: only decoding shows it
    file.with_suffix(".png").write_bytes(png)
    file.unlink()
    content = inspect(voc_root, tmp_path / "out")
    assert kinds(content)["unreadable image"][0].startswith("JPEGImages/train0.png: ")


def test_copies_across_splits_are_leakage_and_no_error(voc_root, tmp_path):
    photograph = cv2.resize(
        np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8), (80, 60)
    )
    for name, quality in (("train0", 95), ("test1", 40)):
        cv2.imwrite(str(voc_root / f"JPEGImages/{name}.jpg"), photograph, [1, quality])
    for name in ("train1", "val1"):
        cv2.imwrite(str(voc_root / f"JPEGImages/{name}.jpg"), photograph[::-1])
    content = inspect(voc_root, tmp_path / "out")
    assert content["summary"]["errors"] == 0
    assert content["summary"]["leakage"] == 2
    found = kinds(content)
    assert "test1.jpg: like JPEGImages/train0.jpg" in found["similar pictures in two splits"][0]
    assert (
        "val1.jpg: the same picture as JPEGImages/train1.jpg" in found["picture in two splits"][0]
    )


def test_boxes_lost_are_those_that_the_network_would_not_see(tmp_path):
    # At 96 of 960 pixels, a side of 8 is less than one.
    boxes = [("square", (1, 1, 8, 400)), ("square", (100, 100, 900, 500))]
    root = tmp_path / "set"
    for split in ("train", "val"):
        write_image(root / f"{split}/a.jpg", boxes, 540, 960)
        write_xml(root / f"{split}/a.xml", boxes, (540, 960))
    left = "augment.steps=[{name: Crop, x_min: 0, y_min: 0, x_max: 9, y_max: 54, p: 1.0}]"
    lost = inspect(root, tmp_path / "a", "augment=none")["model"]["lost"]
    assert (lost["by_resizing"], lost["by_augmentation"]) == (0.5, 0)
    lost = inspect(root, tmp_path / "b", "augment=none", left)["model"]["lost"]
    assert (lost["by_resizing"], lost["by_augmentation"]) == (0.5, 1)


def test_images_with_more_boxes_than_are_detected_are_counted(voc_root, tmp_path):
    typed = "model.detections_per_image=1"
    said = inspect(voc_root, tmp_path / "a", typed)["model"]["crowded"]
    assert said.startswith("images with more than 1 boxes: ")
    assert said[1:] in (tmp_path / "a/check.html").read_text().replace("&#39;", "'")
    assert inspect(voc_root, tmp_path / "b")["model"]["crowded"] is None


def test_anchors_that_miss_are_named_with_better_ones(tmp_path):
    images = {f"a{i}": [("square", (10 + i, 10, 19 + i, 30))] for i in range(9)}
    root = write_voc(tmp_path / "set", {"train": images, "val": random_split("v", 2)})
    anchors = inspect(root, tmp_path / "a", "model.anchor_scales=[32]")["model"]["anchors"]
    assert anchors["recall_50"] == 0
    override = anchors["suggestion"]["override"].split()
    better = inspect(root, tmp_path / "b", *override)["model"]["anchors"]
    assert better["recall_50"] == anchors["suggestion"]["recall_50"] > 0.9


def test_of_many_classes_the_terminal_names_twelve(tmp_path, caplog):
    caplog.set_level("INFO")
    boxes = [(f"c{i:02}", (1, 1, 20, 20)) for i in range(14)]
    root = write_voc(tmp_path / "set", {"train": {"a": boxes}, "val": {"b": boxes}})
    inspect(root, tmp_path / "out")
    (line,) = [said for said in caplog.messages if said.startswith("val ")]
    assert line.endswith(" c11 1, and 2 more classes")


def test_of_many_findings_of_a_kind_the_terminal_has_three(voc_root, tmp_path, caplog):
    caplog.set_level("INFO")
    write_xml(voc_root / "Annotations/train0.xml", [("disc", (20, 20, 1, 1))] * 5)
    inspect(voc_root, tmp_path / "out")
    (table,) = [said for said in caplog.messages if said.startswith("findings ")]
    assert (table.count("train0.xml: object"), "... and 2 more" in table) == (3, True)


def test_of_boxes_that_are_all_lost_no_anchors_are_judged(tmp_path, caplog):
    caplog.set_level("INFO")
    boxes = [("square", (1, 1, 8, 400))]  # less than a pixel wide at 96 of 960 pixels
    root = write_voc(tmp_path / "set", {"train": {"a": boxes}, "val": {"b": boxes}})
    for name in ("a", "b"):
        write_image(root / f"JPEGImages/{name}.jpg", boxes, 540, 960)
        write_xml(root / f"Annotations/{name}.xml", boxes, (540, 960))
    assert inspect(root, tmp_path / "out")["model"]["anchors"] is None
    assert "resizing loses 100.0 % of the training boxes" in caplog.text
    assert "anchors reach" not in caplog.text


def test_anchors_that_training_would_fit_are_named(tmp_path):
    images = {f"a{i}": [("square", (10 + i, 10, 19 + i, 30))] for i in range(9)}
    root = write_voc(tmp_path / "set", {"train": images, "val": random_split("v", 2)})
    content = inspect(root, tmp_path / "a")
    anchors = content["model"]["anchors"]
    assert anchors["recall_50"] > 0.9
    assert anchors["suggestion"] is None
    (line,) = content["fitted"]
    scales = ",".join(f"{scale:g}" for scale in anchors["scales"])
    assert f"scales [{scales}]" in line
    assert line[1:] in (tmp_path / "a/check.html").read_text()


def test_a_file_name_that_is_not_utf_8_does_no_harm(voc_root, tmp_path):
    for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
        file = voc_root / folder / f"train0{suffix}"
        file.rename(voc_root / folder / os.fsdecode(b"tr\xe9in0" + suffix.encode()))
    names = (voc_root / "ImageSets/Main/train.txt").read_text().replace("train0", "train1")
    (voc_root / "ImageSets/Main/train.txt").write_text(names)
    shutil.rmtree(voc_root / "ImageSets")
    content = inspect(voc_root, tmp_path / "out", "preview=true")
    assert content["summary"]["errors"] == 0
    assert (tmp_path / "out/preview.png").is_file()


def test_a_wrong_augmentation_is_refused_before_anything_is_written(cwd, voc_root):
    steps = "augment.steps=[{name: HorizontalFlop}]"
    line = refused("check", f"data.root={voc_root}", steps, cwd=cwd, light=False)
    assert "'HorizontalFlop' is not a transform" in line


def test_a_preview_shows_augmented_training_images(voc_root, tmp_path):
    inspect(voc_root, tmp_path / "out", "preview=true")
    sheet = cv2.imread(str(tmp_path / "out/preview.png"))
    assert sheet.shape[0] > 200
    other = cv2.imread(str(tmp_path / "out/preview.png"), cv2.IMREAD_GRAYSCALE)
    assert other.std() > 10


def test_a_class_named_like_markup_does_no_harm(tmp_path):
    boxes = [("[red]<script>alert(1)</script>", (1, 1, 20, 20))]
    root = write_voc(tmp_path / "set", {"train": {"a": boxes, "b": boxes}, "val": {"c": boxes}})
    inspect(root, tmp_path / "out")
    assert "<script>" not in (tmp_path / "out/check.html").read_text()


@pytest.mark.parametrize(
    ("kinds", "typed", "expected"),
    [
        ([], ["data.root='a b'"], """python -m detector.train 'data.root='"'"'a b'"'"''"""),
        (
            [],
            ["data=trees", "preview=true", "hydra.run.dir=x"],
            "python -m detector.train data=trees",
        ),
        (
            ["box without area"],
            ["data.root=x"],
            "mend the 2 errors, or train without what they concern:\n"
            "  python -m detector.train data.root=x data.on_bad=skip",
        ),
        (
            ["box without area"],
            ["data.root=x", "data.on_bad=skip"],
            "mend the 2 errors, or train without what they concern:\n"
            "  python -m detector.train data.root=x data.on_bad=skip",
        ),
        (
            ["box without area", "empty split"],
            ["data.root=x"],
            "mend what data.on_bad=skip cannot leave out (empty split)",
        ),
    ],
)
def test_the_check_names_the_next_step(kinds, typed, expected):
    content = {
        "summary": {"errors": 2 * bool(kinds)},
        "findings": [{"kind": kind} for kind in kinds],
    }
    assert verb.next_step(content, typed) == f"next: {expected}"
