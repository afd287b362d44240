"""Images in grey, in RGB, and in RGB with the band that a file has beside."""

import io
import struct

import cv2
import numpy as np
import pytest
import torch
from conftest import found, read_set, write_voc
from PIL import Image, ImageOps

from detector.core.errors import RequestError
from detector.core.structures import AnnotatedImage, AnnotatedImages
from detector.data.images import pixels as module
from detector.data.images.headers import EXTRA_SAMPLES, SAMPLES, misfit, tiff_short
from detector.data.images.pixels import read_header, read_image, read_resized, resize
from detector.data.loading.augment import Augmenter
from detector.data.loading.dataset import DetectionDataset, collate, pack, unpack
from detector.data.loading.image_cache import make_image_loaders
from detector.data.loading.sampler import SampleKey
from detector.data.validation.image_info import ImageInfoCache, inspect

# How a TIFF's fourth band is marked (TIFF 6.0, section 18). What is said to be the transparency of
# colours that are not multiplied with it yet is what GDAL writes for any fourth band.
MARKS = {"unspecified": 0, "associated": 1, "transparency": 2}


def noise(bands, height=20, width=30, dtype=np.uint8):
    return np.random.default_rng(bands).integers(
        0, np.iinfo(dtype).max, (height, width, bands), dtype=dtype, endpoint=True
    )


def tiff(pixels, mark=0, order="<", orientation=1, photometric=None):
    """An uncompressed TIFF of any number of bands, pixel by pixel."""
    height, width, bands = pixels.shape
    bits = 8 * pixels.itemsize
    photometric = (2 if bands > 2 else 1) if photometric is None else photometric
    extra = bands - (3 if photometric == 2 else 1)
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    depths = struct.pack(f"{order}{bands}H", *[bits] * bands)
    marks = struct.pack(f"{order}{extra}H", *[mark] * extra)

    def entry(tag, kind, count, value):
        packed = value if isinstance(value, bytes) else struct.pack(f"{order}{kind}", value)
        return struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], count) + packed.ljust(
            4, b"\0"
        )

    def stored(tag, values, place):
        where = struct.pack(f"{order}I", place) if len(values) > 4 else values
        return entry(tag, "H", len(values) // 2, where)

    body = data + depths + marks
    entries = [
        entry(256, "I", 1, width),
        entry(257, "I", 1, height),
        stored(258, depths, 8 + len(data)),
        entry(259, "H", 1, 1),
        entry(262, "H", 1, photometric),
        entry(273, "I", 1, 8),
        entry(274, "H", 1, orientation),
        entry(277, "H", 1, bands),
        entry(278, "I", 1, height),
        entry(279, "I", 1, len(data)),
        *([stored(338, marks, 8 + len(data) + len(depths))] if extra else []),
    ]
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)


def big_tiff(pixels, path):
    """A BigTIFF; its fourth band is said to be transparency."""
    save(path, pixels, format="TIFF", big_tiff=True)
    assert path.read_bytes()[2] == 43


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_fourth_band_of_a_tiff_and_the_colours_beside_it_are_as_stored(
    tmp_path, order, mark, orientation
):
    pixels = noise(4)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(pixels, MARKS[mark], order, orientation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(pixels)
    stored.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(stored))
    header = read_header(path)
    assert (header.height, header.width, header.bands) == expected.shape
    assert np.array_equal(read_image(path, channels=4), expected)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(
    ("suffix", "options"), [("png", {}), ("webp", {"lossless": True, "exact": True})]
)
def test_transparency_is_a_band_and_hides_no_colours(tmp_path, suffix, options, orientation):
    pixels = noise(4)
    pixels[:5, :, 3] = 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / f"a.{suffix}", pixels, exif=exif, **options)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}", channels=4), expected)


def test_a_large_tiff_is_read_as_a_small_one(tmp_path):
    pixels = noise(4)
    big_tiff(pixels, tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif", channels=4), pixels)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_four_bands_are_scaled_to_eight_not_clipped(tmp_path, suffix):
    pixels = noise(4, dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        path.write_bytes(tiff(pixels, MARKS["transparency"]))
    else:
        assert cv2.imwrite(str(path), pixels[..., [2, 1, 0, 3]])
    image = read_image(path, channels=4)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, pixels / 257, atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_any_picture_is_had_in_grey(tmp_path, mode):
    Image.fromarray(noise(3)).convert(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", channels=1)
    with Image.open(tmp_path / "a.png") as again:
        expected = np.asarray(again.convert("L"))[..., None].astype(int)
    assert image.shape == expected.shape == (20, 30, 1)
    assert np.abs(image - expected).max() <= 1  # rounding


@pytest.mark.parametrize("orientation", range(1, 9))
def test_grey_is_turned_as_colours_are(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("jpg", "png", "webp", "tif"):
        smooth = cv2.resize(60 + noise(3, 3, 4) // 2, (40, 30))  # what JPEG would cut stays inside
        save(tmp_path / f"a.{suffix}", smooth, exif=exif)
        colours = read_image(tmp_path / f"a.{suffix}").astype(int)
        grey = read_image(tmp_path / f"a.{suffix}", channels=1)[..., 0].astype(int)
        weights = 0.299, 0.587, 0.114  # ITU-R BT.601
        assert np.abs(grey - colours @ weights).max() <= 2


@pytest.mark.parametrize(("size", "factor"), [(153, 1), (152, 2), (76, 4), (30, 8)])
def test_a_large_jpeg_is_decoded_at_a_reduced_scale_in_grey_too(tmp_path, size, factor):
    save(tmp_path / "a.jpg", noise(3, 216, 304))
    image = read_image(tmp_path / "a.jpg", longest=size, channels=1)
    assert image.shape == (216 // factor, 304 // factor, 1)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [10, 30, 50])
def test_resizing_keeps_the_channels_and_treats_them_alike(channels, size):
    image = noise(channels)
    resized = resize(image, size)
    assert resized.shape == (round(size * 20 / 30), size, channels)
    for c in range(channels):
        alone = np.repeat(image[..., c : c + 1], 3, axis=2)
        assert np.array_equal(resized[..., c], resize(alone, size)[..., 0])


BANDS = {"1": 1, "L": 1, "I;16": 1, "LA": 2, "P": 3, "RGB": 3, "RGBA": 4}


@pytest.mark.parametrize("mode", BANDS)
def test_a_header_says_how_many_bands_there_are(tmp_path, mode):
    if mode == "I;16":
        save(tmp_path / "a.png", noise(1, dtype=np.uint16)[..., 0])
    else:
        Image.fromarray(noise(3)).convert(mode).save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png").bands == BANDS[mode]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_inks_are_no_fourth_band(tmp_path, suffix):
    Image.fromarray(noise(3)).convert("CMYK").save(tmp_path / f"a.{suffix}")
    assert read_header(tmp_path / f"a.{suffix}").bands == 3


def test_only_a_missing_fourth_band_is_a_misfit():
    assert [(b, c) for b in (1, 2, 3, 4) for c in (1, 3, 4) if misfit(b, c)] == [
        (1, 4),
        (2, 4),
        (3, 4),
    ]


@pytest.mark.parametrize(
    ("mode", "said"), [("L", "1 band,"), ("RGB", "3 bands,"), ("LA", "2 bands,")]
)
def test_a_file_without_a_fourth_band_is_named_with_what_would_be_right(tmp_path, mode, said):
    Image.fromarray(noise(3)).convert(mode).save(tmp_path / "a.png")
    for read in (read_image, lambda path, channels: read_resized(path, 32, channels=channels)):
        with pytest.raises(RequestError, match=rf"a\.png: {said} but model\.in_channels=4 needs 4"):
            read(tmp_path / "a.png", channels=4)


@pytest.mark.parametrize("photometric", [1, 2])
@pytest.mark.parametrize("bands", [5, 6, 8, 13])
def test_a_tiff_of_more_bands_than_can_be_decoded_is_refused_by_its_header(
    tmp_path, monkeypatch, caplog, bands, photometric
):
    (tmp_path / "a.tif").write_bytes(tiff(noise(bands), photometric=photometric))
    assert cv2.imread(str(tmp_path / "a.tif"), cv2.IMREAD_UNCHANGED) is None  # else: read it
    monkeypatch.setattr(cv2, "imdecode", None)
    for read in (read_header, read_image):
        with pytest.raises(
            RequestError, match=rf"not a readable image \(a TIFF of {bands} bands; expected grey, "
        ):
            read(tmp_path / "a.tif")
    assert not caplog.messages  # Pillow logs what it gives up


def test_a_tiff_whose_bands_are_not_said_to_be_colours_is_refused_as_that(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(noise(4), photometric=1))
    with pytest.raises(RequestError, match=r"a\.tif: not a readable image \(a TIFF of 4 bands; ex"):
        read_header(tmp_path / "a.tif")


@pytest.mark.parametrize("order", "<>")
def test_a_number_in_a_tiff_is_found_where_it_stands(tmp_path, order):
    content = tiff(noise(4), mark=2, order=order)
    place, value = tiff_short(io.BytesIO(content), EXTRA_SAMPLES)
    assert value == 2
    assert struct.unpack_from(f"{order}H", content, place) == (2,)
    assert tiff_short(io.BytesIO(content), SAMPLES)[1] == 4
    assert tiff_short(io.BytesIO(content), 339) is None
    big_tiff(noise(4), tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    place, value = tiff_short(io.BytesIO(content), EXTRA_SAMPLES)
    assert (value, content[place]) == (2, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"II",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II+\0\x08\0\0\0" + b"\xff" * 16,
        b"II,\0" + bytes(40),
        b"MM\0*\0\0\0\x08\xff\xff" + bytes(50),
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_what_is_no_whole_tiff_says_nothing(content):
    assert tiff_short(io.BytesIO(content), SAMPLES) is None


def test_pixels_of_fewer_bands_than_the_header_claims_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "a.png", noise(4))
    monkeypatch.setattr(module.cv2, "imdecode", lambda *_: np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(RequestError, match=r"a\.png: not a readable image$"):
        read_image(tmp_path / "a.png", channels=4)


def one_image(path, height=20, width=30):
    save(path, noise(4, height, width))
    boxes, labels = np.float32([[2, 2, 12, 15]]), np.array([1])
    return AnnotatedImages.pack([AnnotatedImage(path, (height, width), boxes, labels, labels > 1)])


@pytest.mark.parametrize("kind", ["none", "ram", "disk"])
def test_what_is_kept_in_one_number_of_channels_is_not_found_in_another(tmp_path, kind):
    images = one_image(tmp_path / "a.png")
    for channels in (3, 1, 4, 3, 1, 4):
        (load_image,) = make_image_loaders(
            {"train": images}, 24, kind, tmp_path / "kept", channels=channels
        ).values()
        expected = read_resized(images[0].path, 24, channels=channels).image
        assert expected.shape == (16, 24, channels)
        for _ in range(2):
            assert np.array_equal(load_image(0, images[0].path).image, expected)


@pytest.mark.parametrize("channels", [1, 4])
def test_memory_is_asked_for_by_channels(tmp_path, channels):
    images = one_image(tmp_path / "a.png")
    load_image = make_image_loaders({"train": images}, 24, "ram", channels=channels)["train"]
    assert load_image.bytes == 16 * 24 * channels


@pytest.mark.parametrize("channels", [1, 4])
def test_samples_and_packed_batches_have_the_channels_asked_for(tmp_path, channels):
    samples = []
    for name, width in (("a", 30), ("b", 24)):
        images = one_image(tmp_path / f"{name}.png", width=width)
        augment = Augmenter([], 24, channels=channels)
        samples.append(DetectionDataset(images, augment, training=True, seed=0)[SampleKey(0, 0)])
    assert [image.shape for image, _ in samples] == [(channels, 16, 24), (channels, 20, 24)]
    for a, b in zip(collate(samples)[0], unpack(pack(samples))[0], strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("decode", [False, True])
def test_what_is_known_of_a_file_does_not_depend_on_the_channels_but_has_its_bands(
    tmp_path, decode
):
    one_image(tmp_path / "a.png")
    for _ in range(2):  # looked at, then known
        infos = inspect(tmp_path, ["a.png"], ImageInfoCache(tmp_path / "f"), decode=decode)["a.png"]
        assert (infos.width, infos.height, infos.bands, infos.issue) == (30, 20, 4, "")


def test_files_without_the_band_are_errors_of_a_kind_of_their_own(tmp_path):
    boxes = [("square", (3, 3, 30, 30))]
    splits = {"train": {"a": boxes, "b": boxes}, "val": {"c": boxes}}
    root = write_voc(tmp_path / "voc", splits, suffix=".png")
    for name in "ac":
        save(root / f"JPEGImages/{name}.png", noise(4, 60, 80))
    assert "bands do not fit" not in found(read_set(root))
    data = read_set(root, channels=4)
    (said,) = found(data)["bands do not fit"]
    assert said.startswith("JPEGImages/b.png: 3 bands, but model.in_channels=4 needs 4")
    assert [len(split) for split in data.splits.values()] == [1, 1]
