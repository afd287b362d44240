"""Report of loaded weights: what was loaded by group, and what of the file was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from detector.models.faster_rcnn import FasterRCNN
from detector.models.weights.files import Pretrained, State

COUNTERS = ".num_batches_tracked"  # suffix of tensors that are not counted
ROW = "  {:<7}{:>12}{:>12}{:>12}  {}"
SHOWN = 3  # largest number of names in a list


@dataclass(frozen=True)
class GroupLoad:
    """Counts of one parameter group's numbers, including statistics of norms.

    Attributes:
        loaded: How many were loaded from the file.
        replaced: How many are random because the file's have another shape, or for other classes
            or anchors.
        new: How many are random because the file has none.
        names: Names that were not loaded, if the group was loaded in part.
    """

    loaded: int
    replaced: int
    new: int
    names: tuple[str, ...]

    @property
    def random(self) -> int:
        """How many are random."""
        return self.replaced + self.new


@dataclass(frozen=True)
class LoadReport:
    """Report of loaded weights.

    Attributes:
        source: Source of the weights, as messages name it.
        groups: Counts of each parameter group, from the image upwards.
        left_out: How many numbers of the file the network has no place for, by name.
        names: Names of the loaded tensors, as the network has them.
    """

    source: str
    groups: dict[str, GroupLoad]
    left_out: dict[str, int]
    names: frozenset[str] = frozenset()

    def lines(self) -> list[str]:
        """Format the report as a table of counts."""
        rows = [ROW.format("group", "loaded", "replaced", "new", "")]
        for name, group in self.groups.items():
            counts = (f"{n:,}" if n else "-" for n in (group.loaded, group.replaced, group.new))
            rows.append(ROW.format(name, *counts, _some(group.names)))
        left = _some([f"{name} {count:,}" for name, count in self.left_out.items()])
        rows.append(f"  left out of the file: {left or 'nothing'}")
        return [self.source, *map(str.rstrip, rows)]


def report(
    network: FasterRCNN, pretrained: Pretrained, reading: Mapping[str, str], found: State
) -> LoadReport:
    """Report what was loaded of some weights.

    Args:
        network: The network that they were loaded into.
        pretrained: All of the weights.
        reading: Mapping from the network's names of tensors to the file's.
        found: The tensors that were loaded, by the network's names.
    """
    tensors = network.state_dict()
    sizes = {name: t.numel() for name, t in tensors.items() if not name.endswith(COUNTERS)}
    groups = {}
    for group, names in _by_group(network, sizes).items():
        loaded = [name for name in names if name in found]
        replaced = [name for name in names if name in reading and name not in found]
        new = [name for name in names if name not in reading]
        rest = {*replaced, *new} if loaded or replaced else set()
        groups[group] = GroupLoad(
            loaded=sum(sizes[name] for name in loaded),
            replaced=sum(sizes[name] for name in replaced),
            new=sum(sizes[name] for name in new),
            names=tuple(_outermost(rest, sizes.keys() - rest)),
        )

    placed = {file for name, file in reading.items() if name in sizes}
    others = {file for file in pretrained.state.keys() - placed if not file.endswith(COUNTERS)}
    left_out = {
        top: sum(pretrained.state[name].numel() for name in names)
        for top, names in _outermost(others, placed).items()
    }
    return LoadReport(pretrained.source, groups, left_out, frozenset(found))


def _by_group(network: FasterRCNN, names: Iterable[str]) -> dict[str, list[str]]:
    """Collect the tensors' names of every group, from the image upwards."""
    members: dict[str, list[str]] = {group: [] for group in network.groups()}
    owners = {
        id(module): group
        for group, roots in network.groups().items()
        for root in roots
        for module in root.modules()
    }
    for name in names:
        members[owners[id(network.get_submodule(name.rpartition(".")[0]))]].append(name)
    return members


def _outermost(names: Iterable[str], others: Iterable[str]) -> dict[str, list[str]]:
    """Group names by the shortest prefixes that none of the others shares, in order."""
    shared = {beginning for name in others for beginning in _beginnings(name)}
    tops: dict[str, list[str]] = {}
    for name in sorted(names):
        top = next((b for b in _beginnings(name) if b not in shared), name)
        tops.setdefault(top, []).append(name)
    return tops


def _beginnings(name: str) -> list[str]:
    """Return the prefixes of a name: `a`, `a.b` and `a.b.c` of `a.b.c`."""
    return list(accumulate(name.split("."), "{}.{}".format))


def _some(names: Sequence[str]) -> str:
    """Format the first names of a list."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
