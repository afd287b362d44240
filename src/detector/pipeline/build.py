"""From a checked configuration to objects: network, loaders, callbacks, trainer."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detector.config.schema import Config, plain
from detector.core.console import typed
from detector.core.errors import RequestError
from detector.core.memory import free_memory
from detector.core.run_folder import RunFolder
from detector.core.structures import AnnotatedImages, ClassMap
from detector.data.loading import shared_memory
from detector.training.checkpoint import (
    checkpoint_classes,
    checkpoint_path,
    load_checkpoint,
    read_checkpoint,
)
from detector.training.options import TrainerOptions

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import Logger

    from detector.data.loading.datamodule import DetectionDataModule
    from detector.finetune.schedule import Schedule
    from detector.finetune.unfreezing import StagedFinetuning
    from detector.models.backbones.feature_store import FeatureStore
    from detector.models.faster_rcnn import FasterRCNN, SpeedOptions
    from detector.models.weights.files import Pretrained
    from detector.models.weights.report import LoadReport
    from detector.training.module import DetectionTask
    from detector.training.progress import RunProgress

log = logging.getLogger(__name__)

MOST_WORKERS = 8  # that are chosen where nobody says how many
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def build_task(config: Config, classes: ClassMap) -> DetectionTask:
    """Build the LightningModule, with random weights.

    Args:
        config: Configuration in force.
        classes: Classes of the data.
    """
    import torch

    from detector.models.faster_rcnn import SpeedOptions
    from detector.training.module import DetectionTask

    run = config.trainer
    # Where a GPU has it, float32 products with shorter factors.
    product = "tf32" if run.tf32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.fp32_precision = product
    # The new layers' weights are a function of the seed alone.
    torch.manual_seed(config.seed)
    speed = SpeedOptions(channels_last=run.channels_last, compiled=run.compile)
    network = build_network(config, len(classes), speed)
    return DetectionTask(network, classes, config.optim, plain(config), config.seed)


def build_network(config: Config, classes: int, speed: SpeedOptions | None = None) -> FasterRCNN:
    """Build the network with random weights, all of it trainable.

    Args:
        config: Configuration in force.
        classes: Number of classes, without background.
        speed: How the network is run.
    """
    from detector.models.faster_rcnn import build_faster_rcnn

    return build_faster_rcnn(
        config.backbone.key,
        classes,
        norm=config.finetune.norm,
        options=config.model,
        speed=speed,
    )


def load_pretrained(
    config: Config,
    network: FasterRCNN,
    classes: Sequence[str] = (),
    pretrained: Pretrained | None = None,
) -> LoadReport | None:
    """Put the weights that `model.weights` names into a network.

    Args:
        config: Configuration in force.
        network: Changed in place; on torch's meta device it is only seen whether they fit.
        classes: Class names of the data.
        pretrained: The weights, if they have been read before.

    Returns:
        What was loaded; None if all weights are to be random.

    Raises:
        RequestError: If there are no such weights, they cannot be had, or they do not fit.
    """
    from detector.models.weights import load

    if config.model.weights == "none":
        return None
    if pretrained is None:
        pretrained = load.find_pretrained(config.model.weights, config.backbone.key, network)
    return load.load_pretrained(network, pretrained, classes)


def untrained_task(config: Config, device: str) -> DetectionTask:
    """Build a run's LightningModule with random weights, without knowing its data.

    Args:
        config: Configuration in force.
        device: `meta` for shapes alone, without numbers.
    """
    import torch

    names = config.data.classes or ["any"]
    classes = ClassMap(tuple(names), tuple(range(1, len(names) + 1)))
    plainly = replace(config.trainer, compile=False)  # for a few steps at most
    with torch.device(device):
        return build_task(replace(config, trainer=plainly), classes)


def load_task(config: Config) -> DetectionTask:
    """Build the LightningModule of the checkpoint `config.ckpt`, with its weights."""
    assert config.ckpt is not None
    path = checkpoint_path("evaluate", config.ckpt)
    task = build_task(config, checkpoint_classes(read_checkpoint(path)))
    load_weights(task, path)
    return task


def load_weights(task: DetectionTask, path: Path) -> None:
    """Put a checkpoint's weights into a task.

    Raises:
        RequestError: If they do not fit.
    """
    try:
        task.load_state_dict(load_checkpoint(path)["state_dict"])
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(f"ckpt={path}: its weights do not fit the model ({reason})") from error


def build_datamodule(config: Config, images: dict[str, AnnotatedImages]) -> DetectionDataModule:
    """Build the loaders."""
    from detector.data.loading.datamodule import DetectionDataModule

    pinned = config.data.pin_memory and uses_gpu(config.trainer.accelerator)
    workers = loader_workers(config, images)
    return DetectionDataModule(
        images,
        replace(config.data, pin_memory=pinned, workers=workers),
        config.augment,
        seed=config.seed,
        channels=config.model.in_channels,
        processes=local_processes(config.trainer),
    )


def feature_store(config: Config) -> FeatureStore | None:
    """What keeps the outputs of frozen stages in a training; None where it would not pay.

    It pays where images come again. Turned or scaled at random they do not, and a GPU computes
    them faster than they are found.

    Args:
        config: Configuration in force.
    """
    from detector.models.backbones.feature_store import FeatureStore

    run = config.trainer
    changing = {step.get("name") for step in config.augment.steps} - {"HorizontalFlip"}
    if not run.cache_features or changing or run.compile or uses_gpu(run.accelerator):
        return None
    return FeatureStore(free_memory() // 4 // local_processes(run))


def loader_workers(config: Config, images: dict[str, AnnotatedImages]) -> int:
    """Number of loader processes for each training process.

    Args:
        config: Configuration in force.
        images: Images by split; their batches must fit into shared memory.

    Raises:
        RequestError: If there is no room for those that were asked for.
    """
    asked = config.data.workers
    wanted = asked
    if wanted is None:
        on_gpu = uses_gpu(config.trainer.accelerator)
        wanted = min(MOST_WORKERS, os.cpu_count() or 1) if on_gpu else 0
    if not wanted:
        return 0
    data, run = config.data, config.trainer
    batch = shared_memory.largest_batch(
        images.values(), data.side, config.model.in_channels, data.batch_size
    )
    # What was loaded ahead in an epoch that is cut short waits while the other split is loaded.
    cut = "train" in images and (run.limit_train_batches, run.limit_val_batches) != (1.0, 1.0)
    loaders, free = 2 if cut else 1, shared_memory.free_shared_memory()
    if shared_memory.most_workers(wanted, free / loaders, batch) == wanted:
        loaders *= local_processes(run)  # which may take the import of torch
    fitting = shared_memory.most_workers(wanted, free / loaders, batch)
    if fitting == wanted:
        return wanted
    need = shared_memory.batches_at_once(wanted) * batch * loaders
    said = (
        f"{shared_memory.FOLDER} has {shared_memory.megabytes(free)} free, but batches of "
        f"{shared_memory.megabytes(batch)} need about {shared_memory.megabytes(need)}"
    )
    if asked is not None:
        fewer = f"data.workers={fitting}, " if fitting else ""
        remedy = shared_memory.REMEDY.replace("1g", f"{math.ceil(need / 2**30)}g")
        raise RequestError(f"data.workers={asked}: {said}; {remedy}, {fewer}or data.workers=0")
    log.warning("data.workers=%d instead of %d: %s", fitting, wanted, said)
    return fitting


def local_processes(trainer: TrainerOptions) -> int:
    """Number of processes that will train on this machine."""
    if isinstance(trainer.devices, int):
        return trainer.devices
    if trainer.accelerator == "cpu":
        return 1
    import torch

    return max(1, torch.cuda.device_count()) if uses_gpu(trainer.accelerator) else 1


def build_callbacks(
    config: Config, schedule: Schedule, folder: RunFolder
) -> tuple[StagedFinetuning, RunProgress, list[pl.Callback]]:
    """Build the callbacks: the schedule, the progress, and all of them in their order.

    Args:
        config: Configuration in force.
        schedule: Schedule of the phases.
        folder: Folder of the run.
    """
    from detector.finetune.averaging import AveragedWeights
    from detector.finetune.pace import Pace
    from detector.finetune.unfreezing import StagedFinetuning
    from detector.training.progress import RunProgress
    from detector.training.run_checkpoints import RunCheckpoints

    optim, run = config.optim, folder
    finetuning = StagedFinetuning(
        schedule,
        optim.lr,
        config.data.batch_size,
        optim.reference_batch,
        config.monitor,
        run.best_checkpoint,
        Pace(),
    )
    resume = f"python -m detector.train {typed('ckpt', folder)}"
    progress = RunProgress(run, finetuning, phase_costs(config, schedule), resume)
    averaging = [] if optim.ema is None else [AveragedWeights(optim.ema)]
    # The schedule handles an epoch's score before its row and its checkpoint are written.
    kept = RunCheckpoints(finetuning, run, progress)
    return finetuning, progress, [finetuning.pace, finetuning, *averaging, progress, kept]


def phase_costs(config: Config, schedule: Schedule) -> list[int]:
    """Multiply-adds of a training step over one image in each phase, with random weights.

    Args:
        config: Configuration in force.
        schedule: Schedule of the phases.
    """
    if len(schedule.phases) == 1:
        return [1]  # is compared with no other
    network = untrained_task(config, "meta").network
    costs = []
    for phase in schedule.phases:
        network.set_trainable(phase.train)
        costs.append(step_cost(network, config))
    return costs


def step_cost(network: FasterRCNN, config: Config) -> int:
    """Multiply-adds of a training step over one image, with what is trainable now.

    Args:
        network: The network; on torch's meta device only shapes are computed.
        config: Configuration in force.
    """
    from detector.models.compute import step_compute

    return sum(count.total for count in step_compute(network, config.data.side).values())


def build_trainer(
    config: Config,
    folder: Path,
    callbacks: Sequence[pl.Callback] = (),
    logger: Logger | None = None,
) -> pl.Trainer:
    """Lightning's trainer, quiet: our callbacks speak.

    Args:
        config: Configuration in force.
        folder: Folder that Lightning may write into.
        callbacks: Callbacks, in the order of their calls.
        logger: Logger that `RunProgress` logs to.
    """
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Checkpoint

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # A resumed run goes on in its own folder.
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")
    # Validation scores are equal on all processes: the metric has gathered before.
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")
    # Small data on a laptop is loaded in the training process by choice.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Frozen stages are in evaluation mode by design.
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
    # Between Lightning 2.6 and torch's newest release; neither is ours.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    keep_memory()
    settings = config.trainer
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        precision=precision(settings.precision, settings.accelerator),  # type: ignore[arg-type]
        max_epochs=-1,  # `StagedFinetuning` ends the training
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=logger or False,
        log_every_n_steps=1,  # or Lightning warns of short epochs; nothing is logged by step
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        # A score of an untrained model must never become the best.
        num_sanity_val_steps=0,
        # `KeyedSampler` deals the images out itself.
        use_distributed_sampler=False,
        gradient_clip_val=config.optim.clip_norm,
        limit_train_batches=settings.limit_train_batches,
        limit_val_batches=settings.limit_val_batches,
        limit_test_batches=settings.limit_test_batches,
    )


def keep_memory() -> None:
    """Ask the C library to keep what is freed: the next step needs as much again.

    Else it returns large blocks to the system, which clears each page anew. Only glibc is asked.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(option, 2**31 - 1)


def uses_gpu(accelerator: str) -> bool:
    """Whether `trainer.accelerator` means a CUDA device on this machine."""
    import torch

    return accelerator in ("auto", "gpu") and torch.cuda.is_available()


def precision(name: str, accelerator: str) -> str:
    """Precision that `trainer.precision` means on this machine.

    Args:
        name: `auto`, or one of Lightning's names.
        accelerator: `trainer.accelerator`.
    """
    import torch

    if name != "auto":
        return name
    if uses_gpu(accelerator):
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    # Without instructions of its own for it, a CPU is slower in bf16 than in float32.
    has = torch.cpu.get_capabilities()
    return "bf16-mixed" if has.get("avx512_bf16") or has.get("amx_bf16") else "32"
