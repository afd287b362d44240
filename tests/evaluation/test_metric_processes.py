"""The metric under several processes."""

import numpy as np
import pytest
import torch
from test_coco import make, metric_of
from torch import distributed, multiprocessing

from detector.evaluation.metric import DetectionMetric
from detector.evaluation.voc import voc_scores

IMAGES = 7


def score(rank, folder, expected):
    """A process: its images and, as samplers pad, the first one again; what it knows is written."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    predictions, targets = make(11, images=IMAGES)  # scores have ties
    metric = DetectionMetric(3)
    metric.expected = expected
    mine = [*range(rank, IMAGES, 2), *([0] if rank else [])]
    for i in reversed(mine):
        metric.update([predictions[i]], [targets[i]])
    try:
        found = metric.compute()
    except RuntimeError as error:
        found = str(error)
    voc = (
        voc_scores(metric.evaluation.detections, metric.evaluation.ground_truth, 3)
        if not rank
        else None
    )
    knows = metric.evaluation is not None
    torch.save((found, voc, knows, metric.predictions), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def together(folder, expected):
    given = str(folder), expected
    multiprocessing.start_processes(score, given, nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_two_processes_score_as_one_to_the_last_bit(tmp_path):
    alone = metric_of(*make(11, images=IMAGES))
    expected = alone.compute()
    (first, voc, knows, rows), (second, _, other_knows, _) = together(tmp_path, IMAGES)
    np.testing.assert_array_equal(list(first.values()), list(expected.values()))
    np.testing.assert_array_equal(list(second.values()), list(expected.values()))
    assert knows
    assert not other_knows  # only the first process computes
    detections, ground_truth = alone.arrays()
    assert voc[0] == voc_scores(detections, ground_truth, 3)[0]
    assert len(rows) == 4  # its own batches again, after what was gathered


def test_a_missing_image_is_an_error():
    metric = metric_of(*make(11, images=IMAGES))
    metric.expected = IMAGES + 1
    with pytest.raises(RuntimeError, match="7 images were evaluated, but the split has 8"):
        metric.compute()
