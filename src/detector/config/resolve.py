"""Transitional: replaced when the options are declared in their rooms."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig


def resolve(kind: Any, cfg: DictConfig, *, resume: bool = False) -> Any:
    """The configuration in force."""
    from detector.pipeline import request

    return request.resolve("train" if resume else "evaluate", cfg)
