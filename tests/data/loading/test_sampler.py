import itertools

import numpy as np
import pytest

from detector.core.structures import AnnotatedImage, AnnotatedImages
from detector.data.loading.sampler import KeyedSampler, SampleKey, aspect_groups, repeat_factors

RATIOS = np.array([[480, 640], [640, 480], [500, 500], [427, 640]], np.int32)


def sizes(length, seed=0):
    return RATIOS[np.random.default_rng(seed).integers(0, 4, length)]


def batches(length, epoch=0, batch_size=4, **options):
    """Batches of one process as DataLoader forms them."""
    sampler = KeyedSampler(length, shuffle=True, batch_size=batch_size, **options)
    sampler.set_epoch(epoch)
    draws = list(sampler)
    assert len(draws) == len(sampler)
    return [draws[i : i + batch_size] for i in range(0, len(draws), batch_size)]


def split(*labels):
    """Images with boxes of the given labels; a label below 0 is ignored."""
    images = []
    for i, own in enumerate(labels):
        values = np.array(own, np.int64)
        boxes = np.tile(np.float32([0, 0, 9, 9]), (len(own), 1)).reshape(-1, 4)
        images.append(AnnotatedImage(f"{i}.jpg", (60, 80), boxes, abs(values), values < 0))
    return AnnotatedImages.pack(images)


def test_every_image_comes_once_an_epoch_in_a_new_order_each_time():
    sampler = KeyedSampler(20, shuffle=True, seed=1)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        draws = list(sampler)
        assert {d.epoch for d in draws} == {epoch}
        orders.append([d.image for d in draws])
        assert sorted(orders[-1]) == list(range(20))
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("length", "world"), [(7, 2), (1, 3), (8, 4)])
def test_processes_get_equal_shares_that_together_are_everything(length, world):
    shares = [
        [d.image for d in KeyedSampler(length, shuffle=True, rank=rank, world=world)]
        for rank in range(world)
    ]
    assert len({len(share) for share in shares}) == 1
    assert {i for share in shares for i in share} == set(range(length))


def test_order_depends_on_the_seed():
    orders = [[d.image for d in KeyedSampler(20, shuffle=True, seed=s)] for s in (0, 1)]
    assert orders[0] != orders[1]


def test_evaluation_keeps_the_splits_order():
    options = {"shuffle": False, "batch_size": 2, "groups": aspect_groups(sizes(9))}
    assert [d.image for d in KeyedSampler(9, **options)] == list(range(9))
    ranks = [[d.image for d in KeyedSampler(9, **options, rank=r, world=2)] for r in (0, 1)]
    assert ranks == [[0, 1, 4, 5, 8], [2, 3, 6, 7, 0]]


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("length", [3, 16, 37, 40])
def test_two_processes_see_together_what_one_sees_with_twice_the_batch(length, grouped):
    groups = aspect_groups(sizes(length)) if grouped else None
    for epoch in range(3):
        alone = batches(length, epoch, 4, groups=groups)
        pair = [batches(length, epoch, 2, groups=groups, rank=r, world=2) for r in (0, 1)]
        assert len(alone) == len(pair[0]) == len(pair[1]) == -(-length // 4)
        for one, left, right in zip(alone, *pair, strict=True):
            assert len(left) == len(right)
            extra = (left + right)[len(one) :]
            assert (left + right)[: len(one)] == one
            assert len(extra) == len(one) % 2
            assert extra in ([], alone[0][:1])


@pytest.mark.parametrize("length", [40, 41, 47])
def test_grouped_batches_hold_every_image_once_and_only_the_last_is_smaller(length):
    groups = aspect_groups(sizes(length))
    smaller = set()
    for epoch in range(30):
        found = batches(length, epoch, groups=groups)
        assert sorted(d.image for batch in found for d in batch) == list(range(length))
        assert all(len(batch) == 4 for batch in found[:-1])
        smaller |= {int(groups[d.image]) for d in found[-1]}
    assert smaller == set(groups.tolist())  # no shape is always in the small batch


def test_batches_mix_shapes_at_the_borders_of_groups_alone():
    shapes = sizes(400)
    groups = aspect_groups(shapes)
    assert len(set(groups.tolist())) == 4
    found = batches(400, groups=groups)
    mixed = [b for b in found if len({int(groups[d.image]) for d in b}) > 1]
    assert len(mixed) <= 4  # three borders, and what the last batch's place moves
    kinds = [int(groups[batch[0].image]) for batch in found]
    assert sum(a != b for a, b in itertools.pairwise(kinds)) > 30  # and are shuffled


def test_the_images_of_a_batch_differ_from_epoch_to_epoch():
    groups = aspect_groups(sizes(80))
    first, second = (
        {frozenset(d.image for d in batch) for batch in batches(80, epoch, groups=groups)}
        for epoch in (0, 1)
    )
    assert len(first & second) <= 2


def test_shapes_are_grouped_by_their_ratio_and_unknown_ones_are_square():
    shapes = np.array([[480, 640], [960, 1280], [640, 480], [50, 50], [0, 0], [52, 50]], np.int32)
    wide, wider, high, square, unknown, nearly = aspect_groups(shapes).tolist()
    assert wide == wider == -high != 0
    assert square == unknown == nearly == 0


def test_a_resumed_run_draws_what_the_running_one_draws():
    options = {"shuffle": True, "seed": 3, "batch_size": 4, "groups": aspect_groups(sizes(30))}
    running = KeyedSampler(30, **options)
    for epoch in range(4):
        running.set_epoch(epoch)
        expected = list(running)
    resumed = KeyedSampler(30, **options)
    resumed.set_epoch(3)
    assert list(resumed) == expected


def test_factors_are_those_of_the_paper():
    # Class 1 is in 3 of 4 images, class 2 in 1 of 4, class 3 is only ignored.
    images = split([1, 1], [1, 2, 2], [1], [-3])
    factors = repeat_factors(images, 0.5)
    np.testing.assert_allclose(factors, [1, np.sqrt(0.5 / 0.25), 1, 1])
    assert repeat_factors(split([], []), 0.5).tolist() == [1, 1]


def test_images_come_as_often_as_their_factor_rounded_and_epochs_are_equally_long():
    rng = np.random.default_rng(0)
    for part in (0.3, 0.7, 0.499, 0):
        factors = np.concatenate([rng.uniform(1, 4, 60), [1, 2, 3, 1.5]])
        factors[0] += (part - factors.sum()) % 1
        sampler = KeyedSampler(64, shuffle=True, factors=factors)
        seen = np.zeros(64)
        for epoch in range(1000):
            sampler.set_epoch(epoch)
            draws = list(sampler)
            assert len(draws) == len(sampler) == round(factors.sum())
            counts = np.bincount([d.image for d in draws], minlength=64)
            assert ((counts == np.floor(factors)) | (counts == np.ceil(factors))).all()
            seen += counts
        np.testing.assert_allclose(seen / 1000, factors, atol=0.08)


def test_repeats_of_an_image_are_numbered_within_the_epoch():
    sampler = KeyedSampler(3, shuffle=True, factors=np.array([3.0, 1.0, 2.0]))
    assert sorted(sampler) == [
        SampleKey(0, 0, 0),
        SampleKey(0, 0, 1),
        SampleKey(0, 0, 2),
        SampleKey(0, 1, 0),
        SampleKey(0, 2, 0),
        SampleKey(0, 2, 1),
    ]


def test_repeats_are_grouped_and_distributed_like_other_images():
    factors, groups = np.random.default_rng(0).uniform(1, 3, 30), aspect_groups(sizes(30))
    options = {"factors": factors, "groups": groups}
    alone = batches(30, 5, 4, **options)
    pair = [batches(30, 5, 2, **options, rank=r, world=2) for r in (0, 1)]
    for one, left, right in zip(alone, *pair, strict=True):
        assert (left + right)[: len(one)] == one
