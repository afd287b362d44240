"""A run's folder: never one with an earlier run's results, never two processes at once."""

import hashlib
import subprocess
import sys

import cv2
import imagehash
import numpy as np
import pytest
import torch
from conftest import TINY, read_set, three_splits, write_voc
from PIL import Image

from detector.cli import compose
from detector.core import run_folder
from detector.core.errors import RequestError
from detector.pipeline import load_data, request
from detector.train import record_images
from detector.training.checkpoint import Fingerprint, pack_fingerprints, read_trained_on


def write(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")


@pytest.mark.parametrize(
    "result",
    [
        *("checkpoints/last.ckpt", "checkpoints/best.ckpt"),
        *("metrics.json", "predictions.json", "check.json"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "check"])
def test_a_new_run_is_refused_where_an_earlier_one_left_results(tmp_path, command, result):
    write(tmp_path / "run" / result)
    if command == "check" and result == "check.json":
        run_folder.check_unused(command, "hydra.run.dir", tmp_path / "run", None)
        return
    with pytest.raises(RequestError, match="has the results of an earlier run") as refusal:
        run_folder.check_unused(command, "hydra.run.dir", tmp_path / "run", None)
    assert str(refusal.value).startswith(f"hydra.run.dir={tmp_path / 'run'}: ")
    goes_on = command == "train" and "ckpt" in result
    assert (f"ckpt={tmp_path / 'run'} goes on" in str(refusal.value)) == goes_on


def test_a_folder_without_results_can_be_used_again(tmp_path):
    write(tmp_path / "train.log")  # of a run that ended before its first epoch did
    write(tmp_path / "splits.json")
    write(tmp_path / "metrics.csv")  # is written before the epoch's checkpoint
    run_folder.check_unused("train", "hydra.run.dir", tmp_path, None)


def test_a_training_goes_on_in_its_own_folder_and_in_no_other_runs(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name / "checkpoints/last.ckpt")
        write(tmp_path / name / "checkpoints/best.ckpt")
    a, b = tmp_path / "a", tmp_path / "b"
    for ckpt in (a, a / "checkpoints/last.ckpt"):
        run_folder.check_unused("train", "hydra.run.dir", a, str(ckpt))
    for ckpt in (b, a / "checkpoints/best.ckpt", tmp_path / "missing"):  # epochs would be lost
        with pytest.raises(RequestError, match="earlier run"):
            run_folder.check_unused("train", "hydra.run.dir", a, str(ckpt))
    with pytest.raises(RequestError, match="earlier run"):
        run_folder.check_unused("evaluate", "hydra.run.dir", a, str(a))


def test_the_work_itself_refuses_a_used_folder_too(tmp_path):
    write(tmp_path / "metrics.json")
    cfg = compose("train", ["data=trees"], tmp_path)
    with pytest.raises(RequestError, match="earlier run"), request.output_folder("train", cfg):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_folder_that_is_taken_gets_a_number(tmp_path):
    wanted = tmp_path / "outputs" / "today"
    made = [run_folder.make_folder(wanted) for _ in range(3)]
    assert made == [wanted, wanted.with_name("today_2"), wanted.with_name("today_3")]
    assert all(folder.is_dir() for folder in made)


HOLD = """
import sys
from pathlib import Path
from detector.core.run_folder import locked
with locked(Path(sys.argv[1]), "hydra.run.dir"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_processs_until_that_ends_however_it_ends(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.read(4) == b"held"
        with pytest.raises(RequestError, match="another process is writing into it"):
            run_folder.claim(tmp_path, "hydra.run.dir")
        cfg = compose("train", ["data=trees"], tmp_path)
        said = pytest.raises(RequestError, match=r"output_dir=.*: another process is writing into")
        with said, request.output_folder("train", cfg):
            pass
        other.kill()
    with (
        run_folder.locked(tmp_path, "a"),
        run_folder.locked(tmp_path, "a"),
    ):
        pass


def test_processes_of_one_training_share_its_folder(tmp_path, monkeypatch):
    write(tmp_path / "metrics.json")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with request.output_folder("train", compose("train", ["data=trees"], tmp_path)) as folder:
        assert not (folder / run_folder.LOCK).exists()
    # predictions of several shards are runs of their own
    cfg = compose("predict", ["ckpt=x", "source=x"], tmp_path)
    with pytest.raises(RequestError, match="earlier run"), request.output_folder("predict", cfg):
        pass


@pytest.fixture
def data(tmp_path):
    return read_set(write_voc(tmp_path / "voc", three_splits()), "voc")


def picture(path):
    """By other means than the program's."""
    content = path.read_bytes()
    grey = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), 1), cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    near = str(imagehash.phash(Image.fromarray(small), hash_size=16))
    return Fingerprint(hashlib.blake2b(content, digest_size=16).hexdigest(), near)


def save_record(path, pictures):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"detector": {"trained_on": pack_fingerprints(pictures)}}, path)
    return path


def test_fingerprints_are_kept_in_a_checkpoint(tmp_path):
    record = [
        Fingerprint(f"{i:032x}", h) for i, h in ((1, ""), (255, "f" * 64), (2**100, "1" * 64))
    ]
    assert read_trained_on(save_record(tmp_path / "a.ckpt", [*record, record[0]])) == record
    assert read_trained_on(save_record(tmp_path / "b.ckpt", [])) == []
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    assert read_trained_on(tmp_path / "other.pth") == []


def test_images_seen_in_training_are_known_under_any_name_and_nearly(tmp_path, data):
    images = tmp_path / "voc" / "JPEGImages"
    record = [picture(images / f"{name}.jpg") for name in ("test0", "test1", "train0")]
    (images / "test1.jpg").rename(images / "test9.jpg")
    (tmp_path / "voc/Annotations/test1.xml").rename(tmp_path / "voc/Annotations/test9.xml")
    (tmp_path / "voc/ImageSets/Main/test.txt").write_text("test0\ntest2\ntest9\n")
    again = cv2.imread(str(images / "test0.jpg"))
    assert cv2.imwrite(str(images / "test0.jpg"), again, [cv2.IMWRITE_JPEG_QUALITY, 60])
    test = read_set(tmp_path / "voc", "voc", "test")
    seen, none = load_data.seen_in_training(test, "test", [record, []])
    assert seen == ({"JPEGImages/test9.jpg"}, {"JPEGImages/test0.jpg"})
    assert none == (set(), set())
    assert load_data.seen_in_training(test, "test", [[]]) == [(set(), set())]
    load_data.note_seen(test, "test", seen, "ckpt=a was trained on")
    same, near = test.issues.of("leakage")
    assert (same.kind, near.kind) == ("seen in training", "like a training image")
    assert str(same.items[0]) == "JPEGImages/test9.jpg: ckpt=a was trained on it"
    assert str(near.items[0]) == "JPEGImages/test0.jpg: ckpt=a was trained on a picture like it"


def test_a_training_records_its_images_and_those_of_its_first_weights(tmp_path, data):
    images = tmp_path / "voc" / "JPEGImages"
    earlier = [picture(images / "test0.jpg"), Fingerprint(f"{7:032x}", "")]
    weights = save_record(tmp_path / "first.ckpt", earlier)
    config = request.resolve("train", compose("train", [*TINY, f"data.root={data.root}"]))
    config.model.weights = str(weights)
    record = record_images(config, data, None)
    own = {picture(data.root / file) for file in data.files()["train"]}
    torch.save({"detector": {"trained_on": record}}, tmp_path / "second.ckpt")
    assert set(read_trained_on(tmp_path / "second.ckpt")) == own | set(earlier)
    (leak,) = data.issues.of("leakage")
    assert [item.file for item in leak.items] == ["JPEGImages/test0.jpg"]


def refusal(*overrides):
    with pytest.raises(RequestError) as error:
        request.resolve("train", compose("train", ["data=trees", *overrides]))
    return str(error.value)


def test_more_epochs_than_the_schedule_has_are_refused():
    line = refusal("finetune=feature_extraction", "trainer.max_epochs=50")
    assert line.startswith("trainer.max_epochs=50: the schedule has at most 10 epochs (heads 10)")
    assert "finetune.phases.0.until.max_epochs=N" in line
    assert "finetune.auto.max_epochs=N" in refusal("finetune=auto", "trainer.max_epochs=500")
    most = ["data=trees", "finetune=feature_extraction", "trainer.max_epochs=10"]
    assert request.resolve("train", compose("train", most)).trainer.max_epochs == 10


def test_a_cap_that_an_experiment_brings_is_none_that_was_typed():
    typed = [
        "+experiment=trees",
        "finetune=feature_extraction",
        "finetune.phases.0.until.max_epochs=2",
    ]
    config = request.resolve("train", compose("train", typed))
    assert config.trainer.max_epochs == 8
