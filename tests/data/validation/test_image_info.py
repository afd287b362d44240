import os
import sqlite3

import pytest
from conftest import write_image
from PIL import Image

from detector.data.validation import image_info as module
from detector.data.validation.image_info import ImageInfoCache, inspect


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


@pytest.mark.parametrize("decode", [False, True])
def test_unchanged_files_are_not_opened_again(root, tmp_path, looked, decode):
    cache = tmp_path / "cache/infos.sqlite"
    first = inspect(root, FILES, ImageInfoCache(cache), decode=decode)
    assert sorted(looked["header"]) == FILES
    assert inspect(root, FILES, ImageInfoCache(cache), decode=decode) == first
    assert sorted(looked["header"]) == FILES
    assert (first["a.jpg"].width, first["a.jpg"].height) == (80, 60)


def test_what_was_looked_at_briefly_is_looked_at_again_closely(root, tmp_path, looked):
    cache = tmp_path / "infos.sqlite"
    assert inspect(root, FILES, ImageInfoCache(cache))["a.jpg"].digest == ""
    assert looked["image"] == []
    assert inspect(root, FILES, ImageInfoCache(cache), decode=True)["a.jpg"].digest
    assert sorted(looked["image"]) == FILES
    assert inspect(root, FILES, ImageInfoCache(cache))["a.jpg"].digest


def test_a_touched_file_of_the_same_content_is_not_decoded_again(root, tmp_path, looked):
    cache = tmp_path / "infos.sqlite"
    first = inspect(root, FILES, ImageInfoCache(cache), decode=True)
    os.utime(root / "a.jpg", ns=(1, 1))
    assert inspect(root, FILES, ImageInfoCache(cache), decode=True) == first
    assert sorted(looked["image"]) == FILES


def test_a_changed_file_is_looked_at_again(root, tmp_path):
    cache = tmp_path / "infos.sqlite"
    first = inspect(root, FILES, ImageInfoCache(cache), decode=True)
    Image.new("RGB", (20, 30)).save(root / "a.jpg")
    second = inspect(root, FILES, ImageInfoCache(cache), decode=True)
    assert (second["a.jpg"].width, second["a.jpg"].height) == (20, 30)
    assert second["a.jpg"].digest != first["a.jpg"].digest
    assert second["b.jpg"] == first["b.jpg"]


def test_an_interruption_keeps_what_is_done(root, tmp_path, monkeypatch):
    cache = tmp_path / "infos.sqlite"
    real = module.read_header

    def interrupted(path):
        if path.name == "b.jpg":
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_header", interrupted)
        with pytest.raises(KeyboardInterrupt):
            inspect(root, FILES, ImageInfoCache(cache))
    assert list(ImageInfoCache(cache).load(root)) == [str(root / "a.jpg")]


def test_a_broken_cache_is_made_anew_and_one_that_cannot_be_written_does_without(root, tmp_path):
    cache = tmp_path / "infos.sqlite"
    cache.write_bytes(b"this is no database, but long enough to be taken for one" * 50)
    first = inspect(root, FILES, ImageInfoCache(cache))
    assert len(ImageInfoCache(cache).load(root)) == 2
    (tmp_path / "file").write_text("")
    assert inspect(root, FILES, ImageInfoCache(tmp_path / "file/infos.sqlite")) == first


def test_faults_are_kept_too(root, tmp_path):
    (root / "a.jpg").write_bytes((root / "a.jpg").read_bytes()[:-200])
    for _ in range(2):
        infos = inspect(root, [*FILES, "c.jpg"], ImageInfoCache(tmp_path / "f.sqlite"), decode=True)
        assert "truncated" in infos["a.jpg"].issue
        assert infos["b.jpg"].issue == ""
        assert "No such file" in infos["c.jpg"].issue


def test_a_folder_that_is_named_like_an_image_is_a_fault(root, tmp_path):
    (root / "d.jpg").mkdir()
    infos = inspect(root, ["d.jpg"], ImageInfoCache(None), decode=True)
    assert infos["d.jpg"].issue == "Is a directory"


def test_infos_of_another_version_are_discarded(root, tmp_path):
    cache = tmp_path / "infos.sqlite"
    inspect(root, FILES, ImageInfoCache(cache))
    with sqlite3.connect(cache) as db:
        db.execute(f"PRAGMA user_version = {module.VERSION - 1}")
    db.close()
    assert ImageInfoCache(cache).load(root) == {}


@pytest.mark.parametrize("opened", [False, True], ids=["before it is opened", "afterwards"])
def test_a_cache_that_another_process_has_locked_is_done_without(
    root, tmp_path, monkeypatch, opened
):
    file = tmp_path / "infos.sqlite"
    first = inspect(root, FILES, ImageInfoCache(file))
    connect = sqlite3.connect
    monkeypatch.setattr(module.sqlite3, "connect", lambda path, timeout: connect(path, timeout=0))
    cache = ImageInfoCache(file) if opened else None
    other = connect(file)
    other.execute("BEGIN EXCLUSIVE")
    cache = cache or ImageInfoCache(file)
    assert cache.load(root) == {}
    assert inspect(root, FILES, cache) == first
    other.close()
    assert len(ImageInfoCache(file).load(root)) == 2  # nothing of it was lost


def test_of_many_files_what_is_known_is_kept_before_the_end(root, monkeypatch):
    kept = []
    cache = ImageInfoCache(None)
    monkeypatch.setattr(cache, "store", lambda rows: kept.append(len(rows)))
    monkeypatch.setattr(module, "COMMIT_EVERY", 1)
    inspect(root, FILES, cache)
    assert kept == [1, 1, 0]
