import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import ask, prepare, write_image

from detector.core import memory
from detector.core.errors import RequestError
from detector.core.structures import AnnotatedImage, AnnotatedImages
from detector.data.images.pixels import read_resized
from detector.data.loading import image_cache
from detector.data.loading.augment import Augmenter
from detector.data.loading.datamodule import DetectionDataModule
from detector.data.loading.dataset import DetectionDataset
from detector.data.loading.image_cache import DiskCache, RamCache, make_image_loaders
from detector.data.loading.sampler import SampleKey
from detector.data.options import AugmentOptions, DataOptions

SHAPES = [(60, 80), (80, 60), (50, 50), (61, 97)]
STEPS = [{"name": "HorizontalFlip", "p": 0.5}, {"name": "GaussNoise", "p": 1.0}]


@pytest.fixture
def images(tmp_path):
    """Four JPEGs; the annotation of the third does not say its size."""
    found = []
    for i, (height, width) in enumerate(SHAPES):
        write_image(tmp_path / f"{i}.jpg", [], height=height, width=width)
        boxes, labels = np.float32([[5, 5, 30, 40]]), np.array([1])
        size = (0, 0) if i == 2 else (height, width)
        found.append(AnnotatedImage(tmp_path / f"{i}.jpg", size, boxes, labels, labels > 1))
    return AnnotatedImages.pack(found)


def module(splits, folder=None, processes=1, **more):
    options = DataOptions(**{"image_size": 48, "batch_size": 2, "workers": 0, **more})
    augment = AugmentOptions(steps=STEPS)
    return DetectionDataModule(splits, options, augment, processes=processes, cache=folder)


def content(loader):
    return [
        (image.clone(), target.boxes, target.image_id, target.scale)
        for batch in loader
        for image, target in zip(*batch, strict=True)
    ]


def refuse(*_, **__):
    raise AssertionError("decoded again")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("training", [True, False])
def test_batches_are_the_same_bits_with_and_without_a_cache(
    tmp_path, images, kind, workers, training
):
    splits = {"train": images, "val": images, "test": images}
    expected = module(splits).loader("val", training=training)
    data = module(splits, cache=kind, folder=tmp_path / "kept", workers=workers)
    loader = data.loader("val", training=training)
    for epoch in range(2):  # filled in the first, used in the second
        expected.sampler.set_epoch(epoch)
        loader.sampler.set_epoch(epoch)
        for one, other in zip(content(expected), content(loader), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_an_image_is_decoded_once_whichever_process_did_it(tmp_path, images, monkeypatch, kind):
    data = module({"train": images}, cache=kind, folder=tmp_path / "kept", workers=2)
    filled = content(data.loader("train", training=False))  # in the workers
    monkeypatch.setattr(image_cache, "read_resized", refuse)
    monkeypatch.setattr(cv2, "imdecode", refuse)
    for index, (image, *_) in enumerate(filled):
        found = data.image_loaders["train"](index, images[index].path)
        assert np.array_equal(found.image, image.permute(1, 2, 0))
        assert (found.height, found.width) == SHAPES[index]


def test_what_becomes_of_an_image_does_not_reach_the_memory(images):
    kept = RamCache(images, 48)
    path = images[0].path
    for _ in range(3):
        found = kept(0, path).image
        assert np.array_equal(found, read_resized(path, 48).image)
        found[:] = 0


def test_the_test_split_is_not_kept_in_memory(images):
    loaders = make_image_loaders({"train": images, "val": images, "test": images}, 48, "ram")
    assert [isinstance(load, RamCache) for load in loaders.values()] == [
        True,
        True,
        False,
    ]


def test_the_memory_needed_is_said_and_too_much_is_refused_before_anything_is_loaded(
    images, tmp_path, monkeypatch, caplog
):
    shapes = [(36, 48), (48, 36), (48, 48), (30, 48)]
    needed = sum(height * width * 3 for height, width in shapes)
    assert RamCache(images, 48).bytes == needed
    monkeypatch.setattr(image_cache, "read_resized", refuse)
    splits = {"train": images, "val": images}
    machine = SimpleNamespace(available=4 * needed)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "nowhere")
    with caplog.at_level(logging.INFO):
        make_image_loaders(splits, 48, "ram", processes=2)
    (said,) = caplog.messages
    assert said.startswith("data.cache=ram: 8 images in each of 2 processes take 0.0 GB")
    machine.available -= 1
    with pytest.raises(RequestError, match=r"data\.cache=ram: 8 images .* are free; use"):
        module(splits, cache="ram", processes=2)
    module(splits, cache="ram")


@pytest.mark.parametrize(("limit", "fits"), [("28000", True), ("20000", False), ("max", True)])
def test_what_the_container_leaves_counts_too(tmp_path, images, monkeypatch, limit, fits):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("9000\n")
    (tmp_path / "memory.stat").write_text("anon 6000\nactive_file 2000\ninactive_file 1000\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert RamCache(images, 48).bytes == 21_600  # and 22000 or 14000 are free
    if fits:
        make_image_loaders({"train": images}, 48, "ram")
    else:
        with pytest.raises(RequestError, match=r"data\.cache=ram"):
            make_image_loaders({"train": images}, 48, "ram")


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_an_image_that_contradicts_its_annotation_is_named_from_a_cache_too(tmp_path, images, kind):
    write_image(images[0].path, [], height=80, width=60)
    (load_image,) = make_image_loaders({"train": images}, 40, kind, tmp_path / "kept").values()
    data = DetectionDataset(images, Augmenter([], 40), training=True, seed=0, load_image=load_image)
    for _ in range(2):
        with pytest.raises(RequestError, match=r"0\.jpg: the image is 60x80 .* says 80x60"):
            data[SampleKey(0, 0)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:9],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:4] + bytes([content[4] ^ 1]) + content[5:],
    ],
    ids=["empty", "short", "no head", "a pixel", "the size"],
)
def test_a_damaged_entry_is_made_anew(tmp_path, images, damage):
    kept = DiskCache(tmp_path / "kept", 48)
    expected = kept(0, images[0].path)
    (file,) = (tmp_path / "kept").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    again = kept(0, images[0].path)
    assert np.array_equal(again.image, expected.image)
    assert again[1:] == expected[1:]
    assert file.read_bytes() == whole
    assert list((tmp_path / "kept").iterdir()) == [file]


def test_a_file_with_new_content_is_not_found_under_its_old_one(tmp_path, images):
    kept = DiskCache(tmp_path / "kept", 48)
    kept(0, images[0].path)
    write_image(images[0].path, [("square", (1, 1, 40, 40))])
    fresh = kept(0, images[0].path).image
    assert np.array_equal(fresh, read_resized(images[0].path, 48).image)
    assert DiskCache(tmp_path / "kept", 32)(0, images[0].path).image.shape == (24, 32, 3)
    assert len(list((tmp_path / "kept").iterdir())) == 3  # beside each other


def test_a_disk_that_is_full_is_said_once_and_loading_goes_on(
    tmp_path, images, monkeypatch, caplog
):
    kept = DiskCache(tmp_path / "kept", 48)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_cache.Path, "replace", full)
    for i in range(2):
        expected = read_resized(images[i].path, 48).image
        assert np.array_equal(kept(i, images[i].path).image, expected)
    (said,) = caplog.messages
    assert "No space left on device" in said
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, images):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"data\.cache=disk: .*file/kept: Not a directory"):
        make_image_loaders({"train": images}, 48, "disk", tmp_path / "file" / "kept")
    with pytest.raises(RequestError, match=r"data\.cache=disk needs a folder"):
        make_image_loaders({"train": images}, 48, "disk")


def test_memory_that_the_system_does_not_give_is_refused(images, monkeypatch):
    def refused(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(image_cache.mmap, "mmap", refused)
    with pytest.raises(RequestError, match=r"^data\.cache=ram: the system gives no 0\.0 GB"):
        make_image_loaders({"train": images}, 48, "ram")


def test_a_request_whose_images_cannot_be_kept_is_refused(tmp_path, voc_root, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path / "file"))
    typed = [f"data.root={voc_root}", "model.weights=none", "data.cache=disk"]
    with pytest.raises(RequestError, match=r"data\.cache=disk: .*file/images: Not a directory"):
        prepare(ask("train", *typed))
