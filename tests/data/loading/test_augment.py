from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from detector.core.errors import RequestError
from detector.data.loading.augment import Augmenter

IMAGE = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
BOXES = np.array([[0, 0, 30, 20], [10, 5, 60, 40]], np.float32)
SHIPPED = sorted((Path(__file__).parents[3] / "conf" / "augment").glob("*.yaml"))
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


def test_steps_are_drawn_independently_of_each_other():
    steps = [{"name": "HorizontalFlip", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5}]
    augment = Augmenter(steps, 60)
    image = np.zeros_like(IMAGE)
    image[0, 0] = 255
    places = [
        tuple(np.argwhere(augment(image, BOXES, (0, key))[0][..., 0])[0].tolist())
        for key in range(200)
    ]
    counts = {place: places.count(place) for place in places}
    assert set(counts) == {(0, 0), (0, 59), (39, 0), (39, 59)}
    assert min(counts.values()) > 25  # 50 each are expected


def test_what_is_left_of_a_box_counts_over_all_steps_together():
    crops = [
        {"name": "Crop", "x_min": 0, "y_min": 0, "x_max": 18, "y_max": 40},  # 18 of 30 columns
        {"name": "Crop", "x_min": 0, "y_min": 0, "x_max": 10, "y_max": 40},  # 10 of those 18
    ]
    rows = [Augmenter(crops, 40, least)(IMAGE, BOXES[:1], (0,))[2].tolist() for least in (0.3, 0.5)]
    assert rows == [[0], []]


def test_a_crop_is_brought_back_to_the_image_size_with_its_boxes():
    crop = [{"name": "Crop", "x_min": 0, "y_min": 0, "x_max": 30, "y_max": 20}]
    image, boxes, _ = Augmenter(crop, 60)(IMAGE, np.float32([[3, 4, 9, 10]]), (0,))
    assert image.shape == (40, 60, 3)
    assert boxes.tolist() == [[6, 8, 18, 20]]


def test_boxes_that_reach_over_the_edge_are_cut_there():
    boxes = np.array([[-5, -5, 30, 20], [50, 30, 70, 50], [70, 5, 90, 20]], np.float32)
    _, boxes, rows = Augmenter([], 60)(IMAGE, boxes, (0,))
    assert boxes.tolist() == [[0, 0, 30, 20], [50, 30, 60, 40]]
    assert rows.tolist() == [0, 1]


def test_a_box_outside_the_image_does_not_come_back_when_its_edge_is_turned():
    turn = [{"name": "Affine", "rotate": [30, 30], "p": 1.0}]
    _, boxes, _ = Augmenter(turn, 60)(IMAGE, np.float32([[-30, 5, -5, 35]]), (0,))
    assert boxes.tolist() == []


def random_scene(seed):
    """A picture of any shape and boxes of any size, some over the edge, some a pixel thin."""
    rng = np.random.default_rng(seed)
    longer, shorter = 96, int(rng.integers(24, 97))
    height, width = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)
    centres = rng.random((rng.integers(0, 12), 2)) * (width, height)
    sides = np.exp(rng.uniform(0, np.log(shorter), centres.shape)) / 2
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, np.concatenate([centres - sides, centres + sides], 1).astype(np.float32)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_what_is_shipped_gives_valid_boxes_that_are_a_function_of_the_key(file):
    chosen = yaml.safe_load(file.read_text())
    augment = Augmenter(chosen["steps"], 96, chosen["min_visibility"])
    left = 0
    for seed in range(60):
        image, boxes = random_scene(seed)
        before = image.copy(), boxes.copy()
        found = augment(image, boxes, (0, 1, seed))
        changed, moved, rows = found
        height, width = changed.shape[:2]
        assert max(height, width) == 96
        assert changed.dtype == np.uint8
        assert moved.dtype == np.float32
        assert np.isfinite(moved).all()
        assert (moved >= 0).all()
        assert (moved <= [width, height, width, height]).all()
        assert (moved[:, 2:] - moved[:, :2] >= 1).all()
        assert len(set(rows.tolist())) == len(rows) == len(moved)
        assert set(rows.tolist()) <= set(range(len(boxes)))
        assert np.array_equal(image, before[0])
        assert np.array_equal(boxes, before[1])
        for a, b in zip(found, augment(image, boxes, (0, 1, seed)), strict=True):
            assert np.array_equal(a, b)
        left += len(rows)
    assert left > 100


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_boxes_stay_on_what_they_are_around(file):
    steps = yaml.safe_load(file.read_text())["steps"]
    colour = {"ToGray", "GaussNoise", "HueSaturationValue", "ColorJitter"}
    moves = [{**s, "p": 1.0} for s in steps if s["name"] not in colour]
    for seed in range(40):
        image = np.zeros((72, 96, 3), np.uint8)
        cv2.ellipse(image, (40, 30), (18, 12), 0, 0, 360, (255, 255, 255), -1)
        image[..., 1:] = 0  # red: what fills the surroundings is black or grey
        box = np.array([[22, 18, 59, 43]], np.float32)
        image, boxes, _ = Augmenter(moves, 96)(image, box, (0, seed))
        seen = np.argwhere(image[..., 0].astype(int) - image[..., 1] > 60)
        if not len(boxes) or not len(seen):
            continue
        (y1, x1), (y2, x2) = seen.min(0), seen.max(0) + 1
        overlap = np.prod(np.minimum([x2, y2], boxes[0, 2:]) - np.maximum([x1, y1], boxes[0, :2]))
        union = (x2 - x1) * (y2 - y1) + np.prod(boxes[0, 2:] - boxes[0, :2]) - overlap
        assert overlap / union > 0.7


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            {"name": "RandomCrop", "height": 50, "width": 50},
            "RandomCrop on an image of 60x40: .*50",
        ),
        ({"name": "Normalize"}, "Normalize on .* float32; only the model"),
        ({"name": "Mosaic", "p": 1.0}, "Mosaic on an image of 60x40"),
    ],
)
def test_a_step_that_fails_on_an_image_is_named(step, said):
    with pytest.raises(RequestError, match=rf"augment\.steps: {said}"):
        Augmenter([step], 60)(IMAGE, BOXES, (0,))


def of_channels(count):
    return np.random.default_rng(count).integers(0, 256, (40, 60, count), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_what_is_shipped_works_with_other_channels(file, channels):
    steps = [{**step, "p": 1.0} for step in yaml.safe_load(file.read_text())["steps"]]
    augment = Augmenter(steps, 60, channels=channels)
    for key in range(10):
        image, boxes, _ = augment(of_channels(channels), BOXES, (0, 0, key))
        assert image.shape[2] == channels
        assert max(image.shape[:2]) == 60
        assert np.isfinite(boxes).all()


def test_a_step_that_knows_of_colours_alone_leaves_the_fourth_band_as_it_is():
    steps = [{"name": "ToGray", "p": 1.0}]
    image = of_channels(4)
    changed = Augmenter(steps, 60, channels=4)(image, BOXES, (0,))[0]
    assert np.array_equal(changed[..., :3], Augmenter(steps, 60)(image[..., :3], BOXES, (0,))[0])
    assert np.array_equal(changed[..., 3], image[..., 3])


def test_a_step_that_moves_things_moves_the_fourth_band_with_them():
    steps = [{"name": "HorizontalFlip", "p": 1.0}, {"name": "ToGray", "p": 1.0}]
    image = of_channels(4)
    changed = Augmenter(steps, 60, channels=4)(image, BOXES, (0,))[0]
    assert np.array_equal(changed[..., 3], image[:, ::-1, 3])


@pytest.mark.parametrize("name", ["ToGray", "HueSaturationValue"])
def test_a_step_that_changes_colours_leaves_grey_as_it_is_and_says_nothing(name):
    step = {"name": name, "p": 1.0}
    if name == "HueSaturationValue":
        step["val_shift_limit"] = 0
    image = of_channels(1)
    assert np.array_equal(Augmenter([step], 60, channels=1)(image, BOXES, (0,))[0], image)


@pytest.mark.parametrize("name", ["RandomRain", "ChannelDropout", "ToRGB"])
def test_a_step_without_meaning_for_grey_is_refused_before_any_image(name):
    steps = [{"name": "HorizontalFlip"}, {"name": name, "p": 0.01}]
    said = rf"augment\.steps\[1\]: {name} has no meaning for model\.in_channels=1: \S"
    with pytest.raises(RequestError, match=said) as caught:
        Augmenter(steps, 60, channels=1)
    assert "\n" not in str(caught.value)
    assert "on an image" not in str(caught.value)


def test_a_step_that_fails_on_any_channels_is_said_of_the_image_as_ever():
    steps = [{"name": "RandomCrop", "height": 100, "width": 100}]
    augment = Augmenter(steps, 60, channels=1)
    with pytest.raises(RequestError, match=r"augment\.steps: RandomCrop on an image of 60x40"):
        augment(of_channels(1), BOXES, (0,))


def test_a_step_that_gives_another_number_of_channels_is_named():
    step = {"name": "ToGray", "num_output_channels": 1, "p": 1.0}
    with pytest.raises(RequestError, match=r"ToGray on an image of 60x40: .*number of ch"):
        Augmenter([step], 60)(IMAGE, BOXES, (0,))
