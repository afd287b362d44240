import numpy as np
import torch
from conftest import random_split, write_voc

from detector.data.datamodule import DetectionDataModule, LoaderOptions
from detector.data.voc import read_voc


def batches(splits, workers, epoch=0):
    options = LoaderOptions(
        image_size=48,
        batch_size=2,
        workers=workers,
        steps=[{"name": "D4", "p": 1.0}, {"name": "GaussNoise", "p": 1.0}],
        min_visibility=0.0,
        seed=0,
    )
    loader = DetectionDataModule(splits, options).train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_batches_are_the_same_for_any_number_of_workers(tmp_path):
    root = write_voc(tmp_path, {"train": random_split("a", 5)})
    splits, _ = read_voc(root, {"train": ["train"]})
    alone, helped = batches(splits, 0), batches(splits, 2)
    assert [len(images) for images, _ in alone] == [2, 2, 1]
    for (images, targets), (images_2, targets_2) in zip(alone, helped, strict=True):
        for a, b in zip(images, images_2, strict=True):
            assert torch.equal(a, b)
        for a, b in zip(targets, targets_2, strict=True):
            assert torch.equal(a.boxes, b.boxes)
            assert torch.equal(a.labels, b.labels)
            assert torch.equal(a.image_id, b.image_id)


def test_an_image_is_augmented_anew_in_every_epoch(tmp_path):
    root = write_voc(tmp_path, {"train": random_split("a", 1)})
    splits, _ = read_voc(root, {"train": ["train"]})
    ((first, _),), ((second, _),) = batches(splits, 0, epoch=0), batches(splits, 0, epoch=1)
    assert first[0].shape != second[0].shape or not np.array_equal(first[0], second[0])
