"""Files are there whole or not at all, whatever ends their writing."""

import errno
import json
import signal
from pathlib import Path

import pytest

from detector.core.files import atomic, uninterrupted, write_csv, write_json, write_text


@pytest.fixture(autouse=True)
def pressed(monkeypatch):
    """Ctrl-C is Python's own, whatever this process was started with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_for_the_end_of_the_block():
    done = []

    def work():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]
    with pytest.raises(KeyboardInterrupt):  # as before
        signal.raise_signal(signal.SIGINT)


def test_an_error_in_the_block_is_what_is_raised():
    with pytest.raises(ValueError, match="ours"), uninterrupted():
        raise ValueError("ours")


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ValueError])
def test_an_error_while_writing_keeps_the_old_file_and_leaves_no_draft(tmp_path, error):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def write_half():
        with atomic(file) as draft:
            draft.write_text("ne")
            raise error

    with pytest.raises(error):
        write_half()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_old_file_is_replaced_at_the_end_of_the_block(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with atomic(file) as draft:
        draft.write_text("new")
        assert (draft.parent, file.read_text()) == (tmp_path, "old")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    file = tmp_path / ("ü" * 126 + ".t")  # 254 bytes
    write_text(file, "a")
    assert file.read_text() == "a"


def test_a_full_disk_leaves_no_draft_and_the_error_names_the_file(tmp_path, monkeypatch):
    def full(*_, **__):
        (tmp_path / "a.json.part").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_json(tmp_path / "a.json", {})
    assert error.value.filename == str(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_not_utf_8_are_written_as_escapes(tmp_path):
    write_text(tmp_path / "a.html", "\udce4")
    write_csv(tmp_path / "a.csv", ["file"], [{"file": "\udce4"}])
    assert (tmp_path / "a.html").read_text() == "\\udce4"
    assert (tmp_path / "a.csv").read_text() == "file\n\\udce4\n"


def test_cells_without_a_value_are_empty(tmp_path):
    write_csv(tmp_path / "a.csv", ["a", "b"], [{"b": 2}, {"a": "x,y"}])
    assert (tmp_path / "a.csv").read_bytes() == b'a,b\r\n,2\r\n"x,y",\r\n'


def test_numbers_that_json_cannot_hold_are_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [(1.5, float("nan"))]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [[1.5, None]]}
