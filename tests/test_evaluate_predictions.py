"""Scoring any tool's detections: the judge is pycocotools, on the same two files."""

import contextlib
import io
import json
import logging
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import RUN, refused, run_script
from conftest import (
    TINY,
    ask,
    call,
    prepare,
    three_splits,
    write_coco,
    write_voc,
    write_yolo,
)
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.core.errors import RequestError
from detector.data.external.ground_truth import read_coco_ground_truth
from detector.evaluation.coco import NAMES, coco_scores
from detector.evaluation.reference import pycocotools_scores
from detector.pipeline import external, score


def inputs_of(*overrides):
    """What is scored in such a request."""
    return prepare(ask("evaluate", *overrides)).external.inputs


def by_pycocotools(truth: Path, results: Path) -> dict[str, float]:
    """The twelve numbers, straight from the files."""
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO(str(truth))
        evaluation = COCOeval(there, there.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: math.nan if value < 0 else value
        for name, value in zip(NAMES, evaluation.stats.tolist(), strict=True)
    }


def assert_close(found, expected):
    assert {k: found[k] for k in NAMES} == pytest.approx(expected, abs=1e-9, nan_ok=True)


def write_case(folder: Path, seed: int, step: float = 0.01) -> tuple[Path, Path]:
    """A truth and results with everything that COCO's files may have, coordinates in steps."""
    rng = np.random.default_rng(seed)
    digits = round(-math.log10(step))
    ids = rng.permutation(1000)[:8].tolist()
    categories = [{"id": i, "name": n} for n, i in {"b": 3, "a": 90, "c": 7, "none": 8}.items()]
    notes, rows = [], []
    for image in ids[:-1]:  # the last one has nothing
        for _ in range(int(rng.integers(1, 7))):
            bbox = np.concatenate((rng.uniform(-20, 300, 2), rng.uniform(4, 150, 2))).round(digits)
            note = {
                "id": len(notes) + 1,
                "image_id": image,
                "category_id": int(rng.choice([3, 90, 7])),
                "bbox": bbox.tolist(),
                "area": round(float(bbox[2:].prod() * rng.uniform(0.4, 0.9)), 2),  # of a mask
                "iscrowd": int(rng.random() < 0.2),
                "ignore": int(rng.random() < 0.2),  # means nothing to pycocotools
            }
            notes.append(note)
            for _ in range(3):
                shaken = (bbox + rng.normal(0, 5, 4)).round(digits)
                shaken[2:] = np.maximum(shaken[2:], 1)
                right = rng.random() < 0.8
                rows.append(
                    {
                        "image_id": image,
                        "category_id": note["category_id"] if right else 8,
                        "bbox": shaken.tolist(),
                        "score": round(float(rng.random()), 1),  # with ties
                    }
                )
    few = [[i % 9, 7, 20, 20] for i in range(130)]  # more than count, in one image
    rows += [
        {"image_id": ids[-1], "category_id": 3, "bbox": box, "score": i / 200}
        for i, box in enumerate(few)
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 400, "width": 400} for i in ids]
    content = {"images": images, "annotations": notes, "categories": categories}
    truth, results = folder / "truth.json", folder / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps([rows[i] for i in rng.permutation(len(rows))]))
    return truth, results


@pytest.mark.parametrize("seed", range(6))
def test_the_twelve_numbers_are_pycocotools_on_the_same_files(tmp_path, seed):
    truth, results = write_case(tmp_path, seed)
    expected = by_pycocotools(truth, results)
    assert 0 < expected["map"] < 1
    one = inputs_of(f"predictions={results}", f"truth={truth}")
    for scores in (coco_scores, pycocotools_scores):
        assert_close(scores(one.detections, one.ground_truth, len(one.classes))[0], expected)


def write_one(folder: Path, box, found, **more) -> tuple[Path, Path]:
    """One box in one image, and one detection of it."""
    note = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": box,
        "area": 900,
        "iscrowd": 0,
        **more,
    }
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [note],
        "categories": [{"id": 1, "name": "cat"}],
    }
    row = {"image_id": 1, "category_id": 1, "bbox": found, "score": 0.5}
    truth, results = folder / "truth.json", folder / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps([row]))
    return truth, results


@pytest.mark.parametrize(
    ("box", "found"),
    # IoU 0.50, as far as rounding goes: a side made of corners decides, the detection's or the
    # truth's.
    [
        ([92.7, 0, 58.2, 10], [92.7, 0, 116.4, 10]),
        ([98.3, 0, 51, 10], [98.3, 0, 25.5, 10]),
    ],
)
def test_sides_are_taken_as_they_are_written(tmp_path, box, found):
    truth, results = write_one(tmp_path, box, found)
    expected = by_pycocotools(truth, results)
    one = inputs_of(f"predictions={results}", f"truth={truth}")
    for scores in (coco_scores, pycocotools_scores):
        assert_close(scores(one.detections, one.ground_truth, 1)[0], expected)


@pytest.mark.parametrize(("area", "size"), [(900, "small"), (2000, "medium"), (9217, "large")])
def test_small_and_large_go_by_the_area_in_the_file(tmp_path, area, size):
    truth, results = write_one(tmp_path, [0, 0, 50, 50], [0, 0, 50, 50], area=area)
    one = inputs_of(f"predictions={results}", f"truth={truth}")
    for scores in (coco_scores, pycocotools_scores):
        found = scores(one.detections, one.ground_truth, 1)[0]
        defined = [s for s in ("small", "medium", "large") if not math.isnan(found[f"map_{s}"])]
        assert defined == [size]


def test_without_an_area_the_box_has_one(tmp_path):
    truth, results = write_one(tmp_path, [0, 0, 50, 50], [0, 0, 50, 50], area=None)
    one = inputs_of(f"predictions={results}", f"truth={truth}")
    assert one.ground_truth.areas.tolist() == [2500]


def test_no_detections_at_all_score_nothing(tmp_path):
    truth, results = write_one(tmp_path, [0, 0, 50, 50], [0, 0, 50, 50])
    results.write_text("[]")
    found = call(ask("evaluate", f"predictions={results}", f"truth={truth}", out=tmp_path / "o"))
    assert (found["map"], found["mar_100"], found["voc_ap_50"]) == (0, 0, 0)


def test_a_long_scoring_says_what_it_waits_for(tmp_path, caplog, monkeypatch):
    truth, results = write_case(tmp_path, 0)
    caplog.set_level(logging.INFO)
    keys = [f"predictions={results}", f"truth={truth}", "resamples=0"]
    call(ask("evaluate", *keys, out=tmp_path / "few"))
    assert "takes longest" not in caplog.text
    count = len(json.loads(results.read_text()))
    monkeypatch.setattr(score, "MANY", count)
    call(ask("evaluate", *keys, out=tmp_path / "many"))
    assert f"scoring {count} detections; the check by pycocotools takes longest" in caplog.text


def test_images_without_anything_count_as_images(tmp_path):
    truth, results = write_case(tmp_path, 0)
    call(ask("evaluate", f"predictions={results}", f"truth={truth}", out=tmp_path / "out"))
    assert json.loads((tmp_path / "out/metrics.json").read_text())["images"] == 8


def test_metrics_json_holds_pycocotools_numbers_and_its_truth(tmp_path):
    truth, results = write_case(tmp_path, 1)
    out = tmp_path / "out"
    found = call(ask("evaluate", f"predictions={results}", f"truth={truth}", out=out))
    content = json.loads((out / "metrics.json").read_text())
    assert content["split"] == "truth.json"
    assert "areas of the truth's file" in content["protocol"]["coco"]
    assert set(content["per_class"]) == {"a", "b", "c", "none"}
    assert content["coco"] == {name: found[name] for name in NAMES}
    assert_close(content["coco"], by_pycocotools(truth, results))
    assert not (out / "detections.png").exists()  # no images are known


def test_the_command_needs_no_torch(tmp_path):
    truth, results = write_case(tmp_path, 2)
    keys = [f"predictions={results}", f"truth={truth}"]
    ended = run_script(RUN, "evaluate", *keys, cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert not ended.torch
    (file,) = tmp_path.glob("outputs/evaluate/*/metrics.json")
    assert f"metrics: {file}" in ended.stdout


@pytest.mark.parametrize("root", [None, ".", "test"])
def test_images_beside_the_truth_or_below_the_root_are_pictured(tmp_path, root):
    folder = write_coco(tmp_path / "coco", three_splits())
    truth = folder / "annotations/instances_test.json"
    if root == "test":  # where it is not beside
        truth = truth.rename(tmp_path / "elsewhere.json")
    results = tmp_path / "results.json"
    results.write_text("[]")
    more = [f"data.root={folder / root}"] if root else []
    out = tmp_path / "out"
    call(ask("evaluate", f"predictions={results}", f"truth={truth}", *more, out=out))
    assert cv2.imread(str(out / "detections.png")) is not None


def test_an_image_that_does_not_decode_costs_the_picture_alone(tmp_path):
    truth, results = write_one(tmp_path, [0, 0, 50, 50], [0, 0, 50, 50])
    (tmp_path / "a.jpg").write_text("no image")
    out = tmp_path / "out"
    call(ask("evaluate", f"predictions={results}", f"truth={truth}", out=out))
    written = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert written == {
        *("metrics.json", "analysis.json", "suspects.csv", "thresholds.json"),
        *("report/index.html", ".lock"),
    }


def shaken(root: Path) -> list[dict[str, object]]:
    """Detections near the boxes of a COCO tree's test split, with file names."""
    content = json.loads((root / "annotations/instances_test.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    classes = {category["id"]: category["name"] for category in content["categories"]}
    rng = np.random.default_rng(0)
    return [
        {
            "image_id": 0,
            "category_id": 0,
            "category": classes[note["category_id"]],
            "file_name": names[note["image_id"]],
            "bbox": (np.array(note["bbox"]) + rng.normal(0, 1, 4)).tolist(),
            "score": float(rng.random()),
        }
        for note in content["annotations"]
        for _ in range(3)
    ]


def test_folders_of_any_format_score_alike(tmp_path):
    found = []
    for kind, write in {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}.items():
        root = write(tmp_path / kind, three_splits())
        results = tmp_path / "results.json"
        results.write_text(json.dumps(shaken(tmp_path / "coco")))
        one = inputs_of(f"predictions={results}", f"data.root={root}", "split=test")
        found.append(coco_scores(one.detections, one.ground_truth, 2)[0])
    assert 0 < found[0]["map"] < 1
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-6, nan_ok=True)


def notes(caplog) -> str:
    """The warnings."""
    return "\n".join(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)


def said(caplog, *overrides) -> str:
    """The warnings of such a request."""
    asked = prepare(ask("evaluate", *overrides))
    files = {key: str(getattr(asked.config, key)) for key in ("predictions", "truth", "compare")}
    external.describe_external(asked.external, files)
    return notes(caplog)


def test_scores_that_are_no_probabilities_are_taken_but_said_once(tmp_path, caplog):
    truth, results = write_one(tmp_path, [0, 0, 50, 50], [0, 0, 50, 50])
    rows = json.loads(results.read_text()) * 3
    results.write_text(
        json.dumps([row | {"score": score} for row, score in zip(rows, (-3, 8, 9), strict=True)])
    )
    warned = said(caplog, f"predictions={results}", f"truth={truth}")
    assert warned.count("scores run from -3 to 9, not in 0..1") == 1


def test_entries_of_other_splits_are_counted(tmp_path, caplog):
    root = write_voc(tmp_path / "voc", three_splits())
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    files = ("val0", "test0", "train1", "val0")
    results = tmp_path / "results.json"
    results.write_text(json.dumps([row | {"file_name": f"{name}.jpg"} for name in files]))
    warned = said(caplog, f"predictions={results}", f"data.root={root}", "split=test")
    assert "3 of 4 entries are left out; their 2 images are not in the split" in warned


@pytest.mark.parametrize("more", [{"id": 0}, {"bbox": [0, 0, 50, 0]}])
def test_what_is_odd_about_a_truth_is_said(tmp_path, caplog, more):
    truth, results = write_one(tmp_path, [0, 0, 50, 50], [0, 0, 50, 50], **more)
    expected = (
        "an annotation with id 0" if "id" in more else "without area, which nothing can find: 1"
    )
    assert expected in said(caplog, f"predictions={results}", f"truth={truth}")


def test_a_second_file_to_compare_with_is_read_alike(tmp_path):
    truth, results = write_case(tmp_path, 3)
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps(json.loads(results.read_text())[:5]))
    one = inputs_of(f"predictions={results}", f"compare={fewer}", f"truth={truth}")
    assert len(one.baseline.labels) == 5
    for name in ("image", "boxes", "labels", "scores", "sides"):
        np.testing.assert_array_equal(
            getattr(one.baseline, name), getattr(one.detections, name)[:5]
        )


def wrong(*overrides) -> str:
    """What is said to a request that must be refused."""
    with pytest.raises(RequestError) as caught:
        prepare(ask("evaluate", *overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_keys_that_do_not_go_together_are_refused(tmp_path):
    truth, results = write_case(tmp_path, 0)
    these = f"predictions={results}"
    assert wrong().startswith("ckpt= is required, or predictions=FILE to score another tool's")
    assert wrong(these, "ckpt=RUN").startswith(f"{these}: ckpt=RUN makes its own; leave one of")
    assert wrong("ckpt=RUN", f"truth={truth}").startswith(f"truth={truth}: is for predictions=FILE")
    assert wrong(these, f"truth={truth}", "split=val").startswith("split=val: truth=")
    assert wrong(these).startswith("truth=FILE is required with predictions=")


def test_files_that_are_not_there_are_refused(tmp_path):
    truth, results = write_case(tmp_path, 0)
    these = f"predictions={results}"
    assert wrong("predictions=x.json", f"truth={truth}") == "predictions=x.json: no such file"
    assert wrong(these, "truth=x.json") == "truth=x.json: no such file"
    assert wrong(these, f"truth={truth}", "compare=x.json") == "compare=x.json: no such file"
    (tmp_path / "detections.json").write_text("[]")
    line = wrong(f"predictions={tmp_path}", f"truth={truth}")
    assert line.endswith(f"a folder; expected a file, such as {tmp_path / 'detections.json'}")
    assert "no such folder" in wrong(these, "data.root=/no/such/place")
    assert "no such folder" in wrong(these, f"truth={truth}", "data.root=/no/such/place")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"bbox": [1, 2, -3, 4]}, "annotations[0]: bbox is [1.0, 2.0, -3.0, 4.0], expected no ne"),
        ({"bbox": [1, 2, None, 4]}, "annotations[0]: bbox is [1.0, 2.0, nan, 4.0], expected fini"),
        ({"image_id": 5}, "annotations[0]: there is no image_id 5"),
        ({"category_id": 5}, "annotations[0]: there is no category_id 5"),
        ({"image_id": None}, "annotations[0]: image_id is missing, null or NaN, expected a number"),
        ({"iscrowd": 1}, "no annotations of objects to be found"),
        ({"iscrowd": "some"}, "annotations[0]: iscrowd is 'some', expected 0 or 1"),
        ({"area": "big"}, "annotations[0]: area is no number, or a negative one"),
        ({"area": -4}, "annotations[0]: area is no number, or a negative one"),
    ],
)
def test_what_cannot_be_used_of_a_truth_is_named(tmp_path, change, line):
    truth, results = write_one(tmp_path, [0, 0, 50, 50], [0, 0, 50, 50])
    content = json.loads(truth.read_text())
    content["annotations"].insert(0, content["annotations"][0] | {"id": 2} | change)
    crowd = change == {"iscrowd": 1}
    if crowd:
        del content["annotations"][1]
    truth.write_text(json.dumps(content))
    these = f"predictions={results}", f"truth={truth}"
    assert wrong(*these).startswith(f"{truth}: {line}")
    if not crowd:
        one = inputs_of(*these, "data.on_bad=skip")
        assert one.ground_truth.boxes.tolist() == [[0, 0, 50, 50]]


def test_results_given_as_truth_are_refused(tmp_path):
    _, results = write_case(tmp_path, 0)
    assert "not COCO instances" in wrong(f"predictions={results}", f"truth={results}")


def test_a_wrong_file_is_refused_before_torch_or_a_folder(tmp_path):
    truth, results = write_case(tmp_path, 0)
    (cwd := tmp_path / "cwd").mkdir()
    line = refused("evaluate", f"predictions={truth}", f"truth={truth}", cwd=cwd)
    assert line.startswith(f"{truth}: annotations[0]: has no score")
    results.write_text(json.dumps([*json.loads(results.read_text()), {"image_id": 1}]))
    line = refused("evaluate", f"predictions={results}", f"truth={truth}", cwd=cwd)
    assert line.startswith(f"{results}: entry[")


@pytest.fixture(scope="module")
def run_folder(shared):
    """A COCO tree, and a run on it."""

    def fill(folder):
        root = write_coco(folder / "coco", three_splits())
        phases = "finetune.phases=[{name: a, train: [head], until: {max_epochs: 1}}]"
        call(ask("train", *TINY, f"data.root={root}", phases, out=folder / "run"))

    folder = shared("coco_run", fill)
    return folder / "coco", folder / "run"


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_a_checkpoints_detections_scored_as_a_file_give_its_metrics_to_the_bit(
    run_folder, tmp_path, kind
):
    root, ckpt = run_folder
    if kind == "voc":
        root = write_voc(tmp_path / "voc", three_splits())
    data = [f"data.root={root}", "data.format=auto", "split=test"]
    one, two = tmp_path / "one", tmp_path / "two"
    call(ask("evaluate", f"ckpt={ckpt}", *data, "model.score_threshold=0", out=one))
    call(ask("evaluate", f"predictions={one}/detections.json", *data, out=two))
    first, second = (json.loads((out / "metrics.json").read_text()) for out in (one, two))
    assert json.loads((one / "detections.json").read_text())
    for key in ("split", "images", "protocol", "coco", "voc", "intervals"):
        assert first[key] == second[key]
    for name, row in first["per_class"].items():
        for key in ("truths", "detections", *(key for key in row if "ap" in key)):
            assert row[key] == second["per_class"][name][key]


def test_a_checkpoints_detections_carry_the_data_sets_ids(run_folder, tmp_path):
    root, ckpt = run_folder
    call(ask("evaluate", f"ckpt={ckpt}", "model.score_threshold=0", out=tmp_path))
    rows = json.loads((tmp_path / "detections.json").read_text())
    content = json.loads((root / "annotations/instances_test.json").read_text())
    names = {image["id"]: f"test/{image['file_name']}" for image in content["images"]}
    assert {row["image_id"]: row["file_name"] for row in rows} == names
    assert {row["category_id"] for row in rows} <= {7, 40}
    truth = root / "annotations/instances_test.json"
    one = inputs_of(f"predictions={tmp_path}/detections.json", f"truth={truth}")
    expected = by_pycocotools(truth, tmp_path / "detections.json")
    assert_close(coco_scores(one.detections, one.ground_truth, 2)[0], expected)


def test_what_predict_writes_is_scored_against_folder_and_file(run_folder, tmp_path):
    root, ckpt = run_folder
    options = [f"source={root}", "score_threshold=0", "model.score_threshold=0"]
    call(ask("predict", f"ckpt={ckpt}", *options, out=tmp_path))
    these = f"predictions={tmp_path}/predictions.json"
    folder = inputs_of(these, f"data.root={root}", "split=test")
    call(ask("evaluate", f"ckpt={ckpt}", "model.score_threshold=0", out=tmp_path / "out"))
    exact = inputs_of(f"predictions={tmp_path}/out/detections.json", f"data.root={root}")
    assert len(folder.detections.labels) == len(exact.detections.labels) > 0
    order = [np.lexsort((d.scores, d.image)) for d in (folder.detections, exact.detections)]
    for name, tolerance in (("image", 0), ("boxes", 0.011), ("scores", 1e-5)):
        a, b = (getattr(c.detections, name)[o] for c, o in zip((folder, exact), order, strict=True))
        if name != "boxes":  # equal scores, as rounded, may change places
            np.testing.assert_allclose(a, b, atol=tolerance)


def test_turned_boxes_of_a_truth_are_taken_as_pycocotools_takes_them_and_counted(tmp_path):
    truth, results = write_one(tmp_path, [10, 0, 50, 20], [10, 0, 50, 20])
    content = json.loads(truth.read_text())
    content["annotations"][0]["attributes"] = {"rotation": 30.0}
    truth.write_text(json.dumps(content))
    notes = prepare(ask("evaluate", f"predictions={results}", f"truth={truth}")).external.notes
    assert [
        n for n in notes if n.startswith("1 boxes of the ground truth are turned by attributes.rot")
    ]
    assert read_coco_ground_truth(truth, None).boxes.tolist() == [[10, 0, 50, 20]]


def test_boxes_of_a_truth_that_contradict_their_polygons_are_counted(tmp_path):
    truth, results = write_one(tmp_path, [10, 0, 50, 20], [10, 0, 50, 20])
    content = json.loads(truth.read_text())
    content["annotations"][0]["segmentation"] = [[10, 0, 50, 0, 50, 20, 10, 20]]
    truth.write_text(json.dumps(content))
    asked = ask("evaluate", f"predictions={results}", f"truth={truth}")
    assert not [n for n in prepare(asked).external.notes if "otherwise" in n]
    content["annotations"][0]["bbox"] = [40, 30, 50, 20]
    truth.write_text(json.dumps(content))
    (note,) = (n for n in prepare(asked).external.notes if "otherwise" in n)
    assert note.startswith(
        "1 boxes of the ground truth are given otherwise too; bbox is used: annotat"
    )


def test_a_root_category_of_a_classs_name_in_a_truth_is_left_out(tmp_path):
    truth, _ = write_one(tmp_path, [10, 0, 50, 20], [10, 0, 50, 20])
    content = json.loads(truth.read_text())
    (category,) = content["categories"]
    content["categories"].insert(0, {"id": 1 + category["id"], "name": category["name"]})
    truth.write_text(json.dumps(content))
    assert read_coco_ground_truth(truth, None).classes.ids == (category["id"],)


def grouped(tmp_path, above: str) -> tuple[Path, Path]:
    """A COCO tree with a category without boxes, and results that name it."""
    root = write_coco(tmp_path / "coco", three_splits())
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["supercategory"] = above
        content["categories"].insert(0, {"id": 0, "name": "rod", "supercategory": "rod"})
        file.write_text(json.dumps(content))
    results = tmp_path / "results.json"
    entry = {"image_id": 100, "bbox": [1, 2, 30, 40], "score": 0.5}
    results.write_text(json.dumps([entry | {"category_id": key} for key in (7, 0, 0)]))
    return root, results


def test_detections_of_a_group_of_categories_are_refused_as_that(tmp_path):
    root, results = grouped(tmp_path, "rod")
    these = f"predictions={results}", f"data.root={root}"
    assert wrong(*these).startswith(
        f"{results}: entry[1]: category_id 0 is 'rod' in {root} or data.classes, which only groups "
        "other categories and has no boxes (2 entries); leave it out, or name it in data.classes"
    )
    named = inputs_of(*these, "data.classes=[square,disc,rod]")
    assert named.detections.labels.tolist() == [1, 3, 3]


def test_detections_of_a_class_without_boxes_that_is_its_own_group_are_taken(tmp_path):
    root, results = grouped(tmp_path, "thing")
    found = inputs_of(f"predictions={results}", f"data.root={root}")
    assert found.classes.names == ("disc", "rod", "square")
    assert found.detections.labels.tolist() == [3, 2, 2]
