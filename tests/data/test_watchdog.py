import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from detector.data.watchdog import Desk, WatchedLoader

PATHS = np.array([f"{i}.jpg" for i in range(4)])


class Stalls(Dataset):
    """Is at image 1 until it is let go on."""

    def __init__(self, desk):
        self.desk = desk
        self.go_on = torch.multiprocessing.get_context("fork").Event()
        self.wait = lambda: self.go_on.wait(60)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        with self.desk.busy(index):
            if index == 1:
                assert self.wait()
        return index


class Listener:
    """Lets the data set go on as soon as a warning has come."""

    def __init__(self, data, monkeypatch):
        self.lines = []
        self.data = data
        monkeypatch.setattr("detector.data.watchdog.log.warning", self.hear)

    def hear(self, line, *values):
        self.lines.append(line % values)
        self.data.go_on.set()


def make(workers, stall_seconds):
    desk = Desk(workers)
    data = Stalls(desk)
    options = {"dataset": data, "num_workers": workers, "persistent_workers": workers > 0}
    return WatchedLoader(desk, PATHS, stall_seconds, **options), data


def watchdogs():
    return [t for t in threading.enumerate() if t.name == "loader-watchdog"]


@pytest.mark.parametrize(
    ("workers", "who"), [(0, "the main process"), (1, "worker 0"), (2, "worker 1")]
)
def test_a_stalled_image_is_named_with_who_is_at_it(monkeypatch, workers, who):
    loader, data = make(workers, 0.05)
    heard = Listener(data, monkeypatch)
    assert [int(batch[0]) for batch in loader] == [0, 1, 2, 3]
    assert heard.lines
    assert all(line.startswith(f"{who} has been at 1.jpg for") for line in heard.lines)


def test_each_stall_is_said_once(monkeypatch):
    loader, data = make(0, 0.01)
    heard = Listener(data, monkeypatch)

    def wait():
        assert data.go_on.wait(60)
        return not threading.Event().wait(0.1)  # time for many more looks

    data.wait = wait
    for epoch in range(2):
        data.go_on.clear()
        list(loader)
        assert len(heard.lines) == epoch + 1


def test_only_what_takes_too_long_is_named(monkeypatch):
    loader, data = make(0, 60)
    heard = Listener(data, monkeypatch)
    now = time.monotonic()
    # Seen at each look: just begun, long since begun, still that, idle, at the next image.
    seen = iter([now, now - 61, now - 61, 0.0, now])

    def look(_):
        loader.desk.since[0] = since = next(seen, -1)
        return since == -1

    loader._watch(SimpleNamespace(wait=look))
    assert len(heard.lines) == 1


def test_nothing_is_said_of_a_loader_that_nobody_asks(monkeypatch):
    loader, data = make(0, 0.01)
    data.go_on.set()
    heard = Listener(data, monkeypatch)
    batches = iter(loader)
    next(batches)
    for _ in range(20):  # the training step, meanwhile
        threading.Event().wait(0.01)
    assert heard.lines == []
    batches.close()


def test_the_watchdog_ends_with_the_epoch_also_when_it_is_left_early():
    loader, data = make(0, 60)
    data.go_on.set()
    assert not watchdogs()
    batches = iter(loader)
    next(batches)
    assert len(watchdogs()) == 1
    list(batches)
    assert not watchdogs()
    for _ in loader:
        break
    assert not watchdogs()


def test_an_error_in_the_data_set_leaves_no_watchdog_and_no_busy_worker():
    loader, data = make(0, 60)
    data.wait = lambda: False
    with pytest.raises(AssertionError):
        list(loader)
    assert not watchdogs()
    assert list(loader.desk.since) == [0]
