"""The Python API: its examples run, and it gives what the commands give."""

import doctest
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import TINY, three_splits, write_voc
from PIL import Image

import detector
from detector import cli
from detector.core.errors import RequestError
from detector.pipeline.detector import Detector


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch):
    write_voc(tmp_path / "my_images", three_splits())
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "my_images/JPEGImages/test0.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    shared = {"detector": detector, **vars(detector)}
    names = [detector.read_data, detector.train, detector.load, Detector.predict]
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    for name in names:
        for test in doctest.DocTestFinder(recurse=False).find(name, globs=shared):
            test.globs = shared
            assert test.examples
            assert runner.run(test, clear_globs=False).failed == 0


@pytest.fixture(scope="module")
def model(runs):
    return detector.load(runs.first)


@pytest.fixture
def files(runs):
    data = detector.read_data(runs.root)
    return [data.splits["test"][i].path for i in range(3)]


def test_paths_arrays_and_pillow_images_give_the_same(model, files):
    arrays = [cv2.imread(str(file))[:, :, ::-1] for file in files]
    stacked = np.stack(arrays)
    asked = [files, [str(f) for f in files], arrays, stacked, [Image.open(f) for f in files]]
    by_path, *others = [model.predict(images, score_threshold=0.0) for images in asked]
    assert sum(map(len, by_path))
    for other in others:
        for one, two in zip(by_path, other, strict=True):
            assert np.array_equal(one.boxes, two.boxes)
            assert np.array_equal(one.scores, two.scores)
            assert one.names == two.names


def test_a_pillow_image_is_turned_as_its_file_is(model, files, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    Image.open(files[0]).save(tmp_path / "turned.png", exif=exif)
    asked = [tmp_path / "turned.png", Image.open(tmp_path / "turned.png")]
    by_path, by_pillow = model.predict(asked, score_threshold=0.0)
    assert len(by_path)
    assert np.array_equal(by_path.boxes, by_pillow.boxes)


def test_one_image_is_a_list_of_one(model, files):
    (prediction,) = model.predict(files[0], score_threshold=0.0)
    assert prediction.boxes.shape == (len(prediction), 4)
    assert prediction.boxes.dtype == np.float32
    assert list(prediction.scores) == sorted(prediction.scores, reverse=True)
    assert prediction.names == [model.classes[label - 1] for label in prediction.labels]


def test_the_threshold_of_each_class_is_used_unless_one_is_given(model, files):
    everything = model.predict(files, score_threshold=0.0)
    scores = np.concatenate([p.scores for p in everything])
    middle = float(np.sort(scores)[len(scores) // 2])  # the lowest score is itself wanted
    wanted = model.predict(files, score_threshold=middle)
    assert sum(map(len, wanted)) == (scores >= middle).sum()
    model.thresholds = dict.fromkeys(model.classes, 1.0)
    assert sum(map(len, model.predict(files))) == (scores >= 1).sum()


def test_the_command_predicts_the_same(model, files, runs, tmp_path):
    keys = [f"ckpt={runs.first}", f"source={files[0]}", "score_threshold=0.2"]
    cli.call("predict", keys, tmp_path / "out")
    rows = json.loads((tmp_path / "out/predictions.json").read_text())
    (found,) = model.predict(files[0], score_threshold=0.2)
    assert [row["category"] for row in rows] == found.names
    assert [row["score"] for row in rows] == [round(s, 5) for s in found.scores.tolist()]


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 5), np.uint8), r"\(4, 5\) and type uint8: expected \(H, W, 3\) uint8"),
        (np.zeros((4, 5, 3)), "type float64: expected"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (Path("nowhere.jpg"), "nowhere.jpg"),
        (None, "None: expected a path, a Pillow image or an array"),
        ([b"a.jpg"], r"b'a\.jpg': expected a path"),
        (3, "3: expected a path"),
    ],
)
def test_an_image_that_does_not_fit_is_named(model, image, said):
    with pytest.raises(RequestError, match=said):
        model.predict(image)


@pytest.mark.parametrize("threshold", [2, -1, "high", True])
def test_a_threshold_that_no_score_can_be_is_refused(model, files, threshold):
    with pytest.raises(
        RequestError, match=rf"score_threshold={threshold}: expected null or 0\.\.1"
    ):
        model.predict(files, score_threshold=threshold)


def test_what_is_printed_says_what_it_is(model, voc_root):
    known = r"backbone='efficientnet_lite0', classes=\('disc', 'square'\)"
    assert re.fullmatch(rf"Detector\(ckpt='.*best\.ckpt', {known}\)", repr(model))
    (voc_root / "Annotations/test0.xml").unlink()
    assert str(detector.read_data(voc_root).issues).startswith("Issues(1 x ")
    assert str(type(detector.read_data(voc_root).issues)()) == "Issues()"


def test_a_run_that_is_resumed_goes_on_in_its_own_folder(runs, tmp_path, monkeypatch):
    folder = shutil.copytree(runs.first, tmp_path / "run")
    (folder / "metrics.json").unlink()
    monkeypatch.chdir(tmp_path)
    resumed = detector.train(["ckpt=run"])
    assert resumed.folder == folder
    assert resumed.scores == pytest.approx(runs.scores, abs=0, nan_ok=True)
    assert (folder / "metrics.json").is_file()


def test_a_folder_with_results_is_refused(runs, tmp_path):
    keys = [*TINY, f"data.root={runs.root}"]
    with pytest.raises(RequestError, match="has the results of an earlier run"):
        detector.train(keys, folder=runs.first)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["lr=3"], "lr: no such key; did you mean optim.lr=3?"),
        ("data=vocc", "data=vocc: no such choice; did you mean voc?"),
        (["seed=["], "needs quotes of its own"),
        (["seed=${nope}"], "seed: Interpolation key 'nope' not found"),
        (["ckpt=${nope}"], "Interpolation key 'nope' not found"),
        (["coco"], "coco: expected KEY=VALUE; see python -m detector.train --help"),
        (["--epochs", "3"], "--epochs=3: expected KEY=VALUE; did you mean trainer.max_epochs=3?"),
        (["-m", "seed=1,2"], "-m: expected KEY=VALUE; flags are for the command line only"),
        ([("seed", 1)], "('seed', 1): expected KEY=VALUE"),
        (["dry_run=true"], "dry_run=true: only python -m detector.train prints the phases"),
    ],
)
def test_a_wrong_key_is_named_as_on_the_command_line(keys, said):
    with pytest.raises(RequestError, match=re.escape(said)):
        detector.train(keys)


def test_one_more_key_for_reading_data_may_stand_alone():
    with pytest.raises(RequestError, match="voc: expected KEY=VALUE"):
        detector.read_data("nowhere", "voc")


def test_a_device_that_is_none_is_named(runs):
    with pytest.raises(RequestError, match="device=cuda:7: expected one of auto, cpu"):
        detector.load(runs.first, device="cuda:7")


def test_a_run_that_is_not_there_is_named():
    with pytest.raises(RequestError, match="ckpt=nowhere: no such file or folder"):
        detector.load("nowhere")


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'detect'"):
        _ = detector.detect


def test_importing_the_package_imports_no_torch_and_train_stays_a_function():
    program = (
        "import sys, detector; from detector.train import prepare; import detector.train;"
        "print('torch' in sys.modules, callable(detector.train), detector.Prediction.__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "False True Prediction\n", ran.stderr
