"""How a command ends, whatever was raised."""

import errno
import logging

import pytest

from detector.core.errors import RequestError, WorkError
from detector.pipeline.exits import Terminated, exits


def ended(error, capsys, **options):
    """The exit code, and what was printed on standard error."""
    with pytest.raises(SystemExit) as end, exits(lambda e: f"explained {e}", **options):
        raise error
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "checking", "expected"),
    [
        (RequestError("seed=x"), False, (2, "error: seed=x\n")),
        (WorkError("a: full"), False, (1, "error: a: full\n")),
        (FloatingPointError("nan"), False, (1, "error: nan\n")),
        (BrokenPipeError(), False, (1, "")),
        (OSError(errno.ENOENT, "gone", "a.txt"), True, (2, "error: a.txt: gone\n")),
        (OSError(errno.ENOENT, "gone"), True, (2, "error: a file: gone\n")),
        (OSError(errno.ENOSPC, "full"), False, (1, "error: the folder for outputs: full\n")),
        (KeyboardInterrupt(), False, (130, "interrupted\n")),
        (Terminated(), False, (143, "terminated by SIGTERM\n")),
    ],
)
def test_each_error_has_its_line_and_code(error, checking, expected, capsys):
    assert ended(error, capsys, checking=checking) == expected


def test_a_name_that_the_locale_lacks_is_refused_and_other_text_is_an_error(capsys):
    error = UnicodeEncodeError("utf-8", "a", 0, 1, "surrogates not allowed")
    code, said = ended(error, capsys)
    assert code == 2
    assert "LC_ALL=C.UTF-8" in said
    with pytest.raises(UnicodeEncodeError), exits(str):
        raise UnicodeEncodeError("utf-8", "a", 0, 1, "other")


def test_memory_that_is_missing_says_what_needs_less(capsys):
    code, said = ended(MemoryError(), capsys)
    assert code == 1
    assert "out of memory; a smaller data.batch_size=" in said


def test_an_error_that_nobody_expected_names_where_its_traceback_is(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    code, said = ended(ZeroDivisionError("by zero"), capsys)
    assert code == 1
    (file,) = tmp_path.glob("detector-error-*.log")
    assert "ZeroDivisionError: by zero" in said
    assert str(file) in said
    assert "ZeroDivisionError" in file.read_text()


def test_a_traceback_goes_into_the_log_where_there_is_one(capsys, tmp_path, monkeypatch):
    handler = logging.FileHandler(tmp_path / "train.log")
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    _, said = ended(ZeroDivisionError("by zero"), capsys)
    handler.close()
    assert f"(traceback in {tmp_path / 'train.log'})" in said
    assert "ZeroDivisionError" in (tmp_path / "train.log").read_text()
