"""Splitting images by ratio: seeded, every class in proportion, copies of one picture together."""

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

    Every split gets at least half of its share of the images. Where groups of near copies are too
    large for that, as with the frames of one fixed camera, the largest of them are divided: by
    what has to stay together in any case.

    Args:
        copies: `(n,)` what each image has to stay together with: images of one number are in one
            split, whatever becomes of the ratios.
        alike: `(n,)` the same for near copies; its groups are whole groups of `copies`, and a group
            is numbered by one of its images in both.
        owners: As in `stratified_split`, and so on.
        classes: Likewise.
        ratios: Likewise.
        seed: Likewise.

    Returns:
        Split -> indices of its images, ascending; and the sizes of the groups that were divided.
    """
    pairs = np.unique(np.stack((alike, copies)), axis=1)[0]
    mixed, parts = np.unique(pairs, return_counts=True)
    sizes = np.bincount(alike, minlength=len(alike))
    large = sorted(mixed[parts > 1].tolist(), key=lambda group: (-sizes[group], group))
    units = alike
    divided: list[int] = []
    while True:
        dealt = stratified_split(units, owners, classes, ratios, seed)
        fair = all(2 * len(dealt[name]) >= share * len(units) for name, share in ratios.items())
        if fair or not large:
            return dealt, divided
        group = large.pop(0)
        units = np.where(alike == group, copies, units)
        divided.append(int(sizes[group]))


def stratified_split(
    units: Numbers, owners: Numbers, classes: Numbers, ratios: dict[str, float], seed: int
) -> dict[str, Numbers]:
    """Split images so that each split has its share of every class.

    Iterative stratification (Sechidis et al., On the Stratification of Multi-label Data, 2011): the
    images of the rarest class come first, each goes to the split that still wants that class most.
    Images without boxes are a class of their own. Where every image is a unit of its own, the
    numbers of images are exact and the classes nearly in proportion. Units of several images come
    before those of one, the largest first, each to a split that has room for it, else to the one
    that has most.

    Args:
        units: `(n,)` images of the same number stay together; of fewer units than there are splits,
            some splits stay empty.
        owners: `(m,)` the image of every box.
        classes: `(m,)` the class of every box, from 0.
        ratios: Split -> share of the images; together 1. The first one takes what rounding leaves.
        seed: Of the order in which units of one class and size are taken.

    Returns:
        Split -> indices of its images, ascending.
    """
    count = len(units)
    unit_of = np.unique(units, return_inverse=True)[1]  # of every image, 0..U-1
    size = np.bincount(unit_of)
    unit, kind, images = _classes_of_units(unit_of, owners, classes)
    starts = np.searchsorted(unit, np.arange(len(size) + 1))
    shares = np.array(list(ratios.values()))
    room = np.maximum(1, np.round(shares * count).astype(int)).tolist()  # images still to come
    room[0] = max(1, count - sum(room[1:]))
    wants = (shares[:, None] * np.bincount(kind, images)).tolist()  # and those of every class
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
                # Who wants this class most; among equals, who wants images most.
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
    """Unit, class (from 1; 0 is that of images without boxes) and number of images, by unit."""
    bare = np.setdiff1d(np.arange(len(unit_of)), owners)
    width = int(classes.max(initial=-1)) + 2
    pairs = np.unique(np.concatenate((owners * width + classes + 1, bare * width)))
    image, kind = np.divmod(pairs, width)
    found, images = np.unique(unit_of[image] * width + kind, return_counts=True)
    return *np.divmod(found, width), images
