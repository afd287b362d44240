import numpy as np
import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from detector.evaluation import anchors
from detector.evaluation.anchors import Anchors, Grid, Level, best_iou, fit_anchors, recall
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


def placed(*shapes, size=448, seed=0):
    """Boxes of these widths and heights at random places, and the sizes of their images."""
    low = np.random.default_rng(seed).uniform(0, size / 2, (len(shapes), 2))
    boxes = np.concatenate([low, low + np.array(shapes)], axis=1).astype(np.float32)
    return boxes, np.full((len(shapes), 2), size, np.int32)


def reach(boxes, sizes, found):
    return recall(best_iou(boxes, sizes, found))


def test_small_boxes_get_smaller_anchors():
    boxes, sizes = placed(*[(10, 40)] * 200)
    assert reach(boxes, sizes, Anchors(GRID, (8.0,), (0.5, 1.0, 2.0)))[0] < 0.5
    found = fit_anchors(boxes, sizes, GRID)
    assert reach(boxes, sizes, found)[0] > 0.95
    assert min(found.scales) < 8


def test_no_more_anchors_are_fitted_than_needed(monkeypatch):
    # Squares, and one box in a hundred that only anchors of ratio 5 reach.
    boxes, sizes = placed(*[(64, 64)] * 99, (20, 200))
    assert fit_anchors(boxes, sizes, GRID).per_cell == 3
    monkeypatch.setattr(anchors, "MARGIN", 0.0)
    found = fit_anchors(boxes, sizes, GRID)
    assert found.per_cell > 3
    assert reach(boxes, sizes, found)[0] == 1


def test_of_equally_many_anchors_those_that_fit_most_boxes_closely_are_taken():
    # Squares of 45 pixels: half a step between the standard anchors of 32 and 64 pixels.
    boxes, sizes = placed(*[(45, 45)] * 50)
    assert reach(boxes, sizes, Anchors(GRID, (8.0,), (0.5, 1.0, 2.0))) == (1, 0)
    found = fit_anchors(boxes, sizes, GRID)
    assert found.per_cell == 3
    assert reach(boxes, sizes, found) == (1, 1)


def test_the_standard_anchors_are_taken_where_none_are_better():
    boxes, sizes = placed((64, 64))
    found = fit_anchors(boxes, sizes, GRID)
    assert (found.scales, found.ratios) == ((8.0,), (0.5, 1.0, 2.0))


@pytest.mark.parametrize(
    "shapes", [[(3, 4)], [(40, 10)] * 30, [(2000, 30)] * 3, [(600, 600)], [(0.5, 0.5)]]
)
def test_anchors_are_fitted_to_any_boxes(shapes):
    boxes, sizes = placed(*shapes, size=256)
    found = fit_anchors(boxes, sizes, GRID)
    assert 3 <= found.per_cell <= 9


def test_a_sample_of_many_boxes_decides(monkeypatch):
    monkeypatch.setattr(anchors, "SAMPLE", 2)  # the first and the last
    boxes, sizes = placed((64, 64), *[(9, 9)] * 98, (64, 64))
    assert fit_anchors(boxes, sizes, GRID).scales == (8.0,)
