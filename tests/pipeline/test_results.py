"""What evaluate and train write beside the scores: intervals, thresholds, comparison, report."""

import csv
import itertools
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_cli
from conftest import TINY, ask, call, prepare, write_coco, write_voc

from detector.core.errors import RequestError
from detector.core.run_folder import RunFolder
from detector.data.validation.issues import Item
from detector.evaluation.curves import GRID
from detector.pipeline import load_data
from detector.report import run_page
from detector.training.checkpoint import read_checkpoint


def load(file):
    return json.loads(file.read_text())


def evaluate(*keys, out):
    """Evaluate without a log, which is nothing that is tested here."""
    logger = [] if any(key.startswith("predictions=") for key in keys) else ["logger=none"]
    return call(ask("evaluate", *keys, *logger, out=out))


def edited(run, folder, change):
    """A copy of a run whose checkpoints say something else of the training."""
    shutil.copytree(run, folder)
    for file in (folder / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        change(content["detector"])
        torch.save(content, file)
    return folder


def test_thresholds_are_measured_on_the_validation_split_and_judge_the_test_split(runs, tmp_path):
    _, run, _ = runs[:3]
    kept = load(run / "checkpoints/thresholds.json")
    assert (kept["split"], kept["images"], kept["thresholds"]) == ("val", 5, GRID.tolist())
    evaluate(f"ckpt={run}", "split=val", out=tmp_path)
    assert load(tmp_path / "thresholds.json") == {k: v for k, v in kept.items() if k != "epoch"}
    tested = load(run / "metrics.json")["per_class"]
    for name, row in kept["classes"].items():
        assert tested[name]["threshold"] == row["best"]["threshold"]
    said = load(run / "analysis.json")["operating_point"]
    assert said.endswith("chosen on the training's val split")
    page = (run / "report/index.html").read_text()
    assert f"Threshold: {said}".replace("'", "&#39;") in page
    said = load(tmp_path / "analysis.json")["operating_point"]
    assert said.endswith("chosen on this very split")


def test_thresholds_of_the_training_are_not_those_of_another_data_sets_split(runs, tmp_path):
    root, run, _ = runs[:3]
    shutil.copytree(root, tmp_path / "other")
    keys = [f"ckpt={run}", f"data.root={tmp_path}/other", "split=val", "resamples=0"]
    evaluate(*keys, out=tmp_path / "out")
    said = load(tmp_path / "out/analysis.json")["operating_point"]
    assert said.endswith("chosen on the training's val split")


def test_a_split_scored_again_has_the_same_intervals(runs, tmp_path):
    _, run, _ = runs[:3]
    evaluate(f"ckpt={run}", "resamples=200", out=tmp_path)
    first, again = load(run / "metrics.json"), load(tmp_path / "metrics.json")
    assert first["intervals"] == again["intervals"]
    assert first["per_class"] == again["per_class"]
    low, high = first["intervals"]["map_50"]
    assert first["intervals"]["resamples"] == 200
    assert 0 <= low <= first["coco"]["map_50"] <= high <= 1


def test_without_resamples_there_are_no_intervals(runs, tmp_path):
    _, run, _ = runs[:3]
    evaluate(f"ckpt={run}", "resamples=0", out=tmp_path)
    assert load(tmp_path / "metrics.json")["intervals"] is None


def test_a_report_has_its_runs_curves_and_commands(runs, tmp_path):
    root, run, _ = runs[:3]
    page = (run / "report/index.html").read_text()
    assert f"data.root={root}" in page  # the command that was typed
    assert f"python -m detector.evaluate ckpt={run}" in page
    assert "train/loss_box_reg" in page
    evaluate(f"ckpt={run}", out=tmp_path)
    assert "train/loss_box_reg" in (tmp_path / "report/index.html").read_text()


def test_a_gallery_has_no_more_pictures_than_wanted(runs, tmp_path):
    _, run, _ = runs[:3]
    for most in (0, 2):
        evaluate(f"ckpt={run}", f"gallery={most}", out=tmp_path / f"{most}")
        assert (tmp_path / f"{most}/report/index.html").read_text().count("data:image/jpeg") == most


def test_a_comparison_is_b_minus_a_on_the_same_images(runs, tmp_path, caplog):
    _, a, b = runs[:3]
    caplog.set_level(logging.INFO)
    evaluate(f"ckpt={a}", f"compare={b}", "resamples=200", out=tmp_path)
    content = load(tmp_path / "metrics.json")["comparison"]
    ours, theirs = (load(run / "metrics.json") for run in (a, b))
    assert (content["a"], content["b"]) == (str(a), str(b))
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["mAP", "AP50", *(f"AP of {name}" for name in ours["per_class"])]
    for name, key in (("mAP", "map"), ("AP50", "map_50")):
        row = rows[name]
        assert row["a"] == pytest.approx(ours["coco"][key], abs=1e-12)
        assert row["b"] == pytest.approx(theirs["coco"][key], abs=1e-12)
        assert row["difference"] == row["b"] - row["a"]
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]
    assert content["sentence"] in caplog.text
    assert content["sentence"] in (tmp_path / "report/index.html").read_text()
    trained = [read_checkpoint(run / "checkpoints/best.ckpt")["config"] for run in (a, b)]
    assert trained[0]["seed"] != trained[1]["seed"]
    assert content["settings"][0] == {
        "key": "seed",
        "a": trained[0]["seed"],
        "b": trained[1]["seed"],
    }
    assert f"  seed: {trained[0]['seed']}, {trained[1]['seed']}" in caplog.text


def test_a_run_is_no_better_than_itself(runs, tmp_path):
    _, run, _ = runs[:3]
    evaluate(f"ckpt={run}", f"compare={run}", out=tmp_path)
    content = load(tmp_path / "metrics.json")["comparison"]
    assert content["rows"][0]["difference"] == 0
    assert "equal" in content["sentence"]


def test_finding_half_is_worse_than_finding_all(tmp_path):
    splits = {"test": {f"i{i}": [("disc", (1, 1, 20, 20))] for i in range(10)}}
    truth = write_coco(tmp_path / "coco", splits) / "annotations/instances_test.json"
    rows = [
        {"image_id": note["image_id"], "category_id": 40, "bbox": note["bbox"], "score": 0.9}
        for note in load(truth)["annotations"]
    ]
    for name, those in (("half", rows[::2]), ("all", rows)):
        (tmp_path / f"{name}.json").write_text(json.dumps(those))
    keys = [f"truth={truth}", f"predictions={tmp_path}/half.json", f"compare={tmp_path}/all.json"]
    evaluate(*keys, out=tmp_path / "out")
    content = load(tmp_path / "out/metrics.json")["comparison"]
    row = content["rows"][0]
    # 51 of 101 recall points are reached by five of ten.
    assert row["a"] == pytest.approx(51 / 101)
    assert row["b"] == 1
    assert 0 < row["interval"][0] < 50 / 101 < row["interval"][1] < 1
    assert content["sentence"].startswith("B is better by 49.5 points of mAP, 95% interval ")


def test_two_files_of_detections_are_compared(runs, tmp_path):
    root, a, b = runs[:3]
    for name, run in (("a", a), ("b", b)):
        evaluate(f"ckpt={run}", "resamples=200", out=tmp_path / name)
    files = [tmp_path / name / "detections.json" for name in ("a", "b")]
    keys = [f"predictions={files[0]}", f"compare={files[1]}", f"data.root={root}", "split=test"]
    evaluate(*keys, "resamples=200", out=tmp_path / "files")
    evaluate(f"ckpt={a}", f"compare={b}", "resamples=200", out=tmp_path / "runs")
    one, other = (load(tmp_path / way / "metrics.json")["comparison"] for way in ("files", "runs"))
    assert one["rows"] == other["rows"]
    assert one["sentence"] == other["sentence"]
    assert one["settings"] is None


def test_a_comparison_with_other_classes_is_refused(runs, tmp_path):
    root, run, _ = runs[:3]
    cat = {"names": ["cat"], "ids": [1]}
    edited(run, tmp_path / "cats", lambda ours: ours.update(classes=cat))
    with pytest.raises(RequestError, match=r"compare=.*cats: it knows cat, but ckpt=.* disc, squ"):
        evaluate(f"ckpt={run}", f"compare={tmp_path / 'cats'}", out=tmp_path / "o")
    assert not (tmp_path / "o").exists()
    with pytest.raises(RequestError, match=r"compare=.*voc: not the folder of a run"):
        evaluate(f"ckpt={run}", f"compare={root}", out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"in_channels": 1}, "takes images of 1 channels, ckpt=.* of 3"),
        ({"fpn_channels": 0}, r"made by another version of detector \(model\.fpn_channels=0: "),
    ],
)
def test_a_comparison_with_a_run_that_cannot_be_compared_is_refused(runs, tmp_path, model, said):
    other = edited(runs.second, tmp_path / "b", lambda ours: ours["config"]["model"].update(model))
    asked = ask("evaluate", f"ckpt={runs.first}", f"compare={other}", out=tmp_path / "out")
    with pytest.raises(RequestError, match=f"^compare={other}: {said}"):
        prepare(asked)


def test_predict_keeps_what_reaches_the_thresholds_measured(runs, tmp_path, monkeypatch):
    root, run, _ = runs[:3]
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    sidecar = copy / "checkpoints/thresholds.json"

    outs = (tmp_path / f"p{i}" for i in itertools.count())

    def scores(*keys):
        found = call(ask("predict", f"ckpt={copy}", f"source={root}", *keys, out=next(outs)))
        return {
            name: sorted(row["score"] for row in found if row["category"] == name)
            for name in ("disc", "square")
        }

    everything = scores("score_threshold=0")
    content = load(sidecar)
    for name, row in content["classes"].items():  # a curve made up: precision grows with the score
        middle = everything[name][len(everything[name]) // 2]
        place = int(np.searchsorted(GRID, middle, side="right"))
        row["best"]["threshold"] = float(GRID[place])
        row["precision"] = [0.5] * place + [0.9] * (len(GRID) - place)
        row["recall"] = [0.8] * (place + 1) + [0.1] * (len(GRID) - place - 1)
        assert 0 < place < len(GRID) - 1
    sidecar.write_text(json.dumps(content))
    expected = {
        name: [s for s in everything[name] if s >= row["best"]["threshold"]]
        for name, row in content["classes"].items()
    }
    assert scores() == expected != everything
    assert scores("min_precision=0.9") == expected
    assert scores("min_recall=0.8") == expected
    assert scores("min_precision=0.4") == everything
    other = tmp_path / "other.json"
    shutil.move(sidecar, other)
    assert scores(f"thresholds={other}") == expected
    assert scores() == {n: [s for s in all_ if s >= 0.5] for n, all_ in everything.items()}
    for keys, message in {
        ("min_precision=0.9",): "min_precision=0.9: no thresholds.json of this checkpoint",
        (f"thresholds={other}", "min_precision=0.95"): "class 'disc' reaches at most 0.9 on val",
        ("min_precision=0.5", "min_recall=0.5"): "min_precision= and min_recall=: expected one",
        ("thresholds=nowhere.json",): "thresholds=nowhere.json: cannot be read",
        (f"thresholds={run}/metrics.json",): "iou is not 0.5; expected a thresholds.json, as train",
    }.items():
        with pytest.raises(RequestError, match=message):
            scores(*keys)


def test_thresholds_of_other_weights_are_not_used(runs, tmp_path):
    _, run, _ = runs[:3]
    shutil.copytree(run, tmp_path / "run")
    sidecar = tmp_path / "run/checkpoints/thresholds.json"
    sidecar.write_text(json.dumps(load(sidecar) | {"epoch": 7}))
    evaluate(f"ckpt={tmp_path / 'run'}", out=tmp_path / "out")
    said = load(tmp_path / "out/analysis.json")["operating_point"]
    assert said.endswith("chosen on this very split")


def test_a_comparison_leaves_both_as_they_were_trained(runs, tmp_path):
    _, a, b = runs[:3]
    size = {"image_size": 64}
    smaller = edited(b, tmp_path / "smaller", lambda ours: ours["config"]["data"].update(size))
    evaluate(f"ckpt={smaller}", "resamples=0", out=tmp_path / "alone")
    evaluate(f"ckpt={a}", f"compare={smaller}", out=tmp_path / "o")
    row = load(tmp_path / "o/metrics.json")["comparison"]["rows"][1]
    evaluate(f"ckpt={smaller}", f"compare={a}", out=tmp_path / "p")
    other = load(tmp_path / "p/metrics.json")["comparison"]["rows"][1]
    assert (row["a"], row["b"]) == (other["b"], other["a"])
    assert row["b"] == pytest.approx(
        load(tmp_path / "alone/metrics.json")["coco"]["map_50"], abs=1e-12
    )
    for typed in ("model.score_threshold=0", "data.image_size=64"):
        asked = ask("evaluate", f"ckpt={a}", f"compare={smaller}", typed, out=tmp_path / "q")
        with pytest.raises(RequestError, match=f"{typed}: compare= takes both"):
            call(asked)


def test_a_comparison_on_images_that_one_was_trained_on_is_refused(runs, tmp_path):
    root, a, b = runs[:3]
    listed = root / "ImageSets/Main"
    names = [*(listed / "test.txt").read_text().split(), "train0", "train1"]
    shutil.copytree(root, tmp_path / "voc")
    (tmp_path / "voc/ImageSets/Main/test.txt").write_text("\n".join(names))
    # The other was trained on none of these images.
    other = edited(b, tmp_path / "b", lambda ours: ours.update(trained_on=ours["chosen_on"]))
    keys = [f"data.root={tmp_path}/voc"]
    for one, rival, who in ((a, other, "ckpt"), (other, a, "compare")):
        asked = ask("evaluate", f"ckpt={one}", f"compare={rival}", *keys, out=tmp_path / "out")
        with pytest.raises(RequestError, match=rf"{who}=.*: was trained on 2 of the 7 test images"):
            call(asked)
    assert not (tmp_path / "out").exists()


def test_images_that_the_checkpoint_was_chosen_on_are_no_test_without_a_word(runs, tmp_path):
    _, run, _ = runs[:3]
    evaluate(f"ckpt={run}", "data.splits.test=[val]", out=tmp_path / "out")
    (leak,) = load(tmp_path / "out/metrics.json")["leakage"]
    assert leak["kind"] == "seen in training"
    assert f"ckpt={run} was chosen on it" in leak["example"]
    assert leak["count"] == load(tmp_path / "out/metrics.json")["images"]
    evaluate(f"ckpt={run}", "split=val", out=tmp_path / "val")
    assert load(tmp_path / "val/metrics.json")["leakage"] == []
    evaluate(f"ckpt={run}", "split=train", out=tmp_path / "train")
    (leak,) = load(tmp_path / "train/metrics.json")["leakage"]
    assert f"ckpt={run} was trained on it" in leak["example"]


def test_two_processes_evaluate_as_one(runs, tmp_path):
    _, run, other = runs[:3]
    keys = [f"ckpt={run}", f"compare={other}", "resamples=100"]
    evaluate(*keys, "trainer.devices=1", out=tmp_path / "1")
    keys += ["trainer.devices=2", "hydra.run.dir=2"]
    # The second process is started from the first.
    code, said, errors = run_cli("evaluate", *keys, cwd=tmp_path, heavy=True)
    assert code == 0, errors
    assert said.count("classes: disc, square") == 1
    assert said.strip().splitlines()[-1] == f"report: {tmp_path}/2/report/index.html"
    one, two = (load(tmp_path / f"{devices}/metrics.json") for devices in (1, 2))
    for key in ("coco", "voc", "per_class", "intervals", "comparison"):
        assert one[key] == two[key]


def test_scores_that_are_no_probabilities_still_have_curves(tmp_path):
    splits = {"test": {f"i{i}": [("disc", (1, 1, 20, 20))] for i in range(6)}}
    truth = write_coco(tmp_path / "coco", splits) / "annotations/instances_test.json"
    rows = [
        {"image_id": note["image_id"], "category_id": 40, "bbox": box, "score": score}
        for note in load(truth)["annotations"]
        for box, score in ((note["bbox"], 5.0), ([40, 40, 9, 9], -2.0))
    ]
    file = tmp_path / "results.json"
    file.write_text(json.dumps(rows))
    out = tmp_path / "out"
    evaluate(f"predictions={file}", f"truth={truth}", out=out)
    row = load(out / "metrics.json")["per_class"]["disc"]
    assert (row["ap"], row["precision"], row["recall"]) == (1, 1, 1)
    assert 0 < row["threshold"] <= 1
    assert load(out / "analysis.json")["calibration"] == {"d_ece": None, "bins": []}
    assert not (out / "thresholds.json").exists()


def test_a_damaged_sidecar_stops_predict_but_not_evaluate(runs, tmp_path, caplog):
    root, run, _ = runs[:3]
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/checkpoints/thresholds.json").write_text("{}")
    asked = ask("predict", f"ckpt={tmp_path / 'run'}", f"source={root}", out=tmp_path / "p")
    with pytest.raises(RequestError, match=r"thresholds\.json: split is not a name; delete it"):
        call(asked)
    assert not (tmp_path / "p").exists()
    evaluate(f"ckpt={tmp_path / 'run'}", out=tmp_path / "e")
    assert "thresholds.json: split is not a name" in caplog.text
    said = load(tmp_path / "e/analysis.json")["operating_point"]
    assert said.endswith("chosen on this very split")


@pytest.fixture
def used(monkeypatch):
    """Let a folder be used again, as a training that goes on uses its own."""
    monkeypatch.setattr(RunFolder, "check_unused", lambda *_: None)


@pytest.mark.usefixtures("used")
def test_results_are_replaced_all_at_once(runs, tmp_path, monkeypatch):
    _, run, _ = runs[:3]
    out = tmp_path / "out"
    evaluate(f"ckpt={run}", "split=val", out=out)
    before = {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_page, "write_run_page", interrupted)
    asked = ask("evaluate", f"ckpt={run}", "split=test", "logger=none", out=out)
    with pytest.raises(KeyboardInterrupt):
        call(asked)
    assert {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()} == before


@pytest.mark.usefixtures("used")
def test_results_of_another_evaluation_do_not_stay_behind(runs, tmp_path):
    root, run, _ = runs[:3]
    evaluate(f"ckpt={run}", out=tmp_path / "one")
    shutil.copy(tmp_path / "one/detections.json", tmp_path / "other.json")
    keys = [f"predictions={tmp_path}/other.json", f"data.root={root}", "split=test"]
    evaluate(*keys, out=tmp_path / "one")
    assert not (tmp_path / "one/detections.json").exists()


@pytest.mark.usefixtures("used")
def test_what_ends_while_files_are_replaced_leaves_no_scores_beside_other_files(
    runs, tmp_path, monkeypatch
):
    _, run, _ = runs[:3]
    evaluate(f"ckpt={run}", "resamples=0", out=tmp_path)
    replace = Path.replace

    def end(self, target):
        if self.name == "index.html":
            raise RuntimeError("the power fails")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", end)
    with pytest.raises(RuntimeError, match="the power fails"):
        evaluate(f"ckpt={run}", "resamples=0", "split=val", out=tmp_path)
    assert (tmp_path / "report/index.html").exists()  # the former one
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / ".results").exists()


def refused(folder, *keys):
    """What evaluate says of a request that it refuses."""
    code, _, err = run_cli("evaluate", *keys, cwd=folder, heavy=True)
    assert code == 2
    return err


def test_a_trainings_folder_is_not_evaluated_into(runs, tmp_path):
    _, run, _ = runs[:3]
    line = refused(tmp_path, f"ckpt={run}", f"hydra.run.dir={run}")
    assert "has the results of an earlier run (checkpoints/last.ckpt), which would be lost" in line


@pytest.mark.parametrize("there", ["metrics.json/", "report"])
def test_what_is_in_the_way_of_the_results_is_named_before_the_work(runs, tmp_path, there):
    _, run, _ = runs[:3]
    (tmp_path / "out").mkdir()
    place = tmp_path / "out" / there
    place.mkdir() if there.endswith("/") else place.touch()
    line = refused(tmp_path, f"ckpt={run}", "hydra.run.dir=out")
    assert line == f"error: hydra.run.dir=out: {place} is in the way of the results\n"


def test_a_key_of_another_command_is_called_so(runs, tmp_path):
    line = refused(tmp_path, f"ckpt={runs[1]}", "min_precision=0.9")
    assert line == "error: min_precision: no key of evaluate, but of python -m detector.predict\n"


def test_leaving_out_is_not_advised_where_nothing_would_be_left(runs, tmp_path):
    root = write_voc(tmp_path / "voc", {"test": {"a": [("cat", (1, 1, 20, 20))]}})
    with pytest.raises(RequestError, match="'cat' is not among those that") as error:
        evaluate(f"ckpt={runs[1]}", f"data.root={root}", out=tmp_path / "out")
    assert "on_bad" not in str(error.value)


def test_classes_in_too_few_images_are_named(tmp_path, caplog):
    places = {f"i{i}": [("disc", (1, 1, 20, 20))] for i in range(20)}
    places["i0"] = [*places["i0"], ("square", (30, 30, 50, 50))]
    truth = write_coco(tmp_path / "coco", {"test": places}) / "annotations/instances_test.json"
    (tmp_path / "found.json").write_text("[]")
    keys = [f"truth={truth}", f"predictions={tmp_path}/found.json"]
    evaluate(*keys, out=tmp_path / "out")
    said = "too few images for an interval: square; those of the means are rough"
    assert said in caplog.text
    assert said.capitalize() in (tmp_path / "out/report/index.html").read_text()


def test_what_was_skipped_in_one_data_set_is_not_skipped_in_another(runs, tmp_path):
    _, run, _ = runs[:3]
    skip = {"on_bad": "skip"}
    edited(run, tmp_path / "skipping", lambda ours: ours["config"]["data"].update(skip))
    strange = write_voc(tmp_path / "voc", {"test": {"t": [("cat", (1, 1, 30, 30))]}})
    asked = ask("evaluate", f"ckpt={tmp_path}/skipping", f"data.root={strange}", out=tmp_path / "o")
    with pytest.raises(RequestError, match="'cat'"):
        call(asked)
    typed = ask(
        *("evaluate", f"ckpt={tmp_path}/skipping", f"data.root={strange}", "data.on_bad=skip"),
        out=tmp_path / "o",
    )
    with pytest.raises(RequestError, match=r"no boxes.*1 boxes of it were left out: .*'cat'"):
        call(typed)


def test_a_split_cut_short_is_said_and_a_runs_own_limit_is_not_inherited(runs, tmp_path, caplog):
    root, _, _ = runs[:3]
    keys = [*TINY, f"data.root={root}", "finetune=scratch", "trainer.max_epochs=1"]
    run = tmp_path / "run"
    short = ["trainer.limit_train_batches=1", "trainer.limit_test_batches=1"]
    call(ask("train", *keys, *short, out=run))
    assert "only 2 of the 5 images were evaluated" in caplog.text
    assert load(run / "metrics.json")["images"] == 2
    evaluate(f"ckpt={run}", out=tmp_path / "out")
    assert load(tmp_path / "out/metrics.json")["images"] == 5


def test_nothing_detected_and_a_class_without_truth_are_said(runs, tmp_path, caplog):
    _, run, _ = runs[:3]
    root = write_voc(tmp_path / "voc", {"test": {"t": [("disc", (1, 1, 30, 30))]}})
    keys = [f"data.root={root}", "split=test", "model.score_threshold=1"]
    scores = evaluate(f"ckpt={run}", *keys, out=tmp_path / "out")
    assert scores["map"] == 0
    assert "nothing was detected" in caplog.text
    assert "no true boxes of square: left out" in caplog.text
    assert load(tmp_path / "out/metrics.json")["per_class"]["square"]["ap"] is None
    assert "Nothing was detected" in (tmp_path / "out/report/index.html").read_text()


def test_suspects_are_listed_by_file(tmp_path):
    root = write_coco(
        tmp_path / "coco",
        {
            "test": {
                f"i{i}": [("disc", (1, 1, 20, 20)), ("disc", (40, 5, 70, 40))] for i in range(9)
            }
        },
    )
    truth = root / "annotations/instances_test.json"
    content = load(truth)
    results = [
        {"image_id": note["image_id"], "category_id": note["category_id"], "bbox": note["bbox"]}
        | {"score": 0.9}
        for note in content["annotations"]
    ]
    forgotten = content["annotations"].pop(4)
    truth.write_text(json.dumps(content))
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    evaluate(f"predictions={file}", f"truth={truth}", out=tmp_path / "out")
    with (tmp_path / "out/suspects.csv").open() as stream:
        first = next(csv.DictReader(stream))
    assert (first["kind"], first["class"]) == ("detection without truth", "disc")
    assert first["file"] == "i2.jpg"
    x, y, width, height = forgotten["bbox"]
    assert [float(first[k]) for k in ("x1", "y1", "x2", "y2")] == [x, y, x + width, y + height]


def test_leakage_of_the_scored_split_is_said_beside_the_score(runs, tmp_path, caplog, monkeypatch):
    _, run, _ = runs[:3]
    usable = load_data.usable_data

    def leaking(*args, **kwargs):
        data = usable(*args, **kwargs)
        name = data.files()["test"][0]
        for kind, split, file in (
            ("picture in two splits", "test", name),
            ("similar pictures in two splits", "test", name),
            ("similar pictures in two splits", "test", "JPEGImages/other.jpg"),
            ("similar pictures in two splits", "val", "JPEGImages/val0.jpg"),
        ):
            data.issues.add(kind, Item(split, file, "like x in train", file))
        return data

    monkeypatch.setattr(load_data, "usable_data", leaking)
    evaluate(f"ckpt={run}", "resamples=0", out=tmp_path)
    rows = {row["kind"]: row for row in load(tmp_path / "metrics.json")["leakage"]}
    assert {kind: row["count"] for kind, row in rows.items()} == {
        "picture in two splits": 1,
        "similar pictures in two splits": 2,
    }
    assert rows["picture in two splits"]["example"].endswith(": like x in train")
    said = "2 of the 5 test images are also, or nearly, in the data that the detector was trained"
    assert said in caplog.text
    page = (tmp_path / "report/index.html").read_text()
    head = page[page.index("<h1>") : page.index("</header>")]
    assert said in head


def test_without_leakage_nothing_is_said_of_it(runs):
    _, run, _ = runs[:3]
    assert load(run / "metrics.json")["leakage"] == []
    assert "also, or nearly" not in (run / "report/index.html").read_text()


def test_images_with_more_boxes_than_are_detected_are_said_in_the_report(runs, tmp_path):
    _, run, _ = runs[:3]
    typed = ["model.detections_per_image=1", "resamples=0"]
    evaluate(f"ckpt={run}", *typed, out=tmp_path)
    said = "mages with more than 1 boxes:"
    assert said in (tmp_path / "report/index.html").read_text()
    assert said not in (run / "report/index.html").read_text()
