"""Split of images by ratio: seeded, stratified by class, with copies of one picture together."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def divide(
    copies: Numbers,
    alike: Numbers,
    owners: Numbers,
    classes: Numbers,
    ratios: dict[str, float],
    seed: int,
) -> tuple[dict[str, Numbers], list[int]]:
    """Split images so that near copies stay together, as far as the ratios allow.

    Every split gets at least half of its share of the images. If groups of near copies are too
    large for that, as frames of one fixed camera may be, the largest groups are divided into groups
    of `copies`, which are never divided.

    Args:
        copies: `(n,)` group of each image; images of one group are always in one split.
        alike: `(n,)` group of near copies of each image; such a group consists of whole groups of
            `copies`, and groups are numbered by one of their images in both.
        owners: `(m,)` image of every box.
        classes: `(m,)` class of every box, from 0.
        ratios: Share of the images of each split; together 1.
        seed: Seed, as in `stratified_split`.

    Returns:
        Indices of the images of each split, ascending; and the sizes of the groups that were
        divided.
    """
    pairs = np.unique(np.stack((alike, copies)), axis=1)[0]
    mixed, parts = np.unique(pairs, return_counts=True)
    sizes = np.bincount(alike, minlength=len(alike))
    large = sorted(mixed[parts > 1].tolist(), key=lambda group: (-sizes[group], group))
    units = alike
    divided: list[int] = []
    while True:
        assigned = stratified_split(units, owners, classes, ratios, seed)
        fair = all(2 * len(assigned[name]) >= share * len(units) for name, share in ratios.items())
        if fair or not large:
            return assigned, divided
        group = large.pop(0)
        units = np.where(alike == group, copies, units)
        divided.append(int(sizes[group]))


def stratified_split(
    units: Numbers, owners: Numbers, classes: Numbers, ratios: dict[str, float], seed: int
) -> dict[str, Numbers]:
    """Split images so that each split has its share of every class.

    Iterative stratification (Sechidis et al., On the Stratification of Multi-label Data, 2011): the
    images of the rarest class are assigned first, each to the split that lacks that class most.
    Images without boxes are a class of their own. If every image is a unit of its own, the numbers
    of images are exact and the classes nearly in proportion. Units of several images are assigned
    before single images, the largest first, each to a split with enough room or else to the split
    with most room.

    Args:
        units: `(n,)` unit of each image; images of one unit stay together. If there are fewer units
            than splits, some splits stay empty.
        owners: `(m,)` image of every box.
        classes: `(m,)` class of every box, from 0.
        ratios: Share of the images of each split; together 1. The first split takes the rest of
            rounding.
        seed: Seed of the order in which units of one class and size are assigned.

    Returns:
        Indices of the images of each split, ascending.
    """
    count = len(units)
    unit_of = np.unique(units, return_inverse=True)[1]  # unit of every image, 0..U-1
    size = np.bincount(unit_of)
    unit, kind, images = _classes_of_units(unit_of, owners, classes)
    starts = np.searchsorted(unit, np.arange(len(size) + 1))
    shares = np.array(list(ratios.values()))
    room = np.maximum(
        1, np.round(shares * count).astype(int)
    ).tolist()  # images that each split still lacks
    room[0] = max(1, count - sum(room[1:]))
    wants = (shares[:, None] * np.bincount(kind, images)).tolist()  # and those of each class
    empty = set(range(len(shares)))
    home = np.full(len(size), -1)
    left = len(size)
    rank = np.random.default_rng(seed).permutation(len(size))
    for several in (True, False):
        there = (size > 1) == several
        while (to_do := there & (home < 0)).any():
            chosen = to_do[unit]
            those = np.bincount(kind[chosen], images[chosen])
            rarest = int(np.where(those > 0, those, count + 1).argmin())
            units_of_it = unit[chosen & (kind == rarest)]
            order = np.lexsort((rank[units_of_it], -size[units_of_it]))
            for u in units_of_it[order].tolist():
                fits: Collection[int] = [s for s, free in enumerate(room) if free >= size[u]]
                if left <= len(empty):
                    fits = sorted(empty)
                elif not fits:
                    fits = [room.index(max(room))]
                # The split that lacks this class most; among equals, the one with most room.
                best = max(fits, key=lambda s: (wants[s][rarest], room[s]))
                for row in range(starts[u], starts[u + 1]):
                    wants[best][kind[row]] -= images[row]
                room[best] -= int(size[u])
                empty.discard(best)
                home[u] = best
                left -= 1
    return {name: np.flatnonzero(home[unit_of] == i) for i, name in enumerate(ratios)}


def _classes_of_units(
    unit_of: Numbers, owners: Numbers, classes: Numbers
) -> tuple[Numbers, Numbers, Numbers]:
    """Unit, class (from 1; 0 stands for images without boxes) and number of images, by unit."""
    bare = np.setdiff1d(np.arange(len(unit_of)), owners)
    width = int(classes.max(initial=-1)) + 2
    pairs = np.unique(np.concatenate((owners * width + classes + 1, bare * width)))
    image, kind = np.divmod(pairs, width)
    found, images = np.unique(unit_of[image] * width + kind, return_counts=True)
    return *np.divmod(found, width), images
