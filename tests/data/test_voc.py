import shutil
from pathlib import Path

import numpy as np
import pytest
import torchvision
from conftest import write_image, write_voc, write_xml

from detector.data.voc import read_voc
from detector.types import RequestError

SPLITS = {"train": ["train"], "val": ["val"], "test": ["test"]}


def one_image(root: Path, boxes, **kwargs) -> Path:
    """A tree with a single training image."""
    write_voc(root, {"train": {"a": []}})
    write_xml(root / "Annotations" / "a.xml", boxes, **kwargs)
    return root


def read_one(root: Path, classes=("square",)):
    splits, _ = read_voc(root, {"train": ["train"]}, classes)
    return splits["train"]


def test_a_box_over_the_whole_image_becomes_exactly_the_image(tmp_path):
    # VOC counts pixels 1..80 and 1..60, inclusive: that is 0..80 and 0..60, half-open.
    split = read_one(one_image(tmp_path, [("square", (1, 1, 80, 60))]))
    assert split.boxes.tolist() == [[0, 0, 80, 60]]


def test_a_box_beyond_the_border_is_clipped_to_the_image(tmp_path):
    split = read_one(one_image(tmp_path, [("square", (-4, 10, 90, 70))]))
    assert split.boxes.tolist() == [[0, 9, 80, 60]]


def test_boxes_agree_with_torchvisions_reader(devkit):
    splits, classes = read_voc(
        devkit, {"train": ["VOC2007/trainval", "VOC2012/trainval"], "test": ["VOC2007/test"]}
    )
    theirs = torchvision.datasets.VOCDetection(devkit, year="2007", image_set="trainval")
    assert [len(splits["train"]), len(splits["test"])] == [22, 11]
    for ours, (_, target) in zip(splits["train"], theirs, strict=False):
        raw = target["annotation"].get("object", [])
        assert [classes.name(n) for n in ours.labels] == [o["name"] for o in raw]
        corners = [[int(o["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax")] for o in raw]
        expected = np.array(corners).reshape(-1, 4) - [1, 1, 0, 0]
        assert ours.boxes.tolist() == expected.tolist()


def test_difficult_objects_are_marked_to_be_ignored(tmp_path):
    boxes = [("square", (1, 1, 9, 9)), ("disc", (5, 5, 20, 20))]
    root = one_image(tmp_path, boxes, difficult="disc")
    assert read_one(root, ["square", "disc"]).ignore.tolist() == [False, True]


def test_an_annotation_without_objects_is_a_background_image(tmp_path):
    root = write_voc(tmp_path, {"train": {"a": [("square", (1, 1, 9, 9))], "b": []}})
    assert [len(i.labels) for i in read_one(root)] == [1, 0]


@pytest.mark.parametrize(
    "corners", [(5, 5, 5, 9), (5, 9, 8, 9), (9, 1, 5, 5), (90, 5, 95, 9), (np.nan, 1, 5, 5)]
)
def test_an_unusable_box_is_left_out_and_named(tmp_path, corners):
    root = one_image(tmp_path, [("square", corners), ("square", (1, 1, 9, 9))])
    split = read_one(root)
    assert split.boxes.tolist() == [[0, 0, 9, 9]]
    (line,) = split.dropped
    assert "a.xml: object 1 (square" in line


def test_classes_are_those_of_the_training_split_sorted(voc_root):
    _, classes = read_voc(voc_root, SPLITS)
    assert classes.names == ("disc", "square")
    assert classes.ids == (1, 2)


def test_classes_given_keep_their_order(voc_root):
    splits, classes = read_voc(voc_root, SPLITS, ["square", "disc", "never seen"])
    assert classes.names == ("square", "disc", "never seen")
    both = splits["train"][4]
    assert both.labels.tolist() == [1, 2]


def test_a_class_that_training_does_not_know_is_refused(voc_root):
    write_xml(voc_root / "Annotations" / "val1.xml", [("sqare", (1, 1, 9, 9))])
    with pytest.raises(RequestError, match=r"val1\.xml: object 1 has the class 'sqare'"):
        read_voc(voc_root, SPLITS)


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".JPG", ".PNG"])
def test_images_are_found_whatever_their_suffix(tmp_path, suffix):
    root = write_voc(tmp_path, {"train": {"a b": [("square", (1, 1, 9, 9))]}}, suffix)
    assert Path(str(read_one(root).paths[0])).name == f"a b{suffix}"


def test_a_photograph_wins_over_a_mask_of_the_same_name(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    write_image(root / "JPEGImages/a.png", [])
    assert Path(str(read_one(root).paths[0])).name == "a.jpg"


def test_file_names_in_a_split_list_and_repeated_ones_are_understood(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    (root / "ImageSets/Main/train.txt").write_text("a.jpg\na.jpg\n")
    assert len(read_one(root)) == 1


def test_an_empty_image_file_is_named(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    (root / "JPEGImages/a.jpg").write_bytes(b"")
    with pytest.raises(RequestError, match=r"a\.jpg: the file is empty"):
        read_one(root)


def test_per_class_split_files_list_ids_in_their_first_column(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    (root / "ImageSets/Main/train.txt").write_text("a -1\n")
    assert len(read_one(root)) == 1


def test_the_image_is_found_by_the_annotations_name_not_by_what_it_claims(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    xml = root / "Annotations/a.xml"
    xml.write_text(
        xml.read_text().replace("<size>", "<filename>../../../etc/passwd</filename><size>")
    )
    assert Path(str(read_one(root).paths[0])) == root / "JPEGImages/a.jpg"


@pytest.mark.parametrize("listed", ["../a", "/etc/passwd", "..", "x/../a"])
def test_a_split_file_cannot_lead_out_of_the_root(tmp_path, listed):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    (root / "ImageSets/Main/train.txt").write_text(listed + "\n")
    with pytest.raises(RequestError, match="not a plain file name"):
        read_one(root)


BOMB = """<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""
EXTERNAL = """<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<annotation><object><name>&a;</name></object></annotation>"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "not a readable XML"),
        (EXTERNAL, "not a readable XML"),
        ("<annotation><object>", "not a readable XML"),
        ("", "not a readable XML"),
        ("\x00\x01", "not a readable XML"),
        ("<html/>", "expected <annotation>"),
        (
            "<annotation><object><name>square</name></object></annotation>",
            "<bndbox/xmin> is missing",
        ),
        ("<annotation><object><name> </name></object></annotation>", "object 1 has no <name>"),
        (
            "<annotation><object><name>square</name><bndbox><xmin>1</xmin><ymin>left</ymin>"
            "</bndbox></object></annotation>",
            "object 1: <bndbox/ymin> is 'left'",
        ),
    ],
)
def test_a_hostile_or_broken_annotation_is_named(tmp_path, text, said):
    root = one_image(tmp_path, [])
    (root / "Annotations/a.xml").write_text(text)
    with pytest.raises(RequestError, match=rf"a\.xml.*{said}"):
        read_one(root)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("Annotations/a.xml", r"no annotation .*a\.xml"),
        ("JPEGImages/a.jpg", r"no image .*a\.jpg"),
        ("JPEGImages/", r"no folder .*JPEGImages; expected there"),
        ("ImageSets/Main/train.txt", r"no split file .*train\.txt; there: other"),
    ],
)
def test_a_missing_file_is_named(tmp_path, gone, said):
    root = one_image(tmp_path, [])
    (root / "ImageSets/Main/other.txt").write_text("a\n")
    shutil.rmtree(root / gone) if gone.endswith("/") else (root / gone).unlink()
    with pytest.raises(RequestError, match=said):
        read_one(root)


def test_a_missing_root_and_a_folder_of_something_else_are_named(tmp_path):
    with pytest.raises(RequestError, match="no such folder; expected there: Annotations"):
        read_voc(tmp_path / "none", SPLITS)
    write_image(tmp_path / "pictures" / "a.jpg", [])
    with pytest.raises(RequestError, match="not a VOC tree; expected there: Annotations"):
        read_voc(tmp_path / "pictures", SPLITS)


def test_an_empty_split_file_is_refused(tmp_path):
    root = one_image(tmp_path, [])
    (root / "ImageSets/Main/train.txt").write_text("\n")
    with pytest.raises(RequestError, match=r"train\.txt: the split is empty"):
        read_one(root)
