"""Device and precision of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def on_cpu(x: Tensor) -> bool:
    """Whether to use the implementation for CPUs.

    Args:
        x: Any tensor of the computation.

    Returns:
        False also while a graph is traced, which is exported to run elsewhere.
    """
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return x.device.type == "cpu" and not traced


def at_least_float32(x: Tensor) -> Tensor:
    """Convert a half-precision tensor to float32; return any other as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
