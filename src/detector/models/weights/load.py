"""Loads pretrained weights into a network, as far as names and shapes match."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from detector.core.errors import RequestError
from detector.models.backbones.build import backbone_spec
from detector.models.backbones.table import check_weights
from detector.models.faster_rcnn import FasterRCNN
from detector.models.weights.channels import RGB, adapted_kernel, first_convolution
from detector.models.weights.files import Pretrained, State, read_weights
from detector.models.weights.report import COUNTERS, LoadReport, report
from detector.models.weights.sources import imagenet_weights, torchvision_coco

BODY = "backbone.body."  # prefix of a classification network's own names
PREDICTOR = "roi_heads.box_predictor."
RPN_OUTPUTS = ("rpn.head.cls_logits.", "rpn.head.bbox_pred.")
PYRAMID = re.compile(r"(fpn\.(?:inner|layer)_blocks\.)(\d+)")  # and the number of a level
WRAPPERS = ("module.", "network.", "model.", "backbone.")  # prefixes of names, in any order
MOST_WRAPPINGS = 20  # real files have fewer
ENOUGH = 0.5  # smallest share of the network's numbers that a file of it must have


def find_pretrained(choice: str, backbone: str, network: FasterRCNN) -> Pretrained:
    """Get the weights that `model.weights` names.

    Args:
        choice: `imagenet`, `coco` or the path of a file.
        backbone: Backbone of the network: a key of the table, or `timm/` and a name.
        network: The network that the weights are for.

    Raises:
        RequestError: If there are none, or they cannot be fetched or read.
    """
    check_weights(choice, backbone)
    if choice == "coco":
        neck = network.backbone.fpn.state_dict()
        return torchvision_coco(v2="inner_blocks.0.1.weight" in neck)
    source = backbone_spec(backbone).imagenet if choice == "imagenet" else None
    if source is None:
        return read_weights(Path(choice))
    return Pretrained("model.weights=imagenet", imagenet_weights(source))


def load_pretrained(
    network: FasterRCNN, pretrained: Pretrained, classes: Sequence[str] = ()
) -> LoadReport:
    """Load weights into a network; layers that they do not cover stay random.

    A detector's file is matched with the whole network, a classification network's with the
    backbone. The box predictor is loaded only from a file that says it was trained on the same
    classes in the same order, and the RPN's outputs only from one with the same anchors.

    Args:
        network: Changed in place; on torch's meta device this only checks whether a file fits.
        pretrained: The weights.
        classes: Classes of the network, without background.

    Returns:
        Report of what was loaded and what was not.

    Raises:
        RequestError: If less than half of the network's numbers are in the file, or some of them
            are not finite.
    """
    state, target = pretrained.state, network.state_dict()
    kernel = f"{BODY}{first_convolution(network.backbone.body)}.weight"
    finer = _levels(state) - _levels(target)
    readings = _readings(state, finer)
    fits = [(reading, _fitting(reading, state, target, kernel)) for reading in readings]
    reading, found = max(fits, key=lambda pair: _numbers(pair[1]))
    _refuse_too_little(pretrained, reading, found, target)
    for name, value in found.items():
        if not value.is_meta and not torch.isfinite(value).all():
            raise RequestError(
                f"{pretrained.source}: {reading[name]} has values that are no numbers"
            )
    if pretrained.classes != tuple(classes):
        found = {name: t for name, t in found.items() if not name.startswith(PREDICTOR)}
    if pretrained.anchors not in (None, network.rpn.anchor_generator.chosen):
        found = {name: t for name, t in found.items() if not name.startswith(RPN_OUTPUTS)}
    if pretrained.norm_eps is not None:
        found |= _at_our_eps(network, found, pretrained.norm_eps)
    with torch.no_grad():
        for name, value in found.items():
            target[name].copy_(value)
    return report(network, pretrained, reading, found)


def _readings(state: State, finer: int) -> Iterator[dict[str, str]]:
    """Yield the possible mappings from the network's names of tensors to the file's.

    Args:
        state: The file's tensors.
        finer: Number of levels below the finest one of the network that the file's pyramid has.
    """
    for names in _unwrapped({_at_level(_modern(name), finer): name for name in state}):
        yield names
        yield {f"{BODY}{name}": file for name, file in names.items()}


def _unwrapped(names: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield the names as they are, and without the prefixes of modules around the network."""
    tried: list[dict[str, str]] = []
    todo = [names]
    while todo and len(tried) < MOST_WRAPPINGS:
        names = todo.pop(0)
        tried.append(names)
        yield names
        for prefix in WRAPPERS:
            if any(name.startswith(prefix) for name in names):
                fewer = {name.removeprefix(prefix): file for name, file in names.items()}
                todo += [fewer] if fewer not in (*tried, *todo) else []


def _modern(name: str) -> str:
    """Return torchvision's present name of a tensor; older COCO and DenseNet files have others."""
    name = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$", r"\1\2", name)
    name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
    return re.sub(r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", name)


def _levels(state: State) -> int:
    """Number of levels of the pyramid in a file or a network; they end with the same one."""
    numbers = {found[2] for name in state if (found := PYRAMID.search(name))}
    return len(numbers)


def _at_level(name: str, finer: int) -> str:
    """Return the name that a tensor has in a pyramid with so many fewer fine levels."""
    return PYRAMID.sub(lambda found: f"{found[1]}{int(found[2]) - finer}", name)


def _fitting(reading: Mapping[str, str], state: State, target: State, kernel: str) -> State:
    """Select the tensors that the network has under the same name in the same shape.

    A layer is taken as a whole or not at all, since a bias is of no use with another weight. The
    first convolution's `kernel` over RGB is adapted to the channels of the network's images.
    """
    there = {name: state[file] for name, file in reading.items() if name in target}
    first = there.get(kernel)
    if first is not None and first.ndim == 4 and first.shape[1] == RGB:
        there[kernel] = adapted_kernel(first, target[kernel].shape[1])
    torn = {_layer(name) for name, tensor in there.items() if tensor.shape != target[name].shape}
    return {name: tensor for name, tensor in there.items() if _layer(name) not in torn}


def _layer(name: str) -> str:
    """Return the name of the module that a tensor belongs to."""
    return name.rpartition(".")[0]


def _numbers(tensors: Mapping[str, Tensor]) -> int:
    """Count the numbers of the tensors that tell whether a file fits this network."""
    beside = (COUNTERS, PREDICTOR)
    return sum(t.numel() for name, t in tensors.items() if not any(b in name for b in beside))


def _refuse_too_little(
    pretrained: Pretrained, reading: Mapping[str, str], found: State, target: State
) -> None:
    """Refuse a file of another network: with another backbone, or another neck and head."""
    whole = any(name in target and not name.startswith(BODY) for name in reading)
    parts = {"backbone": BODY, "network": ""} if whole else {"backbone": BODY}
    for part, beginning in parts.items():
        wanted = {name: t for name, t in target.items() if name.startswith(beginning)}
        there = {name: t for name, t in found.items() if name.startswith(beginning)}
        share = _numbers(there) / _numbers(wanted)
        if share >= ENOUGH:
            continue
        lacking = next(name for name in wanted if name not in found)
        used = {reading[name] for name in found}
        other = next((name for name in pretrained.state if name not in used), None)
        seen = f"{other} {tuple(pretrained.state[other].shape)}" if other else "no more"
        raise RequestError(
            f"{pretrained.source}: fits {100 * share:.0f} % of the {part} by name and shape, and "
            f"half is needed; expected tensors such as {lacking.removeprefix(BODY)} "
            f"{tuple(wanted[lacking].shape)}, found {seen}"
        )


def _at_our_eps(network: FasterRCNN, found: State, eps: float) -> State:
    """Adapt the weights of the backbone's norms, which were trained with another eps.

    Norms in eval mode compute `weight * (x - mean) / sqrt(var + eps) + bias`. The weight is scaled
    once to make up for the difference in eps: otherwise every checkpoint that is trained from these
    weights would have to store its eps.
    """
    changed = {}
    for path, module in network.backbone.body.named_modules():
        weight, variance = f"{BODY}{path}.weight", f"{BODY}{path}.running_var"
        if isinstance(module, _BatchNorm) and weight in found and variance in found:
            var = found[variance].double()
            changed[weight] = found[weight] * ((var + module.eps) / (var + eps)).sqrt()
    return changed
