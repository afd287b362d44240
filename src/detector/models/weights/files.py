"""Files of pretrained weights, read as data: nothing in them is executed."""

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
from detector.models.options import STANDARD_ANCHORS, AnchorSet

State = dict[str, Tensor]
RPN_OUTPUT = "rpn.head.cls_logits.weight"  # a row for each anchor of a cell

# Exceptions of torch and safetensors for a file that is damaged or of another format.
UNREADABLE = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError),
    *(AttributeError, SafetensorError),
)
# Files of torchvision, with the beginnings of their SHA-256, that were trained with an eps of 0 in
# frozen norms. They are listed here because importing torchvision takes a second.
WITHOUT_EPS = {
    "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth": "258fb6c6",
    "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth": "bf2d0c1e",
    "keypointrcnn_resnet50_fpn_coco-fc266e95.pth": "fc266e95",
}


@dataclass(frozen=True)
class Pretrained:
    """Weights as they were read, not yet in a network (`load.py` puts them there).

    Attributes:
        source: Source of the weights, as messages name it.
        state: The tensors, by their names in the source.
        classes: Classes of the box predictor, without background; None if unknown.
        anchors: Scales and ratios of the anchors of its RPN; None if it has none, or unknown ones.
        norm_eps: The eps that norms of the backbone were trained with; None if it is that of the
            network.
    """

    source: str
    state: State
    classes: tuple[str, ...] | None = None
    anchors: AnchorSet | None = None
    norm_eps: float | None = None


def read_weights(path: Path) -> Pretrained:
    """Read weights from a checkpoint of `detector.train`, or a state dict of torch or safetensors.

    Args:
        path: Path of the file, which is read as data: nothing in it is executed.

    Raises:
        RequestError: If the file holds no weights, or code.
    """
    source = f"model.weights={path}"
    try:
        if _is_safetensors(path):
            state = load_file(path)
            return Pretrained(source, state, anchors=_anchors({}, state))
        mapped = zipfile.is_zipfile(path)  # not so in the format of torch before 1.6
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (*UNREADABLE, OSError) as error:
        raise RequestError(f"{source}: {_why_unreadable(error)}") from error
    state = _tensors(content)
    if not state:
        raise RequestError(f"{source}: no tensors by name are in it; expected a state dict")
    eps = 0.0 if _is_without_eps(path, state) else None
    return Pretrained(source, state, _classes(content), _anchors(content, state), eps)


def _why_unreadable(error: Exception) -> str:
    """Explain why a file cannot be read, and what would be right."""
    code = re.search(r"GLOBAL (\S+)", str(error))
    if code is None:
        return (
            "not a file of weights; expected a state dict (.pth, .safetensors) or a checkpoint of "
            "detector.train"
        )
    if code[1].startswith("numpy"):
        return "holds numpy's arrays; save tensors, as network.state_dict() has them"
    return (
        f"refused: reading it would run code ({code[1]}); save the weights alone, as in "
        "torch.save(network.state_dict(), file)"
    )


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever its name: a length, then JSON."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _is_without_eps(path: Path, state: State) -> bool:
    """Whether a file is one of `WITHOUT_EPS`, also under another name."""
    if path.name in WITHOUT_EPS:
        return True
    if "roi_heads.box_predictor.cls_score.weight" not in state:
        return False
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest.startswith(tuple(WITHOUT_EPS.values()))


def _tensors(content: Any) -> State:
    """Return the tensors of a file, also from the usual dictionaries within it."""
    if not isinstance(content, Mapping):
        return {}
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            return _tensors(content[key])
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _anchors(content: Any, state: State) -> AnchorSet | None:
    """Return the anchors of the RPN in a file.

    A checkpoint of `detector.train` says which; other files with torchvision's number of them count
    as having torchvision's.
    """
    try:
        model = content["detector"]["config"]["model"]
        return tuple(map(float, model["anchor_scales"])), tuple(map(float, model["anchor_ratios"]))
    except (LookupError, TypeError):
        scales, ratios = STANDARD_ANCHORS
        number = len(scales) * len(ratios)
        outputs = (t for name, t in state.items() if name.endswith(RPN_OUTPUT))
        return STANDARD_ANCHORS if any(len(t) == number for t in outputs) else None


def _classes(content: Any) -> tuple[str, ...] | None:
    """Return the classes that a checkpoint of `detector.train` was trained on; None for others."""
    try:
        return tuple(map(str, content["detector"]["classes"]["names"]))
    except (LookupError, TypeError):
        return None
