"""Results files: what is read of them, what is refused, and which image and class they mean."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import read_set, three_splits, write_coco, write_voc, write_yolo

from detector.core.errors import RequestError
from detector.core.structures import ClassMap
from detector.data.external import detections as module
from detector.data.external.detections import read_results
from detector.data.external.ground_truth import read_coco_ground_truth
from detector.data.external.match import ELSEWHERE, match_classes, match_folder, match_ground_truth

CLASSES = ClassMap(("disc", "square"), (40, 7))


def entry(image=1, category_id=7, bbox=(1, 2, 3, 4), score=0.5, **more):
    return {
        "image_id": image,
        "category_id": category_id,
        "bbox": list(bbox),
        "score": score,
        **more,
    }


def read(tmp_path: Path, content):
    file = tmp_path / "results.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_results(file)


def refused(tmp_path: Path, content) -> str:
    """What is said to a file, without its path in front."""
    with pytest.raises(RequestError) as caught:
        read(tmp_path, content)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{tmp_path / 'results.json'}: ")
    return line.removeprefix(f"{tmp_path / 'results.json'}: ")


def test_entries_become_arrays_as_they_are_written(tmp_path):
    rows = [
        entry(5, 7, (0.1, 2, 30.25, 4), 0.3, area=9, segmentation=[], id=4),
        entry(2, 40, (0, 0, 0, 1), 1, file_name="a/b.jpg", category="disc"),
        entry(5, 7, score=1e-300),
    ]
    found = read(tmp_path, rows)
    assert found.images == [(5, None), (2, "a/b.jpg")]
    assert found.image.tolist() == [0, 1, 0]
    assert found.categories == [(7, None), (40, "disc")]
    assert found.category.tolist() == [0, 1, 0]
    assert found.boxes.tolist() == [r["bbox"] for r in rows]
    assert found.scores.tolist() == [0.3, 1.0, 1e-300]


def test_a_list_without_entries_is_no_detections(tmp_path):
    found = read(tmp_path, [])
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_a_dictionary_with_scored_annotations_is_read_too(tmp_path):
    found = read(tmp_path, {"images": [], "annotations": [entry(9)]})
    assert found.images == [(9, None)]


def test_names_that_are_no_text_say_nothing(tmp_path):
    found = read(tmp_path, [entry("000012", category={}), entry(5, file_name=3)])
    assert found.images == [("000012", None), (5, None)]
    assert found.categories == [(7, None)]


def test_entries_beyond_those_decoded_at_a_time_are_read_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    rows = [entry(i, score=i / 10) for i in range(8)]
    assert read(tmp_path, rows).scores.tolist() == [i / 10 for i in range(8)]
    del rows[7]["bbox"]
    assert refused(tmp_path, rows).startswith("entry[7]: bbox is missing")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("nonsense", "not COCO results, [{image_id, category_id, bbox: [x, y, width, height], sco"),
        ("[{}", "not COCO results, [{image_id,"),
        ({"predictions": []}, "not COCO results, [{image_id,"),
        (3, "not COCO results, [{image_id,"),
        ([entry(), 3], "entry[1]: is 3, expected an object: [{image_id,"),
        (
            [entry(), {**entry(), "image_id": None}],
            "entry[1]: image_id is missing, null or NaN, expe",
        ),
        ([entry(True)], "entry[0]: image_id is True, expected a whole number w"),
        ([entry(1.5)], "entry[0]: image_id is 1.5, expected a whole number wi"),
        ([entry(category_id=7.0)], "entry[0]: category_id is 7.0, expected a whole number, wi"),
        ([entry(category_id="cat")], "entry[0]: category_id is 'cat', expected a whole number"),
        ([entry(bbox=(1, 2, 3))], "entry[0]: bbox is [1, 2, 3], expected [x, y, width, height]"),
        ([entry(bbox=(1, 2, 3, "4"))], "entry[0]: bbox is [1, 2, 3, '4'], expected [x, y,"),
        ([entry(bbox=(1, float("nan"), 3, 4))], "entry[0]: bbox is [1, None, 3, 4], expected"),
        ([entry(bbox=(1, 2, 3, float("inf")))], "entry[0]: bbox is [1, 2, 3, None], expected"),
        ([entry(bbox=(1.7e308, 2, 1.7e308, 4))], "entry[0]: bbox is [1.7e+308, 2.0, 1.7e+308, 4"),
        ([entry(), entry(bbox=(1, 2, -3, 4))], "entry[1]: bbox is [1.0, 2.0, -3.0, 4.0], expecte"),
        ([entry(bbox=(1, 2, 3, -0.5))], "entry[0]: bbox is [1.0, 2.0, 3.0, -0.5], expected [x, y"),
        (
            [entry(score=float("nan"))],
            "entry[0]: score is missing, null or NaN, expected a finite nu",
        ),
        ([entry(score="0.5")], "entry[0]: score is '0.5', expected a finite number"),
        ([entry(score=True)], "entry[0]: score is True, expected a finite number"),
        (
            f"[{json.dumps(entry(score=7)).replace('7}', '1e999}')}]",
            "entry[0]: cannot be decoded: Number out of range",
        ),
        (f"[{json.dumps(entry(score=7)).replace('7}', '9' * 400 + '}')}]", "entry[0]: "),
    ],
)
def test_what_cannot_be_used_is_named_by_its_index(tmp_path, wrong, said):
    assert refused(tmp_path, wrong).startswith(said)


def test_a_truth_file_is_told_from_results(tmp_path):
    root = write_coco(tmp_path / "coco", three_splits())
    content = json.loads((root / "annotations/instances_test.json").read_text())
    said = "has no score; expected a number in every entry of results (a file without is a ground "
    assert refused(tmp_path, content).startswith(f"annotations[0]: {said}")
    assert refused(tmp_path, content["annotations"]).startswith(f"entry[0]: {said}")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "results.json").write_bytes(b'[{"image_id": "\xff"}]')
    with pytest.raises(RequestError, match=r"results\.json"):
        read_results(tmp_path / "results.json")


def labels(tmp_path, *rows, classes=CLASSES):
    return match_classes(read(tmp_path, list(rows)), classes, "truth.json").tolist()


def test_a_class_is_found_by_its_own_id(tmp_path):
    assert labels(tmp_path, entry(1, 7), entry(1, 40), entry(1, 7, category=" Square")) == [2, 1, 2]


def test_a_class_is_found_by_name_where_ids_are_another_tools(tmp_path):
    rows = [entry(1, 1, category="Disc"), entry(1, 7, category="disc"), entry(1, 2, category="squ")]
    assert labels(tmp_path, *rows[:2]) == [1, 1]
    with pytest.raises(RequestError, match="no category_id 1 in"):
        labels(tmp_path, *rows)


def test_a_name_that_contradicts_the_id_is_refused(tmp_path):
    rows = [entry(1, 7), entry(1, 40, category="square"), entry(1, 40, category="square")]
    said = r"entry\[1\]: category_id 40 is 'disc' in truth.json, but category 'square' \(2 entries"
    with pytest.raises(RequestError, match=said):
        labels(tmp_path, *rows)


def test_unknown_classes_are_named_and_counted(tmp_path):
    rows = [entry(1, 7), entry(1, 0), entry(1, 3), entry(1, 0)]
    said = r"entry\[1\]: no category_id 0 in truth.json, nor 1 more \(3 entries\); there: 40 \(disc"
    with pytest.raises(RequestError, match=said):
        labels(tmp_path, *rows)


@pytest.fixture
def truth(tmp_path):
    root = write_coco(tmp_path / "coco", three_splits())  # test: ids 100 to 102, test0 to test2
    return read_coco_ground_truth(root / "annotations/instances_test.json", None)


def places(tmp_path, truth, *rows):
    return match_ground_truth(read(tmp_path, list(rows)), truth)[0].tolist()


def test_an_image_is_found_by_its_own_id(tmp_path, truth):
    rows = [entry(102), entry("100"), entry(101, file_name="val/test1.jpg")]
    assert places(tmp_path, truth, *rows) == [2, 0, 1]
    # A name that the truth has not says nothing.
    assert places(tmp_path, truth, entry(101, file_name="upload_17.jpg")) == [1]


def test_an_image_is_found_by_name_where_ids_are_another_tools(tmp_path, truth):
    rows = [entry(1, file_name="x/test2.jpg"), entry(100, file_name="test1.jpg")]
    assert places(tmp_path, truth, *rows) == [2, 1]


def test_a_file_name_that_contradicts_the_id_is_refused(tmp_path, truth):
    rows = [entry(102), entry(100, file_name="test1.jpg")]
    with pytest.raises(RequestError, match=r"entry\[1\]: image_id 100 is 'test0.jpg' in .*, but "):
        places(tmp_path, truth, *rows)


def test_unknown_images_are_named_and_counted(tmp_path, truth):
    rows = [entry(102), entry(7), entry(8), entry(7)]
    said = r"entry\[1\]: no image_id 7 in .*test.json, nor 1 more \(3 entries\); there: test0.jpg, "
    with pytest.raises(RequestError, match=said):
        places(tmp_path, truth, *rows)


def test_ids_that_are_words_are_found(tmp_path):
    content = {
        "images": [{"id": name, "file_name": f"{name}.jpg"} for name in ("b", "a")],
        "annotations": [{"image_id": "b", "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = read_coco_ground_truth(tmp_path / "truth.json", None)
    found = places(tmp_path, truth, entry("a"), entry("b"))
    assert [truth.names[i] for i in found] == ["a.jpg", "b.jpg"]


WRITERS = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}


def in_folder(tmp_path, kind, *rows, split="test"):
    """The file names of what entries are matched with; None for what is elsewhere."""
    root = tmp_path / kind
    if not root.exists():
        WRITERS[kind](root, three_splits())
    data = read_set(root, wanted=split)
    images = data.splits[split]
    found = match_folder(read(tmp_path, list(rows)), images, data.root)
    return [None if i == ELSEWHERE else Path(images.paths[i]).name for i in found.tolist()]


@pytest.mark.parametrize("kind", WRITERS)
def test_in_a_folder_an_image_is_found_by_its_file_name(tmp_path, kind):
    folder = {"voc": "JPEGImages", "coco": "test", "yolo": "test/images"}[kind]
    rows = [
        entry(1, file_name="test1.jpg"),
        entry(1, file_name=f"{folder}/test2.jpg"),
        entry(1, file_name=f"/home/her/{folder}/test0.jpg"),
    ]
    assert in_folder(tmp_path, kind, *rows) == ["test1.jpg", "test2.jpg", "test0.jpg"]


@pytest.mark.parametrize("kind", WRITERS)
def test_in_a_folder_an_image_of_another_split_is_left_out(tmp_path, kind):
    rows = [entry(1, file_name="val0.jpg"), entry(2, file_name="test0.jpg")]
    assert in_folder(tmp_path, kind, *rows) == [None, "test0.jpg"]


def test_in_a_coco_folder_an_image_is_found_by_its_own_id(tmp_path):
    assert in_folder(tmp_path, "coco", entry(102), entry("101")) == ["test2.jpg", "test1.jpg"]
    # In another split, an image may have the same id.
    rows = [entry(100, file_name="val0.jpg"), entry(101, file_name="test1.jpg")]
    assert in_folder(tmp_path, "coco", *rows) == [None, "test1.jpg"]


def test_namesakes_in_other_folders_are_not_confused(tmp_path):
    boxes = [("square", (3, 3, 30, 30))]
    write_coco(tmp_path / "coco", {name: {"a": boxes, name: boxes} for name in ("train", "test")})
    rows = [entry(1, file_name="train/a.jpg"), entry(2, file_name="test/a.jpg")]
    assert in_folder(tmp_path, "coco", *rows) == [None, "a.jpg"]
    # As `predict source=ROOT/test` writes it.
    assert in_folder(tmp_path, "coco", entry(1, file_name="a.jpg")) == ["a.jpg"]
    with pytest.raises(RequestError, match=r"no file_name 'else/a\.jpg'"):
        in_folder(tmp_path, "coco", entry(1, file_name="else/a.jpg"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (entry(1, file_name="tset0.jpg"), r"entry\[0\]: no file_name 'tset0.jpg' in .*voc; there:"),
        (
            entry(5),
            r"entry\[0\]: no image_id 5 in .*; expected a file_name, .*there: JPEGImages/test0",
        ),
        (
            entry(1, file_name="val0.jpg"),
            "none of its images is in the split, which has JPEGImages",
        ),
    ],
)
def test_what_no_folder_has_is_refused(tmp_path, row, said):
    with pytest.raises(RequestError, match=said):
        in_folder(tmp_path, "voc", row)


def test_nothing_is_found_in_an_empty_file(tmp_path, truth):
    assert places(tmp_path, truth) == []
    assert labels(tmp_path) == []
    assert in_folder(tmp_path, "voc") == []


def test_ids_of_images_follow_them_into_subsets_and_parts(tmp_path):
    root = write_coco(tmp_path / "one", {"all": three_splits()["train"]})  # to be split by ratio
    data = read_set(root)
    for split in data.splits.values():
        names = [Path(path).stem for path in split.paths]
        order = list(three_splits()["train"])
        assert split.ids.tolist() == [100 + order.index(name) for name in names]


def test_ids_that_two_files_of_a_split_share_are_none(tmp_path):
    boxes = [("square", (3, 3, 30, 30))]
    root = write_coco(tmp_path / "two", {name: {name: boxes} for name in ("a", "b", "c")})
    files = [f"annotations/instances_{name}.json" for name in ("a", "b", "c")]
    data = read_set(root, splits={"train": files[:2], "val": files[2:], "test": None})
    assert data.splits["train"].ids is None
    assert data.splits["val"].ids.tolist() == [100]


def test_every_number_survives_to_the_last_digit(tmp_path):
    rng = np.random.default_rng(0)
    boxes, scores = rng.random((50, 4)) * 1e3, rng.random(50)
    rows = [entry(bbox=b.tolist(), score=s) for b, s in zip(boxes, scores.tolist(), strict=True)]
    found = read(tmp_path, rows)
    assert (found.boxes == boxes).all()
    assert (found.scores == scores).all()
