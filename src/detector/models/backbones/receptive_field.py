"""Where the cells of a feature map lie in the image, followed through a network's layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode


class Cells(NamedTuple):
    """The places of a map's cells along an axis of the image.

    Attributes:
        stride: From one cell to the next, pixels.
        offset: The centre of the first cell's receptive field, pixels; the centre of the first
            pixel is 0.
    """

    stride: int = 1
    offset: float = 0.0

    def after(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Cells:
        """Of a convolution's or a pooling's output.

        Args:
            kernel: Its size, cells.
            stride: Cells.
            padding: Before the first cell, cells.
            dilation: Cells.
        """
        # Araujo, Norris and Sim, Computing Receptive Fields (Distill 2019), section 2.
        centre = dilation * (kernel - 1) / 2 - padding
        return Cells(self.stride * stride, self.offset + self.stride * centre)


class FollowCells(TorchFunctionMode):
    """Notes with every tensor that is computed within it where its cells lie.

    Of several inputs the first one that is known counts, and of both axes the horizontal one.
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
        known = map(cells_of, _tensors((*args, *kwargs.values())))
        before = next((cells for cells in known if cells is not None), None)
        if before is not None:
            after = _after(getattr(func, "__name__", ""), before, args, kwargs)
            for tensor in _tensors([out]):
                mark(tensor, after)
        return out


def mark(x: Tensor, cells: Cells) -> None:
    """Note with a tensor where its cells lie."""
    x._cells = cells  # type: ignore[attr-defined]


def cells_of(x: Tensor) -> Cells | None:
    """Where the cells of a tensor lie; None if nobody has noted it."""
    return getattr(x, "_cells", None)


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among values, also in lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _after(name: str, before: Cells, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Cells:
    """Where the cells of a function's output lie."""
    if name == "pad":
        return before.after(1, padding=args[1][0])
    if name == "conv2d":
        names = "input weight bias stride padding dilation"
    elif name in ("max_pool2d", "avg_pool2d"):
        names = "input kernel_size stride padding dilation"
    else:
        return before
    given = {**dict(zip(names.split(), args, strict=False)), **kwargs}
    if name == "avg_pool2d":
        given["dilation"] = 1  # in its place there is `ceil_mode`
    size = given["weight"].shape[2:] if "weight" in given else given["kernel_size"]
    kernel = _across(size)
    stride = given.get("stride")
    dilation = _across(given.get("dilation", 1))
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        padding = dilation * (kernel - 1) // 2 if padding == "same" else 0
    # A pooling without a stride takes its kernel's size.
    step = (kernel if "pool" in name else 1) if stride is None else _across(stride)
    return before.after(kernel, step, _across(padding), dilation)


def _across(value: Any) -> int:
    """A layer's number for the horizontal axis."""
    return int(value[-1] if hasattr(value, "__len__") else value)
