"""The same picture more than once: in two splits, where it flatters figures, or within one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from detector.data.facts import Facts, similar
from detector.data.findings import Findings, Item

# Of 256 bits. Unrelated pictures, also microscope slides of one kind, differ in 90 and more;
# copies that were compressed, resized, brightened or trimmed by 2 % in up to about 48.
NEAR = 48


def find_copies(splits: Mapping[str, Sequence[str]], facts: Mapping[str, Facts]) -> Findings:
    """Find copies by content and by perceptual hash.

    Args:
        splits: Split -> its images' relative paths.
        facts: Of the images, looked at closely.
    """
    findings = Findings()
    for name, files in splits.items():
        first: dict[str, str] = {}
        for file in dict.fromkeys(files):
            other = first.setdefault(facts[file].digest, file)
            if other != file and facts[file].digest:
                findings.add("same picture twice", Item(name, file, f"the same as {other}", file))
    for a, b in itertools.combinations(splits, 2):
        exact = _find_exact(a, splits[a], b, splits[b], facts, findings)
        ours = [f for f in splits[a] if facts[f].hash]
        theirs = [f for f in splits[b] if facts[f].hash and f not in exact]
        hashes = [facts[f].hash for f in ours], [facts[f].hash for f in theirs]
        for i, j, bits in similar(*hashes, NEAR):
            message = f"like {ours[i]} in {a} ({bits} of 256 bits differ)"
            item = Item(b, theirs[j], message, theirs[j], other=ours[i])
            findings.add("similar pictures in two splits", item)
    return findings


def _find_exact(
    a: str,
    ours: Sequence[str],
    b: str,
    theirs: Sequence[str],
    facts: Mapping[str, Facts],
    findings: Findings,
) -> set[str]:
    """Note files of one content in both splits; those of the second."""
    known = {facts[file].digest: file for file in ours if facts[file].digest}
    exact = {file for file in theirs if facts[file].digest in known}
    for file in sorted(exact):
        other = known[facts[file].digest]
        if other != file:  # the same path in both has been found by reading the lists
            message = f"the same picture as {other} in {a}"
            item = Item(b, file, message, file, other=other)
            findings.add("picture in two splits", item)
    return exact
