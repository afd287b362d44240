"""`model.in_channels` through every verb, on tiny data in grey and with a fourth band."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY, ask, call, data_of, in_force, prepare, three_splits, write_voc

from detector.core.errors import RequestError
from detector.pipeline import build, load_data

ONE_EPOCH = (
    "finetune.phases=[{name: all, train: [stem, layer1, layer2, layer3, layer4, neck, head],"
    "until: {max_epochs: 1}}]"
)


def add_band(file):
    """Give an image a fourth band: where it is bright."""
    image = cv2.imread(str(file))
    assert cv2.imwrite(str(file), np.dstack((image, image.max(2))))


@pytest.fixture(scope="module", params=[1, 4])
def run(request, shared):
    """A finished run with so many channels: its number, its data, its folder."""
    channels = request.param

    def fill(folder):
        root = write_voc(folder / "voc", three_splits(), suffix=".png")
        if channels == 4:
            for file in (root / "JPEGImages").iterdir():
                add_band(file)
        keys = [*TINY, f"data.root={root}", f"model.in_channels={channels}", ONE_EPOCH]
        call(ask("train", *keys, "augment=standard", "data.cache=disk", out=folder / "out"))

    folder = shared(f"channels{channels}", fill)
    return channels, folder / "voc", folder / "out"


def test_the_first_kernels_are_over_the_channels_and_were_trained(run):
    channels, _, out = run
    config = in_force(ask("evaluate", f"ckpt={out}"))
    task = build.load_task(config)
    first = task.network.backbone.body.conv_stem
    assert first.weight.shape[1] == first.in_channels == channels
    fresh = build.build_task(config, task.classes)
    before = fresh.network.backbone.body.conv_stem.weight
    assert ((first.weight != before).flatten(2).any(2)).all()  # every channel's


def test_evaluation_gives_the_runs_figures_again_and_a_picture(run, tmp_path):
    _, _, out = run
    call(ask("evaluate", f"ckpt={out}", out=tmp_path))
    ours, theirs = (json.loads((f / "metrics.json").read_text()) for f in (tmp_path, out))
    assert ours["coco"] == theirs["coco"]
    assert cv2.imread(str(tmp_path / "detections.png")).ndim == 3


def test_prediction_finds_what_the_loaders_images_give(run, tmp_path):
    channels, root, out = run
    keys = [f"ckpt={out}", f"source={root / 'JPEGImages'}", "score_threshold=0"]
    call(ask("predict", *keys, out=tmp_path))
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["file_name"] == "test0.png"]
    assert rows
    config = in_force(ask("evaluate", f"ckpt={out}"))
    data = build.build_datamodule(config, data_of(config, "test").splits)
    images, targets = next(iter(data.loader("test", training=False)))
    assert images[0].shape == (channels, 72, 96)
    task = build.load_task(config).eval()
    with torch.inference_mode():
        found = task.predict(images[:1], [targets[0].scale])[0]
    scores = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(scores, found.scores, atol=1e-4)
    assert cv2.imread(str(tmp_path / "images/test0.png"), cv2.IMREAD_UNCHANGED).shape[2] == 3


def test_the_check_shows_the_pictures_and_what_the_network_gets(run, tmp_path):
    channels, root, _ = run
    keys = [*TINY, f"data.root={root}", f"model.in_channels={channels}", "preview=true"]
    content = call(ask("check", *keys, out=tmp_path))
    assert content["summary"]["errors"] == 0
    assert content["model"]["lost"]["boxes"] > 0
    assert (tmp_path / "preview.png").is_file()


def test_a_checkpoint_knows_its_channels_and_takes_no_others(run):
    channels, _, out = run
    for verb in ("train", "evaluate"):
        with pytest.raises(
            RequestError, match=rf"model\.in_channels=3: .* was trained with {channels}"
        ):
            in_force(ask(verb, f"ckpt={out}", "model.in_channels=3"))


@pytest.mark.parametrize("value", [0, 2, 5, -1])
def test_channels_that_cannot_be_had_are_refused(value):
    with pytest.raises(RequestError, match=rf"model\.in_channels={value}: expected 1 \(grey\), 3"):
        in_force(ask("train", f"model.in_channels={value}"))


def test_files_without_the_fourth_band_are_refused_before_a_run(voc_root):
    cfg = ask("train", *TINY, f"data.root={voc_root}", "model.in_channels=4")
    with pytest.raises(RequestError) as caught:
        prepare(cfg)
    said = str(caught.value)
    assert ".jpg: 3 bands, but model.in_channels=4 needs 4" in said
    assert f"data.root={voc_root} model.in_channels=4 shows everything" in said
    assert "\n" not in said


@pytest.mark.parametrize("verb", ["train", "check"])
def test_a_step_without_meaning_is_refused_before_a_run(voc_root, verb):
    keys = [*TINY, f"data.root={voc_root}", "model.in_channels=1"]
    cfg = ask(verb, *keys, "augment.steps=[{name: RandomFog, p: 0.1}]")
    with pytest.raises(RequestError, match=r"augment\.steps\[0\]: RandomFog .*in_channels=1"):
        prepare(cfg)


def test_a_source_without_the_fourth_band_is_refused_before_a_run(voc_root):
    source = voc_root / "JPEGImages"
    with pytest.raises(RequestError, match=r"source=.*: 3 bands, .* \(and 10 more files\)"):
        load_data.source_files(str(source), 4)
    (source / "train0.jpg").unlink()
    assert len(load_data.source_files(str(source), 1)) == 10
    assert cv2.imwrite(str(source / "zebra.png"), np.zeros((5, 5, 4), np.uint8))
    assert len(load_data.source_files(str(source), 4)) == 11  # the others are named on their turn
