import pytest
import torch
from torchvision.ops import nms

from detector.models.nms import grouped_nms


def random_image(count, groups, seed):
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw) * 60
    boxes = torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=draw) * 40), 1)
    scores = torch.rand(count, generator=draw)
    return boxes, scores, torch.randint(0, groups, (count,), generator=draw)


@pytest.mark.parametrize("groups", [1, 5, 40])
def test_each_group_of_each_image_is_suppressed_by_itself(groups):
    images = [random_image(300, groups, seed) for seed in range(3)]
    found = grouped_nms(*zip(*images, strict=True), 0.4)
    for (boxes, scores, group), rows in zip(images, found, strict=True):
        expected = []
        for one in range(groups):
            (here,) = torch.where(group == one)
            expected += here[nms(boxes[here], scores[here], 0.4)].tolist()
        assert sorted(rows.tolist()) == sorted(expected)
        assert (scores[rows].diff() <= 0).all()
        assert len(rows) < 300


def test_no_boxes_and_no_images():
    empty = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    some = random_image(20, 2, 0)
    found = grouped_nms(*zip(empty, some, strict=True), 0.5)
    assert [len(found[0]), len(found[1]) > 0] == [0, True]
    assert found[0].dtype == torch.int64
    assert grouped_nms([], [], [], 0.5) == []


def test_equal_scores_keep_the_order_of_the_boxes():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    groups = torch.tensor([2, 1, 0])
    (rows,) = grouped_nms([boxes], [torch.ones(3)], [groups], 0.5)
    assert sorted(rows.tolist()) == [0, 1, 2]
