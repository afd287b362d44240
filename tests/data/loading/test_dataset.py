import numpy as np
import pytest
import torch
from conftest import write_image

from detector.core.errors import RequestError, WorkError
from detector.core.structures import AnnotatedImage, AnnotatedImages, Target
from detector.data.loading.augment import Augmenter
from detector.data.loading.dataset import DetectionDataset, collate, pack, unpack
from detector.data.loading.sampler import SampleKey

BOXES = [[0, 0, 20, 30], [40, 20, 80, 60]]


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, [])
    boxes = np.array(BOXES, np.float32)
    one = AnnotatedImage(path, (60, 80), boxes, np.array([2, 1]), np.array([True, False]))
    return AnnotatedImages.pack([one])


def dataset(images, training, size=40):
    return DetectionDataset(images, Augmenter([], size), training=training, seed=0)


def test_training_targets_follow_the_image_and_leave_out_what_is_ignored(images):
    image, target = dataset(images, training=True)[SampleKey(0, 0)]
    assert image.shape == (3, 30, 40)
    assert str(image.dtype) == "torch.uint8"
    assert target.boxes.tolist() == [[20, 10, 40, 30]]
    assert target.labels.tolist() == [1]


def test_evaluation_targets_are_the_files_own(images):
    image, target = dataset(images, training=False)[SampleKey(0, 0)]
    assert image.shape == (3, 30, 40)
    assert target.boxes.tolist() == BOXES
    assert target.labels.tolist() == [2, 1]
    assert target.ignore.tolist() == [True, False]
    assert target.scale.tolist() == [0.5, 0.5]


def test_the_scale_is_exact_for_each_axis(images):
    image, target = dataset(images, training=False, size=33)[SampleKey(0, 0)]
    assert target.scale.tolist() == pytest.approx([33 / 80, image.shape[1] / 60])


def test_an_image_that_contradicts_its_annotation_is_named(images):
    write_image(images[0].path, [], height=80, width=60)
    with pytest.raises(RequestError, match=r"a\.png: the image is 60x80 .* says 80x60"):
        dataset(images, training=True)[SampleKey(0, 0)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(24, "Too many open files"), r"a\.png: .*Too many open files"),
        (MemoryError(), r"a\.png: not enough memory"),
    ],
)
def test_an_image_for_which_the_machine_lacks_something_is_named(images, error, said):
    data = dataset(images, training=False)

    def lacking(index, path):
        raise error

    data.load_image = lacking
    with pytest.raises(WorkError, match=said):
        data[SampleKey(0, 0)]


def test_a_batch_without_room_in_shared_memory_is_an_error_of_its_own(images, monkeypatch):
    def full(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>")

    sample = dataset(images, training=False)[SampleKey(0, 0)]
    assert all(tensor.is_shared() for tensor in pack([sample]))
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(
        WorkError, match=r"^no room for a batch of 0.003 MB in /dev/shm, which has .*MB"
    ):
        pack([sample])


def test_a_packed_batch_comes_back_to_the_bit():
    draw = torch.Generator().manual_seed(0)
    samples = []
    for index, (height, width, count) in enumerate([(5, 7, 3), (4, 4, 0), (1, 9, 2)]):
        pixels = torch.randint(0, 256, (height, width, 3), generator=draw, dtype=torch.uint8)
        target = Target(
            torch.rand(count, 4, generator=draw) * 1e4,
            torch.randint(1, 90, (count,), generator=draw),
            torch.rand(count, generator=draw) > 0.5,
            torch.tensor(10**9 + index),
            torch.rand(2, generator=draw),
        )
        samples.append((pixels.permute(2, 0, 1), target))
    expected, found = collate(samples), unpack(pack(samples))
    for a, b in zip(expected[0], found[0], strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    for a, b in zip(expected[1], found[1], strict=True):
        for name, value in vars(a).items():
            assert torch.equal(value, getattr(b, name)), name
            assert value.dtype == getattr(b, name).dtype
            assert value.shape == getattr(b, name).shape
