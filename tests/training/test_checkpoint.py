"""What a checkpoint records beside the weights: the images that it was trained on."""

import hashlib
from dataclasses import replace

import cv2
import imagehash
import numpy as np
import pytest
import torch
from conftest import TINY, read_set, three_splits, write_voc
from PIL import Image

from detector.cli import compose
from detector.config.resolve import resolve
from detector.pipeline import leakage
from detector.train import KEYS, record_images
from detector.training.checkpoint import (
    Fingerprint,
    load_checkpoint,
    pack_fingerprints,
    read_trained_on,
)


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
    seen, none = leakage.seen_in_training(test, "test", [record, []])
    assert seen == ({"JPEGImages/test9.jpg"}, {"JPEGImages/test0.jpg"})
    assert none == (set(), set())
    assert leakage.seen_in_training(test, "test", [[]]) == [(set(), set())]
    leakage.note_seen(test, "test", seen, "ckpt=a was trained on")
    same, near = test.issues.of("leakage")
    assert (same.kind, near.kind) == ("seen in training", "like a training image")
    assert str(same.items[0]) == "JPEGImages/test9.jpg: ckpt=a was trained on it"
    assert str(near.items[0]) == "JPEGImages/test0.jpg: ckpt=a was trained on a picture like it"


def test_a_training_records_its_images_and_those_of_its_first_weights(tmp_path, data):
    images = tmp_path / "voc" / "JPEGImages"
    earlier = [picture(images / "test0.jpg"), Fingerprint(f"{7:032x}", "")]
    weights = save_record(tmp_path / "first.ckpt", earlier)
    config = resolve(KEYS, compose("train", [*TINY, f"data.root={data.root}"]), resume=True)
    config = replace(config, model=replace(config.model, weights=str(weights)))
    record = record_images(config, data, None)
    own = {picture(data.root / file) for file in data.files()["train"]}
    torch.save({"detector": {"trained_on": record}}, tmp_path / "second.ckpt")
    assert set(read_trained_on(tmp_path / "second.ckpt")) == own | set(earlier)
    record_images(config, data, tmp_path / "second.ckpt")  # images of this run's own are no news
    (leak,) = data.issues.of("leakage")
    assert [item.file for item in leak.items] == ["JPEGImages/test0.jpg"] * 2


def test_a_checkpoint_is_read_again_where_its_file_was_replaced(tmp_path):
    file, draft = tmp_path / "last.ckpt", tmp_path / "draft"
    for epoch in (1, 2):
        torch.save({"epoch": epoch}, draft)
        draft.replace(file)
        assert load_checkpoint(file).pop("epoch") == epoch
        assert load_checkpoint(file) == {"epoch": epoch}  # what was popped was the caller's own
