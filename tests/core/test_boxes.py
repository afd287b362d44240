import numpy as np
import torch
from torchvision.ops import box_iou

from detector.core import boxes as box_ops


def test_no_boxes_stay_no_boxes():
    none = np.zeros((0, 4), np.float32)
    assert box_ops.area(none).shape == (0,)
    assert box_ops.clip(none, (0, 0, 5, 5)).shape == (0, 4)
    assert box_ops.iou(none.astype(float), np.ones((2, 4))).shape == (0, 2)


def test_area_of_an_inverted_box_is_zero():
    boxes = np.array([[0, 0, 2, 3], [5, 5, 1, 9]], np.float32)
    assert box_ops.area(boxes).tolist() == [6, 0]


def test_a_box_outside_the_window_clips_to_zero_area():
    boxes = np.array([[-5, -5, 3, 3], [20, 20, 30, 30]], np.float32)
    clipped = box_ops.clip(boxes, (0, 0, 10, 10))
    assert clipped[0].tolist() == [0, 0, 3, 3]
    assert box_ops.area(clipped).tolist() == [9, 0]


def test_iou_equals_torchvisions():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (20, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(1, 40, (20, 2))), 1)
    expected = box_iou(torch.from_numpy(boxes[:8]), torch.from_numpy(boxes[8:]))
    np.testing.assert_allclose(box_ops.iou(boxes[:8], boxes[8:]), expected.numpy(), atol=1e-12)
