"""Stride and offset of a feature map's receptive fields, tracked through a network's layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

_POOLING = "input kernel_size stride padding dilation"
_PARAMETERS = {
    "conv2d": "input weight bias stride padding dilation",
    "max_pool2d": _POOLING,
    "avg_pool2d": _POOLING,
}


class ReceptiveField(NamedTuple):
    """Geometry of a feature map along one axis of the image.

    Attributes:
        stride: Distance of the receptive fields of neighbouring cells, in pixels.
        offset: Centre of the first cell's receptive field, in pixels; the centre of the first pixel
            is 0.
    """

    stride: int = 1
    offset: float = 0.0

    def after(
        self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> ReceptiveField:
        """Return the geometry of a convolution's or a pooling's output.

        Args:
            kernel: Size of the kernel, in cells of the input.
            stride: Stride, in cells of the input.
            padding: Padding before the first cell, in cells.
            dilation: Dilation, in cells.
        """
        # Araujo, Norris and Sim, Computing Receptive Fields (Distill 2019), section 2.
        centre = dilation * (kernel - 1) / 2 - padding
        return ReceptiveField(self.stride * stride, self.offset + self.stride * centre)


class TrackReceptiveFields(TorchFunctionMode):
    """Attaches its receptive field to every tensor that is computed in this context.

    An operation's output follows from its first input with a known receptive field. Only the
    horizontal axis is tracked.
    """

    def __torch_function__(  # noqa: D105
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        known = map(receptive_field_of, _tensors((*args, *kwargs.values())))
        before = next((field for field in known if field is not None), None)
        if before is not None:
            after = _after(getattr(func, "__name__", ""), before, args, kwargs)
            for tensor in _tensors([out]):
                set_receptive_field(tensor, after)
        return out


def set_receptive_field(x: Tensor, field: ReceptiveField) -> None:
    """Attach a receptive field to a tensor."""
    x._receptive_field = field  # type: ignore[attr-defined]


def receptive_field_of(x: Tensor) -> ReceptiveField | None:
    """Return the receptive field of a tensor; None if none was attached."""
    return getattr(x, "_receptive_field", None)


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors among values, also those in lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _after(
    name: str, before: ReceptiveField, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> ReceptiveField:
    """Return the receptive field of a function's output."""
    if name == "pad":
        return before.after(1, padding=args[1][0])
    if name not in _PARAMETERS:
        return before
    given = {**dict(zip(_PARAMETERS[name].split(), args, strict=False)), **kwargs}
    if name == "avg_pool2d":
        given["dilation"] = 1  # the argument in this place is `ceil_mode`
    size = given["weight"].shape[2:] if "weight" in given else given["kernel_size"]
    kernel = _across(size)
    stride = given.get("stride")
    dilation = _across(given.get("dilation", 1))
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        padding = dilation * (kernel - 1) // 2 if padding == "same" else 0
    # A pooling without a stride uses its kernel's size.
    step = (kernel if "pool" in name else 1) if stride is None else _across(stride)
    return before.after(kernel, step, _across(padding), dilation)


def _across(value: Any) -> int:
    """Return a layer's setting for the horizontal axis."""
    return int(value[-1] if hasattr(value, "__len__") else value)
