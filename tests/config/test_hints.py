"""Words that people bring from other tools."""

import pytest

from detector.config.hints import check_words, flags_first, near_miss
from detector.core.errors import RequestError


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lr=0.1", "optim.lr=0.1"),
        ("learning_rate", "optim.lr"),
        ("epochs=3", "trainer.max_epochs=3"),
        ("max_epochs=3", "trainer.max_epochs=3"),
        ("conf=0.5", "model.score_threshold=0.5"),
        ("threshold=0.5", "model.score_threshold=0.5"),
        ("score", "model.score_threshold"),
        ("iou=0.5", "model.nms_threshold=0.5"),
        ("batch=8", "data.batch_size=8"),
        ("batch_size=8", "data.batch_size=8"),
        ("--batch-size=8", "data.batch_size=8"),
        ("imgsz=640", "data.image_size=640"),
        ("img_size=640", "data.image_size=640"),
        ("image_size=640", "data.image_size=640"),
        ("weights=a.pth", "model.weights=a.pth"),
        ("pretrained=true", "model.weights=imagenet"),
        ("pretrained=False", "model.weights=none"),
        ("device=cuda:0", "trainer.accelerator=gpu"),
        ("device=cpu", "trainer.accelerator=cpu"),
        ("devices=2", "trainer.devices=2"),
        ("gpus=2", "trainer.devices=2"),
        ("workers=2", "data.workers=2"),
        ("num_workers=2", "data.workers=2"),
        ("root=a", "data.root=a"),
        ("model=resnet18", "backbone=resnet18"),
        ("resume=a", "ckpt=a"),
        ("out_dir=a", "hydra.run.dir=a"),
        ("project=a", "name=a"),
        ("data.split.val=0.2", "data.auto_split.val=0.2"),
        ("/some/folder", "data.root=/some/folder"),
        ("/some/last.ckpt", "ckpt=/some/last.ckpt"),
        ("nonsense", None),
    ],
)
def test_a_word_from_another_tool_is_answered_with_our_key(word, meant):
    assert near_miss(word) == meant


@pytest.mark.parametrize(
    ("command", "word", "meant"),
    [
        ("predict", "conf=0.5", "score_threshold=0.5"),
        ("predict", "lr=3", None),
        ("evaluate", "epochs=3", None),
        ("predict", "iou=0.5", "model.nms_threshold=0.5"),
        ("predict", "weights=a.ckpt", "ckpt=a.ckpt"),
        ("predict", "model=a", "ckpt=a"),
        ("predict", "images=a", "source=a"),
        ("predict", "/some/folder", "source=/some/folder"),
        ("predict", "photo.jpg", "source=photo.jpg"),
        ("evaluate", "weights=a.ckpt", "ckpt=a.ckpt"),
        ("evaluate", "/some/found.json", "predictions=/some/found.json"),
        ("evaluate", "/some/run", "ckpt=/some/run"),
        ("check", "/some/folder", "data.root=/some/folder"),
    ],
)
def test_what_a_word_means_depends_on_the_command(command, word, meant):
    assert near_miss(word, command) == meant


def test_the_last_part_of_only_one_key_is_enough():
    known = ["optim.momentum", "a.name", "b.name"]
    assert near_miss("momentum=0.8", "train", known) == "optim.momentum=0.8"
    assert near_miss("val", "train", ["a.val", "b.val"]) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "3"], "--epochs=3: expected KEY=VALUE; did you mean trainer.max_epochs=3?"),
        (["--epochs=3"], "--epochs=3: expected KEY=VALUE; did you mean trainer.max_epochs=3?"),
        (["--lr", "--m"], "--lr: expected KEY=VALUE; did you mean optim.lr=VALUE?"),
        (["--optim.lr=1"], "--optim.lr=1: expected KEY=VALUE; did you mean optim.lr=1?"),
        (["--what"], "--what: expected KEY=VALUE; see python -m detector.train --help"),
        (["~optim"], "~optim: a key cannot be removed; expected KEY=VALUE, or KEY=null"),
        (["seed=1", "a/b"], "a/b: expected KEY=VALUE; did you mean data.root=a/b?"),
    ],
)
def test_words_that_are_no_key_and_value_are_refused(words, said):
    with pytest.raises(RequestError) as refusal:
        check_words("train", words)
    assert str(refusal.value) == said


def test_what_hydra_understands_is_left_to_it():
    check_words("train", ["-m", "--cfg", "job", "+experiment=voc", "optim.lr=1,2"])


def test_flags_may_stand_anywhere():
    words = ["seed=1,2", "-m", "~logger", "--cfg", "job", "--package=hydra", "name=a"]
    ordered = ["-m", "--cfg", "job", "--package=hydra", "seed=1,2", "~logger", "name=a"]
    assert flags_first(words) == ordered
