from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import write_image
from lightning.fabric.utilities.data import _set_sampler_epoch
from torch.utils.data import DataLoader

from detector.core.structures import AnnotatedImage, AnnotatedImages
from detector.data.loading.datamodule import DetectionDataModule
from detector.data.options import AugmentOptions, DataOptions

# More workers than this machine may have cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def images(tmp_path):
    """Eleven images of three shapes; class 2 is rare."""
    found = []
    for i in range(11):
        height, width = ((60, 80), (80, 60), (50, 50))[i % 3]
        write_image(tmp_path / f"{i}.png", [], height=height, width=width)
        boxes = np.float32([[5, 5, 30, 40], [10, 20, 40, 45]])
        labels = np.array([1, 2 if i == 4 else 1])
        found.append(
            AnnotatedImage(tmp_path / f"{i}.png", (height, width), boxes, labels, labels > 2)
        )
    return AnnotatedImages.pack(found)


def loader(images, rank=0, world=1, **more):
    options = DataOptions(**{"image_size": 48, "batch_size": 2, "workers": 0, **more})
    steps = [{"name": "D4", "p": 1.0}, {"name": "GaussNoise", "p": 1.0}]
    data = DetectionDataModule({"train": images}, options, AugmentOptions(steps=steps))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
    return data.train_dataloader()


def content(batches):
    """A batch as a list of all its numbers."""
    return [
        [
            tuple(v.tolist() for v in (image, target.boxes, target.labels, target.image_id))
            for image, target in zip(*batch, strict=True)
        ]
        for batch in batches
    ]


def epochs(loader, *numbers):
    found = []
    for number in numbers:
        _set_sampler_epoch(loader, number)  # as Lightning does
        found.append(content(loader))
    return found


def test_batches_are_the_same_for_any_number_of_workers(images):
    alone = epochs(loader(images, repeat_threshold=0.5), 0, 1)
    assert [len(batch) for batch in alone[0]] == [2] * 6  # the rare image comes twice or so
    for workers in (1, 4):
        assert epochs(loader(images, repeat_threshold=0.5, workers=workers), 0, 1) == alone


def test_two_processes_see_together_what_one_sees_with_twice_the_batch(images):
    (alone,) = epochs(loader(images, batch_size=4), 3)
    (left,), (right,) = (epochs(loader(images, rank=rank, world=2), 3) for rank in (0, 1))
    for batch, a, b in zip(alone, left, right, strict=True):
        assert (a + b)[: len(batch)] == batch


def test_a_run_that_is_resumed_sees_what_the_running_one_sees(images):
    *_, expected = epochs(loader(images), 0, 1, 2)
    assert epochs(loader(images), 2) == [expected]


def test_an_image_is_augmented_anew_in_every_epoch_and_at_every_repeat(images):
    first, second = epochs(loader(images, repeat_threshold=0.5), 0, 1)
    rare = [sample for batch in (*first, *second) for sample in batch if sample[3] == 4]
    assert len(rare) >= 4
    pixels = [str(sample[0]) for sample in rare]
    assert len(set(pixels)) == len(pixels)


def test_batches_hold_like_shapes_in_training_unless_they_are_not_asked_to(images):
    def mixed(**more):
        found = loader(images.subset(range(10)), **more)
        _set_sampler_epoch(found, 1)
        draws = [d.image % 3 for d in found.sampler]
        return sum(a != b for a, b in zip(draws[::2], draws[1::2], strict=True))

    assert mixed() <= 2
    assert mixed(group_by_aspect=False) > 2


def test_images_are_uint8_until_the_model_scales_them(images):
    batch, _ = next(iter(loader(images)))
    assert {image.dtype for image in batch} == {torch.uint8}
    assert {max(image.shape[1:]) for image in batch} == {48}


class Threads:
    """Tells how many threads the process that asks has."""

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return torch.get_num_threads(), cv2.getNumThreads()


def test_a_worker_has_one_thread(images):
    options = loader(images, workers=1)
    cv2.setNumThreads(2)
    try:
        (found,) = DataLoader(Threads(), num_workers=1, worker_init_fn=options.worker_init_fn)
    finally:
        cv2.setNumThreads(-1)
    assert [int(value) for value in found] == [1, 1]
