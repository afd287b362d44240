"""What is printed and logged: nothing that steers a terminal, and one line for an error."""

import errno
import logging
import logging.config
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from detector import cli
from detector.core import console
from detector.core.console import LogFile, PlainText, harmless, show_what_can_be_shown, typed


def test_names_cannot_steer_a_terminal():
    hostile = "a\x1b[31mb\x07\r\x9b2J\u202ec\td\ne"
    assert harmless(hostile) == "a\\x1b[31mb\\x07\\r\\x9b2J\\u202ec\td\ne"
    record = logging.LogRecord("x", logging.INFO, "", 0, "class %s", ("\x1b[2J",), None)
    assert PlainText("%(message)s").format(record) == "class \\x1b[2J"


def test_every_command_logs_in_plain_text(capsys):
    options = OmegaConf.load(cli.conf_folder() / "hydra/detector.yaml").job_logging.formatters
    config = {
        "version": 1,
        "formatters": OmegaConf.to_container(options),
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "simple"}},
        "loggers": {"test_output": {"handlers": ["console"]}},
        "disable_existing_loggers": False,
    }
    logging.config.dictConfig(config)
    logging.getLogger("test_output").warning("class %s", "b\u202eird")
    assert capsys.readouterr().err == "class b\\u202eird\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(errno.ENOSPC, "No space left", "out/a.json"), 1, "error: out/a.json: No space"),
        (FloatingPointError("loss is nan"), 1, "error: loss is nan\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, code, said, capsys):
    with pytest.raises(SystemExit) as ended, cli._exits("evaluate"):
        raise error
    assert ended.value.code == code
    line = capsys.readouterr().err
    assert line.startswith(said)
    assert line.count("\n") == 1


def test_a_file_that_cannot_be_read_is_the_requests_fault_while_that_is_checked(capsys):
    with pytest.raises(SystemExit) as ended, cli._exits("check", checking=True):
        raise PermissionError(errno.EACCES, "Permission denied", "data/a.xml")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: data/a.xml: Permission denied\n"


def test_letters_that_a_locale_has_not_are_said(capsys):
    with pytest.raises(SystemExit) as ended, cli._exits("check"):
        "d\udce4t".encode()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: a path has letters that this locale has not")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_log_on_a_full_disk_is_silent(capsys):
    handler = LogFile("/dev/full")
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "a line", (), None))
    assert capsys.readouterr().err == ""
    with suppress(OSError):  # what it still holds cannot be written either
        handler.close()


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("GPU 0")])
def test_no_memory_left_is_one_line_that_says_what_needs_less(error, capsys):
    with pytest.raises(SystemExit) as ended, cli._exits("train"):
        raise error
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: out of memory; a smaller data.batch_size=")


@pytest.mark.parametrize("text", ["a b", "it's", "x\\'y", "end\\", "a\\b", "Ü", "''", "a,b", "{a}"])
def test_what_is_typed_for_a_user_means_to_hydra_what_it_says(text):
    word = typed("key", text, shell=False)
    assert OverridesParser.create().parse_override(word).value() == text
    assert shlex.split(typed("key", text)) == [word]


def test_characters_that_a_terminal_has_not_are_replaced():
    text = "┏━┓\n│é│ 日"
    show_what_can_be_shown()  # registers the replacement
    assert text.encode("latin-1", "detector") == b"+-+\n|\xe9| \\u65e5"
    assert text.encode("ascii", "detector") == b"+-+\n|\\xe9| \\u65e5"


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("data.root=/home/jörg/Bilder", "data.root='/home/jörg/Bilder'"),
        ("+x/y@z=ä b", "+x/y@z='ä b'"),
        ("data.root='/home/jörg'", "data.root='/home/jörg'"),
        ("data.classes=[Bär,Löwe]", "data.classes=[Bär,Löwe]"),
        ("data.root=/data/run=3/~x#1", "data.root='/data/run=3/~x#1'"),
        ("seed=0,1", "seed=0,1"),
        ("data.root=my data", "data.root=my data"),
        ("optim.lr=1e-4", "optim.lr=1e-4"),
        ("-m", "-m"),
    ],
)
def test_values_with_letters_beyond_ascii_are_quoted_for_hydra(argument, quoted):
    assert cli.quote_letters(argument) == quoted


def test_a_line_that_nobody_reads_is_dropped(monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError

    stopped = []
    monkeypatch.setattr("builtins.print", closed)
    monkeypatch.setattr(console, "stop_showing", lambda: stopped.append(True))
    console.tell("a line")
    assert stopped == [True]
