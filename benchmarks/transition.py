"""Seconds that a change of phase takes under DistributedDataParallel, and memory that stays held.

Lightning trains a ResNet-50 FPN with one process of the gloo backend on an image of 64x64 pixels,
in phases of one step each. They train all of the network and only neck and head in turn, and each
begins with the weights and the optimiser's state of the first one's end, held in memory: reading a
checkpoint is not part of it. What is timed is the callback's hook that changes the phase: weights,
`requires_grad` and gradients, the optimiser's state, the wrapper made anew. There is no peer.
Memory is compared with that of as many epochs in a single phase, which grows a little as well.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import logging
import multiprocessing
import statistics
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import psutil
import torch
from common import Report, seconds
from lightning.pytorch.strategies import DDPStrategy
from networks import build_ours, make_batch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from detector.config.schedules import GROUPS
from detector.core.structures import ClassMap, Target
from detector.finetune.phases import Phase
from detector.finetune.schedule import Schedule
from detector.finetune.unfreezing import StagedFinetuning
from detector.pipeline.build import keep_memory
from detector.training.module import DetectionTask
from detector.training.options import OptimiserOptions

WANTED = 2.0  # seconds
SIZE, CLASSES = 64, 3
SETTLING = 2  # changes before those that count: from all to new layers and back


def measure(quick: bool) -> Report:
    """The changes of one run, and the memory of one without.

    Args:
        quick: The small network, few changes.
    """
    backbone, changes = ("efficientnet_lite0", 4) if quick else ("resnet50", 10)
    epochs = 1 + SETTLING + changes
    took, held = in_process(backbone, alternating(epochs))
    _, steady = in_process(backbone, [Phase("all", GROUPS, epochs)])
    took = took[SETTLING:]
    median = statistics.median(took)
    growth, usual = ((values[-1] - values[SETTLING]) / 2**20 for values in (held, steady))
    table = (
        f"A change of phase under DistributedDataParallel, one process, {changes} changes "
        f"({backbone}), without reading a checkpoint:\n\n"
        "| | median | least | most | wanted |\n|---|--:|--:|--:|--:|\n"
        f"| seconds | {median:.2f} | {min(took):.2f} | {max(took):.2f} | below {WANTED:g} |\n\n"
        f"Resident memory over those epochs: {growth:+.0f} MiB ({held[-1] / 2**20:.0f} MiB in the "
        f"end); over as many without a change {usual:+.0f} MiB."
    )
    extra = {
        "backbone": backbone,
        "transition_seconds": median,
        "transitions_s": took,
        "memory_growth_mib": growth,
        "memory_growth_without_changes_mib": usual,
    }
    return Report({}, table, extra)


def in_process(backbone: str, phases: list[Phase]) -> tuple[list[float], list[int]]:
    """`train` in a process of its own: its memory, and the group of processes, end with it."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(train, backbone, phases).result()


class TimedFinetuning(StagedFinetuning):
    """The callback with a clock, a scale, and the best epoch's checkpoint in memory.

    Attributes:
        took: Seconds of every change of phase.
        held: Bytes of resident memory at the end of every epoch.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule, 1e-4, 1, None, "val/map", Path("unused"))
        self.took: list[float] = []
        self.held: list[int] = []
        self._kept: dict[str, Any] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time a change of phase, and see that it made another wrapper."""
        before = trainer.strategy.model
        changes = bool(self.progress.ended)
        took = seconds(
            lambda: super(TimedFinetuning, self).on_train_epoch_start(trainer, pl_module)
        )
        if changes:
            self.took.append(took)
            after = trainer.strategy.model
            assert isinstance(after, DistributedDataParallel)
            assert after is not before

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Weigh the process; after the first epoch keep what later phases begin with."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self._kept:
            (optimiser,) = trainer.optimizers
            state = {"state_dict": pl_module.state_dict()}
            self._kept = copy.deepcopy({**state, "optimizer_states": [optimiser.state_dict()]})
        self.held.append(resident())

    def _restore(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The kept weights, without a file."""
        pl_module.load_state_dict(self._kept["state_dict"])
        return self._kept


def train(backbone: str, phases: list[Phase]) -> tuple[list[float], list[int]]:
    """Train a step in every epoch.

    Args:
        backbone: Its name.
        phases: The schedule.

    Returns:
        Seconds of every change of phase, and bytes held at the end of every epoch.
    """
    # Lightning's hints for real trainings.
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    keep_memory()
    network = build_ours(5, CLASSES, backbone)
    classes = ClassMap(tuple(f"c{i}" for i in range(CLASSES)), tuple(range(CLASSES)))
    task = DetectionTask(
        network, classes, OptimiserOptions(name="adamw", momentum=0.9, weight_decay=1e-4), {}, 0
    )
    callback = TimedFinetuning(Schedule(phases, GROUPS))
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            strategy=DDPStrategy(process_group_backend="gloo"),
            max_epochs=callback.schedule.epochs,
            callbacks=[callback],
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        batch = [one_batch()]
        loader: DataLoader[Any] = DataLoader(batch, batch_size=None)  # type: ignore[arg-type]
        trainer.fit(task, loader, loader)
    torch.distributed.destroy_process_group()
    assert len(callback.took) == len(phases) - 1
    return callback.took, callback.held


def alternating(count: int) -> list[Phase]:
    """All of the network and only the new layers, in turn, an epoch each."""
    return [
        Phase(
            name=f"phase {i}",
            train=GROUPS[-2:] if i % 2 else GROUPS,
            max_epochs=1,
            restore_best=i > 0,
            optimizer_state="checkpoint" if i else "current",
        )
        for i in range(count)
    ]


def one_batch() -> tuple[list[Tensor], list[Target]]:
    """A batch of one image, as the task takes it."""
    images, targets = make_batch(1, SIZE, SIZE, boxes=2, classes=CLASSES)
    truths = [
        Target(
            boxes=target["boxes"],
            labels=target["labels"],
            ignore=torch.zeros(len(target["labels"]), dtype=torch.bool),
            image_id=torch.tensor(i),
            scale=torch.ones(2),
        )
        for i, target in enumerate(targets)
    ]
    return images, truths


def resident() -> int:
    """Bytes that this process holds, without those that are freed and kept for the next step."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)
