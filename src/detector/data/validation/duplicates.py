"""Copies and near copies of pictures, within a split or in two splits (leakage)."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detector.core.bar import over
from detector.data.validation.image_info import ImageInfo
from detector.data.validation.issues import Issues, Item

# Of 256 bits. Unrelated pictures, also microscope slides of one kind, differ in 90 bits or more;
# copies that were compressed, resized, brightened or trimmed by 2 % differ in up to about 48.
NEAR = 48
TILE = (64, 1024)  # hashes that are compared at a time, so that they stay in the processor's cache


def find_copies(splits: Mapping[str, Sequence[str]], infos: Mapping[str, ImageInfo]) -> Issues:
    """Find copies by content and by perceptual hash.

    Args:
        splits: Relative paths of the images of each split.
        infos: What is known of the images after they were decoded.
    """
    issues = Issues()
    for name, files in splits.items():
        first: dict[str, str] = {}
        for file in dict.fromkeys(files):
            other = first.setdefault(infos[file].digest, file)
            if other != file and infos[file].digest:
                issues.add("same picture twice", Item(name, file, f"the same as {other}", file))
    for a, b in itertools.combinations(splits, 2):
        exact = _find_exact(a, splits[a], b, splits[b], infos, issues)
        ours = [f for f in splits[a] if infos[f].hash]
        theirs = [f for f in splits[b] if infos[f].hash and f not in exact]
        hashes = [infos[f].hash for f in ours], [infos[f].hash for f in theirs]
        for i, j, bits in similar(*hashes, NEAR):
            message = f"like {ours[i]} in {a} ({bits} of 256 bits differ)"
            item = Item(b, theirs[j], message, theirs[j], other=ours[i])
            issues.add("similar pictures in two splits", item)
    return issues


def _find_exact(
    a: str,
    ours: Sequence[str],
    b: str,
    theirs: Sequence[str],
    infos: Mapping[str, ImageInfo],
    issues: Issues,
) -> set[str]:
    """Report files with the same content in two splits, and return those of the second split."""
    known = {infos[file].digest: file for file in ours if infos[file].digest}
    exact = {file for file in theirs if infos[file].digest in known}
    for file in sorted(exact):
        other = known[infos[file].digest]
        if other != file:  # the same path in both splits is reported by `validate_splits`
            message = f"the same picture as {other} in {a}"
            item = Item(b, file, message, file, other=other)
            issues.add("picture in two splits", item)
    return exact


def similar(ours: Sequence[str], theirs: Sequence[str], bits: int) -> list[tuple[int, int, int]]:
    """Pairs of similar hashes.

    Args:
        ours: Hashes of `perceptual_hash`.
        theirs: Hashes to compare them with.
        bits: Number of bits that may differ.

    Returns:
        Index in ours, index in theirs and number of differing bits, for the nearest of ours to each
        of theirs that has one.
    """
    a, b = _words(ours), _words(theirs)
    least = np.full(len(b), bits + 1)
    nearest = np.zeros(len(b), dtype=np.int64)
    for rows, columns in _tiles(len(a), len(b)):
        distance = _distance(a[rows], b[columns])
        best = distance.argmin(0)
        differing = distance[best, np.arange(len(best))]
        closer = differing < least[columns]
        nearest[columns][closer] = rows.start + best[closer]
        least[columns][closer] = differing[closer]
    return [(int(nearest[j]), j, int(least[j])) for j in np.flatnonzero(least <= bits).tolist()]


def join_equal(count: int, *keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Group items with an equal key, directly or through other items.

    Args:
        count: Number of items, such as images.
        keys: Sequences with one key for each item; an empty key equals no other.

    Returns:
        `(count,)` index of the first item in the group of each item.
    """
    labels = np.arange(count)
    for those in keys:
        first: dict[Hashable, int] = {}
        firsts = [first.setdefault(key, i) if key else i for i, key in enumerate(those)]
        labels = _joined(labels, np.arange(count), np.array(firsts, dtype=np.int64))
    return labels


def join_similar(labels: NDArray[np.int64], hashes: Sequence[str]) -> NDArray[np.int64]:
    """Join groups that have pictures with similar hashes, of which at most `NEAR` bits differ.

    Every hash is compared with every other, tile by tile to limit the memory.

    Args:
        labels: Groups of the pictures, as `join_equal` returns them.
        hashes: Perceptual hash of each picture; empty if unknown.

    Returns:
        `(count,)` index of the first picture in the group of each picture.
    """
    first: dict[str, int] = {}
    for place, key in enumerate(hashes):
        if key:
            first.setdefault(key, place)
    joined = _joined(labels, np.arange(len(labels)), join_equal(len(labels), hashes))
    places = np.array(list(first.values()), dtype=np.int64)
    words = _words(list(first))
    for rows, columns in _tiles(len(words), len(words), halved=True):
        if (joined[places[rows]] == joined[places[columns.start]]).all() and (
            joined[places[columns]] == joined[places[columns.start]]
        ).all():
            continue
        i, j = np.nonzero(_distance(words[rows], words[columns]) <= NEAR)
        joined = _joined(joined, places[rows][i], places[columns][j])
    return joined


def _joined(
    labels: NDArray[np.int64], ours: NDArray[np.int64], theirs: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Join the groups of pairs of items; a joined group has the smallest of their numbers."""
    count = len(labels)
    a, b = labels[ours], labels[theirs]
    pairs = np.unique((a * count + b)[a != b])
    if not len(pairs):
        return labels
    above: dict[int, int] = {}

    def top(label: int) -> int:
        while (up := above.get(label, label)) != label:
            above[label] = above.get(up, up)
            label = up
        return label

    for one, other in zip(*(part.tolist() for part in np.divmod(pairs, count)), strict=True):
        low, high = sorted((top(one), top(other)))
        above[high] = low
    table = np.arange(count)
    table[list(above)] = [top(label) for label in above]
    return np.asarray(table[labels], dtype=np.int64)


def _words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    """Hashes of 256 bits as `(n, 4)` numbers of 64 bits."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(-1, 4)


def _tiles(ours: int, theirs: int, *, halved: bool = False) -> Iterator[tuple[slice, slice]]:
    """The tiles of a table of all pairs; with `halved`, only those on and above its diagonal."""
    height, width = TILE
    starts = range(0, ours, height)
    for start in over(starts, "comparing pictures", "part"):
        first = start // width * width if halved else 0
        for left in range(first, theirs, width):
            yield slice(start, min(start + height, ours)), slice(left, min(left + width, theirs))


def _distance(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """`(len(a), len(b))` number of differing bits."""
    total = np.zeros((len(a), len(b)), np.uint16)
    for k in range(4):
        total += np.bitwise_count(a[:, None, k] ^ b[None, :, k])
    return total
