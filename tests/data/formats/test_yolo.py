import itertools
import shutil

import numpy as np
import pytest
from conftest import USUAL, found, read_set, three_splits, write_voc, write_yolo

from detector.core.errors import RequestError
from detector.data.formats import folder as folder_module


@pytest.fixture
def root(tmp_path):
    return write_yolo(tmp_path / "yolo", three_splits())


def label(root, text, name="train0"):
    (root / f"train/labels/{name}.txt").write_text(text)


def test_roboflows_export_gives_the_boxes_of_the_same_images_in_voc(root, tmp_path):
    data = read_set(root)
    voc = read_set(write_voc(tmp_path / "voc", three_splits()))
    assert data.format == "yolo"
    assert data.classes.names == voc.classes.names == ("disc", "square")
    assert data.classes.ids == (0, 1)  # the numbers in the files
    for name, images in data.splits.items():
        ours = {image.path.stem: image for image in images}
        theirs = {image.path.stem: image for image in voc.splits[name]}
        assert ours.keys() == theirs.keys()
        for stem, image in ours.items():
            assert image.labels.tolist() == theirs[stem].labels.tolist()
            np.testing.assert_allclose(image.boxes, theirs[stem].boxes, atol=1e-4)


def test_ultralytics_layout_with_images_and_labels_apart(root, tmp_path):
    new = tmp_path / "coco8"
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        for kind in ("images", "labels"):
            (new / kind).mkdir(parents=True, exist_ok=True)
            (root / folder / kind).rename(new / kind / split)
    (new / "coco8.yaml").write_text(
        "path: ../datasets/coco8\ntrain: images/train\nval: images/val\n"
        "names:\n  0: disc\n  1: square\n"
    )
    data = read_set(new)
    assert {name: len(images) for name, images in data.splits.items()} == {
        "train": 5,
        "val": 3,
        "test": 3,
    }
    assert len(data.splits["train"].labels) == sum(map(len, three_splits()["train"].values()))


def test_a_text_file_can_list_the_images(root):
    lines = "./train/images/train1.jpg\ndata/obj/train/images/both.jpg\n"
    (root / "mine.txt").write_text("\ufeff" + lines, encoding="utf-8")
    text = (root / "data.yaml").read_text().replace("../train/images", "mine.txt")
    (root / "data.yaml").write_text(text)
    paths = read_set(root).splits["train"].paths.tolist()
    assert [p.rpartition("/")[2] for p in paths] == ["both.jpg", "train1.jpg"]


def test_a_folder_that_is_named_one_level_up_is_the_one_below_the_root(root):
    (root / "train").rename(root / "cells")
    text = (root / "data.yaml").read_text().replace("../train/images", "../cells/images")
    (root / "data.yaml").write_text(text)
    assert len(read_set(root).splits["train"]) == 5


def test_folders_alone_are_split_by_ratio(root, tmp_path):
    new = tmp_path / "flat"
    new.mkdir()
    for kind in ("images", "labels"):
        (root / "train" / kind).rename(new / kind)
    (new / "data.yaml").write_text("names: [disc, square]\n")
    assert [len(s) for s in read_set(new).splits.values()] == [3, 1, 1]


def test_an_image_without_labels_is_background(root):
    (root / "train/labels/train0.txt").unlink()
    label(root, "\n", "train1")
    counts = np.diff(read_set(root).splits["train"].offsets)
    assert (counts == 0).sum() == 2


def test_labels_without_an_image_are_an_error_and_other_text_files_are_not(root):
    (root / "train/images/train0.jpg").unlink()
    (root / "train/labels/classes.txt").write_text("disc\nsquare\n")
    assert found(read_set(root))["missing image"] == [
        "train/labels/train0.txt: no image of that name"
    ]


def test_a_polygon_becomes_the_box_around_it(root):
    label(root, "1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75")
    data = read_set(root)
    (image,) = [i for i in data.splits["train"] if i.path.stem == "train0"]
    assert image.boxes.tolist() == [[20, 15, 60, 45]]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("0 0.5 0.5 0.1", "malformed annotation", "line 1 has 4 numbers, expected 5"),
        ("0 0.5 0.5 0.1 0.1\n0 a b c d", "malformed annotation", "line 2 is '0 a b c d'"),
        (
            "0 0.5 0.5 0.1 0.1 0.9",
            "malformed annotation",
            "line 1 has 6 numbers, expected 5 (class, centre x and y, width, height) or a class "
            "and a polygon; a box with a confidence, ",
        ),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 2", "malformed annotation", "line 1 has 8 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9 17", "malformed annotation", "of which 17 is no fraction of"),
        ("0 .5 .5 .1 .1 .5 .5 2 .5 .4 2", "malformed annotation", "of which 2 is no fraction of"),
        ("0 10 20 30 20 30 40 10 40", "malformed annotation", "of which 10 is no fraction of"),
        ("2 0.5 0.5 0.1 0.1", "unknown class", "line 1: no class 2; data.yaml has 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "unknown class", "line 1: no class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "unknown class", "line 1: no class 0.5"),
        ("nan 0.5 0.5 0.1 0.1", "unknown class", "line 1: no class nan"),
        ("0 0.5 0.5 0 0.1", "box without area", "line 1 (disc"),
        ("0 0.5 0.5 -0.2 0.1", "inverted box", "line 1 (disc"),
        ("0 nan 0.5 0.2 0.1", "box not finite", "line 1 (disc"),
        ("\n0 1.5 0.5 0.2 0.1", "box outside the image", "line 2 (disc 112, 27, 128, 33)"),
        ("0 1.0 0.5 0.2 0.1", "box partly outside", "line 1 (disc 72, 27, 88, 33)"),
    ],
)
def test_a_faulty_line_is_named(root, text, kind, said):
    label(root, text)
    (line,) = found(read_set(root))[kind]
    assert line.startswith("train/labels/train0.txt: ")
    assert said in line


BOX = "0.5 0.4 0.4 0.2"  # 24, 18, 56, 30 of 80x60 pixels


def relabel(root, *lines, yaml=""):
    """All labels of the training split, one line each, in turn."""
    for i, name in enumerate(["train0", "train1", "train2", "train3", "both"]):
        label(root, lines[i % len(lines)], name)
    with (root / "data.yaml").open("a") as stream:
        stream.write(yaml)


def boxes_of(data):
    return np.round(data.splits["train"].boxes, 3).tolist()


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        ("[2, 2]", "0.4 0.35 0.6 0.45"),
        ("[3, 2]", "0.5 0.4 0.52 0.42 0.48 0.4"),
        ("[2, 3]", "0.4 0.35 2 0 0 0"),
        ('["1", 3]', "0.9 0.9 1"),
        ("\n- 1\n- 2", "0.4 0.35"),
    ],
)
def test_with_keypoints_the_box_is_columns_two_to_five(root, shape, points):
    relabel(root, f"0 {BOX} {points}", yaml=f"kpt_shape: {shape}\n")
    (root / "valid/labels/val0.txt").write_text("")
    for folder in ("valid", "test"):
        for file in (root / folder / "labels").iterdir():
            file.write_text(f"1 {BOX} {points}")
    data = read_set(root)
    assert boxes_of(data) == [[24, 18, 56, 30]] * 5
    assert not {"unusual columns", "malformed annotation"} & found(data).keys()


def test_a_number_of_columns_that_contradicts_the_keypoints_is_named(root):
    relabel(root, f"0 {BOX}", yaml="kpt_shape: [3, 2]\n")
    label(root, f"0 {BOX} 0.5 0.5 0.6 0.6", "train1")
    lines = found(read_set(root))
    assert lines["malformed annotation"] == [
        "train/labels/train1.txt: line 1 has 9 numbers, expected 11: a box (class, centre x and y, "
        "width, height) and keypoints (kpt_shape: [3, 2] in data.yaml)"
    ]
    assert (
        "train/labels/both.txt: line 1 has 5 numbers: a box without its keypoints "
        "(kpt_shape: [3, 2] in data.yaml)"
    ) in lines["unusual columns"]
    assert boxes_of(read_set(root)) == [[24, 18, 56, 30]] * 4


@pytest.mark.parametrize("shape", ["5", "[17]", "[17, 4]", "[-3, 2]", "[a, 2]", "[3, 2, 1]", "{}"])
def test_a_malformed_shape_of_keypoints_is_named(root, shape):
    relabel(root, "", yaml=f"kpt_shape: {shape}\n")
    with pytest.raises(RequestError, match=r"data\.yaml: kpt_shape: expected the number of keyp"):
        read_set(root)


@pytest.mark.parametrize(
    ("points", "count"),
    [
        ("0.34 0.32 0.66 0.48", 9),  # two corners: they fill the box
        ("0.5 0.4 0.52 0.42 0.48 0.4", 11),  # near its centre, width and height are apart
        ("0.35 0.35 1 0.65 0.45 0", 11),  # with visibility
    ],
)
def test_boxes_with_points_that_data_yaml_says_nothing_of_are_read_as_such_and_named(
    root, points, count
):
    relabel(root, f"0 {BOX} {points}")
    data = read_set(root)
    assert boxes_of(data) == [[24, 18, 56, 30]] * 5
    lines = found(data)["unusual columns"]
    assert len(lines) == 5
    assert f"both.txt: line 1 has {count} numbers: read as a box and points in it" in lines[0]


def test_a_box_before_its_polygon_is_read_as_the_box(root):
    triangle = "0.3 0.3 0.7 0.3 0.5 0.5"  # 24..56 and 18..30 pixels
    pentagon = "0.3 0.4 0.4 0.3 0.7 0.35 0.65 0.5 0.5 0.45"
    relabel(root, f"0 {BOX} {triangle}", f"1 {BOX} {pentagon}")
    data = read_set(root)
    assert boxes_of(data) == [[24, 18, 56, 30]] * 5
    assert len(found(data)["unusual columns"]) == 5


@pytest.mark.parametrize("ids", [(1, 1, 1, 1, 1), (0, 1, 0, 1, 0)])
@pytest.mark.parametrize(
    ("shape", "count"), [(BOX, 7), ("0.1 0.1 0.3 0.1 0.3 0.3 0.1 0.3", 11), ("0.2 0.2 " * 5, 13)]
)
def test_detections_with_confidence_and_track_are_no_labels(root, ids, shape, count):
    relabel(root, *[f"0 {shape} 0.83 {i}" for i in ids])
    lines = found(read_set(root))["malformed annotation"]
    assert len(lines) == 5
    assert f"line 1 has {count} numbers, of which the last are a confidence and a tr" in lines[0]


def test_polygons_of_whole_images_are_no_tracks(root):
    relabel(root, "0 0 0 1 0 1 1 0 1")
    data = read_set(root)
    assert boxes_of(data) == [[0, 0, 80, 60]] * 5


def test_boxes_with_points_among_plain_boxes_are_boxes_too(root):
    pose = f"0 {BOX} 0.34 0.32 0.66 0.48"
    relabel(root, pose, pose, pose, f"0 {BOX}", f"0 {BOX}\n0 {BOX}\n0 {BOX}")
    data = read_set(root)
    assert boxes_of(data) == [[24, 18, 56, 30]] * 7
    assert len(found(data)["unusual columns"]) == 3


def test_a_triangle_that_touches_the_border_is_one_among_other_polygons(root):
    quad = "0 0.1 0.1 0.3 0.1 0.3 0.3 0.1 0.3"
    relabel(root, quad, quad, quad, quad, "0 0.9 0.9 1 0.9 1 1")
    data = read_set(root)
    assert boxes_of(data) == [[72, 54, 80, 60]] + [[8, 6, 24, 18]] * 4
    assert "unusual columns" not in found(data)


def test_small_polygons_in_the_middle_of_the_image_are_no_boxes_with_points(root):
    # As centre and size, the first two points would be a box that holds the others.
    relabel(root, "0 0.45 0.45 0.55 0.45 0.55 0.55 0.45 0.55", "0 .5 .4 .6 .5 .5 .6 .4 .5 .45 .45")
    data = read_set(root)
    quad, pentagon = [36, 27, 44, 33], [32, 24, 48, 36]
    assert boxes_of(data) == [quad, quad, pentagon, quad, pentagon]  # `both` comes first
    assert "unusual columns" not in found(data)


def test_corners_of_turned_boxes_become_the_boxes_around_them(root):
    relabel(root, "0 0.2 0.1 0.3 0.2 0.2 0.3 0.1 0.2")
    assert boxes_of(read_set(root)) == [[8, 6, 24, 18]] * 5


def test_polygons_among_boxes_are_read_and_counted(root):
    relabel(root, f"0 {BOX}\n1 0.1 0.1 0.2 0.1 0.2 0.2", *[f"0 {BOX}"] * 4)
    data = read_set(root)
    assert sum(len(s.boxes) for s in data.splits.values()) > 6
    assert found(data)["unusual columns"] == [
        "train/labels/train0.txt: line 2 has 7 numbers: a polygon, but most lines of the split "
        "are boxes"
    ]
    relabel(root, f"0 {BOX}", *["1 0.1 0.1 0.2 0.1 0.2 0.2"] * 4)
    assert found(read_set(root))["unusual columns"] == [
        "train/labels/train0.txt: line 1 has 5 numbers: a box, but most lines of the split are "
        "polygons"
    ]


@pytest.mark.parametrize("file", ["classes.txt", "train/labels/classes.txt", "obj.names"])
def test_a_list_of_classes_that_contradicts_data_yaml_is_named(root, file):
    (root / file).write_text("disc\nsquare\n")
    assert "class lists disagree" not in found(read_set(root))
    (root / file).write_text("square\ndisc\nmore\n")
    data = read_set(root)
    assert data.classes.names == ("disc", "square")
    assert data.classes.ids == (0, 1)
    assert found(data)["class lists disagree"] == [
        f"{file}: class 0 is 'square', but 'disc' in data.yaml, which is used",
        f"{file}: class 1 is 'disc', but 'square' in data.yaml, which is used",
        f"{file}: class 2 is 'more', but no class in data.yaml, which is used",
    ]


def test_a_list_of_names_that_is_no_text_is_named(root):
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match=r"yolo/classes\.txt: UTF-16 text, expected UTF-8"):
        read_set(root)


def test_huge_labels_are_not_read(root, monkeypatch):
    monkeypatch.setattr(folder_module, "TEXT_LIMIT", 200)
    label(root, "0 0.5 0.5 0.1 0.1\n" * 20)
    assert found(read_set(root))["malformed annotation"] == [
        "train/labels/train0.txt: larger than 200 bytes"
    ]


def test_labels_that_are_no_text_are_named(root):
    (root / "train/labels/train0.txt").write_bytes(b"\xff\xfe\x00")
    assert "train0.txt: " in found(read_set(root))["malformed annotation"][0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("names: [a, a]", "names: 'a' is there twice"),
        ("names: [a, b]\nnc: 3", "nc is 3, but there are 2 names"),
        ("names: {0: a, 2: b}", r"names: expected the numbers 0\.\.1"),
        ("names: 5", "names: expected a list of class names"),
        ("names: [a, {b: c}]", "names: expected a list of class names"),
        ("names: [' ']", "names: there are none"),
        ("'text\nnames: a'", "expected keys such as names"),
        ("names: [a\n- b", "not YAML"),
        ("names: [a, b]\ntrain: {a: b}", "train: expected a folder"),
    ],
)
def test_a_broken_data_yaml_is_named(root, text, said):
    (root / "data.yaml").write_text(text)
    with pytest.raises(RequestError, match=rf"data\.yaml: {said}"):
        read_set(root, "yolo")


MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n"
    for a, b in itertools.pairwise("abcdefghijkl")
)


@pytest.mark.parametrize(
    "more",
    [
        MERGES,
        "z: " + ":".join(["59"] * 100_000),
        "run: !!python/object/apply:os.system ['touch executed']",
    ],
    ids=["merge keys", "base 60", "tag"],
)
def test_a_hostile_data_yaml_is_only_text(root, more, monkeypatch):
    monkeypatch.chdir(root)
    with (root / "data.yaml").open("a") as stream:
        stream.write(more)
    assert read_set(root).classes.names == ("disc", "square")
    assert not (root / "executed").exists()


def test_names_stay_the_words_they_are(root):
    (root / "data.yaml").write_text("\ufeffnames: {'0': no, 1: 007}\nnc: '2'\n", encoding="utf-8")
    assert read_set(root).classes.names == ("007", "no")
    assert read_set(root).classes.ids == (1, 0)


def test_a_list_of_class_names_does_without_data_yaml(root, tmp_path):
    new = tmp_path / "studio"
    new.mkdir()
    for kind in ("images", "labels"):
        (root / "train" / kind).rename(new / kind)
    (new / "classes.txt").write_text("disc\nsquare\n")
    (new / "results.jpg").write_bytes((new / "images/train0.jpg").read_bytes())
    (new / "labels/train1.txt").rename(new / "labels/train1.TXT")
    data = read_set(new)
    assert data.format == "yolo"
    assert sum(len(s) for s in data.splits.values()) == 5
    assert sum(len(s.labels) for s in data.splits.values()) == sum(
        map(len, three_splits()["train"].values())
    )


@pytest.mark.parametrize("place", ["../../secret", "/secret/images", "../secret"])
def test_data_yaml_cannot_lead_out_of_the_root(root, tmp_path, place):
    (tmp_path / "secret/images").mkdir(parents=True)
    (root / "train/images/train0.jpg").rename(tmp_path / "secret/images/a.jpg")
    (root / "data.yaml").write_text(f"train: {place}\nval: valid/images\nnames: [disc, square]\n")
    with pytest.raises(RequestError, match=rf"data\.yaml: train: '{place}' is not there"):
        read_set(root)


def test_a_list_that_names_an_image_that_is_not_there_is_an_error(root):
    (root / "mine.txt").write_text("train/images/train1.jpg\n../../etc/passwd\n")
    text = (root / "data.yaml").read_text().replace("../train/images", "mine.txt")
    (root / "data.yaml").write_text(text)
    (line,) = found(read_set(root))["missing image"]
    assert line.startswith("../../etc/passwd: no such file below")


def say(root, text):
    (root / "data.yaml").write_text(f"names: [disc, square]\n{text}")


def sizes(data):
    return {name: len(images) for name, images in data.splits.items()}


WHOLE = {"train": 5, "val": 3, "test": 3}


@pytest.mark.parametrize(
    "text",
    [
        "train: C:\\Users\\me\\set\\train\\images\nval: D:/set/valid/images\ntest: c:/test\n",
        "train: /content/set/train/images\nval: /content/set/valid/images\ntest: /c/test/images\n",
        "train: ~/set/train/images\nval: $HOME/set/valid\ntest: '%USERPROFILE%\\set\\test'\n",
        "train: file:///a/train/images\nval: file:///C:/a/valid/images\ntest: file:/a/test\n",
        "path: /content/gone\ntrain: train/images\nval: valid/images\ntest: test/images\n",
        "path: ../gone/set\ntrain: train\nval: [valid]\ntest: ./test/images/\n",
        "path: C:\\gone\ntrain: train\\images\nval: valid\\images\ntest: test\\images\n",
        "train: ../gone/train/images\nval: ../gone/valid/images\ntest: ../../test/images\n",
        "Train: Train/Images\nvalidation: VALID/images\ntest: Test/images\n",
        "train: train/images\nvalid: valid/images\nval: NULL\ntest: test/images\n",
        "",
    ],
)
def test_paths_of_another_machine_mean_the_longest_end_that_is_here(root, text):
    say(root, text)
    data = read_set(root)
    assert sizes(data) == WHOLE
    assert not data.issues.of("error")


def test_a_path_may_lie_below_a_folder_that_path_names(root, tmp_path):
    (tmp_path / "above").mkdir()
    root.rename(tmp_path / "above/yolo")
    say(tmp_path / "above", "path: /home/me/yolo\ntrain: train\nval: valid\ntest: test\n")
    assert sizes(read_set(tmp_path / "above")) == WHOLE


@pytest.mark.parametrize(
    "entry",
    [
        "val: setB/imagse",
        "val: [valid/images, setB]",
        "val: /data/set/eval/images",
        "val: valid/labels",
        "val: gone.txt",
        "train: gone\nval: valid/images",
        "test: tset/images",  # though there is a folder for it
    ],
)
def test_an_entry_that_leads_nowhere_is_refused(root, entry):
    (root / "images").mkdir()
    (root / "train/images/both.jpg").rename(root / "images/both.jpg")  # not what eval/images means
    say(root, f"{'' if 'train' in entry else 'train: train/images'}\n{entry}\n")
    with pytest.raises(RequestError, match=r"data\.yaml: \w+: '.*' is not there: .*data\.splits\."):
        read_set(root)
    key = entry.split(":")[0]
    assert read_set(root, splits={**USUAL, "train": ["train"], "val": [], key: ["valid"]}).splits


def test_a_test_split_that_is_not_there_is_named(root):
    (root / "test").rename(root / "hidden")
    say(root, "train: train/images\nval: valid/images\ntest: ../test/images\n")
    data = read_set(root)
    assert sizes(data) == {"train": 5, "val": 3}
    (line,) = found(data)["split not there"]
    assert line.startswith("data.yaml: test: '../test/images' is not there")


def test_two_keys_for_one_split_are_refused(root):
    say(root, "train: train\nval: valid\nvalid: test\n")
    with pytest.raises(RequestError, match=r"data\.yaml: val and valid are one split"):
        read_set(root)


def test_lists_called_after_splits_say_what_the_splits_are(root):
    for kind in ("images", "labels"):
        (root / "all" / kind).mkdir(parents=True)
        for folder in ("train", "valid", "test"):
            for file in (root / folder / kind).iterdir():
                file.rename(root / "all" / kind / file.name)
    images = sorted(p.name for p in (root / "all/images").iterdir())
    for name, chosen in (("train", images[:6]), ("valid", images[6:9]), ("test", images[9:])):
        (root / f"{name}.txt").write_text("".join(f"data/obj/all/images/{i}\r\n" for i in chosen))
    say(root, "")
    assert sizes(read_set(root)) == {"train": 6, "val": 3, "test": 2}


def test_a_validation_split_without_training_images_is_not_split(root):
    (root / "train").rename(root / "mine")
    say(root, "")
    with pytest.raises(RequestError, match=r"no training images; .* say data\.splits\.train="):
        read_set(root)


def test_labelled_images_of_no_split_are_named_and_refused_as_validation_images(root):
    (root / "valid").rename(root / "setB")
    say(root, "")
    lines = found(read_set(root))
    assert len(lines["annotation not used"]) == 3
    assert lines["unclear split"][0].startswith("setB/images: annotated images, but its name")
    assert "unclear split" not in found(read_set(root, splits={**USUAL, "val": []}))
    assert "unclear split" not in found(read_set(root, splits={**USUAL, "val": ["setB"]}))
    say(root, "train: train\n")  # which is the user's own word
    lines = found(read_set(root))
    assert len(lines["annotation not used"]) == 3
    assert "unclear split" not in lines


def test_a_split_without_any_labels_is_an_error(root):
    for file in (root / "valid/labels").iterdir():
        file.unlink()
    (line,) = found(read_set(root))["missing annotation"]
    assert line.startswith("valid/images: none of the 3 images has labels")


def test_a_set_without_any_labels_is_refused(root):
    for file in root.rglob("labels/*.txt"):
        file.unlink()
    for folder in ("train", "valid", "test"):
        (root / folder).rename(root / folder[:2])
    say(root, "")
    with pytest.raises(RequestError, match="none of 11 images has a text file of its own name"):
        read_set(root)


def test_images_whose_labels_are_missing_are_named(root):
    (root / "train/labels/train0.txt").unlink()
    label(root, "", "train1")
    assert found(read_set(root))["image without labels"] == [
        "train/images/train0.jpg: no text file: background"
    ]


def test_labels_that_nobody_uses_are_named_by_folder_and_all(root):
    (root / "train/labels_old").mkdir()
    for i in range(3):
        (root / f"train/labels_old/train{i}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "labels2").mkdir()
    (root / "labels2/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "labels2/notes.txt").write_text("to do\n")
    lines = found(read_set(root))["annotation not used"]
    assert [line.partition(":")[0] for line in lines] == [
        "labels2/a.txt",
        *(f"train/labels_old/train{i}.txt" for i in range(3)),
    ]


def test_labels_of_a_split_whose_images_are_not_there_are_an_error(root):
    shutil.rmtree(root / "valid/images")
    say(root, "")
    assert len(found(read_set(root))["missing image"]) == 3


def test_two_label_files_of_an_image_that_contradict_each_other_are_an_error(root):
    text = (root / "train/labels/train0.txt").read_text()
    (root / "train/images/train0.txt").write_text(text + "\n")
    assert "duplicate image" not in found(read_set(root))
    (root / "train/images/train0.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "train/images/train1.txt").write_text("a caption\n")
    (line,) = found(read_set(root))["duplicate image"]
    assert line.startswith("train/images/train0.txt: its image, train/images/train0.jpg, is also")


def test_of_several_yaml_files_data_yaml_counts_and_else_they_are_refused(root):
    (root / "other.yaml").write_text("names: [x]\n")
    data = read_set(root)
    assert sizes(data) == WHOLE
    assert "YOLO by data.yaml (not other.yaml)" in data.recognised
    (root / "data.yaml").rename(root / "mine.yaml")
    with pytest.raises(RequestError, match=r"which of mine\.yaml, other\.yaml is meant\?"):
        read_set(root)


def test_a_data_yaml_further_down_is_pointed_to(root):
    with pytest.raises(RequestError, match=rf"yolo/data\.yaml is there: say data\.root={root}$"):
        read_set(root.parent)


def test_a_data_yaml_in_another_encoding_is_named(root):
    (root / "data.yaml").write_bytes((root / "data.yaml").read_text().encode("utf-16"))
    with pytest.raises(RequestError, match=r"data\.yaml: UTF-16 text, expected UTF-8"):
        read_set(root)


@pytest.mark.parametrize("start", ["C:\\Users\\me\\", "/content/", "file:///C:/", "~/", "../../"])
def test_folders_of_any_name_are_found_by_the_end_of_their_path(root, start):
    (root / "train").rename(root / "part1")
    (root / "valid").rename(root / "part2")
    (root / "test").rename(root / ".test")
    say(root, f"train: {start}set/part1/images\nval: {start}set/part2/images\n")
    assert sizes(read_set(root)) == {"train": 5, "val": 3}


def test_labels_of_a_folder_that_does_not_correspond_are_called_so(root):
    (root / "valid/labels").rename(root / "valid/labels_of_may")
    lines = found(read_set(root))
    assert any(
        "its folder does not correspond to that of valid/images" in line
        for line in lines["annotation not used"]
    )
    assert "data.splits.val=[] does without them" in lines["missing annotation"][0]


def test_an_image_whose_label_is_malformed_is_not_called_unused(root):
    label(root, "0 0.5 0.5 0.2")
    lines = found(read_set(root))
    assert len(lines["malformed annotation"]) == 1
    assert "image not used" not in lines


def test_a_list_that_could_be_the_validation_split_is_an_error(root):
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text("".join(text.splitlines(True)[3:]))
    for split, name in (("train", "train"), ("valid", "vall")):
        files = sorted((root / split / "images").iterdir())
        (root / f"{name}.txt").write_text("".join(f"{split}/images/{f.name}\n" for f in files))
    shutil.move(root / "valid", root / "more")
    (root / "vall.txt").write_text((root / "vall.txt").read_text().replace("valid/", "more/"))
    (item,) = found(read_set(root))["unclear split"]
    assert item.startswith("vall.txt: a list whose name is of no split")
    data = read_set(root, splits=dict(USUAL, val=["vall.txt"]))
    assert "unclear split" not in found(data)
    assert len(data.splits["val"]) == 3


def test_what_a_list_has_twice_is_counted(root):
    (root / "train.txt").write_text("train/images/both.jpg\n" * 2)
    text = (root / "data.yaml").read_text().replace("../train/images", "train.txt")
    (root / "data.yaml").write_text(text)
    assert found(read_set(root))["image listed twice"] == [
        "train.txt: train/images/both.jpg is there 2 times"
    ]


def test_a_folder_of_pictures_that_are_not_read_is_not_called_missing(root):
    for file in (root / "train/images").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(
        RequestError, match=r"train: '../train/images' has 5 files \(\.heic\), but n"
    ):
        read_set(root)


def test_a_folder_without_class_names_is_no_yolo_data(root):
    (root / "data.yaml").unlink()
    with pytest.raises(
        RequestError, match=r"no data\.yaml in it, nor classes\.txt; expected YOLO's"
    ):
        read_set(root, "yolo")


def test_a_folder_of_a_split_that_is_not_there_is_refused(root):
    with pytest.raises(RequestError, match=r"^data\.splits\.train: no images in 'gone' below "):
        read_set(root, splits={**USUAL, "train": ["gone"]})


def test_a_second_label_file_or_list_of_names_that_is_no_text_contradicts_nothing(root):
    for file in ("train/images/train0.txt", "classes.txt"):
        (root / file).write_bytes(b"\xff\xfe")
    assert not {"duplicate image", "class lists disagree"} & found(read_set(root)).keys()
