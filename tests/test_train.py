"""The whole job on tiny data: every file, exact evaluation, exact resume, prediction, sweeps."""

import csv
import errno
import hashlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from commands import RUN, run_cli, run_script
from conftest import (
    PHASES,
    TINY,
    ask,
    call,
    data_of,
    in_force,
    prepare,
    random_split,
    three_splits,
    write_coco,
    write_voc,
    write_xml,
)

from detector import cli
from detector.config.schema import plain
from detector.core.errors import RequestError
from detector.core.run_folder import RunFolder
from detector.evaluation import reference
from detector.pipeline import build, load_data
from detector.pipeline.dry_run import phase_table
from detector.training.checkpoint import read_trained_on
from detector.training.run_checkpoints import RunCheckpoints


def fresh_train(root, out, *overrides):
    return call(ask("train", *TINY, f"data.root={root}", PHASES, *overrides, out=out))


def epochs(out):
    """The rows of a run's metrics.csv."""
    with (out / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def run(runs):
    """A finished run: its data, its folder, and what it returned."""
    return runs.root, runs.first, runs.scores


def test_a_run_writes_all_its_files(run):
    _, out, _ = run
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    events = {name for name in files if name.startswith("tensorboard/events.out.tfevents.")}
    assert events
    files -= events
    assert files == {
        ".lock",
        "config.yaml",
        "metrics.csv",
        *("metrics.json", "analysis.json", "suspects.csv", "report/index.html"),
        "detections.png",
        "phases.json",
        "schedule.png",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/thresholds.json",
    }


def test_checkpoints_know_the_images_they_were_trained_and_chosen_on(run):
    root, out, _ = run
    for key, prefix, count in (("trained_on", ("train", "both"), 7), ("chosen_on", ("val",), 5)):
        record = read_trained_on(out / "checkpoints/best.ckpt", key)
        files = [f for f in (root / "JPEGImages").iterdir() if f.name.startswith(prefix)]
        digests = {hashlib.blake2b(f.read_bytes(), digest_size=16).hexdigest() for f in files}
        assert {one.digest for one in record} == digests
        assert len(digests) == count


def test_a_run_keeps_what_was_fitted_to_its_data(run):
    root, out, _ = run
    model = plain(prepare(ask("train", *TINY, f"data.root={root}")).config.model)
    assert model["anchors"] == "fixed"
    saved = torch.load(out / "checkpoints/best.ckpt", weights_only=True)["detector"]["config"]
    written = yaml.safe_load((out / "config.yaml").read_text())
    for key in ("anchors", "anchor_scales", "anchor_ratios", "detections_per_image"):
        assert saved["model"][key] == written["model"][key] == model[key]


def test_a_run_says_what_was_fitted_to_its_data(run, tmp_path, caplog):
    lines = prepare(ask("train", *TINY, f"data.root={run[0]}")).fitted
    with caplog.at_level("INFO"):
        fresh_train(run[0], tmp_path / "out", "trainer.max_epochs=1")
    assert lines
    assert [caplog.messages.count(line) for line in lines] == [1] * len(lines)


def test_a_run_at_a_fitted_image_size_has_that_size_in_its_files(run, tmp_path):
    # Images of 80 x 60 pixels: any box is legible at the least size.
    out = tmp_path / "out"
    fresh_train(run[0], out, "trainer.max_epochs=1", "data.image_size=auto")
    saved = torch.load(out / "checkpoints/last.ckpt", weights_only=True)["detector"]["config"]
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["data"]["image_size"] == written["data"]["image_size"] == 192


def test_loaders_are_checked_at_the_fitted_image_size(run, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "detector.pipeline.request_checks.check_loading",
        lambda config, data: seen.append(config.data.image_size),
    )
    prepare(ask("train", *TINY, f"data.root={run[0]}", "data.image_size=auto"))
    assert seen == [192]


def test_a_run_that_goes_on_fits_nothing_again(run, monkeypatch):
    _, out, _ = run

    def again(*arguments):
        raise AssertionError("fitted again")

    monkeypatch.setattr("detector.pipeline.fitting.fit_anchors", again)
    assert prepare(ask("train", f"ckpt={out}")).fitted == []


def test_metrics_csv_has_a_row_for_every_epoch(run):
    _, out, _ = run
    rows = epochs(out)
    assert [(r["epoch"], r["phase"]) for r in rows] == [
        ("0", "heads"),
        ("1", "heads"),
        ("2", "top"),
    ]
    assert all(float(r["train/loss"]) > 0 and 0 <= float(r["val/map"]) <= 1 for r in rows)
    names = ("classifier", "box_reg", "objectness", "rpn_box_reg")
    for row in rows:
        parts = sum(float(row[f"train/loss_{name}"]) for name in names)
        assert float(row["train/loss"]) == pytest.approx(parts, rel=1e-5)
    assert [float(r["lr/layer4"]) for r in rows] == pytest.approx([0, 0, 1e-4])
    assert [float(r["lr/head"]) for r in rows] == pytest.approx([1e-3] * 3)


def test_metrics_json_is_what_train_returned(run):
    _, out, scores = run
    content = json.loads((out / "metrics.json").read_text())
    assert content["split"] == "test"
    assert content["images"] == 5
    assert set(content["per_class"]) == {"disc", "square"}
    assert content["coco"]["map"] == scores["test/map"]
    assert content["voc"]["ap_50"] == scores["test/voc_ap_50"]
    assert content["seconds"]["train"] > 0


def test_the_best_checkpoint_is_the_epoch_with_the_best_validation_score(run):
    _, out, scores = run
    rows = epochs(out)
    values = [float(r["val/map"]) for r in rows]
    assert scores["val/map"] == pytest.approx(max(values))
    epoch = torch.load(out / "checkpoints/best.ckpt", weights_only=True)["epoch"]
    assert values[epoch] == max(values)
    assert torch.load(out / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 2


@pytest.mark.parametrize("ckpt", ["", "checkpoints/best.ckpt"])
def test_evaluate_reproduces_the_runs_figures_exactly(run, tmp_path, ckpt):
    _, out, _ = run
    call(ask("evaluate", f"ckpt={out / ckpt}", "resamples=200", out=tmp_path / "e"))
    first = json.loads((out / "metrics.json").read_text())
    again = json.loads((tmp_path / "e" / "metrics.json").read_text())
    for key in ("split", "images", "coco", "voc", "per_class"):
        assert first[key] == again[key]


@pytest.mark.parametrize("wrong", [0.5, float("nan")])
def test_scores_that_are_not_pycocotools_are_not_written(run, tmp_path, monkeypatch, wrong):
    _, out, _ = run
    judge = reference.pycocotools_scores

    def other(*arguments):
        scores, per_class = judge(*arguments)
        return {**scores, "mar_10": wrong}, per_class

    monkeypatch.setattr(reference, "pycocotools_scores", other)
    with pytest.raises(RuntimeError, match=rf"mar_10 is 0\.\d+, but {wrong} by pycocotools"):
        call(ask("evaluate", f"ckpt={out}", out=tmp_path / "e"))
    assert not (tmp_path / "e" / "metrics.json").exists()


def test_evaluate_on_another_split_and_on_other_data(run, tmp_path):
    root, out, scores = run
    found = call(ask("evaluate", f"ckpt={out}", "split=val", out=tmp_path / "a"))
    assert found["map"] == pytest.approx(scores["val/map"], abs=1e-7)
    shutil.copytree(root, tmp_path / "moved")
    overrides = [f"ckpt={out}", f"data.root={tmp_path / 'moved'}"]
    moved = call(ask("evaluate", *overrides, out=tmp_path / "b"))
    assert moved["map"] == scores["test/map"]


def test_a_checkpoint_of_other_classes_is_refused(run, tmp_path):
    _, out, _ = run
    root = write_voc(
        tmp_path / "cats", {s: {f"{s}0": [("cat", (1, 1, 9, 9))]} for s in ("train", "val", "test")}
    )
    cfg = ask("evaluate", f"ckpt={out}", f"data.root={root}", out=tmp_path / "e")
    with pytest.raises(RequestError, match=r"class 'cat' is not among those that .* knows"):
        prepare(cfg)


def test_evaluation_needs_nothing_but_the_split_asked_for(run, tmp_path):
    root, out, _ = run
    only = tmp_path / "only"
    shutil.copytree(root, only)
    for split in ("train", "val"):
        (only / f"ImageSets/Main/{split}.txt").unlink()
    (only / "ImageSets/Main/test.txt").write_text("test0\n")
    cfg = ask("evaluate", f"ckpt={out}", f"data.root={only}", out=tmp_path / "e")
    prepare(cfg)
    call(cfg)
    content = json.loads((tmp_path / "e/metrics.json").read_text())
    assert content["images"] == 1
    assert set(content["per_class"]) == {"disc", "square"}


def weights(out):
    return torch.load(out / "checkpoints/last.ckpt", weights_only=True)


def test_a_moved_run_keeps_its_best_checkpoint_when_it_goes_on(run, tmp_path):
    _, out, scores = run
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    spoilt = ["trainer.max_epochs=4", "optim.lr=100", "finetune=scratch"]
    spoilt += ["finetune.allow_changed=true"]
    again = call(ask("train", f"ckpt={moved}", *spoilt, out=moved))
    assert weights(moved)["epoch"] == 3
    assert again["val/map"] == scores["val/map"]
    assert again["test/map"] == scores["test/map"]


def test_a_run_that_goes_on_elsewhere_brings_its_best_checkpoint_along(run, tmp_path, caplog):
    _, out, scores = run
    last = out / "checkpoints/last.ckpt"
    with caplog.at_level("INFO"):
        again = call(ask("train", f"ckpt={last}", out=tmp_path / "new"))
    assert "the schedule has ended after 3 epochs" in caplog.text
    assert again == pytest.approx(scores, abs=0, nan_ok=True)


def test_a_run_goes_on_with_its_own_images_wherever_they_are(run, voc_root, tmp_path):
    root, out, _ = run
    shutil.copytree(root, tmp_path / "moved")
    prepare(ask("train", f"ckpt={out}", f"data.root={tmp_path / 'moved'}", out=out))
    said = r"data\.root=.*/voc: .*last\.ckpt was not trained on \d of the 5 training images"
    with pytest.raises(RequestError, match=rf"{said}.*begins with its weights: model\.weights="):
        prepare(ask("train", f"ckpt={out}", f"data.root={voc_root}", out=out))


def test_images_in_two_splits_are_pointed_out(run, caplog):
    root, _, _ = run
    overrides = [f"data.root={root}", "data.splits.test=[train]"]
    config = in_force(ask("train", *overrides))
    with caplog.at_level("WARNING"):
        load_data.describe_data(data_of(config))
    assert "7 x picture in two splits, so figures are too good: JPEGImages/" in caplog.text


def test_predict_writes_pictures_and_tables_and_names_what_it_cannot_read(run, tmp_path, caplog):
    root, out, _ = run
    source = tmp_path / "new"
    shutil.copytree(root / "JPEGImages", source / "deep")
    (source / "broken.jpg").write_bytes(b"\xff\xd8 not a jpeg")
    overrides = [f"ckpt={out}", f"source={source}", "score_threshold=0"]
    with caplog.at_level("INFO"):
        found = call(ask("predict", *overrides, out=tmp_path / "p"))
    assert "not read: " in caplog.text
    assert "broken.jpg: not a readable image" in caplog.text
    content = json.loads((tmp_path / "p/predictions.json").read_text())
    assert content == found
    assert len(content) > 0
    names = {row["file_name"] for row in content}
    assert names <= {f"deep/{p.name}" for p in (root / "JPEGImages").glob("*.jpg")}
    assert {row["category_id"] for row in content} <= {1, 2}
    row = content[0]
    x, y, w, h = row["bbox"]
    assert 0 <= x <= x + w <= 80.01
    assert 0 <= y <= y + h <= 60.01
    with (tmp_path / "p/predictions.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == len(content)
    assert float(table[0]["x2"]) == pytest.approx(x + w, abs=0.011)
    pictures = list((tmp_path / "p/images/deep").iterdir())
    assert len(pictures) == 17
    assert cv2.imread(str(pictures[0])).shape == (60, 80, 3)


def test_predict_on_nothing_readable_says_so(run, tmp_path):
    _, out, _ = run
    (tmp_path / "a.jpg").write_text("no image")
    cfg = ask("predict", f"ckpt={out}", f"source={tmp_path / 'a.jpg'}", out=tmp_path / "p")
    with pytest.raises(RequestError, match=r"nothing could be read: .*a\.jpg"):
        call(cfg)


# At 32 pixels, the images are decoded at half their size.
@pytest.mark.parametrize("size", [96, 32])
def test_predict_finds_what_evaluation_finds(run, tmp_path, size):
    _, out, _ = run
    smaller = f"data.image_size={size}"
    evaluation_cfg = ask("evaluate", f"ckpt={out}", smaller, out=tmp_path / "e")
    config = in_force(evaluation_cfg)
    task = build.load_task(config)
    images = data_of(config).splits
    data = build.build_datamodule(config, images)
    build.build_trainer(config, tmp_path).test(
        task, data.loader("test", training=False), verbose=False
    )
    expected = task.metric.evaluation.detections
    overrides = [f"ckpt={out}", f"source={images['test'][0].path}", "score_threshold=0", smaller]
    found = call(ask("predict", *overrides, out=tmp_path / "p"))
    rows = expected.image == 0
    assert len(found) == rows.sum()
    corners = expected.boxes[rows]
    np.testing.assert_allclose(
        [row["bbox"] for row in found],
        np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), 1),
        atol=0.02,
    )


def test_what_is_unusable_stops_training_or_is_left_out_and_named(voc_root, tmp_path, caplog):
    write_xml(
        voc_root / "Annotations/train0.xml",
        [("square", (9, 9, 9, 9)), ("square", (5, 5, 30, 30))],
    )
    (voc_root / "JPEGImages/train1.jpg").write_bytes(b"")
    with pytest.raises(RequestError, match=r"train1\.jpg: the file is empty \(and 1 more error\)"):
        fresh_train(voc_root, tmp_path / "out", "trainer.max_epochs=1")
    assert not (tmp_path / "out").exists()
    with caplog.at_level("INFO"):
        fresh_train(voc_root, tmp_path / "out", "trainer.max_epochs=1", "data.on_bad=skip")
    assert "left out, 1 x box without area:" in caplog.text
    assert "train0.xml: object 1 (square 9, 9, 9, 9): no width or no height" in caplog.text
    assert "JPEGImages/train1.jpg: the file is empty" in caplog.text
    assert "train 4 images" in caplog.text


def test_no_on_bad_trains_on_nothing(voc_root, tmp_path):
    for i in range(3):
        (voc_root / f"JPEGImages/val{i}.jpg").write_bytes(b"")
    with pytest.raises(RequestError, match="the split 'val' has no usable image"):
        fresh_train(voc_root, tmp_path / "out", "data.on_bad=skip")


def test_what_was_dealt_out_by_ratio_is_written_and_stays_when_images_are_added(voc_root, tmp_path):
    shutil.rmtree(voc_root / "ImageSets")
    out = tmp_path / "out"
    fresh_train(voc_root, out, "trainer.max_epochs=1")
    written = json.loads((out / "splits.json").read_text())["splits"]
    assert {name: len(files) for name, files in written.items()} == {
        "train": 7,
        "val": 2,
        "test": 2,
    }
    more = random_split("more", 12)
    write_voc(tmp_path / "more", {"train": more})
    for folder in ("Annotations", "JPEGImages"):
        for file in (tmp_path / "more" / folder).iterdir():
            shutil.move(file, voc_root / folder / file.name)
    for overrides in ([], [f"data.root={voc_root}"], ["data.auto_split.file=null"]):
        config = in_force(ask("evaluate", f"ckpt={out}", *overrides, out=out))
        data = data_of(config)
        files = {Path(p).relative_to(voc_root).as_posix() for p in data.splits["test"].paths}
        assert (files == set(written["test"])) == (not overrides)


def test_too_little_time_is_refused_once_the_pace_is_known_and_nothing_stays(voc_root, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").touch()
    for folder in (out, other):
        (folder / ".hydra").mkdir(parents=True)  # as Hydra does, which this call goes without
        (folder / ".hydra/config.yaml").touch()
        said = r"^trainer\.max_minutes=1e-05: expected at least [0-9.]+ here, where a step takes "
        with pytest.raises(RequestError, match=said):
            fresh_train(voc_root, folder, "trainer.max_minutes=0.00001", "logger=tensorboard")
    assert not out.exists()
    assert [file.name for file in other.iterdir()] == ["mine.txt"]


def test_a_request_that_fails_after_training_loses_nothing(voc_root, tmp_path, monkeypatch):
    def refuse(*_):
        raise RequestError("no room for this")

    monkeypatch.setattr(cli.load_command("train"), "evaluate_best", refuse)
    out = tmp_path / "out"
    with pytest.raises(RequestError, match="no room for this"):
        fresh_train(voc_root, out, "trainer.max_epochs=2")
    assert (out / "checkpoints/last.ckpt").is_file()
    assert (out / "metrics.csv").is_file()


def test_a_run_of_limited_time_ends_with_a_validated_epoch_and_says_what_is_left(
    voc_root, tmp_path, caplog
):
    caplog.set_level("INFO")
    out = tmp_path / "out"
    fresh_train(voc_root, out, "trainer.max_minutes=0.05")
    phases = json.loads((out / "phases.json").read_text())
    assert [phase["name"] for phase in phases] == ["heads", "top"]
    assert epochs(out)[-1]["val/map"]
    assert "the evaluation takes about" in caplog.text
    # By its pace the next dry run says how many epochs that is, also where much is `auto`.
    limit = "trainer.max_minutes=0.05"
    table = phase_table(in_force(ask("train", *TINY, f"data.root={voc_root}", PHASES, limit)))
    assert re.search(r"% of 0\.05 min: [0-9.e+]+ *epochs", " ".join(" ".join(table).split()))


def test_a_class_list_of_the_checkpoint_judges_other_data(run, tmp_path, voc_root):
    _, out, _ = run
    write_xml(voc_root / "Annotations/test1.xml", [("cat", (1, 1, 9, 9))])
    with pytest.raises(RequestError, match=r"class 'cat' is not among those that .* knows"):
        call(ask("evaluate", f"ckpt={out}", f"data.root={voc_root}", out=tmp_path / "e"))


def run_train(*overrides, cwd):
    """Run `python -m detector.train` to its end; what it printed."""
    code, out, err = run_cli("train", *overrides, cwd=cwd, heavy=True)
    assert code == 0, err
    return out


def test_the_voc_experiment_runs_on_a_devkit_with_random_weights(devkit, tmp_path):
    small = [
        "model.weights=none",
        "data.image_size=64",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=1",
        "trainer.limit_test_batches=2",
        "trainer.accelerator=cpu",
        "model.rpn_top_n_test=20",
        "model.fpn_channels=32",
        "model.head.hidden=[32]",
    ]
    out = run_train(
        "+experiment=voc", f"data.root={devkit}", *small, "hydra.run.dir=out", cwd=tmp_path
    )
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    assert content["images"] == 4
    assert len(content["per_class"]) == 20
    assert out.strip().splitlines()[-1] == f"report: {tmp_path}/out/report/index.html"
    assert (tmp_path / "out/train.log").read_text() in out
    config = (tmp_path / "out/config.yaml").read_text()
    assert "VOC2012/trainval" in config


def test_the_coco_experiment_runs_with_random_weights(tmp_path):
    splits = three_splits()
    root = write_coco(tmp_path / "coco", {"train2017": splits["train"], "val2017": splits["val"]})
    small = ["model.weights=none", "data.image_size=64", "trainer.max_epochs=1"]
    small += ["trainer.limit_train_batches=1", "trainer.accelerator=cpu", "data.auto_split.val=0.2"]
    small += ["model.rpn_top_n_test=20", "model.fpn_channels=32", "model.head.hidden=[32]"]
    out = run_train(
        "+experiment=coco", f"data.root={root}", *small, "hydra.run.dir=out", cwd=tmp_path
    )
    assert json.loads((tmp_path / "out/metrics.json").read_text())["images"] == 3
    assert "train 4 images" in out


def test_two_processes_train_and_score_as_one_would(voc_root, tmp_path):
    overrides = [*TINY, f"data.root={voc_root}", "finetune=staged", "finetune.norm=frozen"]
    overrides += ["trainer.max_epochs=3", "trainer.devices=2", "hydra.run.dir=out"]
    said = run_train(*overrides, cwd=tmp_path)  # the second process is started from the first
    assert said.count("phase top: training layer4, neck, head") == 1
    out = tmp_path / "out"
    call(ask("evaluate", f"ckpt={out}", "trainer.devices=1", out=tmp_path / "alone"))
    together = json.loads((out / "metrics.json").read_text())
    alone = json.loads((tmp_path / "alone/metrics.json").read_text())
    assert together["images"] == 3  # odd: padding has shown one image twice
    for key in ("images", "coco", "voc", "per_class"):
        assert together[key] == alone[key]


def test_a_sweep_gives_every_trial_its_folder(voc_root, tmp_path):
    run_train(
        "-m",
        "seed=0,1",
        *TINY,
        f"data.root={voc_root}",
        "trainer.max_epochs=1",
        "logger=tensorboard",
        "hydra.sweep.dir=sweep",
        cwd=tmp_path,
    )
    for trial in ("0", "1"):
        content = (tmp_path / "sweep" / trial / "config.yaml").read_text()
        assert f"seed: {trial}" in content
        assert (tmp_path / "sweep" / trial / "metrics.json").is_file()
        assert list((tmp_path / "sweep" / trial / "tensorboard").iterdir())


def test_the_optuna_sweep_maximises_the_score_that_train_returns(voc_root, tmp_path):
    run_train(
        "-m",
        "+sweep=lr",
        *TINY,
        f"data.root={voc_root}",
        "trainer.max_epochs=1",
        "hydra.sweeper.n_trials=2",
        "hydra.sweep.dir=sweep",
        cwd=tmp_path,
    )
    results = (tmp_path / "sweep/optimization_results.yaml").read_text()
    assert "optim.lr" in results
    best = max(max(float(r["val/map"]) for r in epochs(tmp_path / f"sweep/{t}")) for t in (0, 1))
    value = next(x for x in results.splitlines() if x.startswith("best_value"))
    assert float(value.split(":")[1]) == pytest.approx(best, abs=1e-6)


INTERRUPTED = """
import os, signal
from detector.training.module import DetectionTask

# A shell may have started these tests with SIGINT ignored, which children inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
start = DetectionTask.on_train_batch_start


def press_ctrl_c(self, batch, index):
    if (self.current_epoch, index) == (1, 1):
        os.kill(os.getpid(), signal.SIGINT)
    start(self, batch, index)


DetectionTask.on_train_batch_start = press_ctrl_c
"""


def test_ctrl_c_keeps_what_is_done_and_prints_the_line_to_go_on(voc_root, tmp_path):
    out = tmp_path / "out"
    phase = "finetune.phases=[{name: heads, train: [head], until: {max_epochs: 500}}]"
    overrides = [*TINY, f"data.root={voc_root}", f"hydra.run.dir={out}", phase]
    ended = run_script(INTERRUPTED + RUN, "train", *overrides, cwd=tmp_path, heavy=True)
    assert ended.code == 130, ended.stderr
    assert f"python -m detector.train ckpt={out}" in ended.stdout
    assert weights(out)["epoch"] == 0
    resumed = run_train(f"ckpt={out}", "trainer.max_epochs=2", cwd=tmp_path)
    assert weights(out)["epoch"] == 1
    assert "epoch 2/2" in resumed


def test_ctrl_c_in_the_final_evaluation_says_how_to_evaluate(
    voc_root, tmp_path, monkeypatch, caplog
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.load_command("train"), "evaluate_best", interrupted)
    with pytest.raises(KeyboardInterrupt), caplog.at_level("INFO"):
        fresh_train(voc_root, tmp_path / "out", "trainer.max_epochs=1")
    assert f"python -m detector.train ckpt={tmp_path}/out" in caplog.text
    assert (tmp_path / "out/checkpoints/best.ckpt").is_file()


def test_a_checkpoint_that_finds_no_room_is_named_and_leaves_no_draft(tmp_path):
    def full(draft):
        draft.parent.mkdir()
        draft.touch()
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/a-librarys-own")

    trainer = SimpleNamespace(save_checkpoint=full, is_global_zero=True)
    with pytest.raises(OSError, match="No space left") as error:
        RunCheckpoints(None, RunFolder(tmp_path)).on_train_epoch_end(trainer, None)
    assert error.value.filename == str(tmp_path / "checkpoints/last.ckpt")
    assert [p.name for p in tmp_path.rglob("*")] == ["checkpoints"]
