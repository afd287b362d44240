import os

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
