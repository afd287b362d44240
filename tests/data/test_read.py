import json
import shutil

import cv2
import numpy as np
import pytest
from conftest import (
    USUAL,
    found,
    random_split,
    read_set,
    three_splits,
    write_coco,
    write_image,
    write_voc,
    write_xml,
    write_yolo,
)
from PIL import Image

from detector.core.errors import RequestError
from detector.core.files import write_json
from detector.data.formats.folder import Folder
from detector.data.formats.table import recognise


def test_the_three_formats_give_the_same_images_boxes_and_classes(tmp_path):
    sets = [
        read_set(write(tmp_path / write.__name__, three_splits()), classes=["square", "disc"])
        for write in (write_voc, write_coco, write_yolo)
    ]
    assert [data.format for data in sets] == ["voc", "coco", "yolo"]
    for name in ("train", "val", "test"):
        by_stem = [{image.path.stem: image for image in data.splits[name]} for data in sets]
        assert by_stem[0].keys() == by_stem[1].keys() == by_stem[2].keys()
        for stem, image in by_stem[0].items():
            for other in by_stem[1:]:
                assert image.labels.tolist() == other[stem].labels.tolist()
                np.testing.assert_allclose(image.boxes, other[stem].boxes, atol=1e-4)
                assert image.size == other[stem].size == (60, 80)


def test_several_formats_in_one_folder_must_be_told_apart(tmp_path):
    write_voc(tmp_path, three_splits())
    write_coco(tmp_path, three_splits())
    with pytest.raises(RequestError, match=r"could be voc or coco; say which, such as data=voc"):
        recognise(Folder(tmp_path))


def test_a_folder_without_annotations_says_what_is_expected(tmp_path):
    write_image(tmp_path / "a.jpg", [])
    with pytest.raises(
        RequestError, match=r"its 1 files \(1 images\); expected VOC .* COCO .* YOLO"
    ):
        recognise(Folder(tmp_path))


def flat(root, count=20):
    for name, boxes in random_split("a", count).items():
        write_xml(root / f"{name}.xml", boxes)
        write_image(root / f"{name}.jpg", boxes)
    return root


def names(data):
    return {
        name: [p.rpartition("/")[2] for p in s.paths.tolist()] for name, s in data.splits.items()
    }


def test_a_split_by_ratio_depends_on_the_seed_alone(tmp_path):
    flat(tmp_path)
    first = names(read_set(tmp_path))
    assert first == names(read_set(tmp_path))
    assert first != names(read_set(tmp_path, seed=1))
    everything = [name for split in first.values() for name in split]
    assert len(everything) == len(set(everything)) == 20


def test_a_split_that_was_written_down_is_used_again_when_images_have_been_added(tmp_path):
    flat(tmp_path / "set")
    data = read_set(tmp_path / "set")
    assert data.divided
    file = tmp_path / "splits.json"
    write_json(file, {"splits": data.files()})
    before = names(data)
    for name, boxes in random_split("new", 9).items():
        write_xml(tmp_path / f"set/{name}.xml", boxes)
        write_image(tmp_path / f"set/{name}.jpg", boxes)
    assert names(read_set(tmp_path / "set")) != before
    assert names(read_set(tmp_path / "set", split_file=file)) == before


@pytest.mark.parametrize("text", ["", "[]", '{"splits": 3}', '{"splits": {"train": ["a.jpg"]}}'])
def test_a_split_file_of_something_else_is_refused(tmp_path, text):
    flat(tmp_path / "set")
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(RequestError, match=r"data\.auto_split\.file=.*splits\.json"):
        read_set(tmp_path / "set", split_file=tmp_path / "splits.json")


def test_a_split_file_also_works_where_the_root_is_above_the_devkit(devkit, tmp_path):
    data = read_set(devkit, "voc")
    write_json(tmp_path / "splits.json", {"splits": data.files()})
    again = read_set(devkit, "voc", split_file=tmp_path / "splits.json", seed=5)
    assert names(again) == names(data) != names(read_set(devkit, "voc", seed=5))


def test_a_split_file_for_data_with_splits_of_their_own_is_refused(voc_root, tmp_path):
    with pytest.raises(
        RequestError, match=r"data\.auto_split\.file=.* has splits of its own \(train, val"
    ):
        read_set(voc_root, split_file=tmp_path / "splits.json")


def test_what_cannot_be_used_does_not_move_the_rest_from_split_to_split(tmp_path):
    flat(tmp_path)
    before = names(read_set(tmp_path))
    (tmp_path / "a3.jpg").write_bytes(b"")
    after = names(read_set(tmp_path))
    assert after == {name: [f for f in files if f != "a3.jpg"] for name, files in before.items()}


def spoil(file):
    """Make an image file one whose header and end are right, and which does not decode."""
    png = bytearray(cv2.imencode(".png", cv2.imread(str(file)))[1].tobytes())
    png[len(png) // 2] ^= 0xFF
    file.write_bytes(png)


def test_all_images_are_decoded_where_all_splits_are_wanted(voc_root):
    spoil(voc_root / "JPEGImages/test0.jpg")
    (line,) = found(read_set(voc_root))["unreadable image"]
    assert line.startswith("JPEGImages/test0.jpg: ")


def test_a_single_split_of_the_data_set_is_decoded_beforehand_only_if_none_may_fail_later(voc_root):
    spoil(voc_root / "JPEGImages/test0.jpg")
    assert not read_set(voc_root, wanted="test").issues.of("error")
    assert found(read_set(voc_root, wanted="test", decode=True))["unreadable image"]


def test_classes_that_differ_only_in_case_are_an_error(tmp_path):
    root = write_coco(tmp_path, three_splits())
    for file in (root / "annotations").iterdir():
        file.write_text(file.read_text().replace('"name": "disc"', '"name": "Square"'))
    lines = found(read_set(root))["class spelt differently"]
    assert lines == ["the classes 'Square' and 'square' differ only in case"]


def test_names_from_files_are_shown_as_one_legible_line(tmp_path):
    name = "cat\n\u202e" + "x" * 5000
    root = write_voc(tmp_path, {"train": {"a": [(name, (5, 5, 5, 9))]}, "val": {"b": BOX}})
    (line,) = found(read_set(root))["box without area"]
    assert "cat\\n\\u202exxx" in line
    assert len(line) < 600


def test_only_what_is_missing_is_held_out_of_train(voc_root):
    (voc_root / "ImageSets/Main/val.txt").unlink()
    data = read_set(voc_root)
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 4, "val": 1, "test": 3}
    assert data.divided
    assert not read_set(voc_root, splits={**USUAL, "val": ["test"]}).divided


@pytest.mark.parametrize(
    ("wanted", "given"), [("final", ["test"]), ("val", ["val"]), ("train", ["train"])]
)
def test_a_single_split_is_read_without_the_others(voc_root, wanted, given):
    for split in {"train", "val", "test"} - set(given):
        for image_id in (voc_root / f"ImageSets/Main/{split}.txt").read_text().split():
            (voc_root / f"Annotations/{image_id}.xml").write_text("broken")
    data = read_set(voc_root, wanted=wanted, classes=["disc", "square"])
    assert list(data.splits) == given
    assert len(data.splits[given[0]]) == (5 if given == ["train"] else 3)
    assert not data.issues.of("error")


def test_without_a_test_split_figures_are_on_val(voc_root):
    (voc_root / "ImageSets/Main/test.txt").unlink()
    assert list(read_set(voc_root, wanted="final").splits) == ["val"]
    with pytest.raises(
        RequestError, match=r"split=test: .* has no such split; there are train, val"
    ):
        read_set(voc_root, wanted="test")


def test_an_image_in_two_lists_is_leakage(voc_root):
    lists = voc_root / "ImageSets/Main"
    (lists / "test.txt").write_text("test0\nboth\n")
    assert found(read_set(voc_root))["picture in two splits"] == [
        "JPEGImages/both.jpg: is in train too"
    ]


def test_rare_and_absent_classes_are_named(tmp_path):
    many = {f"a{i}": [("square", (i, 1, i + 9, 9)) for i in range(1, 70)] for i in range(2)}
    few = {"b": [("disc", (1, 1, 9, 9))]}
    root = write_voc(tmp_path, {"train": {**many, **few}, "val": {"c": many["a0"]}})
    lines = found(read_set(root))
    assert lines["class imbalance"] == ["1 boxes of 'disc', but 138 of 'square'"]
    assert lines["class absent from a split"] == ["no box of 'disc' in val"]


def test_issues_of_images_split_by_ratio_say_where_they_went(tmp_path):
    flat(tmp_path)
    write_xml(tmp_path / "a3.xml", [("square", (5, 5, 5, 9)), ("disc", (1, 1, 9, 9))])
    data = read_set(tmp_path)
    (home,) = [name for name, files in names(data).items() if "a3.jpg" in files]
    (issue,) = data.issues.of("error")
    assert issue.items[0].split == home


def test_links_are_followed_but_not_in_circles(tmp_path, voc_root):
    (voc_root / "JPEGImages/again").symlink_to(voc_root)
    shutil.move(voc_root / "Annotations", tmp_path / "elsewhere")
    (voc_root / "Annotations").symlink_to(tmp_path / "elsewhere")
    assert len(Folder(voc_root).images) == 11
    assert [len(s) for s in read_set(voc_root).splits.values()] == [5, 3, 3]


def one(root, boxes, image, **kwargs):
    """A VOC set whose training image is made by the caller."""
    write_voc(root, {"train": {"a": []}, "val": {"b": [("square", (1, 1, 9, 9))]}})
    write_xml(root / "Annotations/a.xml", boxes, **kwargs)
    image(root / "JPEGImages/a.jpg")
    return read_set(root, classes=["square"])


def turned(path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (80, 60)).save(path, exif=exif)


BOX = [("square", (1, 1, 9, 9))]


@pytest.mark.parametrize(
    ("image", "size", "kind", "said"),
    [
        (
            lambda p: Image.new("RGB", (80, 61)).save(p),
            (60, 80),
            "size contradicts annotation",
            "80x61",
        ),
        (
            turned,
            (60, 80),
            "size contradicts annotation",
            "as before the turn by EXIF orientation 6",
        ),
        (turned, None, "image turned by EXIF", "EXIF orientation 6"),
        (lambda p: p.write_bytes(b""), (60, 80), "unreadable image", "the file is empty"),
        (lambda p: p.write_bytes(b"GIF"), (60, 80), "unreadable image", "not a readable image"),
        (lambda p: p.write_bytes(p.read_bytes()[:-300]), (60, 80), "unreadable image", "truncated"),
    ],
)
def test_an_image_that_cannot_be_used_is_named_before_it_is_needed(
    tmp_path, image, size, kind, said
):
    data = one(tmp_path, BOX, image, size=size)
    (line,) = found(data)[kind]
    assert line.startswith("JPEGImages/a.jpg: ")
    assert said in line
    assert len(data.splits["train"]) == (1 if kind == "image turned by EXIF" else 0)


def test_an_annotation_of_the_upright_image_is_right(tmp_path):
    data = one(tmp_path, BOX, turned, size=(80, 60))
    assert not data.issues.of("error")
    assert data.splits["train"].sizes.tolist() == [[80, 60]]


@pytest.mark.parametrize(
    ("corners", "kind"),
    [
        ((5, 5, 5, 9), "box without area"),
        ((5, 9, 8, 9), "box without area"),
        ((9, 1, 5, 5), "inverted box"),
        ((1, 9, 5, 5), "inverted box"),
        ((90, 5, 95, 9), "box outside the image"),
        ((-9, 5, 0, 9), "box outside the image"),
        ((np.nan, 1, 5, 5), "box not finite"),
        ((1, 1, np.inf, 5), "box not finite"),
    ],
)
def test_an_unusable_box_is_left_out_and_named(tmp_path, corners, kind):
    data = one(tmp_path, [("square", corners), *BOX], lambda p: None)
    assert data.splits["train"].boxes.tolist() == [[0, 0, 9, 9]]
    (line,) = found(data)[kind]
    assert line.startswith("Annotations/a.xml: object 1 (square ")
    assert [f.kind for f in data.issues.of("error")] == [kind]


@pytest.mark.parametrize(
    ("boxes", "kind"),
    [
        ([(1, 1, 3, 9)], None),
        ([(1, 1, 2, 9)], "tiny box"),
        ([(70, 10, 80, 20)], None),
        ([(70, 10, 81, 20)], "box partly outside"),
        ([(1, 1, 9, 9), (1, 1, 9, 9)], "duplicate box"),
        ([(1, 1, 9, 9), (1, 1, 9, 11)], None),
    ],
)
def test_a_box_worth_a_look_is_named_and_kept(tmp_path, boxes, kind):
    data = one(tmp_path, [("square", corners) for corners in boxes], lambda p: None)
    assert len(data.splits["train"].boxes) == len(boxes)
    assert list(found(data)) == ([kind] if kind else [])
    if kind:
        assert f"object {len(boxes)} (square " in found(data)[kind][0]


def test_a_class_that_is_not_known_and_one_spelt_differently_are_named(voc_root):
    xml = voc_root / "Annotations/val1.xml"
    write_xml(xml, [("sqare", (1, 1, 9, 9)), ("Square", (1, 1, 9, 9)), ("disc", (1, 1, 9, 9))])
    data = read_set(voc_root)
    lines = found(data)
    assert lines["unknown class"] == [
        "Annotations/val1.xml: object 1 (sqare 1, 1, 9, 9): "
        "the class 'sqare' is not among the classes of the data: disc, square"
    ]
    assert "the class 'Square' is 'square' in" in lines["class spelt differently"][0]
    assert len(data.splits["val"][1].labels) == 1


def test_of_two_spellings_in_training_the_frequent_one_is_the_class(tmp_path):
    images = {f"a{i}": [("square" if i else "Square", (1, 1, 9, 9))] for i in range(3)}
    data = read_set(write_voc(tmp_path, {"train": images, "val": {"b": BOX}}))
    assert data.classes.names == ("square",)
    (line,) = found(data)["class spelt differently"]
    assert line.startswith("Annotations/a0.xml: object 1 (Square")


def test_a_split_of_ignored_boxes_alone_is_an_error(voc_root):
    for i in range(3):
        write_xml(voc_root / f"Annotations/val{i}.xml", [("disc", (1, 1, 9, 9))], difficult="disc")
    assert found(read_set(voc_root))["split without boxes"] == [
        "the split 'val' has no boxes to learn or to find"
    ]


def test_a_split_file_is_plain_and_relative_to_the_root(tmp_path):
    flat(tmp_path / "set", 6)
    write_json(tmp_path / "s.json", {"splits": read_set(tmp_path / "set").files()})
    content = json.loads((tmp_path / "s.json").read_text())
    assert sorted(p for paths in content["splits"].values() for p in paths) == [
        f"a{i}.jpg" for i in range(6)
    ]
