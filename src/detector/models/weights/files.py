"""Pretrained weights as they come out of files, read as data: nothing in them is executed."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detector.core.errors import RequestError

State = dict[str, Tensor]

# What a file that is damaged, or of something else, makes torch and safetensors raise.
UNREADABLE = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError),
    *(AttributeError, SafetensorError),
)
# Files of torchvision's, with the beginnings of their SHA-256, whose norms were trained when its
# frozen ones added nothing to the variance. Torchvision is not asked: its import takes a second.
WITHOUT_EPS = {
    "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth": "258fb6c6",
    "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth": "bf2d0c1e",
    "keypointrcnn_resnet50_fpn_coco-fc266e95.pth": "fc266e95",
}


@dataclass(frozen=True)
class Pretrained:
    """Weights as they came, not yet in a network (`loading.py` puts them there).

    Attributes:
        source: What was asked for, as messages name it.
        state: The tensors by the names they came with.
        classes: What the rows of its box predictor stand for, without background; None: unknown.
        norm_eps: What its backbone's norms add to the variance; None: as much as the network's.
    """

    source: str
    state: State
    classes: tuple[str, ...] | None = None
    norm_eps: float | None = None


def read_weights(path: Path) -> Pretrained:
    """Weights from a file: a checkpoint of ours, or a state dict as torch or safetensors save it.

    Args:
        path: Read as data: nothing in it is executed.

    Raises:
        RequestError: If it holds no weights, or more than data.
    """
    source = f"model.weights={path}"
    try:
        if _is_safetensors(path):
            return Pretrained(source, load_file(path))
        mapped = zipfile.is_zipfile(path)  # else in the format of torch before 1.6
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (*UNREADABLE, OSError) as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code and code[1].startswith("numpy"):
            raise RequestError(
                f"{source}: holds numpy's arrays; save tensors, as network.state_dict() has them"
            ) from error
        if code:
            raise RequestError(
                f"{source}: refused: reading it would run code ({code[1]}); save the weights alone,"
                " as in torch.save(network.state_dict(), file)"
            ) from error
        raise RequestError(
            f"{source}: not a file of weights; expected a state dict (.pth, .safetensors) or a "
            "checkpoint of detector.train"
        ) from error
    state = _tensors(content)
    if not state:
        raise RequestError(f"{source}: no tensors by name are in it; expected a state dict")
    eps = 0.0 if _is_without_eps(path, state) else None
    return Pretrained(source, state, _classes(content), eps)


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as that format does, whatever it is called: a length, then JSON."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _is_without_eps(path: Path, state: State) -> bool:
    """Whether a file is one of `WITHOUT_EPS`, also by another name."""
    if path.name in WITHOUT_EPS:
        return True
    if "roi_heads.box_predictor.cls_score.weight" not in state:
        return False
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest.startswith(tuple(WITHOUT_EPS.values()))


def _tensors(content: Any) -> State:
    """The tensors of a file, in whichever of the usual nests they are."""
    if not isinstance(content, Mapping):
        return {}
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            return _tensors(content[key])
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _classes(content: Any) -> tuple[str, ...] | None:
    """The classes that a checkpoint of ours was trained on."""
    try:
        return tuple(map(str, content["detector"]["classes"]["names"]))
    except (LookupError, TypeError):
        return None
