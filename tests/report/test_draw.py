import cv2
import numpy as np

from detector.report.draw import Boxes, Panel, draw_boxes, draw_preview, draw_sheet

IMAGE = np.zeros((50, 100, 3), np.uint8)
ONE = Boxes(np.array([[10.0, 10, 40, 40]]), np.array([1]))


def test_a_box_is_drawn_where_it_is_and_the_image_is_left_alone():
    drawn = draw_boxes(IMAGE, ONE, ["a"])
    assert drawn.shape == IMAGE.shape
    assert drawn[25, 10].any()
    assert drawn[10, 25].any()
    assert not drawn[25, 25].any()
    assert not IMAGE.any()


def test_boxes_are_scaled_with_the_picture():
    drawn = draw_boxes(IMAGE, ONE, ["a"], side=200)
    assert drawn.shape == (100, 200, 3)
    assert drawn[50, 20].any()


def test_no_boxes_draw_nothing():
    none = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
    assert not draw_boxes(IMAGE, none, ["a"]).any()


def test_classes_have_colours_of_their_own_and_ignored_boxes_are_grey():
    boxes = Boxes(
        np.array([[5.0, 5, 20, 20], [30, 5, 45, 20], [60, 5, 75, 20]]),
        np.array([1, 2, 1]),
        ignore=np.array([False, False, True]),
    )
    drawn = draw_boxes(IMAGE, boxes, ["a", "b"])
    first, second, ignored = drawn[20, 12], drawn[20, 37], drawn[20, 67]
    assert (first != second).any()
    assert len(set(ignored.tolist())) == 1
    assert ignored.any()


def test_a_sheet_has_truth_and_detections_of_every_image(tmp_path):
    found = Boxes(np.array([[60.0, 10, 90, 40]]), np.array([1]), np.array([0.7]))
    panels = [Panel(f"{i}.jpg", IMAGE, ONE, found) for i in range(3)]
    draw_sheet(panels, ["a"], "score >= 0.5", tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    pair_width, pair_height = 2 * 448 + 4, 224 + 22
    assert sheet.shape == (2 * (pair_height + 12) + 12, 2 * (pair_width + 12) + 12, 3)
    left = sheet[12 + 22 + 112, 12 : 12 + 448]
    right = sheet[12 + 22 + 112, 12 + 452 : 12 + 900]
    assert left[:224].any()
    assert not left[224:].any()
    assert right[224:].any()


def test_a_preview_has_cells_of_equal_width_whatever_the_images(tmp_path):
    tall = np.zeros((100, 50, 3), np.uint8)
    images = [("wide.jpg", IMAGE, ONE)] * 4 + [("tall.jpg", tall, ONE)]
    draw_preview(images, ["a"], tmp_path / "preview.png")
    sheet = cv2.imread(str(tmp_path / "preview.png"))
    wide_height, tall_height = 22 + 176, 22 + 352
    assert sheet.shape == (12 + wide_height + 12 + tall_height + 12, 4 * (352 + 12) + 12, 3)
    # The tall image is 176 wide; the rest of its cell is white.
    row = sheet[12 + wide_height + 12 + 22 + 300]
    assert not row[12 : 12 + 176].any()
    assert (row[12 + 176 :] == 255).all()


def test_a_long_caption_of_a_preview_stays_in_its_cell_and_keeps_its_end(tmp_path):
    none = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64))
    headers = []
    for name in ("x" * 300 + "end", "x" * 400 + "end", "x" * 300 + "END"):
        draw_preview([(name, IMAGE, none)] * 2, ["a"], tmp_path / "preview.png")
        sheet = cv2.imread(str(tmp_path / "preview.png"))
        assert (sheet[12 : 12 + 22, 12 + 353 : 12 + 363] == 255).all()
        headers.append(sheet[12 : 12 + 22, 12 : 12 + 352])
    assert (headers[0] == headers[1]).all()
    assert (headers[0] != headers[2]).any()


def test_a_preview_shows_grey_as_grey_and_the_first_three_of_more_channels(tmp_path):
    none = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64))
    colours = np.broadcast_to(np.uint8([200, 100, 50, 7]), (50, 100, 4))
    images = [("grey", colours[..., 1:2], none), ("more", colours, none)]
    draw_preview(images, ["a"], tmp_path / "preview.png")
    sheet = cv2.imread(str(tmp_path / "preview.png"), cv2.IMREAD_COLOR_RGB)
    grey, more = sheet[12 + 22 : 12 + 22 + 176, 12 : 12 + 352], sheet[12 + 22 + 80, 12 + 352 + 112]
    assert (grey == 100).all()
    assert more.tolist() == [200, 100, 50]
