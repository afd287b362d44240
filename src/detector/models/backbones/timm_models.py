"""Rows for timm's models, made from what the models say of themselves.

A pyramid can stand on any model whose parts run one after the other and have outputs of the strides
4, 8, 16 and 32. After which parts that is, timm knows; where the outputs' cells lie is followed
through the layers. That the parts in turn compute what the model computes is tried on an image.
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
from detector.models.backbones.receptive_field import Cells, FollowCells, cells_of, mark
from detector.models.backbones.stages import NAMES, STRIDES, Stage
from detector.models.backbones.table import BACKBONES, TIMM, BackboneSpec

SIDES = (32, 64, 128)  # pixels; images are padded to the smallest one that a model takes
OTHER = (192, 160)  # height and width, which the coarsest strides' doubles do not all divide


@lru_cache
def timm_spec(name: str) -> BackboneSpec:
    """The row of one of timm's models.

    Args:
        name: As timm has it, with or without the tag of its weights: `resnet18`,
            `resnet18.a1_in1k`.

    Raises:
        RequestError: If there is none, or a pyramid cannot stand on it.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        hint = f"; torchvision's is backbone={name}" if name in BACKBONES else hint
        raise RequestError(f"backbone.name={name}: timm {timm.__version__} has no such model{hint}")
    # Building it to look at it must not change what is drawn for the network itself.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        try:
            timm.get_pretrained_cfg(name)  # refuses tags that are none
            outline, arguments = _outline(name)
            ends = _ends(name, outline)
            model: Any = timm.create_model(name, **arguments).eval()
        except RequestError:
            raise
        except Exception as error:  # of any kind, such as a tag that it does not know
            raise RequestError(f"backbone.name={name}: timm cannot build it ({error})") from error
        try:
            smallest = _smallest(model)
            stages, outputs = _follow(model, ends)
            same = all(map(torch.equal, outputs, _own_outputs(model, ends)))
            regular = _is_regular(model, stages)
        except Exception as error:  # of any kind: it runs parts that may want other inputs
            raise _unfit(name, f"its parts do not run one after the other ({error})") from error
    if not same:
        raise _unfit(name, "its parts one after the other compute something else than it does")
    if not regular:
        raise _unfit(name, "its cells are not a stride apart in images of any size")
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


def _unfit(name: str, reason: str) -> RequestError:
    """A model that a pyramid cannot stand on."""
    reason = " ".join(reason.split())[:150]
    return RequestError(
        f"backbone.name={name}: {reason}; choose a model whose features have the strides 4, 8, 16 "
        "and 32 in turn, such as resnet18 or convnext_atto"
    )


def _outline(name: str) -> tuple[Any, dict[str, Any]]:
    """Build the model without numbers, which is quick for a large one too.

    Returns:
        The model on the meta device, and the arguments that it was built with: those that let it
        take images of any size, if it needs any.
    """
    arguments: dict[str, Any] = {"strict_img_size": False}
    with torch.device("meta"):
        try:
            return timm.create_model(name, **arguments), arguments
        except TypeError:  # most models have no such argument, and need none
            return timm.create_model(name), {}


def _ends(name: str, model: Any) -> dict[str, tuple[int, int]]:
    """The modules that end the stages: stride and channels of their outputs.

    The first one ends the stem, where timm knows of one; the others are the levels, finest first.
    """
    told = list(getattr(model, "feature_info", None) or [])
    last = {row["reduction"]: row for row in told}  # of several with the same stride
    if [s for s in last if s >= 4] != [s for s in STRIDES if s >= 4]:
        raise _unfit(name, f"its features have the strides {', '.join(map(str, last)) or '(none)'}")
    return {row["module"]: (s, row["num_chs"]) for s, row in last.items() if s >= 2}


def _pieces(root: nn.Module, ends: Collection[str], prefix: str = "") -> Iterator[str]:
    """Dotted paths of a model's parts in order, as large as they can be with every end a part."""
    for name, child in root.named_children():
        path = prefix + name
        if any(end.startswith(f"{path}.") for end in ends):
            yield from _pieces(child, ends, f"{path}.")
        else:
            yield path


def _smallest(model: Any) -> int:
    """The smallest side that a model takes, of those to choose from."""
    *smaller, largest = SIDES
    for side in smaller:
        try:
            model.forward_features(torch.zeros(1, 3, side, side))
        except (RuntimeError, AssertionError):  # kernels larger than their maps
            continue
        return side
    return largest


def _image() -> Tensor:
    """What models are tried on."""
    return torch.rand(1, 3, SIDES[-1], SIDES[-1], generator=torch.Generator().manual_seed(0))


def _follow(model: Any, ends: dict[str, tuple[int, int]]) -> tuple[list[Stage], list[Tensor]]:
    """The stages, and the levels' outputs."""
    x, stages, outputs, parts = _image(), list[Stage](), list[Tensor](), list[str]()
    mark(x, Cells())
    pieces = list(_pieces(model, ends))
    # Where timm does not speak of a stem, it is what comes before the finest level's own part.
    if len(ends) < len(NAMES):
        before = pieces[pieces.index(next(iter(ends))) - 1]
        ends = {before: (0, 0), **ends}
    for path in pieces[: pieces.index(list(ends)[-1]) + 1]:
        with FollowCells():
            x = model.get_submodule(path)(x)
        parts.append(path)
        if path in ends:
            stage = _stage(NAMES[len(stages)], tuple(parts), x, *ends[path])
            mark(x, Cells(stage.stride, stage.offset))
            stages.append(stage)
            parts = []
            if len(stages) > 1:
                outputs.append(x)
    return stages, outputs


def _stage(name: str, parts: tuple[str, ...], x: Tensor, stride: int, channels: int) -> Stage:
    """A stage, of whose output timm has told stride and channels; 0: it has not."""
    cells = cells_of(x)
    assert cells is not None
    stride = stride or cells.stride
    if x.ndim != 4 or stride % cells.stride:
        raise ValueError(f"{parts[-1]} has an output of shape {tuple(x.shape)}")
    _, first, width, last = x.shape
    if first != channels and width != last:  # the image is square, so channels come last
        first, last = last, width
    channels, width = channels or first, last
    # What no layer has done is done by joining cells that lie side by side, as Swin's patches are.
    joined = cells.after(stride // cells.stride, stride // cells.stride)
    return Stage(name, parts, stride, channels, joined.offset, SIDES[-1] // stride - width)


def _is_regular(model: Any, stages: list[Stage]) -> bool:
    """Whether the stages have as many cells as they should, in an image of another shape."""
    x = torch.zeros(1, 3, *OTHER)
    for stage in stages:
        for path in stage.modules:
            x = model.get_submodule(path)(x)
        cells = [side // stage.stride - stage.missing for side in OTHER]
        if cells not in (list(x.shape[2:]), list(x.shape[1:3])):
            return False
    return True


def _own_outputs(model: Any, ends: Collection[str]) -> list[Tensor]:
    """What the levels' modules give when the model runs as it does."""
    outputs: list[Tensor] = []
    # Copied, so that it shows if what comes after a level writes into it.
    hooks = [
        model.get_submodule(end).register_forward_hook(lambda m, i, y: outputs.append(y.clone()))
        for end in list(ends)[-4:]
    ]
    model.forward_features(_image())
    for hook in hooks:
        hook.remove()
    return outputs
