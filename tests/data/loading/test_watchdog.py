import errno
import gc
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from detector.core.errors import RequestError, WorkError
from detector.data.loading import watchdog
from detector.data.loading.watchdog import LoaderStatus, WatchedLoader, named_ends

PATHS = np.array([f"{i}.jpg" for i in range(4)])


class Stalls(Dataset):
    """Is at image 1 until it is let go on."""

    def __init__(self, status):
        self.status = status
        self.go_on = torch.multiprocessing.get_context("fork").Event()
        self.wait = lambda: self.go_on.wait(60)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        with self.status.busy(index):
            if index == 1:
                assert self.wait()
        return index


class Listener:
    """Lets the data set go on as soon as a warning has come."""

    def __init__(self, data, monkeypatch):
        self.lines = []
        self.data = data
        monkeypatch.setattr("detector.data.loading.watchdog.log.warning", self.hear)

    def hear(self, line, *values):
        self.lines.append(line % values)
        self.data.go_on.set()


def make(workers, stall_seconds):
    status = LoaderStatus(workers)
    data = Stalls(status)
    options = {"dataset": data, "num_workers": workers, "persistent_workers": workers > 0}
    return WatchedLoader(status, PATHS, stall_seconds, **options), data


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
        loader.status.since[0] = since = next(seen, -1)
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
    assert list(loader.status.since) == [0]


class Fails(Dataset):
    """Does something at image 1, in a loader's process."""

    def __init__(self, status, what):
        self.status = status
        self.what = what

    def __len__(self):
        return 4

    def __getitem__(self, index):
        with self.status.busy(index):
            if index == 1:
                return self.what()
        return index


def failing(what, workers=2):
    status = LoaderStatus(workers)
    data = Fails(status, what)
    return WatchedLoader(status, PATHS, 0.1, dataset=data, num_workers=workers, batch_size=1)


def load(loader):
    with named_ends():
        return [int(batch[0]) for batch in loader]


def killed(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, r"9 \(SIGKILL\), at 1\.jpg; perhaps for want of memory: try a smaller"),
        (signal.SIGBUS, r"7 \(SIGBUS\), at 1\.jpg; perhaps /dev/shm is full: docker run --shm"),
        (signal.SIGSEGV, r"11 \(SIGSEGV\), at 1\.jpg$"),
    ],
)
def test_a_process_that_is_killed_ends_the_work_and_is_named(number, said):
    before = r"^worker 1 of data\.workers=2 \(process \d+\) was killed by signal "
    with pytest.raises(WorkError, match=before + said):
        load(failing(lambda: killed(number)))


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_that_exits_ends_the_work(code):
    with pytest.raises(WorkError, match=rf"worker 1 .* ended with exit code {code}, at 1\.jpg$"):
        load(failing(lambda: os._exit(code)))


def test_a_process_that_is_killed_is_named_whatever_the_training_does_meanwhile():
    loader = failing(lambda: time.sleep(60), workers=1)

    def step():
        for process in loader.processes:
            os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            threading.Event().wait(0.01)

    def train():
        with named_ends():
            for _ in loader:
                step()

    with pytest.raises(WorkError, match=r"worker 0 .*SIGKILL"):
        train()


def test_an_error_of_something_else_is_left_alone():
    with pytest.raises(RuntimeError, match="out of memory"), named_ends():
        raise RuntimeError("CUDA out of memory")


class Unsendable:
    """Cannot be put into a queue: as a batch that finds no room on its way."""

    def __reduce__(self):
        raise OSError("no room")


def test_processes_that_cannot_be_started_are_one_line(monkeypatch, capfd):
    begin, begun = torch.multiprocessing.Process.start, []

    def start(self):
        if begun:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        begun.append(self)
        begin(self)

    monkeypatch.setattr(torch.multiprocessing.Process, "start", start)
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    said = r"^data\.workers=2: loader processes cannot be started \(Resource temporarily unavaila"
    with pytest.raises(WorkError, match=said):
        load(failing(None))
    gc.collect()
    assert not unraisable
    assert not watchdogs()
    begun[0].join(60)
    assert begun[0].exitcode is not None


def test_a_batch_that_is_lost_on_its_way_ends_the_work(monkeypatch, capfd):
    monkeypatch.setattr(watchdog, "LEAST", 2)
    loader = failing(Unsendable, workers=1)
    loader.collate_fn = list
    said = r"^worker 0 of data\.workers=1 is at no image \(its last: .*\), but its batch has not "
    with pytest.raises(WorkError, match=said + r"arrived for 2 s; /dev/shm has .* free"):
        load(loader)
    capfd.readouterr()  # what the queue says


class Late:
    """Batches of which none arrives in time, until what happens meanwhile has happened."""

    _task_info, _rcvd_idx = {3: (1,)}, 3

    def __init__(self, *meanwhile):
        self.meanwhile = list(meanwhile)

    def __next__(self):
        if not self.meanwhile:
            raise StopIteration
        self.meanwhile.pop(0)()
        raise RuntimeError("DataLoader timed out after 30 seconds")


def test_only_if_nothing_is_done_meanwhile_a_batch_is_given_up():
    loader = failing(None)
    status = loader.status

    def begin():
        status.image[1], status.since[1] = 2, 1.0

    def end():
        status.since[1] = 0
        status.done[1] += 1

    def nothing():
        pass

    slow = (begin, nothing, nothing, nothing, end)
    assert list(loader._fetch(Late(*slow))) == []
    assert list(loader._fetch(Late(nothing, end, end, *slow))) == []
    left = Late(*slow, nothing, nothing)
    with pytest.raises(WorkError, match=r"^worker 1 .* at no image \(its last: 2\.jpg\), but"):
        list(loader._fetch(left))
    assert len(left.meanwhile) == 1


@pytest.mark.parametrize("kind", [RequestError, WorkError])
def test_an_error_of_a_process_comes_as_the_line_that_was_said(kind):
    def fail():
        raise kind("1.jpg: not a readable image")

    with pytest.raises(kind, match=r"^1\.jpg: not a readable image$"):
        load(failing(fail, workers=1))
