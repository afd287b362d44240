"""Hydra's configuration groups that are made from tables instead of YAML files."""

from __future__ import annotations

import functools

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from detector.models.backbones.table import BACKBONES, BackboneSpec


def register_backbones() -> None:
    """Make every row of the table of backbones a choice of `backbone=`."""
    _register(tuple(BACKBONES))


@functools.cache
def _register(names: tuple[str, ...]) -> None:
    """Store the rows of these names, once."""
    for name in names:
        node = _node(BACKBONES[name])
        ConfigStore.instance().store(name, node, "backbone", "_global_", "detector")


def _node(row: BackboneSpec) -> DictConfig:
    """Write a row as the content of a file in conf/backbone; a key without a dot is a group."""
    groups = [{f"override /{key}": v} for key, v in row.settings.items() if "." not in key]
    backbone = {"name": row.name, "library": "detector"}
    node = OmegaConf.create({"defaults": groups, "backbone": backbone})
    for key, value in row.settings.items():
        if "." in key:
            OmegaConf.update(node, key, value)
    return node
