"""A pretrained network as ordered stages under an FPN, frozen and thawed by stage."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detector.models.fused import fuse

NormMode = Literal["frozen", "eval_when_frozen", "train"]


@dataclass(frozen=True)
class Stage:
    """One stride level of a network.

    Attributes:
        name: `stem`, then `layer1` (the finest level) upwards.
        modules: Dotted paths of the submodules, run one after the other.
        stride: Input pixels per cell of the stage's output.
        channels: Channels of the stage's output.
    """

    name: str
    modules: tuple[str, ...]
    stride: int
    channels: int


@dataclass(frozen=True)
class _Program:
    """A stage's fused form, which holds for one state of its modules.

    Attributes:
        modes: `training` of every module when it was made: a trace follows the code's branches.
        module: Runs it; None if the stage cannot be fused.
    """

    modes: tuple[bool, ...]
    module: nn.Module | None


class PyramidBackbone(nn.Module):
    """A network cut into stages, with a feature pyramid over those of stride 4 and more.

    Norm layers follow `norm`: `frozen` never updates statistics or affine parameters, which suits
    detection's small batches; `eval_when_frozen` updates them in thawed stages; `train` always
    updates the statistics, as training from scratch needs. `train()` respects it: calling it never
    wakes up a frozen stage.

    Args:
        body: The network; modules that no stage names are dropped.
        stages: Its stages, from the image upwards.
        out_channels: Channels of every pyramid level.
        norm: How norm layers of the body behave.
        fused: Run convolutions with the norms that are asleep folded into them (see `fused.py`):
            faster, and equal up to rounding.

    Raises:
        ValueError: If the strides of the pyramid's stages do not double.
    """

    def __init__(
        self,
        body: nn.Module,
        stages: Sequence[Stage],
        out_channels: int = 256,
        norm: NormMode = "frozen",
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.norm = norm
        self.fused = fused
        self._programs: dict[str, _Program] = {}
        levels = pyramid_levels(self.stages)
        self.levels = tuple(s.name for s in levels)
        self.strides = pyramid_strides(self.stages)
        self.out_channels = out_channels  # read by torchvision's FasterRCNN
        self.body = body
        _keep_only(body, [path for s in self.stages for path in s.modules])
        self.fpn = FeaturePyramidNetwork(
            [s.channels for s in levels], out_channels, LastLevelMaxPool()
        )
        self._trainable = frozenset(s.name for s in self.stages)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the pyramid.

        Args:
            images: `(N, C, H, W)` normalised; H and W multiples of the coarsest stride.

        Returns:
            `"0"` (finest) upwards, then `"pool"`; each `(N, out_channels, H / stride, W / stride)`.
        """
        x, levels = images, OrderedDict[str, Tensor]()
        for stage in self.stages:
            for run in self._runs(stage.name):
                x = run(x)
            if stage.name in self.levels:
                levels[str(len(levels))] = x
        pyramid: dict[str, Tensor] = self.fpn(levels)
        return pyramid

    def stage_modules(self, name: str) -> Iterator[nn.Module]:
        """The modules of one stage, in order."""
        stage = next(s for s in self.stages if s.name == name)
        return (self.body.get_submodule(path) for path in stage.modules)

    def _runs(self, name: str) -> Sequence[nn.Module]:
        """What computes a stage: its modules, or the one they are fused into."""
        modules = list(self.stage_modules(name))
        if not self.fused:
            return modules
        modes = tuple(m.training for module in modules for m in module.modules())
        known = self._programs.get(name)
        if known is None or known.modes != modes:
            known = self._programs[name] = _Program(modes, fuse(modules))
        return modules if known.module is None else [known.module]

    def __getstate__(self) -> dict[str, object]:
        """Copies make their own programs: these refer to the original's modules."""
        return {**self.__dict__, "_programs": {}}

    def set_trainable(self, names: Collection[str]) -> None:
        """Thaw the named stages and freeze all others; the exact inverse of itself.

        Args:
            names: Stage names. Frozen parameters lose `requires_grad` and their gradients; norm
                layers go to the mode that `norm` asks for.
        """
        self._trainable = frozenset(names)
        for stage in self.stages:
            thawed = stage.name in self._trainable
            for root in self.stage_modules(stage.name):
                for module in root.modules():
                    is_norm = isinstance(module, _BatchNorm)
                    for parameter in module.parameters(recurse=False):
                        parameter.requires_grad = thawed and not (is_norm and self.norm == "frozen")
                        if not parameter.requires_grad:
                            parameter.grad = None
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, except for what is frozen (see the class)."""
        super().train(mode)
        self._programs.clear()  # weights may have been exchanged in place, as averaging does
        for stage in self.stages:
            frozen = stage.name not in self._trainable
            for root in self.stage_modules(stage.name):
                for module in root.modules():
                    if isinstance(module, _BatchNorm):
                        asleep = self.norm == "frozen" or (frozen and self.norm != "train")
                        module.training = mode and not asleep
                    elif frozen:
                        module.training = False
        return self


def pyramid_levels(stages: Sequence[Stage]) -> list[Stage]:
    """The stages that the pyramid stands on; ValueError unless their strides double."""
    levels = [s for s in stages if s.stride >= 4 and s.name != "stem"]
    strides = [s.stride for s in levels]
    if any(b != 2 * a for a, b in pairwise(strides)):
        raise ValueError(f"the pyramid needs strides that double, got {strides}")
    return levels


def pyramid_strides(stages: Sequence[Stage]) -> tuple[int, ...]:
    """Strides of the pyramid's levels, finest first.

    The pooled top level serves the RPN alone, as in torchvision's detectors.
    """
    strides = [s.stride for s in pyramid_levels(stages)]
    return (*strides, strides[-1] * 2)


def _keep_only(root: nn.Module, paths: Sequence[str]) -> None:
    """Delete every submodule that neither lies on one of the dotted paths nor below one."""
    for name, child in list(root.named_children()):
        below = [p.partition(".")[2] for p in paths if p.partition(".")[0] == name]
        if not below:
            delattr(root, name)
        elif all(below):
            _keep_only(child, below)
