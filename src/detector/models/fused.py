"""Convolution, norm, shortcut and activation run as one operation.

A norm that is asleep is a scale and a shift per channel, so it can be folded into the convolution
before it. Where nothing is to be learnt the folded kernels are kept, in autocast's dtype, and on a
CPU oneDNN adds the shortcut and applies the activation while the sums are still in registers. Where
the convolution is trained, its kernel is scaled at every step, which autograd follows.

The network itself does not change: its parameters, their names and its modules stay as they are,
and a fused stage only refers to them. So thawing has nothing to undo, and checkpoints know nothing
of this.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import pad_same
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.optimizer import register_optimizer_step_post_hook

from detector.models.backbones.depthwise import learns_in_float32
from detector.models.device import compute_dtype, on_cpu

_ADDITIONS = (operator.add, torch.add)  # a trace takes `y += x` as `y = y + x`
# Activations that oneDNN applies itself: its name for each, and its numbers.
_ONEDNN: dict[type, tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}


class FusedConvolution(nn.Module):
    """A convolution and what follows it, by reference.

    Args:
        conv: The convolution.
        norm: The norm after it, if there is one.
    """

    def __init__(self, conv: nn.Conv2d, norm: _BatchNorm | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        # timm's norms carry their activation.
        carried: Any = getattr(norm, "act", None)
        self.norm_activates = not isinstance(carried, nn.Identity | None)
        self.activation: nn.Module | None = carried if self.norm_activates else None
        self.may_overwrite = False  # whether nobody else reads the shortcut afterwards
        self._constants: tuple[Tensor, Tensor | None] = (conv.weight, conv.bias)
        self._made_of: tuple[object, ...] = ()

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Convolve, norm, add, activate.

        Args:
            x: `(N, C, H, W)`.
            shortcut: Added before the activation, `(N, C', H', W')`.

        Returns:
            `(N, C', H', W')`, in autocast's dtype or the input's.
        """
        inputs = (x, *self._tensors())
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
        if self.norm is not None and (self.norm.training or (learns and self._is_heavy(x))):
            y = self.norm(self.conv(x))
            return y if self.norm_activates else self._finish(y, shortcut)
        if isinstance(self.conv, Conv2dSame):
            conv = self.conv
            x = pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation))
        if learns:
            return self._finish(self._learn(x), shortcut)
        x = x.to(compute_dtype(x))
        weight, bias = self._kept(x.dtype)
        if not _onednn_takes(x):
            return self._finish(self._convolve(x, weight, bias), shortcut)
        return self._onednn(x, weight, bias, shortcut)

    def _is_heavy(self, x: Tensor) -> bool:
        """Whether scaling the kernel at every step costs more than norming the output."""
        cells = x.numel() // x.shape[1] // (self.conv.stride[0] * self.conv.stride[1])
        return self.conv.weight.numel() > self.conv.out_channels * cells

    def _learn(self, x: Tensor) -> Tensor:
        """Convolve and norm, for autograd to follow."""
        weight, bias = self._fold()
        if x.device.type == "cpu" and learns_in_float32(self.conv):
            with torch.autocast("cpu", enabled=False):
                return self._convolve(x.to(weight.dtype), weight, bias)
        return self._convolve(x, weight, bias)

    def _onednn(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, shortcut: Tensor | None
    ) -> Tensor:
        """All in one operation, as far as it goes."""
        name, numbers = _ONEDNN.get(type(self.activation), ("none", []))
        activated = name != "none"
        conv, ops = self.conv, torch.ops.mkldnn
        where = (conv.padding, conv.stride, conv.dilation, conv.groups)
        y: Tensor
        if shortcut is None:
            y = ops._convolution_pointwise(x, weight, bias, *where, name, numbers, "")
        elif (
            self.may_overwrite
            and shortcut.dtype == x.dtype
            and shortcut.shape == self._output_shape(x)
            and _is_channels_last(x)
            and _is_channels_last(shortcut)
        ):
            unary = name if activated else None
            y = ops._convolution_pointwise_.binary(
                shortcut, x, weight, bias, *where, "add", 1.0, unary, numbers, ""
            )
        else:
            y = ops._convolution_pointwise(x, weight, bias, *where, "none", [], "")
            return self._finish(y, shortcut)
        return y if activated else self._finish(y, None)

    def _output_shape(self, x: Tensor) -> torch.Size:
        """Of the convolution."""
        conv = self.conv
        sides = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                x.shape[2:],
                conv.kernel_size,
                conv.stride,
                map(int, conv.padding),
                conv.dilation,
                strict=True,
            )
        )
        return torch.Size((x.shape[0], conv.out_channels, *sides))

    def _finish(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        """Add the shortcut and activate."""
        x = x if shortcut is None else x + shortcut
        return x if self.activation is None else self.activation(x)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution with another kernel."""
        conv = self.conv
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    def _tensors(self) -> list[Tensor]:
        """All that the folded kernel is made of."""
        norm = self.norm
        others = (
            () if norm is None else (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        return [t for t in (self.conv.weight, self.conv.bias, *others) if t is not None]

    def _fold(self) -> tuple[Tensor, Tensor | None]:
        """Kernel and bias of the convolution and its norm together."""
        weight, bias, norm = self.conv.weight, self.conv.bias, self.norm
        if norm is None:
            return weight, bias
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean if bias is None else bias - norm.running_mean
        shift = shift * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        return weight * scale[:, None, None, None], shift

    def _kept(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The folded kernel, made again when a tensor it is made of has changed or moved."""
        tensors = self._tensors()
        # Fused optimisers change weights without counting it as a version.
        steps = _steps if any(t.requires_grad for t in tensors) else 0
        versions = ((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
        made_of = (dtype, steps, *versions)
        if made_of != self._made_of:
            with torch.inference_mode(False), torch.no_grad():
                weight, bias = self._fold()
                weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
                self._constants = weight, None if bias is None else bias.to(dtype)
            self._made_of = made_of
        return self._constants


_steps = 0  # of all optimisers together


def _count_step(*_: object) -> None:
    """After an optimiser's step."""
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count_step)


def fuse(modules: Sequence[nn.Module]) -> nn.Module | None:
    """Modules that run one after the other, as one with its convolutions fused.

    Args:
        modules: As they are, and stay. What depends on their training mode is taken as it is now.

    Returns:
        Computes the same, up to rounding; None if the modules' code cannot be traced.
    """
    fused = _fuse(modules, shortcuts=True)
    # Where memory may be shared or written to by others, additions stay where they are.
    return fused if fused is None or _is_pure(fused) else _fuse(modules, shortcuts=False)


def _fuse(modules: Sequence[nn.Module], *, shortcuts: bool) -> fx.GraphModule | None:
    """As `fuse`, with or without the additions of shortcuts."""
    root = nn.Sequential(*modules)
    try:
        graph = _Tracer().trace(root)
    except Exception:  # of any kind: it runs code that knows nothing of tracing
        return None
    known: dict[str, nn.Module] = dict(root.named_modules())
    units: dict[fx.Node, FusedConvolution] = {}
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(known[str(node.target)], nn.Identity):
            _replace(graph, node, node.args[0])
    for node in list(graph.nodes):
        conv = known.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(conv, nn.Conv2d) and _is_plain(conv):
            last, unit = node, FusedConvolution(conv)
            following = _only_user(node, known)
            if isinstance(following, _BatchNorm) and _is_plain_norm(following):
                last, unit = next(iter(node.users)), FusedConvolution(conv, following)
            name = f"fused_{len(units)}"
            root.add_module(name, unit)
            with graph.inserting_after(node):
                new = graph.call_module(name, node.args)
            _replace(graph, last, new)
            if last is not node:
                graph.erase_node(node)
            units[new] = unit
    for node in list(units) if shortcuts else ():
        _add_shortcut(graph, node, units)
    for node, unit in units.items():
        act = _only_user(node, known)
        if act is not None and _acts(act) and unit.activation is None:
            unit.activation = act
            _replace(graph, next(iter(node.users)), node)
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node, unit in units.items():
        if len(node.args) == 2:
            x, shortcut = node.args
            unit.may_overwrite = (
                isinstance(shortcut, fx.Node)
                and shortcut in units  # so it is memory of its own
                and shortcut is not x
                and all(order[user] <= order[node] for user in shortcut.users)
            )
    graph.lint()
    return fx.GraphModule(root, graph)


class _Tracer(fx.Tracer):
    """Looks into blocks, but not into layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | _BatchNorm) or super().is_leaf_module(
            m, module_qualified_name
        )


def _add_shortcut(graph: fx.Graph, node: fx.Node, units: dict[fx.Node, FusedConvolution]) -> None:
    """Let a convolution add what is added to it, if nothing comes in between."""
    users = list(node.users)
    if units[node].activation is not None or len(users) != 1:
        return
    (addition,) = users
    inputs = addition.args
    if addition.target not in _ADDITIONS or addition.kwargs or len(inputs) != 2:
        return
    other = inputs[1] if inputs[0] is node else inputs[0]
    if not isinstance(other, fx.Node) or other is node:
        return
    with graph.inserting_before(addition):  # where both are there
        new = graph.call_module(str(node.target), (*node.args, other))
    _replace(graph, addition, new)
    graph.erase_node(node)
    units[new] = units.pop(node)


def _replace(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    """Put a node in another's place."""
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    graph.erase_node(old)


def _only_user(node: fx.Node, known: dict[str, nn.Module]) -> nn.Module | None:
    """The module that alone takes a node's output, if it is so."""
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module":
        return None
    return known.get(str(users[0].target))


def _is_pure(program: fx.GraphModule) -> bool:
    """Whether all that is left beside fused convolutions gives memory of its own."""
    for node in program.graph.nodes:
        if node.op == "call_module":
            if getattr(program.get_submodule(str(node.target)), "inplace", False):
                return False
        elif node.op not in ("placeholder", "output") and node.target not in _ADDITIONS:
            return False
    return True


def _is_plain_norm(norm: _BatchNorm) -> bool:
    """Whether a norm scales and shifts by its statistics, and at most activates after that."""
    plain = type(norm) is nn.BatchNorm2d or (
        type(norm) is BatchNormAct2d and isinstance(norm.drop, nn.Identity)
    )
    return plain and norm.track_running_stats


def _acts(module: nn.Module | None) -> bool:
    """Whether a module is an activation that does something."""
    kind = type(module)
    return kind.__module__ == "torch.nn.modules.activation"


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution does what its attributes say and nothing else."""
    plain = type(conv).forward in (nn.Conv2d.forward, Conv2dSame.forward) or learns_in_float32(conv)
    return plain and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _is_channels_last(x: Tensor) -> bool:
    """Whether a tensor is in that layout and in no other: then oneDNN adds to it in place."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _onednn_takes(x: Tensor) -> bool:
    """Whether oneDNN's fused operations are there for a tensor."""
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (there and torch.backends.mkldnn.enabled and on_cpu(x)):
        return False
    if x.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return x.dtype == torch.float32
