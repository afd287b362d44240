"""How far work is, by a clock that the test sets, where output goes to a file."""

from types import SimpleNamespace

import pytest

from detector.core import bar
from detector.core.bar import Bar, in_words, over, pause


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(bar.time, "perf_counter", lambda: now.seconds)
    return now


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO")
    return lambda: caplog.messages


def test_lines_come_after_ten_seconds_and_then_every_thirty(clock, lines):
    work = Bar("reading train", 100, "file")
    for _ in range(8):
        clock.seconds += 9
        work.update()
    # At 18, 54 and, after 72 seconds, not yet again.
    assert lines() == [
        "reading train: 2 of 100 files, 15 min left",  # 98 times 9 s
        "reading train: 6 of 100 files, 14 min left",
    ]


def test_a_note_is_made_only_when_a_line_is_due(clock, lines):
    work, made = Bar("", 100, "step", noted=True), []
    for second in range(1, 45):
        clock.seconds += 1
        work.update(note=lambda now=second: made.append(now) or f"step {now}")
    assert lines() == ["step 10", "step 40"]
    assert made == [10, 40]


def test_work_that_is_done_is_not_announced(clock, lines):
    work = Bar("detecting on val", 2, "batch")
    for _ in range(2):
        clock.seconds += 50
        work.update()
    assert lines() == ["detecting on val: 1 of 2 batches, 50 s left"]


def test_what_was_done_before_does_not_make_the_pace_look_better(clock, lines):
    work = Bar("detecting", 100, "image", initial=80)
    clock.seconds += 10
    work.update(10)
    assert lines() == ["detecting: 90 of 100 images, 10 s left"]


def test_work_of_unknown_length_is_counted(clock, lines):
    def slowly():
        for number in range(3):
            clock.seconds += 20
            yield number

    assert list(over(slowly(), "reading val", "file")) == [0, 1, 2]
    assert lines() == ["reading val: 1 file", "reading val: 3 files"]


def test_before_there_is_a_log_a_line_is_printed(clock, capsys, monkeypatch):
    monkeypatch.setattr(bar.logging.getLogger(), "handlers", [])
    work = Bar("reading train", None, "file")
    clock.seconds += 11
    work.update(7)
    assert capsys.readouterr().out == "reading train: 7 files\n"


@pytest.mark.parametrize(
    ("elapsed", "seconds"), [(0, 30), (600, 30), (3600, 180), (6000, 300), (36000, 300)]
)
def test_lines_get_rarer_but_come_every_five_minutes(elapsed, seconds):
    assert pause(elapsed) == seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3569, "59 min"), (7500, "2 h 5 min")],
)
def test_an_estimated_time_is_given_in_words(seconds, words):
    assert in_words(seconds) == words
