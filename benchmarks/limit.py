"""How fast a network could be at most on this machine, for the bounds of the ratios.

The multiply-adds of its convolutions and matrix products, at the rate of one large matrix product:
the time that it would take if it did nothing else, as fast.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import Bound
from networks import mixed_dtype
from torch.utils.flop_counter import FlopCounterMode

SIDE = 4096


def multiply_adds(work: Callable[[], object]) -> int:
    """What convolutions and matrix products multiply, in both directions if both are computed.

    Args:
        work: A training step, or a detection.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops()) // 2


def at_most(count: int) -> Bound:
    """The bound of a network in the precision that `trainer.precision=auto` means here.

    Args:
        count: Its multiply-adds.
    """
    dtype = mixed_dtype() or torch.float32
    a, b = torch.randn(2, SIDE, SIDE).to(dtype).unbind()
    return Bound(
        lambda: a @ b,
        "the multiply-adds of its convolutions and matrix products, at the rate of a "
        f"{SIDE}x{SIDE} matrix product in {str(dtype)[6:]}",
        count / SIDE**3,
    )
