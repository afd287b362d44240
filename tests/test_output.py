"""What is written: in one go, and nothing that steers a terminal."""

import errno
import logging
import logging.config
import signal

import pytest
from omegaconf import OmegaConf

from detector import cli
from detector.output import PlainText, harmless, uninterrupted


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
        (KeyboardInterrupt(), 130, "interrupted; results that were there before are kept\n"),
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


def test_other_errors_of_files_keep_their_traceback():
    with pytest.raises(PermissionError), cli._exits("evaluate"):
        raise PermissionError(errno.EACCES, "no", "file")
