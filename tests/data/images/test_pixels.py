import os
import random
import struct
import zlib

import albumentations as A
import cv2
import numpy as np
import pytest
from conftest import write_image
from PIL import Image, ImageCms, ImageOps

from detector.core.errors import RequestError
from detector.data.images.pixels import (
    MAX_PIXELS,
    Header,
    read_header,
    read_image,
    read_resized,
    resize,
    resized_shape,
)

READERS = [read_header, read_image, lambda path: read_resized(path, 32)]


def smooth(height=60, width=90, seed=0):
    """Colours that change slowly, so that formats which lose detail lose little."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


PICTURE = Image.fromarray(smooth())


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b)).max()


def write_png(path, side, *more):
    """A PNG that claims a size, has further chunks before its pixels, and hardly any pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [header, *more, b"IDAT" + b"\0" * 9, b"IEND"]
    body = b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_colours_are_red_green_blue(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes blue, green, red
    cv2.imwrite(str(tmp_path / "red.png"), red)
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    PICTURE.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    header = read_header(path)
    assert (header.height, header.width, 3) == expected.shape
    assert header.orientation == orientation
    assert difference(read_image(path), expected) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_kind_of_png_becomes_the_rgb_that_pillow_sees(tmp_path, mode):
    PICTURE.convert(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as again:
        assert again.mode == mode
        assert difference(image, again.convert("RGB")) == 0
    assert image.dtype == np.uint8


def test_transparency_shows_the_colours_below_it(tmp_path):
    clear = PICTURE.copy()
    clear.putalpha(0)
    clear.save(tmp_path / "rgba.png")
    assert difference(read_image(tmp_path / "rgba.png"), PICTURE) == 0
    palette = PICTURE.convert("P")
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    assert difference(read_image(tmp_path / "palette.png"), palette.convert("RGB")) == 0


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight_not_clipped(tmp_path, suffix):
    grey = np.linspace(0, 65535, 60 * 80).reshape(60, 80).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    for channel in range(3):
        np.testing.assert_allclose(image[..., channel], grey / 257, atol=1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colours", [False, True], ids=["grey", "colours"])
@pytest.mark.parametrize(
    ("largest", "bits"), [(255, 8), (256, 10), (4095, 12), (4096, 14), (16384, 16), (65535, 16)]
)
def test_the_bits_in_use_of_sixteen_become_eight(tmp_path, suffix, colours, largest, bits):
    shape = (20, 30, 3) if colours else (20, 30)
    stored = np.random.default_rng(0).integers(0, largest, shape).astype(np.uint16)
    stored[3, 4] = largest
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), stored)
    expected = np.atleast_3d(stored)[..., ::-1] // 2 ** (bits - 8)
    for channels in (1, 3) if not colours else (3,):
        image = read_image(tmp_path / f"a.{suffix}", channels=channels)
        assert image.dtype == np.uint8
        assert np.array_equal(image, np.broadcast_to(expected, (20, 30, channels)))


def test_colours_of_twelve_bits_beside_full_transparency_are_not_black(tmp_path):
    stored = np.random.default_rng(0).integers(0, 4096, (20, 30, 4)).astype(np.uint16)
    stored[0, 0, 0], stored[..., 3] = 4095, 65535
    assert cv2.imwrite(str(tmp_path / "a.png"), stored)
    colours = stored[..., 2::-1] // 16
    assert np.array_equal(read_image(tmp_path / "a.png"), colours)
    image = read_image(tmp_path / "a.png", channels=4)
    assert np.array_equal(image[..., :3], colours)
    assert (image[..., 3] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bits_in_colours_are_turned_as_eight(tmp_path, orientation):
    for name, pixels in (("a", smooth()), ("b", smooth() * np.uint16(256))):
        content = cv2.imencode(".tif", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes()
        start = struct.unpack("<I", content[4:8])[0]
        number = struct.unpack("<H", content[start : start + 2])[0]
        tags = content[start + 2 : start + 2 + 12 * number]
        entries = [tags[i : i + 12] for i in range(0, len(tags), 12)]
        entries.append(struct.pack("<HHIHH", 274, 3, 1, orientation, 0))
        entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
        head = content[:4] + struct.pack("<I", len(content)) + content[8:]
        more = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
        (tmp_path / f"{name}.tif").write_bytes(head + more)
    assert read_header(tmp_path / "b.tif").orientation == orientation
    assert np.array_equal(read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.tif"))


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (np.float32, "32-bit floating-point"),
        (np.float64, "64-bit floating-point"),
        (np.int32, "32-bit signed"),
        (np.int16, "16-bit signed"),
        (np.int8, "8-bit signed"),
    ],
)
@pytest.mark.parametrize("bands", [1, 3])
def test_a_tiff_of_other_samples_is_refused_with_the_reason(tmp_path, dtype, said, bands):
    pixels = np.zeros((20, 30, bands), dtype)
    assert cv2.imwrite(str(tmp_path / "a.tif"), pixels[..., 0] if bands == 1 else pixels)
    for reader in READERS:
        with pytest.raises(RequestError, match=rf"a\.tif: not a readable image \(a TIFF of {said}"):
            reader(tmp_path / "a.tif")


def test_a_tiff_in_cielab_is_refused_with_the_reason(tmp_path):
    ends = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    ImageCms.applyTransform(PICTURE, ImageCms.buildTransform(*ends, "RGB", "LAB")).save(
        tmp_path / "a.tif"
    )
    for reader in READERS:
        with pytest.raises(RequestError, match="CIELAB colours; expected grey or RGB"):
            reader(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "CMYK"])
def test_every_kind_of_tiff_becomes_the_rgb_that_pillow_sees(tmp_path, mode):
    PICTURE.convert(mode).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as again:
        assert again.mode == mode
        assert difference(read_image(tmp_path / "a.tif"), again.convert("RGB")) <= 1


@pytest.mark.parametrize("adobe", [True, False], ids=["inverted", "plain"])
def test_a_cmyk_jpeg_becomes_the_rgb_that_pillow_sees(tmp_path, adobe):
    path = tmp_path / "a.jpg"
    PICTURE.convert("CMYK").save(path, quality=95)
    if not adobe:  # without Adobe's segment the inks are not inverted
        content = path.read_bytes()
        start = content.index(b"\xff\xee")
        (length,) = struct.unpack(">H", content[start + 2 : start + 4])
        path.write_bytes(content[:start] + content[start + 2 + length :])
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        assert difference(read_image(path), image.convert("RGB")) <= 1


@pytest.mark.parametrize(("size", "factor"), [(153, 1), (152, 2), (77, 2), (76, 4), (30, 8)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_scale_that_suffices(tmp_path, size, factor, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth(216, 304)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    whole = read_image(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg", longest=size)
    height, width = whole.shape[:2]
    assert image.shape == (height // factor, width // factor, 3)
    same = cv2.resize(whole, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - same).mean() < 2


def test_the_shape_after_a_reduced_decoding_is_computed_from_the_original(tmp_path):
    differs = 0
    for height in range(101, 117):
        Image.fromarray(smooth(height, 301)).save(tmp_path / "a.jpg")
        image, *original = read_resized(tmp_path / "a.jpg", 75)
        assert original == [height, 301]
        assert image.shape[:2] == resized_shape(height, 301, 75)
        differs += image.shape[:2] != resized_shape(-(-height // 4), 76, 75)
    assert differs  # the shape of the reduced image would at times give another


def test_resized_shapes_are_those_of_albumentations():
    rng = np.random.default_rng(0)
    for height, width, size in rng.integers(1, 400, (200, 3)).tolist():
        image = np.zeros((height, width, 3), np.uint8)
        expected = A.LongestMaxSize(size)(image=image)["image"].shape[:2]
        assert resized_shape(height, width, size) == expected
        assert resize(image, size).shape[:2] == expected


def test_shrinking_averages_so_that_small_things_stay():
    image = np.zeros((64, 64, 3), np.uint8)
    image[8::16, 8::16] = 255  # single pixels
    small = resize(image, 8)
    np.testing.assert_allclose(small.mean(), image.mean(), atol=0.5)


def test_a_phones_jpeg_with_several_pictures_is_a_photograph(tmp_path):
    path = tmp_path / "a.jpg"
    PICTURE.save(path, format="MPO", save_all=True, append_images=[PICTURE])
    with Image.open(path) as image:
        assert image.n_frames == 2
    assert read_header(path) == Header(90, 60, 1, "JPEG", 3)
    assert read_image(path).shape == (60, 90, 3)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("read", READERS)
def test_an_animation_is_refused(tmp_path, suffix, read):
    frames = [Image.fromarray(smooth(seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(RequestError, match=rf"a\.{suffix}: an animation of 3 frames; expected"):
        read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "bmp", "avif"])
def test_a_single_picture_of_any_format_is_read(tmp_path, suffix):
    PICTURE.save(tmp_path / f"a.{suffix}")
    header = read_header(tmp_path / f"a.{suffix}")
    assert (header.width, header.height) == (90, 60)
    assert read_image(tmp_path / f"a.{suffix}").shape == (60, 90, 3)


@pytest.mark.parametrize("side", [13_400, 60_000], ids=["past the limit", "far past it"])
@pytest.mark.parametrize("guarded", [True, False], ids=["", "Pillow's own limit taken off"])
@pytest.mark.parametrize("read", READERS)
def test_a_decompression_bomb_is_refused_without_being_decoded(
    tmp_path, monkeypatch, side, guarded, read
):
    if not guarded:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert side * side > MAX_PIXELS
    write_png(tmp_path / "a.png", side)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(RequestError, match=rf"a\.png: more than {MAX_PIXELS} pixels"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("read", READERS)
def test_a_picture_without_pixels_is_refused(tmp_path, read):
    PICTURE.save(tmp_path / "a.bmp")
    content = bytearray((tmp_path / "a.bmp").read_bytes())
    content[18:22] = bytes(4)  # the width
    (tmp_path / "a.bmp").write_bytes(content)
    with pytest.raises(RequestError, match=r"a\.bmp: not a readable image"):
        read(tmp_path / "a.bmp")


def test_a_large_picture_below_the_limit_passes_without_a_warning(tmp_path):
    side = 10_000  # Pillow warns from 89 megapixels on
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png") == Header(side, side, 1, "PNG", 1)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"not an image", "not a readable image .none of JPEG"),
        (b"<html>404</html>", "not a readable image .none of JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a readable image .none of JPEG"),
        (b"\x89PNG\r\n\x1a\n", "not a readable image"),
        (b"\xff\xd8\xff\xd9", "not a readable image"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, read, content, said):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(RequestError, match=rf"a\.png: ({said})"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file_is_named(tmp_path, read):
    with pytest.raises(RequestError, match=r"b\.png: No such file"):
        read(tmp_path / "b.png")
    with pytest.raises(RequestError, match="not a file"):
        read(tmp_path)
    with pytest.raises(RequestError, match="null byte"):
        read(tmp_path / "a\0.png")
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    with pytest.raises(RequestError, match=r"pipe\.png: not a file"):
        read(tmp_path / "pipe.png")


@pytest.mark.parametrize("read", READERS)
def test_a_truncated_jpeg_is_named_also_when_it_carries_a_thumbnail(tmp_path, read):
    for width in (80, 400):  # the larger one's end does not hold the thumbnail's marker
        write_image(tmp_path / "a.jpg", [], width=width)
        whole = (tmp_path / "a.jpg").read_bytes()
        write_image(tmp_path / "t.jpg", [])
        small = (tmp_path / "t.jpg").read_bytes()
        thumbnail = b"\xff\xe1" + (2 + len(small)).to_bytes(2, "big") + small
        for head in (whole[:2], whole[:2] + thumbnail):
            (tmp_path / "b.jpg").write_bytes(head + whole[2:])
            read(tmp_path / "b.jpg")
            (tmp_path / "b.jpg").write_bytes((head + whole[2:])[:-200])
            with pytest.raises(RequestError, match=r"b\.jpg: a truncated JPEG"):
                read(tmp_path / "b.jpg")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_may_go_on_after_its_end_marker(tmp_path, read, suffix):
    PICTURE.save(tmp_path / f"a.{suffix}")
    with (tmp_path / f"a.{suffix}").open("ab") as stream:
        stream.write(b"\0" * 9000)
    read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_a_truncated_file_of_another_format_is_named(tmp_path, read, suffix):
    PICTURE.save(tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(RequestError, match=rf"a\.{suffix}: (a truncated|not a readable)"):
        read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    "block",
    [b"\xff\xff" + b"\x12\x01\x03\0" * 3, b"\x01\0\x12\x01\x02\0\x02\0\0\x006\0\0\0" + bytes(4)],
    ids=["cut off", "a text as orientation"],
)
def test_a_damaged_exif_block_neither_warns_nor_hides_the_picture(tmp_path, block):
    PICTURE.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + block)
    assert read_header(tmp_path / "a.jpg").orientation == 1
    assert read_image(tmp_path / "a.jpg").shape == (60, 90, 3)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "EPS"])
def test_a_format_that_is_not_expected_is_not_even_tried(tmp_path, kind, read):
    PICTURE.save(tmp_path / "a.jpg", format=kind)
    with pytest.raises(RequestError, match=r"a\.jpg: not a readable image .none of JPEG"):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize("orientation", [0, 9, 4000])
def test_an_orientation_that_there_is_none_of_means_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    PICTURE.save(tmp_path / "a.jpg", exif=exif)
    assert read_header(tmp_path / "a.jpg") == Header(90, 60, 1, "JPEG", 3)
    assert read_image(tmp_path / "a.jpg").shape == (60, 90, 3)


@pytest.mark.parametrize("read", READERS)
def test_a_comment_that_is_a_bomb_is_refused(tmp_path, read):
    write_png(tmp_path / "a.png", 8, b"zTXtComment\0\0" + zlib.compress(bytes(1 << 24)))
    with pytest.raises(RequestError, match=r"a\.png: not a readable image \(.*too large"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("read", READERS[1:])
def test_pixels_that_contradict_the_header_are_refused(tmp_path, monkeypatch, read):
    PICTURE.save(tmp_path / "a.png")
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((61, 90, 3), np.uint8))
    with pytest.raises(RequestError, match=r"a\.png: not a readable image"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_damaged_files_give_a_picture_or_a_refusal_and_nothing_else(tmp_path, kind):
    PICTURE.resize((30, 20)).save(tmp_path / "whole", format=kind)
    whole = (tmp_path / "whole").read_bytes()
    draw, said = random.Random(0), []
    for turn in range(150):
        content = bytearray(whole[: draw.randrange(1, len(whole))] if turn % 2 else whole)
        for _ in range(draw.choice((1, 3, 20))):
            reach = draw.choice((min(64, len(content)), len(content)))
            content[draw.randrange(reach)] = draw.randrange(256)
        (tmp_path / "a").write_bytes(content)
        for read in READERS:
            try:
                read(tmp_path / "a")
            except RequestError as error:
                said.append(str(error))
    assert said
    assert all(line.startswith(f"{tmp_path / 'a'}: ") and "\n" not in line for line in said)
