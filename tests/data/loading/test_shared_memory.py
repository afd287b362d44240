"""Room for batches in /dev/shm is asked for before a run."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ask, in_force, prepare

from detector.core.errors import RequestError
from detector.core.structures import AnnotatedImages
from detector.data.loading import shared_memory
from detector.pipeline import build

MB = 2**20


def sized(*sizes):
    """Images of so many rows and columns."""
    rows = np.array(sizes, np.int32).reshape(-1, 2)
    none = np.zeros(0)
    return AnnotatedImages(none, rows, none, none, none, none)


def room(monkeypatch, count):
    """So much of /dev/shm is free."""
    status = SimpleNamespace(f_bavail=count // 4096, f_frsize=4096)
    monkeypatch.setattr(shared_memory.os, "statvfs", lambda path: status)


def test_the_largest_batch_is_of_the_largest_image_at_the_networks_size():
    wide, tall = sized((100, 200)), sized((400, 100), (1000, 2000))
    assert shared_memory.largest_batch([wide, tall], 512, 3, 8) == 512 * 256 * 3 * 8
    assert shared_memory.largest_batch([wide, sized((0, 0))], 512, 1, 2) == 512 * 512 * 2


def test_every_process_loads_two_batches_ahead_and_two_are_in_use():
    assert shared_memory.batches_at_once(8) == 18
    assert shared_memory.most_workers(8, 18, 1) == 8
    assert shared_memory.most_workers(8, 17.9, 1) == 7
    assert shared_memory.most_workers(8, 4, 1) == 1
    assert shared_memory.most_workers(8, 3, 1) == 0
    assert shared_memory.most_workers(8, 0, 1) == 0


def test_what_is_free_is_what_a_user_may_take(monkeypatch):
    room(monkeypatch, MB)
    monkeypatch.setattr(sys, "platform", "linux")
    assert shared_memory.free_shared_memory() == MB


def test_only_linux_limits_shared_memory_by_a_file_system(monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", "/no/such")
    monkeypatch.setattr(sys, "platform", "linux")
    assert shared_memory.free_shared_memory() == 0
    monkeypatch.setattr(sys, "platform", "darwin")
    assert shared_memory.free_shared_memory() == math.inf


def workers(splits, *overrides):
    typed = ["data.root=/d", "data.image_size=512", "data.batch_size=8", *overrides]
    config = in_force(ask("train", "trainer.accelerator=cpu", *typed))
    return build.loader_workers(config, splits)


SPLITS = {"train": sized((512, 512)), "val": sized((512, 512))}  # batches of 6 MB


def test_more_loader_processes_than_there_is_room_for_are_refused(monkeypatch):
    room(monkeypatch, 64 * MB)
    said = (
        r"^data\.workers=8: /dev/shm has 64 MB free, but batches of 6 MB need about 108 MB; docker "
        r"run --shm-size=1g \(or --ipc=host\), data\.workers=4, or data\.workers=0$"
    )
    with pytest.raises(RequestError, match=said):
        workers(SPLITS, "data.workers=8")
    assert workers(SPLITS, "data.workers=4") == 4
    assert workers(SPLITS, "data.workers=0") == 0
    assert workers(SPLITS) == 0  # on a CPU
    # What is left of a short epoch waits while the other split is loaded.
    with pytest.raises(RequestError, match=r"need about 120 MB; .*, data\.workers=1, or data"):
        workers(SPLITS, "data.workers=4", "trainer.limit_train_batches=6")
    assert workers({"test": sized((512, 512))}, "data.workers=4", "trainer.limit_train_batches=6")


def test_every_training_process_of_a_machine_has_loader_processes(monkeypatch):
    room(monkeypatch, 64 * MB)
    assert workers(SPLITS, "data.workers=1", "trainer.devices=2") == 1
    with pytest.raises(RequestError, match=r"need about 72 MB; .*, data\.workers=1, or data\.work"):
        workers(SPLITS, "data.workers=2", "trainer.devices=2")
    room(monkeypatch, 23 * MB)
    with pytest.raises(RequestError, match=r"need about 24 MB; [^,]*, or data\.workers=0$"):
        workers(SPLITS, "data.workers=1")


def test_where_nobody_says_how_many_there_are_as_many_as_fit(monkeypatch, caplog):
    room(monkeypatch, 64 * MB)
    monkeypatch.setattr(build, "uses_gpu", lambda accelerator: True)
    monkeypatch.setattr(build.os, "cpu_count", lambda: 6)
    assert workers(SPLITS) == 4
    assert "data.workers=4 instead of 6: /dev/shm has 64 MB free" in caplog.text


def test_a_request_without_room_is_refused_before_anything_is_written(monkeypatch, voc_root):
    room(monkeypatch, MB)
    typed = [f"data.root={voc_root}", "backbone=efficientnet_lite0", "data.workers=9"]
    with pytest.raises(RequestError, match=r"^data\.workers=9: /dev/shm has 1 MB free"):
        prepare(ask("train", *typed))


def test_sizes_are_said_in_the_units_of_docker():
    sizes = [0, 7198, MB // 2, 64 * MB, 3000 * MB]
    said = ["0 MB", "0.007 MB", "0.5 MB", "64 MB", "3,000 MB"]
    assert list(map(shared_memory.megabytes, sizes)) == said
