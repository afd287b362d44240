"""Rows for timm's models, made by inspecting the models.

A pyramid can be built over any model whose parts run one after the other and have outputs of the
strides 4, 8, 16 and 32. timm knows which parts these are; the offsets of the outputs are tracked
through the layers. That the parts in turn compute what the model computes is checked on an image.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from detector.core.errors import RequestError
from detector.models.backbones.receptive_field import (
    ReceptiveField,
    TrackReceptiveFields,
    receptive_field_of,
    set_receptive_field,
)
from detector.models.backbones.stages import NAMES, STRIDES, Stage
from detector.models.backbones.table import BACKBONES, TIMM, BackboneSpec

SIDES = (32, 64, 128)  # pixels; images are padded to the smallest one that a model takes
OTHER = (192, 160)  # another height and width: no multiples of twice the coarsest stride


@lru_cache
def timm_spec(name: str) -> BackboneSpec:
    """Make the row of one of timm's models.

    Args:
        name: Name of the model, with or without the tag of its weights: `resnet18`,
            `resnet18.a1_in1k`.

    Raises:
        RequestError: If there is no such model, or its features make no pyramid.
    """
    _check_name(name)
    # Building the model to inspect it must not change the random weights of the network itself.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        model, arguments, ends = _build(name)
        smallest, stages, outputs = _inspect(name, model, ends)
    first = [y.shape[1] == s.channels for y, s in zip(outputs, stages[1:], strict=True)]
    return BackboneSpec(
        name=f"{TIMM}{name}",
        description=f"{name} of timm.",
        network=f"timm:{name}",
        stages=tuple(stages),
        imagenet=f"timm:{name}",
        arguments=arguments,
        mean=tuple(model.pretrained_cfg["mean"]),
        std=tuple(model.pretrained_cfg["std"]),
        smallest=smallest,
        channels_last=not all(first),
    )


def _check_name(name: str) -> None:
    """Refuse a name that timm does not know."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        hint = f"; torchvision's is backbone={name}" if name in BACKBONES else hint
        raise RequestError(f"backbone.name={name}: timm {timm.__version__} has no such model{hint}")


def _build(name: str) -> tuple[Any, dict[str, Any], dict[str, tuple[int, int]]]:
    """Build the model; also return the arguments it was built with, and the ends of its stages."""
    try:
        timm.get_pretrained_cfg(name)  # refuses unknown tags
        outline, arguments = _outline(name)
        ends = _ends(name, outline)
        return timm.create_model(name, **arguments).eval(), arguments, ends
    except RequestError:
        raise
    except Exception as error:  # of any type
        raise RequestError(f"backbone.name={name}: timm cannot build it ({error})") from error


def _outline(name: str) -> tuple[Any, dict[str, Any]]:
    """Build the model on the meta device, which is quick for a large one too.

    Returns:
        The model, and the arguments that it was built with: those that let it take images of any
        size, if it has them.
    """
    arguments: dict[str, Any] = {"strict_img_size": False}
    with torch.device("meta"):
        try:
            return timm.create_model(name, **arguments), arguments
        except TypeError:  # most models have no such argument, and need none
            return timm.create_model(name), {}


def _inspect(
    name: str, model: Any, ends: dict[str, tuple[int, int]]
) -> tuple[int, list[Stage], list[Tensor]]:
    """Run the model's parts one after the other, and compare with the model as a whole.

    Returns:
        The smallest image side, the stages, and the outputs of the pyramid's levels.
    """
    try:
        smallest = _smallest(model)
        stages, outputs = _follow(model, ends)
        same = all(map(torch.equal, outputs, _own_outputs(model, ends)))
        regular = _is_regular(model, stages)
    except Exception as error:  # of any type, as parts may expect other inputs
        raise _unfit(name, f"its parts do not run one after the other ({error})") from error
    if not same:
        raise _unfit(name, "its parts one after the other compute something else than it does")
    if not regular:
        raise _unfit(name, "its cells are not a stride apart in images of any size")
    return smallest, stages, outputs


def _unfit(name: str, reason: str) -> RequestError:
    """Make the error for a model whose features make no pyramid."""
    reason = " ".join(reason.split())[:150]
    return RequestError(
        f"backbone.name={name}: {reason}; choose a model whose features have the strides 4, 8, 16 "
        "and 32 in turn, such as resnet18 or convnext_atto"
    )


def _ends(name: str, model: Any) -> dict[str, tuple[int, int]]:
    """Find the modules that end the stages, with stride and channels of their outputs.

    The first one ends the stem, if timm lists one; the others are the levels, finest first.
    """
    features = list(getattr(model, "feature_info", None) or [])
    last = {row["reduction"]: row for row in features}  # the last one of every stride
    if [s for s in last if s >= 4] != [s for s in STRIDES if s >= 4]:
        raise _unfit(name, f"its features have the strides {', '.join(map(str, last)) or '(none)'}")
    return {row["module"]: (s, row["num_chs"]) for s, row in last.items() if s >= 2}


def _pieces(root: nn.Module, ends: Collection[str], prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of a model's parts in order: the largest such that each end is one."""
    for name, child in root.named_children():
        path = prefix + name
        if any(end.startswith(f"{path}.") for end in ends):
            yield from _pieces(child, ends, f"{path}.")
        else:
            yield path


def _smallest(model: Any) -> int:
    """Find the smallest image side that a model accepts, of `SIDES`."""
    *smaller, largest = SIDES
    for side in smaller:
        try:
            model.forward_features(torch.zeros(1, 3, side, side))
        except (RuntimeError, AssertionError):  # kernels larger than their maps
            continue
        return side
    return largest


def _image() -> Tensor:
    """Make the image that models are checked on."""
    return torch.rand(1, 3, SIDES[-1], SIDES[-1], generator=torch.Generator().manual_seed(0))


def _follow(model: Any, ends: dict[str, tuple[int, int]]) -> tuple[list[Stage], list[Tensor]]:
    """Run the parts in turn; return the stages, and the outputs of the pyramid's levels."""
    x, stages, outputs, parts = _image(), list[Stage](), list[Tensor](), list[str]()
    set_receptive_field(x, ReceptiveField())
    pieces = list(_pieces(model, ends))
    # If timm lists no stem, it is what comes before the part of the finest level.
    if len(ends) < len(NAMES):
        before = pieces[pieces.index(next(iter(ends))) - 1]
        ends = {before: (0, 0), **ends}
    for path in pieces[: pieces.index(list(ends)[-1]) + 1]:
        with TrackReceptiveFields():
            x = model.get_submodule(path)(x)
        parts.append(path)
        if path in ends:
            stage = _stage(NAMES[len(stages)], tuple(parts), x, *ends[path])
            set_receptive_field(x, ReceptiveField(stage.stride, stage.offset))
            stages.append(stage)
            parts = []
            if len(stages) > 1:
                outputs.append(x)
    return stages, outputs


def _stage(name: str, parts: tuple[str, ...], x: Tensor, stride: int, channels: int) -> Stage:
    """Make a stage; `stride` and `channels` of its output are 0 where timm does not list them."""
    field = receptive_field_of(x)
    assert field is not None
    stride = stride or field.stride
    if x.ndim != 4 or stride % field.stride:
        raise ValueError(f"{parts[-1]} has an output of shape {tuple(x.shape)}")
    _, first, width, last = x.shape
    if first != channels and width != last:  # the image is square, so channels come last
        first, last = last, width
    channels, width = channels or first, last
    # The rest of the stride comes from merging neighbouring cells, as Swin's patches are.
    joined = field.after(stride // field.stride, stride // field.stride)
    return Stage(name, parts, stride, channels, joined.offset, SIDES[-1] // stride - width)


def _is_regular(model: Any, stages: list[Stage]) -> bool:
    """Whether the stages' outputs have the expected sizes for an image of another shape."""
    x = torch.zeros(1, 3, *OTHER)
    for stage in stages:
        for path in stage.modules:
            x = model.get_submodule(path)(x)
        cells = [side // stage.stride - stage.missing for side in OTHER]
        if cells not in (list(x.shape[2:]), list(x.shape[1:3])):
            return False
    return True


def _own_outputs(model: Any, ends: Collection[str]) -> list[Tensor]:
    """Compute the outputs of the levels' modules when the model runs as a whole."""
    outputs: list[Tensor] = []
    # Copied, so that a later layer that writes into a level is noticed.
    hooks = [
        model.get_submodule(end).register_forward_hook(lambda m, i, y: outputs.append(y.clone()))
        for end in list(ends)[-4:]
    ]
    model.forward_features(_image())
    for hook in hooks:
        hook.remove()
    return outputs
