"""Our network and torchvision's, with the same weights, for the same images."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from detector.config.schedules import GROUPS
from detector.models.faster_rcnn import (
    FasterRCNN,
    SpeedOptions,
    build_faster_rcnn,
)
from detector.models.options import ModelOptions
from detector.pipeline.build import keep_memory, precision

# How many of the backbone's five stages are trained, from the top.
TRAINED = {"frozen": 0, "partial": 3, "full": 5}

Targets = list[dict[str, Tensor]]
Batch = tuple[list[Tensor], Targets]


def make_batch(count: int, height: int, width: int, boxes: int = 12, classes: int = 20) -> Batch:
    """Seeded uint8 images of noise, and boxes of 10 to 100 pixels or a third of the image."""
    draw = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, height, width), generator=draw, dtype=torch.uint8)
        for _ in range(count)
    ]
    sides = torch.tensor([width, height])
    targets = []
    for _ in range(count):
        side = 10 + torch.rand(boxes, 2, generator=draw) * (sides / 3).clamp(max=90)
        corner = torch.rand(boxes, 2, generator=draw) * (sides - side)
        labels = torch.randint(1, classes + 1, (boxes,), generator=draw)
        targets.append({"boxes": torch.cat((corner, corner + side), 1), "labels": labels})
    return images, targets


def build_ours(
    trained: int,
    classes: int = 20,
    backbone: str = "resnet50",
    speed: SpeedOptions | None = None,
    options: ModelOptions | None = None,
) -> FasterRCNN:
    """Our detector with random weights.

    Its norms hold the statistics of `make_batch`'s images, as a pretrained network's hold those of
    photographs: else numbers grow from layer to layer.

    Args:
        trained: Backbone stages that are trained, from the top.
        classes: Without background.
        backbone: Its name.
        speed: How it is run.
        options: Its numbers.
    """
    torch.manual_seed(0)
    network = build_faster_rcnn(backbone, classes, norm="train", speed=speed, options=options)
    for norm in norms(network):
        norm.momentum = None  # the mean of what it sees
    network.backbone.train()
    with torch.no_grad():
        network.backbone(network.transform(make_batch(2, 256, 320)[0])[0].tensors)
    for norm in norms(network):
        norm.momentum = 0.1
    network.backbone.norm = "frozen"
    network.set_trainable(GROUPS[5 - trained :])
    return network.train()


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """All norms of a network."""
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def build_torchvision(ours: FasterRCNN, trained: int, size: tuple[int, int]) -> nn.Module:
    """Torchvision's own detector as its references build it, with our weights.

    Args:
        ours: Over a ResNet-50.
        trained: As in `build_ours`.
        size: Height and width of the images, which are then not resized.
    """
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        trainable_layers=trained,
    )
    classes = ours.roi_heads.box_predictor.cls_score.out_features
    peer = TorchvisionFasterRCNN(backbone, classes, min_size=min(size), max_size=max(size))
    state = {k: v for k, v in ours.state_dict().items() if "num_batches_tracked" not in k}
    peer.load_state_dict(state)
    # Its own drift off the cells of the pooled level where a size is no multiple of 64.
    peer.rpn.anchor_generator = ours.rpn.anchor_generator
    # It would draw the size to resize to from the random numbers that the sampling needs.
    peer.transform.torch_choice = lambda sizes: sizes[0]
    return peer.train()


def our_step(
    trained: int,
    batch: Batch,
    classes: int = 20,
    backbone: str = "resnet50",
    speed: SpeedOptions | None = None,
    *,
    options: ModelOptions | None = None,
    mixed: bool = True,
    rate: float = 1e-4,
) -> Callable[[], float]:
    """A training step of ours, as the project's defaults have it unless told otherwise."""
    keep_memory()
    images, targets = batch
    network = build_ours(trained, classes, backbone, speed, options)
    return training_step(network, images, targets, mixed=mixed, rate=rate)


def torchvision_step(trained: int, batch: Batch, classes: int = 20) -> Callable[[], float]:
    """A training step of torchvision's, in float32 as its references have it."""
    images, targets = batch
    network = build_torchvision(build_ours(trained, classes), trained, sizes(images))
    return training_step(network, as_floats(images), targets, mixed=False)


def our_detection(batch: Batch) -> Callable[[], object]:
    """A detection of ours, as the project's defaults have it."""
    keep_memory()
    return detection(build_ours(0).eval(), batch[0], mixed=True)


def torchvision_detection(batch: Batch) -> Callable[[], object]:
    """A detection of torchvision's, in float32."""
    images = as_floats(batch[0])
    return detection(build_torchvision(build_ours(0), 0, sizes(images)).eval(), images, mixed=False)


def sizes(images: list[Tensor]) -> tuple[int, int]:
    """Height and width of a batch's images, which are all alike."""
    return images[0].shape[1], images[0].shape[2]


def detection(network: nn.Module, images: list[Tensor], *, mixed: bool) -> Callable[[], object]:
    """A detection to call.

    Args:
        network: Either.
        images: As the network takes them.
        mixed: As in `training_step`.
    """

    def detect() -> object:
        with torch.inference_mode(), autocast(mixed=mixed):
            return network(images)

    return detect


def mixed_dtype() -> torch.dtype | None:
    """What `trainer.precision=auto` means on this machine's processor; None: float32.

    Where `ONEDNN_MAX_CPU_ISA` stands for a processor without bf16 instructions, it is float32.
    """
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2"):
        return None
    return torch.bfloat16 if precision("auto", "cpu") == "bf16-mixed" else None


def autocast(*, mixed: bool) -> torch.autocast:
    """In the precision that `trainer.precision=auto` means here, or in float32."""
    dtype = mixed_dtype() if mixed else None
    return torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)


def training_step(
    network: nn.Module,
    images: list[Tensor],
    targets: Targets,
    *,
    mixed: bool,
    rate: float = 1e-4,
) -> Callable[[], float]:
    """A training step to call: losses, gradients, SGD with momentum.

    Args:
        network: Either.
        images: As the network takes them.
        targets: The boxes.
        mixed: In the precision that `trainer.precision=auto` means here; else float32.
        rate: Of learning.

    Returns:
        Does one step and gives its loss.
    """
    learnt = [p for p in network.parameters() if p.requires_grad]
    # Each as its own code has it: ours in one pass over the weights.
    fused = True if isinstance(network, FasterRCNN) else None
    optimiser = torch.optim.SGD(learnt, lr=rate, momentum=0.9, weight_decay=1e-4, fused=fused)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        with autocast(mixed=mixed):
            losses = network(images, targets)
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def as_floats(images: list[Tensor]) -> list[Tensor]:
    """Images as torchvision's detectors take them: float32, 0..1."""
    return [image.float() / 255 for image in images]
