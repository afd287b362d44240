import cv2
import numpy as np
import pytest
from conftest import write_image
from PIL import Image

from detector.data.augment import Augmenter
from detector.data.dataset import DetectionDataset, read_image
from detector.data.sampler import Draw
from detector.types import AnnotatedImage, AnnotatedImages, RequestError

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
    image, target = dataset(images, training=True)[Draw(0, 0)]
    assert image.shape == (3, 30, 40)
    assert str(image.dtype) == "torch.uint8"
    assert target.boxes.tolist() == [[20, 10, 40, 30]]
    assert target.labels.tolist() == [1]


def test_evaluation_targets_are_the_files_own(images):
    image, target = dataset(images, training=False)[Draw(0, 0)]
    assert image.shape == (3, 30, 40)
    assert target.boxes.tolist() == BOXES
    assert target.labels.tolist() == [2, 1]
    assert target.ignore.tolist() == [True, False]
    assert target.scale.tolist() == [0.5, 0.5]


def test_the_scale_is_exact_for_each_axis(images):
    image, target = dataset(images, training=False, size=33)[Draw(0, 0)]
    assert target.scale.tolist() == pytest.approx([33 / 80, image.shape[1] / 60])


def test_colours_are_red_green_blue(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes blue, green, red
    cv2.imwrite(str(tmp_path / "red.png"), red)
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to be upright
    Image.new("RGB", (80, 60)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (80, 60, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1", "LA"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (8, 6)).save(path)
    image = read_image(path)
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_an_unreadable_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(RequestError, match=r"a\.png: not a readable image"):
        read_image(tmp_path / "a.png")
    with pytest.raises(RequestError, match=r"b\.png: No such file"):
        read_image(tmp_path / "b.png")


def test_a_truncated_jpeg_is_named_also_when_it_carries_a_thumbnail(tmp_path):
    write_image(tmp_path / "a.jpg", [])
    whole = (tmp_path / "a.jpg").read_bytes()
    assert read_image(tmp_path / "a.jpg").shape == (60, 80, 3)
    thumbnail = b"\xff\xe1" + (2 + len(whole)).to_bytes(2, "big") + whole
    for head in (whole[:2], whole[:2] + thumbnail):
        (tmp_path / "b.jpg").write_bytes(head + whole[2:])
        assert read_image(tmp_path / "b.jpg").shape == (60, 80, 3)
        (tmp_path / "b.jpg").write_bytes((head + whole[2:])[:-200])
        with pytest.raises(RequestError, match=r"b\.jpg: a truncated JPEG"):
            read_image(tmp_path / "b.jpg")


def test_an_image_that_contradicts_its_annotation_is_named(images):
    write_image(images[0].path, [], height=80, width=60)
    with pytest.raises(RequestError, match=r"a\.png: the image is 60x80 .* says 80x60"):
        dataset(images, training=True)[Draw(0, 0)]
