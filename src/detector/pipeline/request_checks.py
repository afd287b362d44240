"""What a request can be refused for beside its data: the network, the machine, what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from detector.config.schema import Config
from detector.core.errors import RequestError
from detector.data.formats.paths import cache_folder
from detector.data.loading.image_cache import DiskCache
from detector.data.read import DataSet
from detector.models.options import WEIGHTS
from detector.pipeline import build
from detector.training.loggers import LOGGERS


def check_machine(config: Config) -> None:
    """Refuse devices, a logger or a compiler that this machine does not have."""
    check_devices(config)
    LOGGERS[config.logger.name].check(config.logger)
    check_compiler(config)


def check_loading(config: Config, data: DataSet) -> None:
    """Refuse loaders without room for their batches, and a cache that cannot be written."""
    if config.data.workers:
        build.loader_workers(config, data.splits)
    if config.data.cache == "disk":
        DiskCache(cache_folder() / "images", config.data.side)


def check_backbone(config: Config) -> None:
    """Refuse a model of timm's that is none, or of no use; the rows' names are checked before."""
    if config.backbone.library == "timm":
        from detector.models.backbones.build import backbone_spec

        backbone_spec(config.backbone.key)


def check_augmentation(config: Config) -> None:
    """Refuse steps that are no transforms, or none of such images."""
    from detector.data.loading.augment import Augmenter

    channels = config.model.in_channels
    Augmenter(config.augment.steps, config.data.side, channels=channels)


def check_devices(config: Config) -> None:
    """Refuse devices that this machine has not."""
    asked = config.trainer
    if asked.accelerator == "gpu" or (asked.accelerator == "auto" and asked.devices != "auto"):
        import torch

        there = torch.cuda.device_count()
        if asked.accelerator == "gpu" and not there:
            raise RequestError("trainer.accelerator=gpu: no GPU is available; choose auto or cpu")
    else:
        there = 0
    most = there or os.cpu_count() or 1
    if isinstance(asked.devices, int) and asked.devices > most:
        kind = "GPUs" if there else "cores"
        raise RequestError(f"trainer.devices={asked.devices}: this machine has {most} {kind}")


def check_compiler(config: Config) -> None:
    """Refuse `trainer.compile` where nothing can compile."""
    known = [os.environ.get("CXX", "c++"), "g++", "clang++"]
    if config.trainer.compile and not any(map(shutil.which, known)):
        raise RequestError("trainer.compile=true needs a C++ compiler such as g++; none was found")


def check_weights(config: Config) -> None:
    """Refuse weights that cannot be had or do not fit; they are kept nowhere."""
    pretrained = None
    if config.model.weights not in WEIGHTS:
        from detector.models.weights.files import read_weights

        pretrained = read_weights(Path(config.model.weights))
    if config.model.weights != "none":
        import torch

        with torch.device("meta"):
            network = build.build_network(config, classes=1)
        build.load_pretrained(config, network, pretrained=pretrained)
