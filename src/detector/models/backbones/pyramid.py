"""A pretrained network as ordered stages under an FPN, frozen and unfrozen by stage."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detector.models.backbones.feature_store import FeatureStore
from detector.models.backbones.stages import Stage, pyramid_levels
from detector.models.device import on_cpu

NormMode = Literal["frozen", "eval_when_frozen", "train"]


class LevelNorm(nn.LayerNorm):
    """A layer norm over the channels of every cell.

    Args:
        channels: Number of channels.
        channels_last: Whether inputs are `(N, H, W, C)` instead of `(N, C, H, W)`.
    """

    def __init__(self, channels: int, *, channels_last: bool) -> None:
        super().__init__(channels)
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the input; the result is `(N, C, H, W)` in either case."""
        return (
            super().forward(x if self.channels_last else x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        )


class PyramidBackbone(nn.Module):
    """A network cut into stages, with a feature pyramid over the last one of every stride.

    Batch norms follow `norm`: `frozen` never updates statistics or affine parameters, which suits
    detection's small batches; `eval_when_frozen` updates them in stages that are not frozen;
    `train` always updates the statistics, as training from scratch needs. `train()` respects this:
    it leaves frozen stages in eval mode. Other norms have no batch statistics and are frozen like
    any other layer.

    The outputs of a network without batch norms may be of any scale, above all sums of residual
    connections. They are normalised before they enter the pyramid, as the authors of Swin
    (arXiv 2103.14030) and ConvNeXt (arXiv 2201.03545) do for detection.

    Args:
        body: The classification network; modules that belong to no stage are removed from it.
        stages: Stages of the network, from the image upwards.
        out_channels: Channels of every pyramid level.
        norm: How batch norms of the body behave.
        channels_last: Whether the stages' outputs are `(N, H, W, C)`.
        neck_norm: Norm after the pyramid's convolutions; None gives them biases instead.
        finest: Stride of the pyramid's finest level, in pixels.

    Attributes:
        store: Keeps the stages' outputs while all of them are frozen; None: they are computed.

    Raises:
        ValueError: If the strides of the pyramid's stages do not double.
    """

    def __init__(
        self,
        body: nn.Module,
        stages: Sequence[Stage],
        out_channels: int = 256,
        norm: NormMode = "frozen",
        channels_last: bool = False,
        neck_norm: Callable[..., nn.Module] | None = None,
        finest: int = 4,
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.norm = norm
        levels = pyramid_levels(self.stages, finest)
        self.levels = tuple(s.name for s in levels)
        # The pooled level has every other cell of the level below, beginning with the first.
        self.strides = (*(s.stride for s in levels), levels[-1].stride * 2)
        self.offsets = (*(s.offset for s in levels), levels[-1].offset)
        self.channels_last = channels_last
        self.out_channels = out_channels  # read by torchvision's FasterRCNN
        self.body = body
        _keep_only(body, [path for s in self.stages for path in s.modules])
        self.fpn = FeaturePyramidNetwork(
            [s.channels for s in levels], out_channels, LastLevelMaxPool(), neck_norm
        )
        self.level_norms = nn.ModuleDict()
        self.store: FeatureStore | None = None
        self.has_batch_norms = any(isinstance(module, _BatchNorm) for module in body.modules())
        if not self.has_batch_norms:
            self.level_norms.update(
                {s.name: LevelNorm(s.channels, channels_last=channels_last) for s in levels}
            )
        self._trainable = frozenset(s.name for s in self.stages)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the pyramid.

        Args:
            images: `(N, C, H, W)`, normalised; H and W are multiples of the coarsest stride.

        Returns:
            The levels: `"0"` (finest) upwards, then `"pool"`. Each is
            `(N, out_channels, H / stride, W / stride)`, less `Stage.missing` cells.
        """
        if self.store is not None and self._is_fixed() and on_cpu(images):
            outputs = self.store.outputs(images, self._stage_outputs)
        else:
            outputs = self._stage_outputs(images)
        named = zip(self.levels, outputs, strict=True)
        levels = OrderedDict((str(i), self.as_level(*each)) for i, each in enumerate(named))
        pyramid: dict[str, Tensor] = self.fpn(levels)
        return pyramid

    def _is_fixed(self) -> bool:
        """Whether the stages compute the same of an image every time."""
        return not self._trainable and self.norm != "train"

    def _stage_outputs(self, images: Tensor) -> list[Tensor]:
        """Run the stages; the outputs of those that feed the pyramid, the finest first."""
        x, outputs = images, []
        for stage in self.stages:
            for module in self.stage_modules(stage.name):
                x = module(x)
            if stage.name in self.levels:
                outputs.append(x)
        return outputs

    def as_level(self, name: str, x: Tensor) -> Tensor:
        """Convert a stage's output to an input of the pyramid, `(N, C, H, W)`."""
        if name in self.level_norms:
            normed: Tensor = self.level_norms[name](x)
            return normed
        return x.permute(0, 3, 1, 2) if self.channels_last else x

    def neck_modules(self) -> list[nn.Module]:
        """Return the modules between the stages and the heads."""
        return [self.level_norms, self.fpn]

    def stage_modules(self, name: str) -> list[nn.Module]:
        """Return the modules of one stage, in the order in which they run."""
        stage = next(s for s in self.stages if s.name == name)
        return [self.body.get_submodule(path) for path in stage.modules]

    def set_trainable(self, names: Collection[str]) -> None:
        """Unfreeze the named stages and freeze all others.

        Parameters of frozen stages lose `requires_grad` and their gradients; batch norms go to the
        mode that `norm` asks for. A later call undoes all of it.

        Args:
            names: Names of the stages to train.
        """
        self._trainable = frozenset(names)
        if self.store is not None:
            self.store.clear()
        for stage in self.stages:
            trained = stage.name in self._trainable
            for root in self.stage_modules(stage.name):
                for module in root.modules():
                    is_norm = isinstance(module, _BatchNorm)
                    for parameter in module.parameters(recurse=False):
                        parameter.requires_grad = trained and not (
                            is_norm and self.norm == "frozen"
                        )
                        if not parameter.requires_grad:
                            parameter.grad = None
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, except for frozen stages and norms (see the class)."""
        super().train(mode)
        for stage in self.stages:
            frozen = stage.name not in self._trainable
            for root in self.stage_modules(stage.name):
                for module in root.modules():
                    if isinstance(module, _BatchNorm):
                        fixed = self.norm == "frozen" or (frozen and self.norm != "train")
                        module.training = mode and not fixed
                    elif frozen:
                        module.training = False
        return self


def _keep_only(root: nn.Module, paths: Sequence[str]) -> None:
    """Delete every submodule that neither lies on one of the dotted paths nor below one."""
    for name, child in list(root.named_children()):
        below = [p.partition(".")[2] for p in paths if p.partition(".")[0] == name]
        if not below:
            delattr(root, name)
        elif all(below):
            _keep_only(child, below)
