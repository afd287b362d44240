from pathlib import Path

import pytest
from conftest import write_image

from detector import inputs
from detector.data.folder import Folder
from detector.types import RequestError


def names(source: Path) -> list[str]:
    return [file.relative_to(source).as_posix() for file in inputs.source_files(str(source), 3)]


def test_a_source_is_walked_as_data_sets_are(tmp_path):
    root, far = tmp_path / "root", tmp_path / "far"
    for file in (root / "a.jpg", root / "sub/B.JPE", root / ".hidden/c.jpg", far / "d.png"):
        write_image(file.with_suffix(file.suffix.lower()), [])
    (root / "linked").symlink_to(far)
    (root / "loop").symlink_to(root)
    (root / "self.jpg").symlink_to("self.jpg")
    assert names(root) == ["a.jpg", "linked/d.png", "sub/B.jpe"]
    assert names(root / ".hidden") == ["c.jpg"]


def test_pictures_of_a_source_that_are_not_read_are_counted(tmp_path):
    for name in ("a.HEIC", "b.heic", "c.nef"):
        (tmp_path / name).touch()
    said = "3 files of kinds that are not read, .heic, .nef: convert to PNG or JPEG"
    with pytest.raises(RequestError, match=rf"no images in it \({said}\)"):
        inputs.source_files(str(tmp_path), 3)
    write_image(tmp_path / "d.jpg", [])
    assert names(tmp_path) == ["d.jpg"]
    assert inputs.unread_pictures(Folder(tmp_path)) == said


def test_a_picture_without_a_suffix_can_be_named(tmp_path):
    write_image(tmp_path / "a.jpg", [])
    (tmp_path / "a.jpg").rename(tmp_path / "a")
    assert inputs.source_files(str(tmp_path / "a"), 3) == [tmp_path / "a"]
