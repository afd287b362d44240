import cv2
import numpy as np
import pytest

from detector.data.validation import duplicates
from detector.data.validation.duplicates import NEAR, find_copies, join_equal, join_similar, similar
from detector.data.validation.image_info import ImageInfo, perceptual_hash


def photograph(seed):
    """A smooth random field, as different from others as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC)


CHANGES = {
    "smaller": lambda x: cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "compressed": lambda x: cv2.imdecode(cv2.imencode(".jpg", x, [1, 20])[1], 1),
    "brighter": lambda x: np.clip(x * 1.1 + 8, 0, 255).astype(np.uint8),
    "noisy": lambda x: np.clip(x + np.random.default_rng(0).normal(0, 8, x.shape), 0, 255).astype(
        np.uint8
    ),
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_copy_that_was_changed_a_little_is_recognised_among_others(change):
    ours = [perceptual_hash(photograph(seed)) for seed in range(20)]
    copy = perceptual_hash(CHANGES[change](photograph(7)))
    ((index, other, bits),) = similar(ours, [copy], NEAR)
    assert (index, other) == (7, 0)
    differing = int(ours[7], 16) ^ int(copy, 16)
    assert bits == differing.bit_count()
    assert similar(ours, [perceptual_hash(photograph(99))], NEAR) == []


def test_plain_surfaces_are_not_called_alike():
    assert perceptual_hash(np.full((50, 50, 3), 200, np.uint8)) == ""
    assert similar([], ["0" * 64], NEAR) == similar(["0" * 64], [], NEAR) == []


def test_copies_are_found_in_other_splits_and_within_one():
    one, two, far = "0" * 64, "0" * 63 + "7", "f" * 64
    infos = {
        "a": ImageInfo(1, 1, 1, "", "da", one),
        "b": ImageInfo(1, 1, 1, "", "db", far),
        "b2": ImageInfo(1, 1, 1, "", "db", far),
        "c": ImageInfo(1, 1, 1, "", "da", one),
        "d": ImageInfo(1, 1, 1, "", "dd", two),
        "e": ImageInfo(1, 1, 1, "unreadable"),
        "e2": ImageInfo(1, 1, 1, "unreadable"),
        "e3": ImageInfo(1, 1, 1, "unreadable"),
    }
    issues = find_copies({"train": ["a", "b", "b2", "e", "e2"], "test": ["c", "d", "e3"]}, infos)
    assert {f.kind: [str(i) for i in f.items] for f in issues} == {
        "picture in two splits": ["c: the same picture as a in train"],
        "similar pictures in two splits": ["d: like a in train (3 of 256 bits differ)"],
        "same picture twice": ["b2: the same as b"],
    }


def hashes_with_chains(count):
    """Random hashes; every tenth is like the one before it, and that like the one before."""
    rng = np.random.default_rng(0)
    values = [int.from_bytes(rng.bytes(32)) for _ in range(count)]
    for i in range(10, count, 10):
        values[i - 1] = values[i - 2] ^ (2**NEAR - 1)
        values[i] = values[i - 1] ^ ((2**NEAR - 1) << 60)
    return [f"{value:064x}" for value in values]


def test_pictures_are_joined_over_others_that_are_like_both(monkeypatch):
    monkeypatch.setattr(duplicates, "TILE", (3, 7))
    hashes = hashes_with_chains(95)
    values = [int(h, 16) for h in hashes]
    expected = list(range(95))
    for i in range(10, 95, 10):
        # the ends of a chain differ in twice as many bits: only the middle joins them
        assert (values[i] ^ values[i - 2]).bit_count() == 2 * NEAR
        expected[i - 1] = expected[i] = i - 2
    assert join_similar(np.arange(95), hashes).tolist() == expected
    assert join_similar(np.arange(95), ["", *hashes[1:]]).tolist() == expected


def test_one_bit_more_than_near_is_not_joined():
    far = f"{2 ** (NEAR + 1) - 1:064x}"
    assert join_similar(np.arange(2), ["0" * 64, far]).tolist() == [0, 1]


def test_groups_are_joined_over_whatever_they_share():
    keys = ["x", "", "y", "", "x"], ["", "p", "p", "q", ""]
    assert join_equal(5, *keys).tolist() == [0, 1, 1, 3, 0]
    assert join_equal(5, *keys, ["", "", "z", "", "z"]).tolist() == [0, 0, 0, 3, 0]
    assert join_similar(join_equal(3, ["a", "a", ""]), ["", "0" * 64, "0" * 64]).tolist() == [0] * 3
