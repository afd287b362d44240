import os

import cv2
import numpy as np
import pytest
from conftest import write_image
from PIL import Image

from detector.data import facts as module
from detector.data.facts import Facts, FactsCache, look_at, perceptual_hash, similar
from detector.data.leakage import NEAR, find_copies


@pytest.fixture
def root(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"set/{name}.jpg", [("square", (5, 5, 30, 30))])
    return tmp_path / "set"


@pytest.fixture
def looked(monkeypatch):
    """Notes which files are opened, header and whole."""
    names = {"header": [], "image": []}
    for key in names:
        real = getattr(module, f"read_{key}")

        def spy(path, real=real, key=key, **given):
            names[key].append(path.name)
            return real(path, **given)

        monkeypatch.setattr(module, f"read_{key}", spy)
    return names


FILES = ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("closely", [False, True])
def test_unchanged_files_are_not_opened_again(root, tmp_path, looked, closely):
    cache = tmp_path / "cache/facts.sqlite"
    first = look_at(root, FILES, FactsCache(cache), closely=closely)
    assert sorted(looked["header"]) == FILES
    assert look_at(root, FILES, FactsCache(cache), closely=closely) == first
    assert sorted(looked["header"]) == FILES
    assert (first["a.jpg"].width, first["a.jpg"].height) == (80, 60)


def test_what_was_looked_at_briefly_is_looked_at_again_closely(root, tmp_path, looked):
    cache = tmp_path / "facts.sqlite"
    assert look_at(root, FILES, FactsCache(cache))["a.jpg"].digest == ""
    assert looked["image"] == []
    assert look_at(root, FILES, FactsCache(cache), closely=True)["a.jpg"].digest
    assert sorted(looked["image"]) == FILES
    assert look_at(root, FILES, FactsCache(cache))["a.jpg"].digest


def test_a_touched_file_of_the_same_content_is_not_decoded_again(root, tmp_path, looked):
    cache = tmp_path / "facts.sqlite"
    first = look_at(root, FILES, FactsCache(cache), closely=True)
    os.utime(root / "a.jpg", ns=(1, 1))
    assert look_at(root, FILES, FactsCache(cache), closely=True) == first
    assert sorted(looked["image"]) == FILES


def test_a_changed_file_is_looked_at_again(root, tmp_path):
    cache = tmp_path / "facts.sqlite"
    first = look_at(root, FILES, FactsCache(cache), closely=True)
    Image.new("RGB", (20, 30)).save(root / "a.jpg")
    second = look_at(root, FILES, FactsCache(cache), closely=True)
    assert (second["a.jpg"].width, second["a.jpg"].height) == (20, 30)
    assert second["a.jpg"].digest != first["a.jpg"].digest
    assert second["b.jpg"] == first["b.jpg"]


def test_an_interruption_keeps_what_is_done(root, tmp_path, monkeypatch):
    cache = tmp_path / "facts.sqlite"
    real = module.read_header

    def interrupted(path):
        if path.name == "b.jpg":
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_header", interrupted)
        with pytest.raises(KeyboardInterrupt):
            look_at(root, FILES, FactsCache(cache))
    assert list(FactsCache(cache).load(root)) == [str(root / "a.jpg")]


def test_a_broken_cache_is_made_anew_and_one_that_cannot_be_written_does_without(root, tmp_path):
    cache = tmp_path / "facts.sqlite"
    cache.write_bytes(b"this is no database, but long enough to be taken for one" * 50)
    first = look_at(root, FILES, FactsCache(cache))
    assert len(FactsCache(cache).load(root)) == 2
    (tmp_path / "file").write_text("")
    assert look_at(root, FILES, FactsCache(tmp_path / "file/facts.sqlite")) == first


def test_faults_are_kept_too(root, tmp_path):
    (root / "a.jpg").write_bytes((root / "a.jpg").read_bytes()[:-200])
    for _ in range(2):
        facts = look_at(root, [*FILES, "c.jpg"], FactsCache(tmp_path / "f.sqlite"), closely=True)
        assert "truncated" in facts["a.jpg"].fault
        assert facts["b.jpg"].fault == ""
        assert "No such file" in facts["c.jpg"].fault


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
    facts = {
        "a": Facts(1, 1, 1, "", "da", one),
        "b": Facts(1, 1, 1, "", "db", far),
        "b2": Facts(1, 1, 1, "", "db", far),
        "c": Facts(1, 1, 1, "", "da", one),
        "d": Facts(1, 1, 1, "", "dd", two),
        "e": Facts(1, 1, 1, "unreadable"),
        "e2": Facts(1, 1, 1, "unreadable"),
        "e3": Facts(1, 1, 1, "unreadable"),
    }
    findings = find_copies({"train": ["a", "b", "b2", "e", "e2"], "test": ["c", "d", "e3"]}, facts)
    assert {f.kind: [str(i) for i in f.items] for f in findings} == {
        "picture in two splits": ["c: the same picture as a in train"],
        "similar pictures in two splits": ["d: like a in train (3 of 256 bits differ)"],
        "same picture twice": ["b2: the same as b"],
    }
