"""Prediction: whatever goes wrong with a picture, detections are kept."""

import csv
import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ask, call, write_image

from detector.config.resolve import resolve
from detector.core.errors import RequestError, WorkError
from detector.core.structures import ClassMap, TensorPrediction
from detector.pipeline import build
from detector.report import draw


class Finder:
    """A detector that finds one box in every image."""

    classes = ClassMap(("cat",), (7,))

    def eval(self):
        return self

    def to(self, device):
        return self

    def predict(self, images, scales):
        box = torch.tensor([[10.0, 10, 40, 40]])
        return [TensorPrediction(box, torch.tensor([1]), torch.tensor([0.75])) for _ in images]


@pytest.fixture
def detect(tmp_path, monkeypatch):
    """Predicts on a source; gives what predictions.json holds and the pictures' names."""

    def config(keys, cfg):
        cfg.ckpt = None  # there is none
        found = resolve(keys, cfg)
        return replace(found, ckpt="x", data=replace(found.data, classes=["cat"]))

    monkeypatch.setattr("detector.predict.resolve", config)
    monkeypatch.setattr(build, "load_task", lambda *_: Finder())
    out = tmp_path / "out"

    def run(source, *overrides):
        typed = ["ckpt=x", f"source={source}", "score_threshold=0.5", "trainer.accelerator=cpu"]
        typed += ["data.batch_size=2", "trainer.precision='32'"]
        call(ask("predict", *typed, *overrides, out=out))
        return written(out)

    run.out = out
    return run


def written(out):
    """The file names in predictions.json, and the pictures' names."""
    names = [row["file_name"] for row in json.loads((out / "predictions.json").read_text())]
    with (out / "predictions.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(names)
    folder = out / "images"
    return names, sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def photo(file: Path):
    """A JPEG, whatever its name."""
    write_image(file.with_name("photo.jpg"), [])
    file.with_name("photo.jpg").rename(file)
    return file


@pytest.mark.parametrize("name", ["photo.jfif", "photo", "photo.heic", ".jpg", "photo.jpg.bak"])
def test_a_picture_that_cannot_be_written_in_its_own_format_is_a_jpeg(detect, tmp_path, name):
    assert detect(photo(tmp_path / name)) == ([name], [f"{name}.jpg"])
    picture = cv2.imread(str(detect.out / "images" / f"{name}.jpg"))
    assert picture.shape == (60, 80, 3)
    assert picture[10, 25].max() > 100  # the box


@pytest.mark.parametrize("name", ["a.JPG", "a.jpe", "a.png", "a.webp", "a.tiff", "a.bmp"])
def test_a_format_that_can_be_written_keeps_its_name(detect, tmp_path, name):
    assert detect(photo(tmp_path / name)) == ([name], [name])


def test_no_two_sources_have_one_picture(detect, tmp_path, monkeypatch):
    names = ["a.jfif", "a.jfif.jpg", "b/a.jfif.jpg", "b/a.jpg", "b/a.png"]
    files = []
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        files.append(photo(tmp_path / "in" / name))
    monkeypatch.setattr("detector.pipeline.load_data.source_files", lambda *_: files)
    pictures = sorted(["a.jfif.jpg.jpg", *names[1:]])
    assert detect(tmp_path / "in") == (names, pictures)


def test_a_name_that_is_too_long_with_a_suffix_more_is_a_number(detect, tmp_path):
    name = f"{'x' * 250}.jfif"
    assert detect(photo(tmp_path / name)) == ([name], ["1.jpg"])


def test_a_picture_that_its_format_cannot_hold_is_written_in_another(detect, tmp_path):
    wide = np.zeros((2, 20_000, 3), np.uint8)  # WebP ends at 16,383
    assert cv2.imwrite(str(tmp_path / "a.png"), wide)
    (tmp_path / "a.png").rename(tmp_path / "a.webp")
    assert detect(tmp_path / "a.webp") == (["a.webp"], ["a.webp.jpg"])


def test_a_name_that_is_not_utf_8_is_written(detect, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    file = photo(tmp_path / "in" / os.fsdecode(b"\xff.jfif"))
    monkeypatch.setattr("detector.pipeline.load_data.source_files", lambda *_: [file])
    detect(file.parent)
    (picture,) = (detect.out / "images").iterdir()
    assert os.fsencode(picture.name) == b"\xff.jfif.jpg"


def three(folder):
    for name in ("a", "b", "c"):
        write_image(folder / f"{name}.jpg", [])
    return folder


def test_one_picture_that_cannot_be_drawn_is_named_and_the_others_are(
    detect, tmp_path, monkeypatch, caplog
):
    source = three(tmp_path / "in")
    find = Finder.predict

    def vanish(self, images, scales):
        (source / "b.jpg").unlink(missing_ok=True)
        return find(self, images, scales)

    monkeypatch.setattr(Finder, "predict", vanish)
    names = ["a.jpg", "b.jpg", "c.jpg"]
    assert detect(source) == (names, ["a.jpg", "c.jpg"])
    assert f"not drawn: {source}/b.jpg: No such file or directory" in caplog.text


def test_one_picture_that_cannot_be_written_is_named(detect, tmp_path, caplog):
    (detect.out / "images/b.jpg").mkdir(parents=True)
    names, pictures = detect(three(tmp_path / "in"))
    assert names == ["a.jpg", "b.jpg", "c.jpg"]
    assert pictures == ["a.jpg", "c.jpg"]
    assert "in/b.jpg: Is a directory" in caplog.text


def test_work_without_a_single_picture_has_failed_but_keeps_detections(detect, tmp_path):
    (detect.out / "images/a.jpg").mkdir(parents=True)
    write_image(tmp_path / "a.jpg", [])
    with pytest.raises(WorkError, match=r"^no picture could be written: .*a\.jpg: Is a directory$"):
        detect(tmp_path / "a.jpg")
    assert written(detect.out) == (["a.jpg"], [])


def test_a_full_disk_ends_the_work_and_what_is_done_is_kept(detect, tmp_path, monkeypatch, caplog):
    write = Path.write_bytes

    def full(self, content):
        if not self.name.startswith("b.jpg"):
            return write(self, content)
        write(self, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        detect(three(tmp_path / "in"))
    assert raised.value.filename == str(detect.out / "images/b.jpg")
    assert written(detect.out) == (["a.jpg", "b.jpg"], ["a.jpg"])  # no half picture
    assert "ended after 2 of 3 images; their detections are kept" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_whatever_ends_the_work_what_is_done_is_kept(detect, tmp_path, monkeypatch, caplog, error):
    find = Finder.predict

    def fail(self, images, scales):
        if len(images) == 1:  # the second batch
            raise error
        return find(self, images, scales)

    monkeypatch.setattr(Finder, "predict", fail)
    with pytest.raises(error):
        detect(three(tmp_path / "in"))
    assert written(detect.out) == (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"])
    assert "ended after 2 of 3 images; their detections are kept" in caplog.text


def test_ctrl_c_while_results_are_written_loses_none(detect, tmp_path, monkeypatch):
    from detector import predict as module

    write = module.write_json

    def pressed(file, content):
        signal.raise_signal(signal.SIGINT)
        write(file, content)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(module, "write_json", pressed)
    try:
        with pytest.raises(KeyboardInterrupt):
            detect(three(tmp_path / "in"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert written(detect.out)[0] == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("source", ["images", "images/a.jpg", "images/new"])
def test_pictures_never_take_the_place_of_sources(detect, source):
    write_image(detect.out / "images/a.jpg", [])
    write_image(detect.out / "images/new/a.jpg", [])
    with pytest.raises(
        RequestError, match=r"^hydra\.run\.dir=.*/out: pictures would go to .*images"
    ):
        detect(detect.out / source)
    assert not (detect.out / "predictions.json").exists()


def test_a_file_that_cannot_be_written_keeps_the_systems_reason(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        draw.write_image(tmp_path / "no/a.png", np.zeros((4, 4, 3), np.uint8))
    assert raised.value.filename == str(tmp_path / "no/a.png")
    with pytest.raises(OSError, match="cannot hold this picture"):
        draw.write_image(tmp_path / "a.txt", np.zeros((4, 4, 3), np.uint8))
