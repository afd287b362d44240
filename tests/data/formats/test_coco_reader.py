import gzip
import json
import shutil

import numpy as np
import pytest
from conftest import USUAL, found, read_set, three_splits, write_coco, write_image
from pycocotools.coco import COCO

from detector.core.errors import RequestError
from detector.data.formats import coco_fields, coco_json


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "coco", three_splits())


def edit(root, change, split="train"):
    """Change the content of a JSON file."""
    file = root / f"annotations/instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_boxes_and_classes_agree_with_pycocotools(root, capsys):
    data = read_set(root)
    assert data.format == "coco"
    assert data.classes.names == ("disc", "square")
    assert data.classes.ids == (40, 7)  # the data set's own, gaps and all
    for split, images in data.splits.items():
        theirs = COCO(root / f"annotations/instances_{split}.json")
        assert len(images) == len(theirs.imgs)
        entries = sorted(theirs.imgs.items(), key=lambda pair: pair[1]["file_name"])
        for ours, (image_id, entry) in zip(images, entries, strict=True):
            notes = theirs.loadAnns(theirs.getAnnIds(image_id))
            assert ours.path.name == entry["file_name"]
            assert [data.classes.category_id(n) for n in ours.labels] == [
                n["category_id"] for n in notes
            ]
            xywh = np.array([n["bbox"] for n in notes]).reshape(-1, 4)
            expected = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            assert ours.boxes.tolist() == expected.tolist()


def test_crowds_are_marked_to_be_ignored(root):
    edit(root, lambda c: c["annotations"][1].update(iscrowd=1))
    content = json.loads((root / "annotations/instances_train.json").read_text())
    x, y, width, height = content["annotations"][1]["bbox"]
    for change in ({}, {"width": None}):  # the latter is read entry by entry
        edit(root, lambda c, change=change: c["images"][0].update(change))
        split = read_set(root).splits["train"]
        assert split.boxes[split.ignore].tolist() == [[x, y, x + width, y + height]]


def test_the_boxes_of_a_missing_image_are_no_fault_of_their_own(root):
    (root / "train/train0.jpg").unlink()
    assert [f.kind for f in read_set(root).issues.of("error")] == ["missing image"]


def test_annotations_may_come_in_any_order(root):
    before = read_set(root).splits["train"]
    edit(root, lambda c: c["annotations"].reverse())
    after = read_set(root).splits["train"]
    assert after.offsets.tolist() == before.offsets.tolist()
    for a, b in zip(before, after, strict=True):
        assert a.boxes.tolist() == b.boxes[::-1].tolist()


def test_a_single_file_is_split_by_ratio(root):
    for split in ("val", "test"):
        (root / f"annotations/instances_{split}.json").unlink()
    file = root / "annotations/instances_train.json"
    file.rename(root / "labels.json")
    splits = read_set(root).splits
    assert {name: len(images) for name, images in splits.items()} == {
        "train": 3,
        "val": 1,
        "test": 1,
    }


def test_roboflows_folders_are_found(root, tmp_path):
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        home = tmp_path / "roboflow" / folder
        home.mkdir(parents=True)
        for image in (root / split).iterdir():
            image.rename(home / image.name)
        (root / f"annotations/instances_{split}.json").rename(home / "_annotations.coco.json")
    data = read_set(tmp_path / "roboflow")
    assert {name: len(images) for name, images in data.splits.items()} == {
        "train": 5,
        "val": 3,
        "test": 3,
    }
    assert not data.issues.of("error")


def test_a_category_that_only_groups_others_is_no_class(root):
    def group(content):
        content["categories"].insert(0, {"id": 0, "name": "cells", "supercategory": "none"})
        for category in content["categories"][1:]:
            category["supercategory"] = "cells"

    for split in ("train", "val", "test"):
        edit(root, group, split)
    assert read_set(root).classes.names == ("disc", "square")


def test_a_category_that_is_only_its_own_group_is_a_class(root):
    def own(content):
        content["categories"].append({"id": 3, "name": "rod", "supercategory": "rod"})

    for split in ("train", "val", "test"):
        edit(root, own, split)
    classes = read_set(root).classes
    assert classes.names == ("disc", "rod", "square")
    assert classes.ids == (40, 3, 7)


@pytest.mark.parametrize("empty", [(), ("train",), ("train", "val", "test")])
@pytest.mark.parametrize("above", ["none", None, "square"])
def test_of_two_categories_of_one_name_that_without_boxes_is_left_out(root, empty, above):
    def root_of_all(content):
        content["categories"].insert(0, {"id": 0, "name": "square", "supercategory": above})
        for category in content["categories"][1:]:
            category["supercategory"] = "square"

    def drop(content):
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 7]

    for split in ("train", "val", "test"):
        edit(root, root_of_all, split)
    for split in empty:
        edit(root, drop, split)
    classes = read_set(root).classes
    assert classes.names == ("disc", "square")
    assert classes.ids == (40, 7)


def test_two_categories_of_one_name_that_both_have_boxes_are_refused(root):
    def double(content):
        content["categories"].append({"id": 8, "name": "square"})
        notes = [a for a in content["annotations"] if a["category_id"] == 7]
        notes[0]["category_id"] = 8

    edit(root, double)
    with pytest.raises(RequestError, match="the category 8 is 'square', which contradicts"):
        read_set(root)


@pytest.mark.parametrize("degrees", [90.0, 90, "90.0", -90, 270, 450])
@pytest.mark.parametrize("odd", [False, True], ids=["at once", "entry by entry"])
def test_a_turned_box_becomes_the_upright_one_around_it(root, degrees, odd):
    def rotate(content):
        content["annotations"] = content["annotations"][:2]
        for note, angle in zip(content["annotations"], (degrees, 0.0), strict=True):
            note["bbox"], note["image_id"] = [10, 20, 40, 12], 100
            note["attributes"] = {"occluded": False, "rotation": angle}
        if odd:
            content["images"][0]["width"] = None

    edit(root, rotate)
    data = read_set(root)
    # About 30, 26: 12 wide and 40 high.
    assert data.splits["train"].boxes.tolist() == [[24, 6, 36, 46], [10, 20, 50, 32]]
    (line,) = found(data)["rotated box"]
    assert "instances_train.json: annotations[0] of train0.jpg: turned by " in line


def test_the_box_around_a_box_turned_by_thirty_degrees(root):
    edit(root, put({"rotation": 30}, "annotations", 0, "attributes"))
    edit(root, put([20, 20, 20, 10], "annotations", 0, "bbox"))
    boxes = read_set(root).splits["train"].boxes
    # Half sides: 10 cos + 5 sin, and 10 sin + 5 cos, about 30, 25.
    half = 10 * 0.8660254 + 2.5, 5 + 5 * 0.8660254
    expected = [30 - half[0], 25 - half[1], 30 + half[0], 25 + half[1]]
    assert np.abs(boxes - expected).max(1).min() < 1e-5


@pytest.mark.parametrize("attributes", [None, [], {"rotation": "left"}, {"rotation": 180}, {}])
def test_other_attributes_turn_nothing(root, attributes):
    before = read_set(root).splits["train"].boxes.tolist()
    edit(root, put(attributes, "annotations", 0, "attributes"))
    data = read_set(root)
    assert data.splits["train"].boxes.tolist() == before
    assert "rotated box" not in found(data)


@pytest.mark.parametrize("word", [True, "True", "true", "yes", "1", "1.0", 1.0])
def test_a_crowd_is_one_whatever_the_word(root, word):
    edit(root, put(word, "annotations", 1, "iscrowd"))
    assert read_set(root).splits["train"].ignore.sum() == 1


@pytest.mark.parametrize("word", [False, "False", "no", "0", "0.0", None, ""])
def test_no_crowd_is_none_whatever_the_word(root, word):
    edit(root, put(word, "annotations", 1, "iscrowd"))
    data = read_set(root)
    assert data.splits["train"].ignore.sum() == 0
    assert not data.issues.of("error")


def test_a_crowd_in_a_word_that_is_neither_is_named(root):
    edit(root, put("some", "annotations", 1, "iscrowd"))
    (line,) = found(read_set(root))["malformed annotation"]
    assert line.endswith("annotations[1]: iscrowd is 'some', expected 0 or 1")


def outline(content):
    """Give every annotation the polygon of its box."""
    for note in content["annotations"]:
        x, y, w, h = note["bbox"]
        note["segmentation"] = [[x, y, x + w, y], [x + w, y + h, x, y + h]]


@pytest.mark.parametrize("at_first", [5_000, 3])
def test_boxes_that_contradict_their_polygons_are_counted(root, at_first, monkeypatch):
    # With 3, the first, fifth and ninth are looked at before all are.
    monkeypatch.setattr(coco_fields, "SAMPLED", at_first)
    monkeypatch.setattr(coco_json.decode, "__defaults__", (at_first,))
    edit(root, outline)
    assert "box given otherwise too" not in found(read_set(root))

    def corners(content):
        for i in (1, 4, 6):
            content["annotations"][i]["segmentation"] = [[10, 10, 30, 10, 30, 30, 10, 30]]
            content["annotations"][i]["bbox"] = [10, 10, 30, 30]  # overlap: 400 of 900
        content["annotations"][6]["bbox"] = [12, 11, 20, 20]

    edit(root, corners)
    lines = found(read_set(root))["box given otherwise too"]
    assert [line.partition(" of ")[0].rpartition(" ")[2] for line in lines] == [
        "annotations[1]",
        "annotations[4]",
    ]
    assert "bbox is 10, 10, 30, 30, but the box of its polygons is 10, 10, 20, 20" in lines[0]


def test_boxes_whose_areas_are_those_of_two_corners_are_counted(root):
    def corners(content):
        for note in content["annotations"]:
            x, y, w, h = note["bbox"]
            note["bbox"] = [x, y, x + w, y + h]

    edit(root, corners)
    content = json.loads((root / "annotations/instances_train.json").read_text())
    lines = found(read_set(root))["box given otherwise too"]
    assert len(lines) == len(content["annotations"])
    assert "is that of two corners, x1, y1, x2, y2; expected x, y, width, height" in lines[0]


def test_a_polygon_beyond_the_border_does_not_contradict_a_box_that_ends_there(root):
    edit(root, put([60, 10, 20, 20], "annotations", 0, "bbox"))
    polygon = [[60, 10, 120, 10, 120, 30, 60, 30]]
    edit(root, put(polygon, "annotations", 0, "segmentation"))
    assert "box given otherwise too" not in found(read_set(root))


def test_an_image_of_another_suffix_than_the_file_name_says_is_named(root):
    edit(root, put("train0.png", "images", 0, "file_name"))
    assert found(read_set(root))["file name disagrees"] == [
        "annotations/instances_train.json: images[0]: file_name is 'train0.png'; "
        "train/train0.jpg is used"
    ]


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_size_is_compared_even_if_only_one_side_is_said(root, side):
    edit(root, put(0, "images", 0, side))
    assert "size contradicts annotation" not in found(read_set(root))
    other = {"width": "height", "height": "width"}[side]
    edit(root, put(77, "images", 0, other))
    assert len(found(read_set(root))["size contradicts annotation"]) == 1


def test_files_for_each_split_can_be_named(root):
    (root / "annotations/instances_train.json").rename(root / "mine.json")
    (root / "annotations/instances_val.json").rename(root / "yours.json")
    named = {"train": ["mine.json"], "val": ["yours.json"], "test": []}
    splits = read_set(root, splits=named, kind="coco").splits
    assert {name: len(images) for name, images in splits.items()} == {"train": 5, "val": 3}
    both = {"train": ["mine.json", "yours.json"], "val": ["annotations/instances_test.json"]}
    splits = read_set(root, splits={**both, "test": []}, kind="coco").splits
    assert {name: len(images) for name, images in splits.items()} == {"train": 8, "val": 3}


def test_unclear_files_are_refused_with_the_key_to_say_it(root):
    (root / "annotations/instances_train.json").rename(root / "annotations/instances_a.json")
    with pytest.raises(RequestError, match=r"which JSON file is for train\?.*data\.splits\.train="):
        read_set(root)
    with pytest.raises(RequestError, match=r"no file b\.json in .*; there: annotations/"):
        read_set(root, "coco", splits={**USUAL, "train": ["b.json"]})


def test_other_json_files_are_left_alone(root):
    (root / "annotations/captions_train.json").write_text('{"images": [], "annotations": []}')
    (root / "package.json").write_text("{}")
    assert len(read_set(root).splits["train"]) == 5


def remove_key(*path):
    def change(content):
        *before, last = path
        for key in before:
            content = content[key]
        del content[last]

    return change


def put(value, *path):
    def change(content):
        *before, last = path
        for key in before:
            content = content[key]
        content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove_key("annotations"), "missing required field `annotations`"),
        (put({}, "images"), r"Expected `array`, got `object` - at `\$\.images"),
        (remove_key("categories", 1, "name"), r"`name` - at `\$\.categories\[1\]"),
        (put(7, "categories", 1, "id"), "the category id 7 is there twice"),
        (put(" ", "categories", 1, "name"), "the category 40 has no name"),
    ],
)
def test_json_of_another_shape_is_named_with_the_place(root, change, said):
    edit(root, change)
    with pytest.raises(RequestError, match=rf"instances_train\.json: .*{said}"):
        read_set(root)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"nonsense", b'{"images": [', b"\xff\xfe", b"[" * 100_000]
)
def test_what_is_no_json_is_named(root, content):
    (root / "annotations/instances_train.json").write_bytes(content)
    with pytest.raises(RequestError, match=r"instances_train\.json: not COCO instances"):
        read_set(root)


def test_nan_which_json_has_not_is_named_as_the_box_it_is_in(root):
    edit(root, put([1, 2, float("nan"), float("inf")], "annotations", 2, "bbox"))
    (line,) = found(read_set(root))["box not finite"]
    assert line.startswith("annotations/instances_train.json: annotations[2] of train0.jpg (")


def test_categories_must_mean_the_same_in_all_files(root):
    edit(root, put("circle", "categories", 1, "name"), "val")
    with pytest.raises(RequestError, match=r"instances_val\.json: the category 40 is 'circle'"):
        read_set(root)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (put(100, "images", 1, "id"), "duplicate image", "images[1]: the id 100 is there twice"),
        (put("train0.jpg", "images", 1, "file_name"), "duplicate image", "train0.jpg is there"),
        (put("gone.jpg", "images", 1, "file_name"), "missing image", "no file 'gone.jpg' below"),
        (put("../../x.jpg", "images", 1, "file_name"), "missing image", "no file '../../x.jpg'"),
        (put("/etc/passwd", "images", 1, "file_name"), "missing image", "no file '/etc/passwd'"),
        (remove_key("images", 1, "file_name"), "malformed annotation", "file_name is missing"),
        (put([], "images", 1, "id"), "malformed annotation", "images[1]: id is []"),
        (put(2**70, "images", 1, "id"), "malformed annotation", "images[1]: id is 118059"),
        (put(None, "annotations", 1), "malformed annotation", "annotations[1]: expected an object"),
        (remove_key("annotations", 1, "bbox"), "malformed annotation", "[1]: bbox is missing"),
        (put([], "annotations", 1, "bbox"), "malformed annotation", "[1]: bbox is []"),
        (put([1, 2, "3", 4], "annotations", 1, "bbox"), "malformed annotation", "[1, 2, '3', 4]"),
        (put("x", "annotations", 1, "category_id"), "malformed annotation", "no category_id"),
        (put(None, "annotations", 1, "image_id"), "malformed annotation", "image_id is missing"),
        (put(-5, "images", 1, "height"), "malformed annotation", "80x-5 is no size"),
        (
            put(9, "annotations", 1, "image_id"),
            "malformed annotation",
            "[1]: there is no image_id 9",
        ),
        (
            put(9, "annotations", 1, "category_id"),
            "malformed annotation",
            "annotations[1]: there is no category_id 9",
        ),
        (
            put([5, 5, -3, 4], "annotations", 1, "bbox"),
            "inverted box",
            "annotations[1] of train0.jpg (",
        ),
    ],
)
def test_a_fault_of_one_entry_is_named_and_the_others_are_kept(root, change, kind, said):
    edit(root, change)
    data = read_set(root)
    line = found(data)[kind][0]
    assert line.startswith("annotations/instances_train.json: ")
    assert said in line
    assert len(data.splits["train"].labels) >= 4


@pytest.mark.parametrize(
    "change",
    [
        lambda c: [i.update(height=None, width=None) for i in c["images"]],
        lambda c: [i.update(height=60.0, width=80.0) for i in c["images"]],
        lambda c: [a.update(iscrowd=None) for a in c["annotations"]],
        lambda c: [a.update(iscrowd="0") for a in c["annotations"]],
        lambda c: [a.update(category_id=float(a["category_id"])) for a in c["annotations"]],
        lambda c: [a.update(image_id=str(a["image_id"])) for a in c["annotations"]],
        lambda c: (
            [a.update(image_id=f"im{a['image_id']}") for a in c["annotations"]],
            [i.update(id=f"im{i['id']}") for i in c["images"]],
        ),
        lambda c: [
            a.update(segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]], bbox=None, iscrowd=0)
            for a in c["annotations"]
            for x, y, w, h in [a["bbox"]]
        ],
        lambda c: [i.update(file_name=f"/home/me/{i['file_name']}") for i in c["images"]],
        lambda c: [i.update(file_name=f"C:\\me\\{i['file_name']}") for i in c["images"]],
        lambda c: [i.update(file_name=i["file_name"].upper()) for i in c["images"]],
    ],
)
def test_what_tools_write_a_little_differently_is_read_the_same(root, change):
    before = read_set(root).splits["train"]
    edit(root, change)
    data = read_set(root)
    assert not data.issues.of("error")
    after = data.splits["train"]
    for key in ("paths", "sizes", "offsets", "boxes", "labels", "ignore"):
        assert getattr(after, key).tolist() == getattr(before, key).tolist()


def test_a_byte_order_mark_does_not_matter_and_another_encoding_is_named(root):
    file = root / "annotations/instances_train.json"
    text = file.read_bytes()
    file.write_bytes(b"\xef\xbb\xbf" + text)
    assert len(read_set(root).splits["train"]) == 5
    file.write_bytes(text.replace(b"thing", b"th\xefng"))
    with pytest.raises(RequestError, match=r"instances_train\.json: not UTF-8 text"):
        read_set(root)


def test_the_case_of_a_file_name_on_disk_does_not_matter(root):
    (root / "train/train0.jpg").rename(root / "train/TRAIN0.JPG")
    assert not read_set(root).issues.of("error")


def test_a_split_by_ratio_does_not_depend_on_the_order_of_entries(root):
    for split in ("val", "test"):
        (root / f"annotations/instances_{split}.json").unlink()
    (root / "annotations/instances_train.json").rename(root / "labels.json")
    before = {name: s.paths.tolist() for name, s in read_set(root).splits.items()}
    content = json.loads((root / "labels.json").read_text())
    content["images"].reverse()
    (root / "labels.json").write_text(json.dumps(content))
    assert {name: s.paths.tolist() for name, s in read_set(root).splits.items()} == before


def test_images_that_are_not_listed_are_named_wherever_they_are(root):
    write_image(root / "train/extra.jpg", [])
    write_image(root / "images2/a.png", [])
    assert found(read_set(root))["image not used"] == [
        "images2/a.png: no annotation or list has it",
        "train/extra.jpg: no annotation or list has it",
    ]


def test_names_that_several_entries_share_are_not_guessed(root):
    def put_into_folders(content):
        for i, image in enumerate(content["images"]):
            image["file_name"] = f"day{i}/train0.jpg"

    edit(root, put_into_folders)
    assert len(found(read_set(root))["missing image"]) == 5


def test_images_may_lie_anywhere_below_the_root_under_a_unique_name(root):
    (root / "somewhere/else").mkdir(parents=True)
    (root / "train/train0.jpg").rename(root / "somewhere/else/train0.jpg")
    data = read_set(root)
    assert not data.issues.of("error")
    write_image(root / "another/train0.jpg", [])
    assert "missing image" in found(read_set(root))


def three_files(root):
    return {
        split: root / f"annotations/instances_{split}.json" for split in ("train", "val", "test")
    }


def plain_names(root):
    """train.json, val.json and test.json, which say nothing of what is in them."""
    for split, file in three_files(root).items():
        file.rename(root / f"annotations/{split}.json")
    return root / "annotations"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b'"iscrowd": 0', b'"iscrowd": 0, "quality": NaN', 1),
        lambda text: b"\xef\xbb\xbf" + text.replace(b'"iscrowd": 0', b'"iscrowd": 0, "a": NaN', 1),
    ],
)
def test_a_split_is_recognised_by_what_its_file_says(root, change):
    file = plain_names(root) / "train.json"
    file.write_bytes(change(file.read_bytes()))
    assert [len(s) for s in read_set(root).splits.values()] == [5, 3, 3]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.decode().encode("utf-16"), "UTF-16 text, expected UTF-8"),
        (lambda text: text.decode().encode("utf-16-le"), "UTF-16 text, expected UTF-8"),
        (lambda text: text.decode().encode("utf-32"), "UTF-32 text, expected UTF-8"),
        (gzip.compress, "compressed by gzip"),
        (lambda text: text[:-100], "not COCO instances"),
        (lambda text: text + b"\n" + text, "not COCO instances"),
        (lambda text: b"", "not COCO instances"),
        (lambda text: text.replace(b"annotations", b"labels"), "it has no annotations"),
        (lambda text: b"[]", "it has no annotations, categories, images"),
    ],
)
def test_a_split_whose_file_cannot_be_used_is_never_passed_over(root, split, change, said):
    file = plain_names(root) / f"{split}.json"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(RequestError, match=rf"{split}\.json: .*{said}"):
        read_set(root)


def test_a_single_file_that_cannot_be_read_is_named(tmp_path):
    write_image(tmp_path / "a.jpg", [])
    (tmp_path / "result.json").write_bytes("{}".encode("utf-16"))
    with pytest.raises(RequestError, match=r"result\.json: .*UTF-16 text, expected UTF-8"):
        read_set(tmp_path)


def test_a_split_by_the_name_of_its_folder_is_never_passed_over(root, tmp_path):
    for split, file in three_files(root).items():
        file.rename(root / split / "labels.json")
    file = root / "val/labels.json"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RequestError, match=r"val/labels\.json: not COCO instances"):
        read_set(root)


@pytest.mark.parametrize("name", ["val.jsonl", "val.json.gz", "instances_val.json.zip"])
def test_a_split_that_is_packed_is_refused(root, name):
    (root / "annotations/instances_val.json").rename(root / f"annotations/{name}")
    with pytest.raises(RequestError, match=rf"{name}: expected a plain \.json file"):
        read_set(root)


def test_packed_files_beside_unpacked_ones_are_left_alone(root):
    (root / "annotations/val.json.gz").write_bytes(b"")
    assert len(read_set(root).splits["val"]) == 3


def test_instances_whose_name_speaks_of_no_split_are_named(root):
    shutil.copy(root / "annotations/instances_val.json", root / "annotations/extra.json")
    assert found(read_set(root))["annotation not used"] == [
        "annotations/extra.json: COCO instances, but its name is of no split"
    ]
    (root / "annotations/instances_val.json").unlink()  # so that it could be that one
    with pytest.raises(RequestError, match=r"which JSON file is for val\?.*extra\.json"):
        read_set(root)
    assert len(read_set(root, "coco", splits={**USUAL, "val": []}).splits["train"]) == 4


def test_a_validation_file_alone_is_not_trained_on(root):
    for split in ("train", "test"):
        three_files(root)[split].unlink()
    with pytest.raises(RequestError, match=r"no training images; there is only val: say data\."):
        read_set(root)
    assert len(read_set(root, wanted="val").splits["val"]) == 3


def test_names_of_images_are_matched_however_accents_are_encoded(root):
    (root / "train/train0.jpg").rename(root / "train/caf\u00e9.jpg")
    (root / "a").mkdir()
    shutil.copy(root / "train/train1.jpg", root / "a/cafe\u0301.jpg")  # not unique by name alone
    edit(root, put("cafe\u0301.JPG", "images", 0, "file_name"))
    data = read_set(root)
    assert not data.issues.of("error")
    assert f"{root}/train/caf\u00e9.jpg" in data.splits["train"].paths.tolist()


def test_classes_that_differ_only_in_the_encoding_of_accents_are_one_issue(root):
    edit(root, put("caf\u00e9", "categories", 0, "name"))
    edit(root, put("cafe\u0301", "categories", 1, "name"))
    for split in ("val", "test"):
        edit(root, put("caf\u00e9", "categories", 0, "name"), split)
        edit(root, put("cafe\u0301", "categories", 1, "name"), split)
    (line,) = found(read_set(root))["class spelt differently"]
    assert line.endswith("differ only in how accents are encoded (Unicode's NFC and NFD)")


def test_ids_of_categories_in_quotes_are_the_numbers_they_say(root):
    def quote(content):
        for category in content["categories"]:
            category["id"] = str(category["id"])

    before = read_set(root)
    for split in ("train", "val", "test"):
        edit(root, quote, split)
    data = read_set(root)
    assert data.classes == before.classes
    assert data.splits["train"].labels.tolist() == before.splits["train"].labels.tolist()


def test_the_splits_that_are_not_named_are_found_by_their_names(root):
    named = dict(USUAL, train=["annotations/instances_train.json"])
    assert {k: len(s) for k, s in read_set(root, "coco", splits=named).splits.items()} == {
        **{"train": 5, "val": 3},
        "test": 3,
    }
    named["val"] = []  # none: images are held out
    assert len(read_set(root, "coco", splits=named).splits["train"]) == 4
    (root / "annotations/instances_val.json").rename(root / "annotations/instances_check.json")
    with pytest.raises(RequestError, match=r"which JSON file is for val\? .*instances_check"):
        read_set(root, "coco", splits=dict(USUAL, train=named["train"]))
