import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torchvision
from conftest import USUAL, found, random_split, read_set, write_image, write_voc, write_xml

from detector.core.errors import RequestError
from detector.data.formats import folder as folder_module
from detector.data.formats.paths import split_of


def one_image(root: Path, boxes, **kwargs) -> Path:
    """A tree with a single training image."""
    write_voc(root, {"train": {"a": []}})
    write_xml(root / "Annotations" / "a.xml", boxes, **kwargs)
    return root


def read_one(root: Path, classes=("square",), **options):
    """The training split alone."""
    return read_set(root, "voc", "train", classes=classes, **options).splits["train"]


def issues(root: Path, classes=("square",)):
    return found(read_set(root, "voc", "train", classes=classes))


def test_a_box_over_the_whole_image_becomes_exactly_the_image(tmp_path):
    # VOC counts pixels 1..80 and 1..60, inclusive: that is 0..80 and 0..60, half-open.
    split = read_one(one_image(tmp_path, [("square", (1, 1, 80, 60))]))
    assert split.boxes.tolist() == [[0, 0, 80, 60]]


def test_a_box_beyond_the_border_is_clipped_to_the_image_and_named(tmp_path):
    root = one_image(tmp_path, [("square", (-4, 10, 90, 70))])
    assert read_one(root).boxes.tolist() == [[0, 9, 80, 60]]
    (line,) = issues(root)["box partly outside"]
    assert line == "Annotations/a.xml: object 1 (square -4, 10, 90, 70): partly outside the image"


def test_fractions_of_pixels_are_kept(tmp_path):
    split = read_one(one_image(tmp_path, [("square", (1.5, 2.25, 10.75, 20))]))
    assert split.boxes.tolist() == [[0.5, 1.25, 10.75, 20]]


def test_boxes_agree_with_torchvisions_reader(devkit):
    names = {"train": ["VOC2007/trainval", "VOC2012/trainval"], "test": ["VOC2007/test"]}
    data = read_set(devkit, "voc", splits={**USUAL, **names, "val": []})
    whole = read_set(devkit, "voc", "test", splits={**USUAL, **names}, classes=data.classes.names)
    assert len(whole.splits["test"]) == 11
    theirs = torchvision.datasets.VOCDetection(devkit, year="2007", image_set="test")
    by_path = sorted(zip(theirs.images, theirs, strict=True), key=lambda pair: pair[0])
    for ours, (path, (_, target)) in zip(whole.splits["test"], by_path, strict=True):
        assert ours.path == Path(path)
        raw = target["annotation"].get("object", [])
        assert [data.classes.name(n) for n in ours.labels] == [o["name"] for o in raw]
        corners = [[int(o["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax")] for o in raw]
        expected = np.array(corners).reshape(-1, 4) - [1, 1, 0, 0]
        assert ours.boxes.tolist() == expected.tolist()


def test_without_names_the_years_of_a_devkit_are_concatenated(devkit):
    # Only trainval.txt is there to train on, so validation is split off it.
    data = read_set(devkit, "voc")
    assert len(data.splits["train"]) + len(data.splits["val"]) == 22
    assert len(data.splits["test"]) == 11


def test_train_and_val_lists_are_preferred_to_trainval(voc_root):
    lists = voc_root / "ImageSets/Main"
    (lists / "trainval.txt").write_text(
        "".join((lists / f"{n}.txt").read_text() for n in ("train", "val"))
    )
    assert [len(s) for s in read_set(voc_root).splits.values()] == [5, 3, 3]


def test_difficult_objects_are_marked_to_be_ignored(tmp_path):
    boxes = [("square", (1, 1, 9, 9)), ("disc", (5, 5, 20, 20))]
    root = one_image(tmp_path, boxes, difficult="disc")
    assert read_one(root, ["square", "disc"]).ignore.tolist() == [False, True]


def test_without_a_difficult_tag_an_object_counts(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    xml = root / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<difficult>0</difficult>", ""))
    assert read_one(root).ignore.tolist() == [False]


def test_an_annotation_without_objects_is_a_background_image(tmp_path):
    images = {"a": [("square", (1, 1, 9, 9))], "b": []}
    root = write_voc(tmp_path, {"train": images, "val": images})
    assert [len(i.labels) for i in read_one(root)] == [1, 0]
    assert issues(root)["image without boxes"] == ["JPEGImages/b.jpg: no boxes"]


def test_classes_are_those_of_the_training_split_sorted(voc_root):
    classes = read_set(voc_root).classes
    assert classes.names == ("disc", "square")
    assert classes.ids == (1, 2)


def test_classes_given_keep_their_order(voc_root):
    data = read_set(voc_root, classes=["square", "disc", "never seen"])
    assert data.classes.names == ("square", "disc", "never seen")
    assert data.splits["train"][0].labels.tolist() == [1, 2]


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".JPG", ".PNG"])
def test_images_are_found_whatever_their_suffix(tmp_path, suffix):
    root = write_voc(tmp_path, {"train": {"a b": [("square", (1, 1, 9, 9))]}}, suffix)
    assert Path(str(read_one(root).paths[0])).name == f"a b{suffix}"


def test_a_photograph_wins_over_a_mask_of_the_same_name(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    write_image(root / "JPEGImages/a.png", [])
    write_image(root / "ABC/a.jpg", [])
    assert Path(str(read_one(root).paths[0])) == root / "JPEGImages/a.jpg"


def test_file_names_in_a_split_list_and_repeated_ones_are_understood(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    (root / "ImageSets/Main/train.txt").write_text("a.jpg\na.jpg\n")
    assert len(read_one(root)) == 1


def test_per_class_split_files_list_ids_in_their_first_column(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    (root / "ImageSets/Main/train.txt").write_text("a -1\n")
    assert len(read_one(root)) == 1


FILENAME = "<filename>{}</filename><size>"


@pytest.mark.parametrize("claim", ["../../../etc/passwd", "/etc/passwd", "nothing.jpg", ""])
def test_the_image_is_found_by_the_annotations_name_not_by_what_it_claims(tmp_path, claim):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    xml = root / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<size>", FILENAME.format(claim)))
    assert Path(str(read_one(root).paths[0])) == root / "JPEGImages/a.jpg"
    says = [f"Annotations/a.xml: <filename> says {claim!r}; JPEGImages/a.jpg is used"]
    assert issues(root) == ({"file name disagrees": says} if claim else {})


@pytest.mark.parametrize("claim", ["a.jpg", "a.JPG", "a", "a.bmp", "C:\\x\\a.jpg"])
def test_a_claim_of_the_same_name_is_none_that_disagrees(tmp_path, claim):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    xml = root / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<size>", FILENAME.format(claim)))
    assert issues(root) == {}


@pytest.mark.parametrize("claim", ["a.jpg", "a.png", "A.PNG", "a.bmp"])
def test_of_several_images_of_one_stem_the_one_that_is_named_is_used(tmp_path, claim):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    for suffix in ("png", "bmp"):
        write_image(root / f"JPEGImages/a.{suffix}", [])
    xml = root / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<size>", FILENAME.format(claim)))
    assert Path(str(read_one(root).paths[0])).name == claim.lower()


def add_to_object(root, text):
    xml = root / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<bndbox>", f"{text}<bndbox>"))


def attribute(name, value):
    said = f"<name>{name}</name><value>{value}</value>"
    other = "<attribute><name>occluded</name><value>False</value></attribute>"
    return f"<attributes>{other}<attribute>{said}</attribute></attributes>"


@pytest.mark.parametrize("degrees", ["90.0", "270", "-90"])
def test_a_turned_box_becomes_the_upright_one_around_it(tmp_path, degrees):
    root = one_image(tmp_path, [("square", (11, 21, 50, 32))])  # 10, 20, 50, 32 from 0
    add_to_object(root, attribute("rotation", degrees))
    assert read_one(root).boxes.tolist() == [[24, 6, 36, 46]]
    (line,) = issues(root)["rotated box"]
    assert line == "Annotations/a.xml: object 1: turned by 90 degrees"


@pytest.mark.parametrize(
    ("name", "value"), [("rotation", "0.0"), ("rotation", "180"), ("rotation", "?"), ("pose", "90")]
)
def test_other_attributes_turn_nothing(tmp_path, name, value):
    root = one_image(tmp_path, [("square", (11.1, 21, 50, 32))])
    before = read_one(root).boxes.tolist()
    add_to_object(root, attribute(name, value))
    assert read_one(root).boxes.tolist() == before
    assert issues(root) == {}


def test_rolabelimgs_turned_boxes_are_read(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    xml = root / "Annotations/a.xml"
    box = "<cx>30</cx><cy>26</cy><w>40</w><h>12</h><angle>1.5707963</angle>"
    new = re.sub("<bndbox>.*</bndbox>", f"<robndbox>{box}</robndbox>", xml.read_text())
    xml.write_text(new)
    np.testing.assert_allclose(read_one(root).boxes, [[24, 6, 36, 46]], atol=1e-4)
    assert "turned by 90 degrees" in issues(root)["rotated box"][0]


def difficult(root, word):
    xml = root / "Annotations/a.xml"
    text = f"<difficult>{word}</difficult>"
    xml.write_text(xml.read_text().replace("<difficult>0</difficult>", text))


@pytest.mark.parametrize("word", ["1", " 1 ", "1.0", "True", "true", "yes", "T", "Y"])
def test_a_difficult_object_is_one_whatever_the_word(tmp_path, word):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    difficult(root, word)
    assert read_one(root).ignore.tolist() == [True]


@pytest.mark.parametrize("word", ["0", "0.0", "False", "no", "", "n"])
def test_an_easy_object_is_one_whatever_the_word(tmp_path, word):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    difficult(root, word)
    assert read_one(root).ignore.tolist() == [False]
    assert issues(root) == {}


@pytest.mark.parametrize("word", ["Unspecified", "nan", "maybe"])
def test_a_word_that_is_neither_is_named(tmp_path, word):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    difficult(root, word)
    assert read_one(root).ignore.tolist() == [False]
    assert issues(root)["flag not understood"] == [
        f"Annotations/a.xml: object 1: <difficult> is {word!r}, expected 0 or 1"
    ]


def test_a_claimed_image_that_is_there_too_is_named(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    write_image(root / "JPEGImages/b.jpg", [])
    xml = root / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<size>", FILENAME.format("b.jpg")))
    assert Path(str(read_one(root).paths[0])).name == "a.jpg"
    assert "<filename> says 'b.jpg'" in issues(root)["file name disagrees"][0]


@pytest.mark.parametrize("claim", ["b.jpg", "C:\\photos\\b.jpg", "images/b.jpg", "b"])
def test_an_image_of_another_name_is_found_by_what_the_annotation_calls_it(tmp_path, claim):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/b.jpg")
    xml = root / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<size>", FILENAME.format(claim)))
    assert Path(str(read_one(root).paths[0])).name == "b.jpg"


def test_a_claim_cannot_lead_out_of_the_root(tmp_path):
    root = one_image(tmp_path / "set", [("square", (1, 1, 9, 9))])
    (root / "JPEGImages/a.jpg").rename(tmp_path / "x.jpg")
    xml = root / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<size>", FILENAME.format("../../x.jpg")))
    (line,) = issues(root)["missing image"]
    assert line == "Annotations/a.xml: no image of that name, nor '../../x.jpg'"


@pytest.mark.parametrize("listed", ["../a", "..", "x/../a", "/../etc/passwd"])
def test_a_split_file_cannot_lead_out_of_the_root(tmp_path, listed):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    (root / "ImageSets/Main/train.txt").write_text("/etc/passwd\n")
    assert "missing annotation" in issues(root)
    (root / "ImageSets/Main/train.txt").write_text(listed + "\n")
    with pytest.raises(RequestError, match="not a plain file name"):
        read_one(root)


@pytest.mark.parametrize(
    ("annotation", "image"),
    [
        ("annotations/{}.xml", "images/{}.jpg"),
        ("{}.xml", "{}.jpg"),
        ("photos of May/{}.xml", "photos of May/{}.JPG"),
        ("data/xmls/{}.jpg.xml", "data/img/{}.jpg"),
    ],
)
def test_flat_folders_are_read_and_split_by_ratio(tmp_path, annotation, image):
    for name, boxes in random_split("im age", 10).items():
        write_xml(tmp_path / annotation.format(name), boxes)
        write_image(tmp_path / image.format(name), boxes)
    data = read_set(tmp_path)
    assert data.format == "voc"
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 6,
        "val": 2,
        "test": 2,
    }


@pytest.mark.parametrize("layout", ["{split}/{name}", "{kind}/{split}/{name}"])
def test_folders_named_after_splits_make_the_splits(tmp_path, layout):
    for split, count in (("train", 4), ("valid", 2), ("test", 1)):
        # Every split numbers its images anew.
        for name, boxes in random_split("a", count, count).items():
            write_xml(tmp_path / f"{layout.format(split=split, kind='xml', name=name)}.xml", boxes)
            write_image(tmp_path / f"{layout.format(split=split, kind='im', name=name)}.jpg", boxes)
    splits = read_set(tmp_path).splits
    assert {name: len(split) for name, split in splits.items()} == {"train": 4, "val": 2, "test": 1}
    for name, split in splits.items():
        assert all(split_of(Path(p).parent.name) == name for p in split.paths.tolist())


def test_images_that_no_annotation_is_about_are_named(tmp_path):
    for name, boxes in random_split("a", 10).items():
        write_xml(tmp_path / f"xml/{name}.xml", boxes)
        write_image(tmp_path / f"images/{name}.jpg", boxes)
    write_image(tmp_path / "images/b.jpg", [])
    (tmp_path / "xml/a0.xml").write_text("broken")  # which is named itself
    assert found(read_set(tmp_path))["image not used"] == [
        "images/b.jpg: no annotation or list has it",
    ]


def test_folders_that_number_their_images_alike_are_not_mixed_up(tmp_path):
    for day in ("day1", "day2", "day3"):
        for name, boxes in random_split("00", 3).items():
            write_xml(tmp_path / f"annotations/{day}/{name}.xml", boxes)
            write_image(tmp_path / f"images/{day}/{name}.jpg", boxes)
    (tmp_path / "images/day2/001.jpg").unlink()
    (tmp_path / "annotations/day1/001.xml").unlink()
    lines = found(read_set(tmp_path))
    assert lines["missing image"] == ["annotations/day2/001.xml: no image of that name"]
    assert lines["image not used"] == ["images/day1/001.jpg: no annotation or list has it"]
    assert "duplicate image" not in lines


def test_a_name_that_several_annotations_share_is_not_guessed(tmp_path):
    for day in ("day1", "day2"):
        write_xml(tmp_path / f"annotations/{day}/001.xml", [("square", (1, 1, 9, 9))])
    write_image(tmp_path / "images/day1/001.jpg", [])
    lines = found(read_set(tmp_path))
    assert lines["missing image"] == ["annotations/day2/001.xml: no image of that name"]


def test_an_image_of_another_split_is_not_taken_though_its_name_is_unique(tmp_path):
    write_xml(tmp_path / "train/a.xml", [("square", (1, 1, 9, 9))])
    write_xml(tmp_path / "val/b.xml", [("square", (1, 1, 9, 9))])
    for name in ("a", "b"):
        write_image(tmp_path / f"val/{name}.jpg", [])
    assert issues(tmp_path)["missing image"] == ["train/a.xml: no image of that name"]


def test_lists_of_no_usual_name_are_one_pool(voc_root):
    lists = voc_root / "ImageSets/Main"
    every = "".join(f"JPEGImages/{Path(f).name}\n" for f in (voc_root / "JPEGImages").iterdir())
    for file in lists.iterdir():
        file.unlink()
    (lists / "default.txt").write_text("\ufeff" + every, encoding="utf-8")
    assert [len(s) for s in read_set(voc_root).splits.values()] == [7, 2, 2]


def test_pipes_and_devices_are_no_files(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    (root / "Annotations/a.xml").unlink()
    os.mkfifo(root / "Annotations/a.xml")
    (root / "JPEGImages/zero.jpg").symlink_to("/dev/zero")
    assert "missing annotation" in issues(root)


def test_a_huge_annotation_is_not_parsed(tmp_path, monkeypatch):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    monkeypatch.setattr(folder_module, "TEXT_LIMIT", 50)
    assert "larger than 50 bytes" in issues(root)["malformed annotation"][0]


def test_two_annotations_of_one_image_are_an_error(tmp_path):
    for name in ("a", "b"):
        write_xml(tmp_path / f"train/{name}.xml", [("square", (1, 1, 9, 9))])
    write_image(tmp_path / "train/a.jpg", [])
    xml = tmp_path / "train/b.xml"
    xml.write_text(xml.read_text().replace("<size>", FILENAME.format("a.jpg")))
    data = read_set(tmp_path, wanted="train", splits={**USUAL, "val": ["train"]})
    assert found(data)["duplicate image"] == [
        "train/b.xml: its image, train/a.jpg, is also that of train/a.xml"
    ]
    assert len(data.splits["train"]) == 1


def test_annotations_beside_the_folders_of_splits_are_named(tmp_path):
    for folder in ("train", "bus"):  # classes of vehicles, perhaps
        for name, boxes in random_split("a", 4).items():
            write_xml(tmp_path / f"{folder}/{name}.xml", boxes)
            write_image(tmp_path / f"{folder}/{name}.jpg", boxes)
    lines = found(read_set(tmp_path))["annotation not used"]
    assert lines == [f"bus/a{i}.xml: lies in no folder of a split" for i in range(4)]
    everything = {**USUAL, "train": ["."]}
    assert sum(map(len, read_set(tmp_path, splits=everything).splits.values())) == 8


def test_an_image_of_another_split_is_not_taken_for_a_missing_one(tmp_path):
    for split in ("train", "val"):
        write_xml(tmp_path / split / "a.xml", [("square", (1, 1, 9, 9))])
    write_image(tmp_path / "val/a.jpg", [])
    assert issues(tmp_path)["missing image"] == ["train/a.xml: no image of that name"]


BOMB = """<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""
EXTERNAL = """<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<annotation><object><name>&a;</name></object></annotation>"""
PARAMETER = """<!DOCTYPE a SYSTEM "http://localhost/x.dtd">
<annotation><object><name>a</name></object></annotation>"""
SIZE = "<annotation><size><width>{}</width><height>60</height></size></annotation>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "declares a DTD"),
        (EXTERNAL, "declares a DTD"),
        (PARAMETER, "declares a DTD"),
        ("<annotation>&undeclared;</annotation>", "not a readable XML"),
        ("<annotation><object>", "not a readable XML"),
        ("", "not a readable XML"),
        ("\x00\x01", "not a readable XML"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", "not a readable XML"),
        ("<html/>", "expected <annotation>"),
        (SIZE.format("1e99"), "<size/width> is 1e[+]99, expected a number of pixels"),
        (SIZE.format("nan"), "<size/width> is nan, expected a number of pixels"),
        (SIZE.format("wide"), "<size/width> is 'wide', expected a number"),
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
    (line,) = issues(root)["malformed annotation"]
    assert re.match(rf"Annotations/a\.xml: .*{said}", line)


def test_an_entity_bomb_in_another_encoding_is_no_way_around(tmp_path):
    root = one_image(tmp_path, [])
    text = "<?xml version='1.0' encoding='utf-16'?>" + BOMB
    (root / "Annotations/a.xml").write_bytes(text.encode("utf-16"))
    assert "declares a DTD" in issues(root)["malformed annotation"][0]


@pytest.mark.parametrize(
    ("gone", "kind", "said"),
    [
        (
            "Annotations/a.xml",
            "missing annotation",
            r"a\.xml: no such file, but .*train\.txt lists",
        ),
        ("JPEGImages/a.jpg", "missing image", r"a\.xml: no image of that name"),
        ("JPEGImages/", "missing image", r"a\.xml: no image of that name"),
    ],
)
def test_a_missing_file_is_named(tmp_path, gone, kind, said):
    root = one_image(tmp_path, [])
    shutil.rmtree(root / gone) if gone.endswith("/") else (root / gone).unlink()
    assert re.search(said, issues(root)[kind][0])


def test_a_missing_list_is_named_with_those_that_are_there(tmp_path):
    root = one_image(tmp_path, [])
    (root / "ImageSets/Main/other.txt").write_text("a\n")
    wanted = {**USUAL, "train": ["mine"]}
    with pytest.raises(RequestError, match=r"no split file .*mine\.txt; there: other, train"):
        read_one(root, splits=wanted)


def test_a_missing_root_and_a_folder_of_something_else_are_named(tmp_path):
    with pytest.raises(RequestError, match="no such folder"):
        read_set(tmp_path / "none", "voc")
    write_image(tmp_path / "pictures" / "a.jpg", [])
    with pytest.raises(RequestError, match="no XML files in it; expected PASCAL VOC: Annotations"):
        read_set(tmp_path / "pictures", "voc")


def test_an_empty_list_is_an_error(tmp_path):
    root = one_image(tmp_path, [])
    (root / "ImageSets/Main/train.txt").write_text("\n")
    assert issues(root)["empty split"] == ["the split 'train' has no usable image"]


def test_an_empty_size_says_nothing_and_one_side_is_compared_alone(tmp_path):
    root = one_image(tmp_path, [("square", (1, 1, 9, 9))])
    xml = root / "Annotations/a.xml"
    text = xml.read_text()
    xml.write_text(text.replace("<width>80</width>", "<width> </width>"))
    assert issues(root) == {}
    xml.write_text(text.replace("<width>80</width>", "<width>0</width>").replace(">60<", ">61<"))
    assert len(issues(root)["size contradicts annotation"]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "{}\r",
        "{}.jpg",
        "{}.JPEG",
        "{}.xml",
        "JPEGImages/{}.jpg",
        "JPEGImages\\{}.jpg",
        "{} 1",
        "{} -1",
    ],
)
def test_lists_may_name_an_image_as_other_tools_do(voc_root, line):
    for file in (voc_root / "ImageSets/Main").iterdir():
        file.write_text("".join(line.format(i) + "\n" for i in file.read_text().split()))
    data = read_set(voc_root)
    assert [len(s) for s in data.splits.values()] == [5, 3, 3]
    assert not data.issues.of("error")


@pytest.mark.parametrize("place", ["imagesets/main", "ImageSets", "."])
@pytest.mark.parametrize("line", ["{}", "./JPEGImages/{}.jpg ./Annotations/{}.xml"])
def test_lists_are_found_where_other_tools_put_them(voc_root, place, line):
    texts = {f.name: f.read_text().split() for f in (voc_root / "ImageSets/Main").iterdir()}
    shutil.rmtree(voc_root / "ImageSets")
    for name, ids in texts.items():
        (voc_root / place).mkdir(parents=True, exist_ok=True)
        (voc_root / place / name).write_text("\n".join(line.format(i, i) for i in ids))
    (voc_root / "test_notes.txt").write_text("nothing of the kind\n")
    assert [len(s) for s in read_set(voc_root).splits.values()] == [5, 3, 3]


def test_lists_with_an_underscore_count_where_there_are_no_others(voc_root):
    for file in (voc_root / "ImageSets/Main").iterdir():
        file.rename(file.with_name(f"{file.stem}_list.txt"))
    assert [len(s) for s in read_set(voc_root).splits.values()] == [5, 3, 3]


def test_lists_and_files_may_differ_in_case(voc_root):
    for file in (voc_root / "Annotations").iterdir():
        file.rename(file.with_name(file.stem.upper() + ".XML"))
    (voc_root / "Annotations").rename(voc_root / "annotations")
    data = read_set(voc_root)
    assert [len(s) for s in data.splits.values()] == [5, 3, 3]
    assert not data.issues.of("error")


def test_lists_tell_images_of_one_name_apart_by_their_folders(tmp_path):
    boxes = [("square", (1, 1, 9, 9))]
    for day in ("day1", "day2"):
        write_xml(tmp_path / f"Annotations/{day}/a.xml", boxes)
        write_image(tmp_path / f"JPEGImages/{day}/a.jpg", boxes)
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("day1/a\n")
    (lists / "val.txt").write_text("day2/a\n")
    splits = read_set(tmp_path).splits
    assert [s.paths.tolist() for s in splits.values()] == [
        [f"{tmp_path}/JPEGImages/day1/a.jpg"],
        [f"{tmp_path}/JPEGImages/day2/a.jpg"],
    ]


def test_folders_that_could_be_the_validation_split_are_refused(tmp_path):
    for folder in ("train", "setB"):
        for name, boxes in random_split(folder, 3).items():
            write_xml(tmp_path / f"{folder}/{name}.xml", boxes)
            write_image(tmp_path / f"{folder}/{name}.jpg", boxes)
    (line,) = found(read_set(tmp_path))["unclear split"]
    assert line.startswith("setB: annotated images, but its name is of no split")
    assert "data.splits.val=[setB]" in line
    named = {**USUAL, "train": ["train"], "val": ["setB"]}
    data = read_set(tmp_path, splits=named)
    assert [len(s) for s in data.splits.values()] == [3, 3]
    assert "unclear split" not in found(data)


def test_a_validation_folder_without_one_for_training_is_not_split(tmp_path):
    for folder in ("mine", "val"):
        write_xml(tmp_path / f"{folder}/{folder}.xml", [("square", (1, 1, 9, 9))])
        write_image(tmp_path / f"{folder}/{folder}.jpg", [])
    with pytest.raises(RequestError, match=r"no training images; there is only val: say data"):
        read_set(tmp_path)


def test_pictures_that_are_not_read_are_named_and_masks_are_not(voc_root):
    (voc_root / "JPEGImages/x.HEIC").touch()
    (voc_root / "raw").mkdir()
    (voc_root / "raw/y.dng").touch()
    write_image(voc_root / "SegmentationClass/train0.png", [])
    lines = found(read_set(voc_root))
    assert lines == {
        "unsupported image": [
            "JPEGImages/x.HEIC: convert to PNG or JPEG",
            "raw/y.dng: convert to PNG or JPEG",
        ]
    }


def test_a_list_that_could_be_the_validation_split_is_an_error(voc_root):
    lists = voc_root / "ImageSets/Main"
    (lists / "val.txt").rename(lists / "vall.txt")
    (item,) = found(read_set(voc_root, "voc"))["unclear split"]
    assert item.startswith("ImageSets/Main/vall.txt: a list whose name is of no split")
    assert "data.splits.val=[vall]" in item
    for val, held in ((["vall"], 3), ([], 1)):
        data = read_set(voc_root, "voc", splits=dict(USUAL, val=val))
        assert len(data.splits["val"]) == held
        assert "unclear split" not in found(data)


def test_what_a_list_has_twice_is_counted(voc_root):
    with (voc_root / "ImageSets/Main/train.txt").open("a") as stream:
        stream.write("train0\n")
    data = read_set(voc_root, "voc")
    assert found(data)["image listed twice"] == ["ImageSets/Main/train.txt: train0 is there twice"]
    assert len(data.splits["train"]) == 5


def test_lists_may_have_paths_of_another_machine(voc_root):
    file = voc_root / "ImageSets/Main/train.txt"
    file.write_text(
        "".join(f"/home/x/JPEGImages/{name}.jpg\n" for name in file.read_text().split())
    )
    assert len(read_set(voc_root, "voc").splits["train"]) == 5
