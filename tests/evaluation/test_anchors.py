import numpy as np
import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from detector.evaluation import anchors
from detector.evaluation.anchors import Anchors, Grid, Level, best_iou, recall, suggest
from detector.models.rpn import PlacedAnchors

GRID = Grid((Level(4), Level(8), Level(16), Level(32)))


def random_boxes(count, size, seed=0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1, (count, 4)) * [size[1], size[0], size[1], size[0]]
    low = np.minimum(corners[:, :2], corners[:, 2:])
    high = np.maximum(corners[:, :2], corners[:, 2:])
    return np.concatenate([low, high + 1], axis=1).astype(np.float32)


# As AlexNet's, whose layers are not padded, and images of less than 64 pixels are.
UNPADDED = Grid((Level(4, 3, 1), Level(8, 7, 1), Level(16, 15, 1), Level(32, 31, 1)), 64)


def lay(grid, scales, ratios, size):
    """All anchors, `(A, 4)`, over maps that an unpadded or a padded network would have."""
    padded = [-(-max(side, grid.smallest) // 32) * 32 for side in size]
    offsets = [level.offset for level in grid.levels]
    anchors = PlacedAnchors(scales, ratios, grid.strides, (*offsets, offsets[-1]))
    cells = [[p // x.stride - x.missing for p in padded] for x in grid.levels]
    pooled = torch.nn.functional.max_pool2d(torch.zeros(1, 1, *cells[-1]), 1, 2)
    maps = [*(torch.zeros(1, 1, *c) for c in cells), pooled]
    return anchors(ImageList(torch.zeros(1, 3, *padded), [size]), maps)[0]


@pytest.mark.parametrize("grid", [GRID, UNPADDED])
@pytest.mark.parametrize("size", [(96, 128), (200, 333), (480, 30)])
@pytest.mark.parametrize(
    ("scales", "ratios"), [((8.0,), (0.5, 1.0, 2.0)), ((2.0, 5.7), (0.33, 1.0, 3.0))]
)
def test_the_best_overlap_is_that_with_all_anchors(size, grid, scales, ratios):
    laid = lay(grid, scales, ratios, size)
    boxes = random_boxes(60, size)
    expected = box_iou(torch.tensor(boxes).double(), laid.double()).max(1).values
    sizes = np.tile(np.array(size, np.int32), (len(boxes), 1))
    ours = best_iou(boxes, sizes, Anchors(grid, scales, ratios))
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-12)


def test_recall_is_the_share_at_or_above():
    assert recall([0.4, 0.5, 0.7, 0.9]) == (0.75, 0.5)
    assert np.isnan(recall([])).all()


def test_small_boxes_get_smaller_anchors():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 400, (200, 2))
    boxes = np.concatenate([low, low + np.array([10, 40])], axis=1).astype(np.float32)
    sizes = np.full((200, 2), 448, np.int32)
    usual = Anchors(GRID, (8.0,), (0.5, 1.0, 2.0))
    before, _ = recall(best_iou(boxes, sizes, usual))
    found, at_50, at_70 = suggest(boxes, sizes, usual)
    assert before < 0.5
    assert at_50 > 0.95
    assert (at_50, at_70) == recall(best_iou(boxes, sizes, found))
    assert min(found.scales) < 8


def test_no_more_anchors_are_suggested_than_needed():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 300, (100, 2))
    boxes = np.concatenate([low, low + 32], axis=1).astype(np.float32)
    huge = Anchors(GRID, (32.0,), (1.0,))
    found, at_50, _ = suggest(boxes, np.full((100, 2), 448, np.int32), huge)
    assert at_50 == 1
    assert found.per_cell == 1


def test_anchors_that_reach_fewer_boxes_at_iou_0_7_are_not_suggested(monkeypatch):
    # Anchors of 32 pixels overlap boxes of 40 by 0.64 and boxes of 24 by 0.56; anchors of 40 lie
    # exactly on the larger boxes and overlap the smaller ones by 0.36.
    centre = np.tile(np.array([[64.0, 64], [192, 64]]), (20, 1))
    half = np.array([[20.0], [12.0]])[np.arange(40) % 2]
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    sizes = np.full((40, 2), 256, np.int32)
    monkeypatch.setattr(anchors, "SCALES", ((8.0,),))
    monkeypatch.setattr(anchors, "RATIOS", ((1.0,),))
    exact, smaller = Anchors(GRID, (10.0,), (1.0,)), Anchors(GRID, (8.0,), (1.0,))
    assert recall(best_iou(boxes, sizes, exact)) == (0.5, 0.5)
    assert recall(best_iou(boxes, sizes, smaller)) == (1, 0)
    assert suggest(boxes, sizes, exact) is None
    assert suggest(boxes, sizes, Anchors(GRID, (100.0,), (1.0,))) == (smaller, 1, 0)
