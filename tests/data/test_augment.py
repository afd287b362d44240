import numpy as np
import pytest

from detector.data.augment import Augmenter
from detector.types import RequestError

IMAGE = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
BOXES = np.array([[0, 0, 30, 20], [10, 5, 60, 40]], np.float32)
STRONG = [
    {"name": "D4", "p": 1.0},
    {"name": "Affine", "scale": [0.7, 1.3], "translate_percent": [-0.2, 0.2], "p": 1.0},
    {"name": "GaussNoise", "p": 1.0},
]


def test_the_same_key_gives_the_same_result_whatever_came_before():
    augment = Augmenter(STRONG, 32)
    first = augment(IMAGE, BOXES, (0, 3, 7))
    for other in range(5):
        augment(IMAGE, BOXES, (0, 3, other))
    again = Augmenter(STRONG, 32)(IMAGE, BOXES, (0, 3, 7))
    for a, b, c in zip(first, augment(IMAGE, BOXES, (0, 3, 7)), again, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)


@pytest.mark.parametrize("other", [(1, 3, 7), (0, 4, 7), (0, 3, 8)])
def test_seed_epoch_and_image_each_change_the_result(other):
    augment = Augmenter(STRONG, 32)
    first = augment(IMAGE, BOXES, (0, 3, 7))[0]
    second = augment(IMAGE, BOXES, other)[0]
    assert first.shape != second.shape or (first != second).any()


def test_boxes_are_mirrored_with_the_image():
    image, boxes, rows = Augmenter([{"name": "HorizontalFlip", "p": 1.0}], 60)(IMAGE, BOXES, (0,))
    assert np.array_equal(image, IMAGE[:, ::-1])
    assert boxes.tolist() == [[30, 0, 60, 20], [0, 5, 50, 40]]
    assert rows.tolist() == [0, 1]


@pytest.mark.parametrize("size", [30, 90])
def test_the_longer_side_becomes_the_image_size(size):
    image, boxes, _ = Augmenter([], size)(IMAGE, BOXES, (0,))
    assert image.shape == (size * 40 // 60, size, 3)
    np.testing.assert_allclose(boxes, BOXES * size / 60, rtol=1e-6)


def test_an_image_without_boxes_passes():
    _, boxes, rows = Augmenter(STRONG, 32)(IMAGE, np.zeros((0, 4), np.float32), (0,))
    assert boxes.shape == (0, 4)
    assert rows.shape == (0,)


def test_boxes_that_a_crop_leaves_too_little_of_are_removed_with_their_rows():
    crop = [{"name": "Crop", "x_min": 0, "y_min": 0, "x_max": 12, "y_max": 40}]
    _, boxes, rows = Augmenter(crop, 40, min_visibility=0.3)(IMAGE, BOXES, (0,))
    assert rows.tolist() == [0]  # 12 of 30 columns are left of the first, 2 of 50 of the second
    assert boxes.tolist() == [[0, 0, 12, 20]]


def test_boxes_that_resizing_shrinks_below_a_pixel_are_removed():
    sliver = np.array([[0, 0, 1, 40], [0, 0, 30, 20]], np.float32)
    _, _, rows = Augmenter([], 30)(IMAGE, sliver, (0,))
    assert rows.tolist() == [1]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"name": "HorizontalFlop"}, "'HorizontalFlop' is not a transform"),
        ({"name": "BboxParams"}, "'BboxParams' is not a transform"),
        ({"name": "os"}, "'os' is not a transform"),
        ({"p": 1.0}, "no name; expected"),
        ({"name": "HorizontalFlip", "probability": 1.0}, "HorizontalFlip: .*probability"),
        ({"name": "HorizontalFlip", "p": 7}, "HorizontalFlip"),
    ],
)
def test_a_step_that_is_not_a_transform_is_refused(step, said):
    with pytest.raises(RequestError, match=rf"augment\.steps\[0\]: .*{said}"):
        Augmenter([step], 32)
