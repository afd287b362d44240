"""Which images, in which order: a pure function of seed, epoch and rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """What a data set is asked for: the image, and the epoch its augmentation is keyed by."""

    epoch: int
    image: int


class KeyedSampler(Sampler[Draw]):
    """Every image once an epoch, dealt out to the processes.

    The last round is padded from the start so that all processes get the same number, as
    collective operations need; metrics count every image once all the same.

    Args:
        length: Number of images.
        shuffle: A new order every epoch; else always the split's own.
        seed: Of the order.
        rank: This process.
        world: Number of processes.
    """

    def __init__(
        self, length: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.length = length
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Images of this process in an epoch."""
        return -(-self.length // self.world)

    def __iter__(self) -> Iterator[Draw]:
        """The draws of this process."""
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        order = np.resize(order, len(self) * self.world)
        return (Draw(self.epoch, int(i)) for i in order[self.rank :: self.world])
