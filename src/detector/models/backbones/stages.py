"""The stages that a network is cut into, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

NAMES = ("stem", "layer1", "layer2", "layer3", "layer4")  # names of every backbone's stages
STRIDES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Stage:
    """One stage of a network, and the geometry of its output.

    Attributes:
        name: `stem`, then `layer1` (the finest level) upwards.
        modules: Dotted paths of the submodules, which run one after the other.
        stride: Input pixels per cell of the stage's output.
        channels: Channels of the stage's output.
        offset: Centre of the first cell's receptive field, in pixels; the centre of the first pixel
            is 0. Padding on both sides of every layer leaves it there.
        missing: How many cells fewer than size / stride there are along a side whose size is a
            multiple of the coarsest stride: layers without padding do not reach the far edge.
    """

    name: str
    modules: tuple[str, ...]
    stride: int
    channels: int
    offset: float = 0.0
    missing: int = 0


def make_stages(
    modules: Iterable[str],
    channels: Iterable[int],
    strides: Iterable[int] = STRIDES,
    offsets: Iterable[float] = (0,) * 5,
    missing: Iterable[int] = (0,) * 5,
) -> tuple[Stage, ...]:
    """Make the five stages of a network, from the image upwards.

    Args:
        modules: Dotted paths of each stage's submodules, separated by spaces.
        channels: Channels of each stage's output.
        strides: Stride of each stage's output, in pixels.
        offsets: `Stage.offset` of each stage.
        missing: `Stage.missing` of each stage.
    """
    rows = zip(NAMES, modules, strides, channels, offsets, missing, strict=True)
    return tuple(Stage(name, tuple(paths.split()), *numbers) for name, paths, *numbers in rows)


def numbered_layers(*ends: int) -> list[str]:
    """Split the numbered layers of `features` into stages; each ends before the given number."""
    return [" ".join(f"features.{i}" for i in range(*cut)) for cut in pairwise((0, *ends))]


def pyramid_levels(stages: Sequence[Stage], finest: int = 4) -> list[Stage]:
    """Choose the inputs of the feature pyramid: the last stage of every stride from the finest.

    Args:
        stages: Stages of the network, from the image upwards.
        finest: Stride of the finest level, in pixels.

    Raises:
        ValueError: If the strides do not double from level to level.
    """
    last = {s.stride: s for s in stages if s.stride >= finest}
    levels = list(last.values())
    strides = [s.stride for s in levels]
    if any(b != 2 * a for a, b in pairwise(strides)):
        raise ValueError(f"the pyramid needs strides that double, got {strides}")
    return levels
