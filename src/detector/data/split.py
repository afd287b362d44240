"""Splitting images by ratio: seeded, and every class in proportion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified_split(
    count: int,
    owners: NDArray[np.int64],
    classes: NDArray[np.int64],
    ratios: dict[str, float],
    seed: int,
) -> dict[str, NDArray[np.int64]]:
    """Deal images out so that each split has its share of every class.

    The rarest class is dealt out first, each of its images to the split that still wants it most:
    iterative stratification (Sechidis et al., On the Stratification of Multi-label Data, 2011).
    Images without boxes are a class of their own. A split that has its number of images gets no
    more, so the numbers are exact and the classes nearly in proportion.

    Args:
        count: Number of images; of fewer than there are splits, some splits stay empty.
        owners: `(m,)` the image of every box.
        classes: `(m,)` the class of every box, from 0.
        ratios: Split -> share of the images; together 1. The first one takes what rounding leaves.
        seed: Of the order in which images are dealt out.

    Returns:
        Split -> indices of its images, ascending.
    """
    has = np.zeros((count, int(classes.max(initial=-1)) + 2), dtype=bool)
    has[owners, classes + 1] = True
    has[:, 0] = ~has[:, 1:].any(1)
    shares = np.array(list(ratios.values()))
    room = np.maximum(1, np.round(shares * count).astype(int))  # images still to come
    room[0] = max(1, count - room[1:].sum())
    wants = shares[:, None] * has.sum(0)  # images still to come of every class
    home = np.full(count, -1)
    order = np.random.default_rng(seed).permutation(count)
    while (home < 0).any() and room.any():
        left = has[home < 0].sum(0)
        rarest = int(np.where(left > 0, left, count + 1).argmin())
        for i in order[has[order, rarest] & (home[order] < 0)]:
            # Who wants this class most; among equals, who wants images most.
            best = max(np.flatnonzero(room), key=lambda s: (wants[s, rarest], room[s]), default=-1)
            if best < 0:
                break
            home[i] = best
            wants[best, has[i]] -= 1
            room[best] -= 1
    return {name: np.flatnonzero(home == i) for i, name in enumerate(ratios)}
