"""What the tensors at hand are computed on, and in."""

from __future__ import annotations

import torch
from torch import Tensor


def on_cpu(x: Tensor) -> bool:
    """Whether the ways made for CPUs are to be taken.

    Args:
        x: Any tensor.

    Returns:
        False also where a graph is being traced: it is exported to run elsewhere.
    """
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return x.device.type == "cpu" and not traced


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor itself, or in float32 what autocast has made half as wide."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
