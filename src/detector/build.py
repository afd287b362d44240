"""From a configuration to objects: data, network, schedule, task, trainer."""

from __future__ import annotations

import logging
import os
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from detector.config import Config, parse
from detector.data import trees
from detector.data.voc import LAYOUT, read_voc
from detector.finetune.schedule import Phase, Schedule
from detector.types import AnnotatedImages, ClassMap, RequestError

if TYPE_CHECKING:  # torch and lightning take seconds to import: a wrong request is refused before
    import lightning.pytorch as pl

    from detector.data.datamodule import DetectionDataModule
    from detector.task import DetectionTask

log = logging.getLogger(__name__)

RUN_KEYS = ("output_dir", "overrides")
# Keys that say what a verb does, which a checkpoint's configuration must not answer.
VERB_KEYS = ("ckpt", "split", "source", "score_threshold")


def check_request(verb: str, cfg: DictConfig) -> None:
    """Refuse a request that cannot be carried out, before anything is written.

    Args:
        verb: `train`, `evaluate` or `predict`.
        cfg: As composed.

    Raises:
        RequestError: Naming the key, file or box.
    """
    for key in {"train": (), "evaluate": ("ckpt",), "predict": ("ckpt", "source")}[verb]:
        if cfg[key] is None:
            raise RequestError(f"{key}= is required (see python -m detector.{verb} --help)")
    config = resolve(verb, cfg)
    if verb == "predict":
        source_files(config.source or "")
        return
    check_finetune(config)
    read_data(config, evaluated_split(config) if verb == "evaluate" else None, keep=True)
    if verb == "train" and config.model.weights == "imagenet" and not config.ckpt:
        from detector.models.backbones import BACKBONES

        BACKBONES[config.backbone.name].imagenet()  # what cannot be fetched is said now


def resolve(verb: str, cfg: DictConfig) -> Config:
    """The configuration in force.

    Without a checkpoint, what was composed. With one, what the checkpoint was trained with, except
    for the keys and groups that were typed; an experiment typed stands for all of its keys.

    Args:
        verb: `train`, `evaluate` or `predict`.
        cfg: As composed, with `overrides`.
    """
    typed = [o.lstrip("+~").split("=")[0] for o in cfg.overrides]
    if cfg.data.root is not None:
        # A checkpoint must know its data from any folder.
        cfg.data.root = str(Path(cfg.data.root).expanduser().absolute())
    values = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k not in RUN_KEYS])
    if not values.ckpt:
        return parse(values)
    path = checkpoint_path(verb, values.ckpt)
    ours = read_checkpoint(path)
    saved = OmegaConf.create(ours["config"])
    for key in {*VERB_KEYS, *typed}:
        if _has(values, key):
            OmegaConf.update(saved, key, OmegaConf.select(values, key), merge=False)
    config = parse(values if "experiment" in typed else saved)
    names = list(checkpoint_classes(ours).names)
    if config.data.classes not in (None, names):
        raise RequestError(
            f"data.classes={config.data.classes}, but {path} knows {', '.join(names)}"
        )
    config.data.classes = names
    return config


def _has(values: DictConfig, key: str) -> bool:
    """Whether a dotted key is there, be it null."""
    missing = object()
    return OmegaConf.select(values, key, default=missing) is not missing


def checkpoint_path(verb: str, ckpt: str) -> Path:
    """The file that `ckpt` means: of a run folder, the last to go on from, the best to use.

    Raises:
        RequestError: If there is none, or the file is no checkpoint.
    """
    path = Path(ckpt)
    if path.is_dir():
        path = path / "checkpoints" / ("last.ckpt" if verb == "train" else "best.ckpt")
        if not path.is_file():
            raise RequestError(f"ckpt={ckpt}: not the folder of a run: it has no {path}")
    if not path.is_file():
        raise RequestError(f"ckpt={ckpt}: no such file or folder")
    if not zipfile.is_zipfile(path):
        raise RequestError(f"ckpt={ckpt}: not a checkpoint")
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Our part of a checkpoint, as data: nothing in the file is executed.

    Returns:
        `config` and `classes`.

    Raises:
        RequestError: If it is not one of ours.
    """
    ours: Any = load_checkpoint(path).get("detector")
    try:
        classes = checkpoint_classes(ours)
        config = dict(ours["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"ckpt={path}: not a checkpoint of detector.train") from error
    return {"config": config, "classes": {"names": classes.names, "ids": classes.ids}}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint file's content, tensors mapped from the file."""
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise RequestError(f"ckpt={path}: not a checkpoint of plain weights") from error
    if not isinstance(content, dict):
        raise RequestError(f"ckpt={path}: not a checkpoint of detector.train")
    return content


def checkpoint_classes(ours: dict[str, Any]) -> ClassMap:
    """The classes a checkpoint was trained on."""
    classes = ours["classes"]
    return ClassMap(tuple(map(str, classes["names"])), tuple(map(int, classes["ids"])))


def evaluated_split(config: Config) -> str:
    """The split that `evaluate` is asked for: by default `test`, or `val` where there is none."""
    return config.split or ("test" if config.data.splits.test else "val")


# What the check of a request has read, until the run takes it.
_kept: dict[str, tuple[dict[str, AnnotatedImages], ClassMap]] = {}


def read_data(
    config: Config, split: str | None = None, *, keep: bool = False
) -> tuple[dict[str, AnnotatedImages], ClassMap]:
    """Read annotations.

    Args:
        config: Says which data.
        split: The only one wanted, where it has split files of its own; None: all.
        keep: Remember the answer for the next call.

    Returns:
        `train`, `val` and, where there is one, `test`; and the classes.
    """
    key = f"{split} {config.seed} {config.ckpt} {config.data}"
    answer = _kept.pop(key, None) or _read_data(config, split)
    if keep:
        _kept[key] = answer
    return answer


def _read_data(config: Config, split: str | None) -> tuple[dict[str, AnnotatedImages], ClassMap]:
    data = config.data
    named = {k: v for k, v in vars(data.splits).items() if v}
    if split is not None and split not in named and split != "val":
        raise RequestError(f"split={split}: data.splits.{split} is null; there are {named}")
    if split in named and split is not None:
        named = {split: named[split]}
    if data.format == "trees" and data.root is None:
        root = trees.prepare()
    elif data.root is None:
        raise RequestError(f"data.root= is required: the folder of your data; {LAYOUT}")
    else:
        root = Path(data.root)
        if data.download:
            download_voc(root, [part for parts in named.values() for part in parts])
        else:
            _check_devkit(root, [part for parts in named.values() for part in parts])
    origin = f"those that {config.ckpt} knows" if config.ckpt else "data.classes"
    images, classes = read_voc(root, named, data.classes, origin)
    if "val" not in images and split in (None, "val"):
        images = _hold_out(images, data.val_fraction, config.seed)
    for name, found in images.items():
        if not (~found.ignore).any():
            raise RequestError(f"{root}: the split {name!r} has no boxes to learn or to find")
    return images, classes


def _check_devkit(root: Path, parts: Sequence[str]) -> None:
    """Say how to get the years of VOC that are asked for, where they are not there."""
    years = dict.fromkeys(part.partition("/")[0] for part in parts if part.startswith("VOC"))
    for year in years:
        if not any((base / year).is_dir() for base in (root, root / "VOCdevkit")):
            raise RequestError(
                f"data.root={root}: no VOCdevkit/{year} in it; expected VOCdevkit/"
                f"{{{','.join(years)}}}/{{Annotations,ImageSets/Main,JPEGImages}}, "
                "or fetch them with data.download=true (3 GB)"
            )


def _hold_out(
    images: dict[str, AnnotatedImages], fraction: float, seed: int
) -> dict[str, AnnotatedImages]:
    """Take a validation split out of the training images, by seed."""
    train = images["train"]
    count = max(1, round(fraction * len(train)))
    if count >= len(train):
        raise RequestError(f"{len(train)} training images are too few to hold {count} out for val")
    order = np.random.default_rng(seed).permutation(len(train))
    return {
        **images,
        "train": train.subset(np.sort(order[count:])),
        "val": train.subset(np.sort(order[:count])),
    }


def download_voc(root: Path, parts: Sequence[str]) -> None:
    """Fetch the VOC years that split names ask for, through torchvision.

    Args:
        root: The folder that gets `VOCdevkit/`.
        parts: Such as `VOC2007/trainval`; other names are left alone.

    Raises:
        RequestError: If it cannot be fetched.
    """
    from torchvision.datasets import VOCDetection

    for part in parts:
        year, _, name = part.partition("/")
        if not year.startswith("VOC"):
            continue
        if (root / "VOCdevkit" / year / "ImageSets" / "Main" / f"{name}.txt").is_file():
            continue
        root.mkdir(parents=True, exist_ok=True)
        image_set = "test" if name == "test" else "trainval"
        try:
            VOCDetection(root, year=year[3:], image_set=image_set, download=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise RequestError(f"data.download=true: cannot fetch {part}: {error}") from error


def source_files(source: str) -> list[Path]:
    """The image files that `source` means, sorted.

    Raises:
        RequestError: If there is nothing there.
    """
    from detector.data.voc import SUFFIXES

    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise RequestError(f"source={source}: no such file or folder")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise RequestError(f"source={source}: no images in it ({', '.join(SUFFIXES)})")
    return files


GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4", "neck", "head")


def check_finetune(config: Config) -> Schedule:
    """The schedule, checked against the groups that every network has."""
    phases = [
        Phase(p.name, tuple(p.train), p.lr_factor, p.epochs, p.warmup_steps, p.final_factor)
        for p in config.finetune.phases
    ]
    return Schedule(phases, GROUPS, config.trainer.max_epochs)


def build_task(config: Config, classes: ClassMap, *, pretrained: bool) -> DetectionTask:
    """The network in its LightningModule.

    Args:
        config: The run's.
        classes: The data's.
        pretrained: Load the weights that `model.weights` names; False where a checkpoint follows.
    """
    import torch

    from detector.config import plain
    from detector.models.faster_rcnn import FasterRCNNOptions, build_faster_rcnn
    from detector.task import DetectionTask, OptimiserOptions

    numbers: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in vars(config.model).items()
        if k != "weights"
    }
    # The new layers' weights are a function of the seed alone.
    torch.manual_seed(config.seed)
    network = build_faster_rcnn(
        config.backbone.name,
        len(classes),
        imagenet=pretrained and config.model.weights == "imagenet",
        norm=config.finetune.norm,  # type: ignore[arg-type]  # checked by FinetuneConfig
        options=FasterRCNNOptions(**numbers),
    )
    optim = config.optim
    options = OptimiserOptions(optim.name, optim.momentum, optim.weight_decay)
    return DetectionTask(network, classes, options, plain(config), config.seed)


def load_task(verb: str, config: Config) -> DetectionTask:
    """The task of a checkpoint, with its weights."""
    assert config.ckpt is not None
    path = checkpoint_path(verb, config.ckpt)
    task = build_task(config, checkpoint_classes(read_checkpoint(path)), pretrained=False)
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
    """The loaders."""
    import torch

    from detector.data.datamodule import DetectionDataModule, LoaderOptions

    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    workers = config.data.workers
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if on_gpu else 0
    options = LoaderOptions(
        image_size=config.data.image_size,
        batch_size=config.data.batch_size,
        workers=workers,
        steps=config.augment.steps,
        min_visibility=config.augment.min_visibility,
        seed=config.seed,
        pin_memory=on_gpu,
    )
    return DetectionDataModule(images, options)


def build_trainer(
    config: Config, folder: Path, callbacks: Sequence[pl.Callback] = (), epochs: int = 1
) -> pl.Trainer:
    """Lightning's trainer, quiet: our callbacks speak.

    Args:
        config: The run's.
        folder: Where it may write.
        callbacks: Ours.
        epochs: Of the schedule.
    """
    import lightning.pytorch as pl

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
    settings = config.trainer
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        precision=precision(settings.precision, settings.accelerator),  # type: ignore[arg-type]
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any("Checkpoint" in type(c).__name__ for c in callbacks),
        # A score of an untrained model must never become the best.
        num_sanity_val_steps=0,
        # `KeyedSampler` deals the images out itself.
        use_distributed_sampler=False,
        gradient_clip_val=config.optim.clip_norm,
        limit_train_batches=settings.limit_train_batches,
        limit_val_batches=settings.limit_val_batches,
        limit_test_batches=settings.limit_test_batches,
    )


def precision(name: str, accelerator: str) -> str:
    """What `trainer.precision` means on this machine.

    Args:
        name: `auto`, or one of Lightning's names.
        accelerator: `trainer.accelerator`.
    """
    import torch

    if name != "auto":
        return name
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    # Without instructions of its own for it, a CPU is slower in bf16 than in float32.
    has = torch.cpu.get_capabilities()
    return "bf16-mixed" if has.get("avx512_bf16") or has.get("amx_bf16") else "32"
