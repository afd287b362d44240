"""Sampler of training and evaluation: a pure function of seed, epoch and rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from detector.core.structures import AnnotatedImages

# Images of one group have aspect ratios within an eighth of an octave (9 %).
GROUPS_PER_OCTAVE = 8


class SampleKey(NamedTuple):
    """Key of a sample of the data set.

    Attributes:
        epoch: Epoch, by which the augmentation is seeded.
        image: Index of the image in the split.
        repeat: Number of earlier samples of the image in this epoch; it seeds the augmentation too.
    """

    epoch: int
    image: int
    repeat: int = 0


class KeyedSampler(Sampler[SampleKey]):
    """Every image once an epoch, distributed over the processes batch by batch.

    Batches are formed over all processes and then cut: two processes with `batch_size=b` together
    see what one process with `2 * b` sees. `batch_size` consecutive samples are a batch, as a plain
    DataLoader expects. Only the last batch is smaller; it is padded with the first images of the
    epoch so that all processes get the same number, as collective operations need.

    Args:
        length: Number of images.
        shuffle: Take a new order every epoch; else always the order of the split.
        seed: Seed of the order.
        rank: Rank of this process.
        world: Number of processes.
        batch_size: Number of images in a step of one process.
        groups: `(length,)` from `aspect_groups`; shuffled batches consist of images of neighbouring
            groups, so that little padding is needed. None ignores aspect ratios.
        factors: `(length,)` from `repeat_factors`; None draws every image once.
    """

    def __init__(
        self,
        length: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        batch_size: int = 1,
        groups: NDArray[np.int64] | None = None,
        factors: NDArray[np.float64] | None = None,
    ) -> None:
        self.images = length
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world = world
        self.batch_size = batch_size
        self.groups = groups
        self.factors = factors
        self.length = length if factors is None else round(float(factors.sum()))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls it, also after resuming."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of samples of this process in an epoch."""
        return -(-self.length // self.world)

    def __iter__(self) -> Iterator[SampleKey]:
        """The samples of this process."""
        images, repeats = self._epoch_order()
        order = np.resize(np.arange(len(images)), len(self) * self.world)
        whole = len(order) // (self.batch_size * self.world) * self.batch_size * self.world
        mine = np.concatenate(
            [
                order[:whole].reshape(-1, self.world, self.batch_size)[:, self.rank].ravel(),
                order[whole:].reshape(self.world, -1)[self.rank],
            ]
        )
        pairs = zip(images[mine].tolist(), repeats[mine].tolist(), strict=True)
        return (SampleKey(self.epoch, image, repeat) for image, repeat in pairs)

    def _epoch_order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Images and their repeat numbers for all processes, in order."""
        rng = np.random.default_rng((self.seed, self.epoch))
        images = np.arange(self.images)
        repeats = np.zeros(self.images, dtype=np.int64)
        if self.factors is not None:
            counts = _draw_counts(self.factors, self.length, rng)
            images = np.repeat(images, counts)
            repeats = np.arange(len(images)) - np.repeat(counts.cumsum() - counts, counts)
        if self.shuffle:
            order = rng.permutation(len(images))
            if self.groups is not None:
                size = self.batch_size * self.world
                order = _group(order, self.groups[images[order]], size, rng)
            images, repeats = images[order], repeats[order]
        return images, repeats


def aspect_groups(sizes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Group images by their aspect ratio.

    Args:
        sizes: `(n, 2)` height and width; zeros if unknown, which counts as square.

    Returns:
        `(n,)` int64 group numbers, from wide to high; 0 is square.
    """
    octaves = np.log2(np.maximum(sizes, 1), dtype=np.float64)
    ratios = octaves[:, 0] - octaves[:, 1]
    groups: NDArray[np.int64] = np.rint(ratios * GROUPS_PER_OCTAVE).astype(np.int64)
    return groups


def repeat_factors(images: AnnotatedImages, threshold: float) -> NDArray[np.float64]:
    """How often each image is drawn so that rare classes are seen more (Gupta et al. 2019, LVIS).

    A class in a share f of the images has the factor `max(1, sqrt(threshold / f))`, and an image
    has the largest factor of its classes. Ignored boxes do not count.

    Args:
        images: Images of the split.
        threshold: Share of the images below which a class is drawn more often.

    Returns:
        `(n,)` float64 factors, at least 1.
    """
    counts = np.diff(images.offsets)
    rows = np.flatnonzero(~images.ignore)
    owner, label = np.repeat(np.arange(len(images)), counts)[rows], images.labels[rows]
    classes = int(label.max(initial=0)) + 1
    present = np.unique(owner * classes + label)
    owner, label = present // classes, present % classes
    share = np.bincount(label, minlength=classes) / len(images)
    factor = np.sqrt(threshold / np.maximum(share, np.finfo(np.float64).tiny))
    factors = np.ones(len(images))  # the smallest factor
    np.maximum.at(factors, owner, factor[label])
    return factors


def _draw_counts(
    factors: NDArray[np.float64], total: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """How often each image is drawn in an epoch: its factor rounded up or down at random.

    Systematic sampling: the fractional parts are accumulated in random order, and an image is drawn
    once more if a point of a grid with unit steps falls into its part. The offset of the grid is
    drawn such that the number of points is right, so that all epochs have the same length.

    Args:
        factors: `(n,)` factors, at least 1.
        total: Sum of the counts, which is the rounded sum of the factors.
        rng: Random generator.
    """
    counts = np.floor(factors).astype(np.int64)
    order = rng.permutation(np.flatnonzero(factors > counts))
    ends = np.cumsum(factors[order] - counts[order])
    missing = total - int(counts.sum()) - float(ends[-1] if len(ends) else 0)
    offset = rng.uniform(max(0, missing), min(1, missing + 1))
    counts[order] += np.diff(np.floor(ends + offset).astype(np.int64), prepend=0)
    return counts


def _group(
    order: NDArray[np.int64], groups: NDArray[np.int64], size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Reorder images such that batches consist of neighbouring groups, in random order.

    Args:
        order: `(n,)` shuffled images.
        groups: `(n,)` group of each image in `order`.
        size: Number of images of a batch, over all processes.
        rng: Random generator.
    """
    order = order[np.argsort(groups, kind="stable")]
    batches, rest = divmod(len(order), size)
    # The smaller last batch is taken from a random place, so that it is not always of one group.
    start = int(rng.integers(batches + 1)) * size
    whole = np.delete(order, slice(start, start + rest)).reshape(-1, size)
    return np.concatenate([rng.permutation(whole).ravel(), order[start : start + rest]])
