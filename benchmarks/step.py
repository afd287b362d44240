"""Seconds of a training step: ours beside torchvision's, and detectron2's where it is installed.

ResNet-50 FPN, a batch of 2 images of 480x640 with 12 boxes each, the same weights, SGD. The peers
run as their own training scripts do, in float32; ours with the project's defaults.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

from common import Figure, Report, compare_processes
from limit import at_most, multiply_adds
from networks import TRAINED, Batch, make_batch, our_step, torchvision_step

HEIGHT, WIDTH, IMAGES = 480, 640, 2
TARGETS = {"frozen": 4.0, "partial": 3.0, "full": None}
WANTED = {"frozen": " (wanted in at most 1.5 times the bound's time)"}
SAID = {
    "frozen": "backbone frozen",
    "partial": "the backbone's upper three stages trained",
    "full": "all trained",
}


def measure(quick: bool) -> Report:
    """Compare the three states of the backbone.

    Args:
        quick: Small images, few rounds.
    """
    height, width, rounds = (96, 128, 2) if quick else (HEIGHT, WIDTH, 7)
    batch = make_batch(IMAGES, height, width)
    sizes = f"ResNet-50 FPN, {IMAGES} images of {height}x{width}"
    figures: dict[str, Figure] = {}
    counts: dict[str, int] = {}
    for state, trained in TRAINED.items():
        ours = partial(our_step, trained, batch)
        counts[f"multiply_adds_{state}"] = count = multiply_adds(ours())
        bound = at_most(count)
        figures[f"step_{state}"] = compare_processes(
            ours,
            partial(torchvision_step, trained, batch),
            rounds,
            what=f"training step, {SAID[state]}; {sizes}, {count / 1e9:.0f} billion multiply-adds"
            f"{WANTED.get(state, '')}",
            target=TARGETS[state],
            bound=bound,
        )
        if importlib.util.find_spec("detectron2"):
            figures[f"step_{state}_detectron2"] = compare_processes(
                ours,
                partial(detectron2_step, trained, batch),
                rounds,
                what=f"the same beside detectron2, {SAID[state]}",
                bound=bound,
            )
    ratio, text = _thawed(quick)
    return Report(figures, text, {"efficientnet_lite0_thawed_over_frozen": ratio, **counts})


def _thawed(quick: bool) -> tuple[float, str]:
    """What thawing costs the small network: the ratio, and a sentence."""
    size, rounds = (96, 2) if quick else (320, 9)
    batch = make_batch(4, size, size)
    figure = compare_processes(
        partial(our_step, TRAINED["frozen"], batch, backbone="efficientnet_lite0"),
        partial(our_step, TRAINED["full"], batch, backbone="efficientnet_lite0"),
        rounds,
        what="",
    )
    text = (
        f"EfficientNet-Lite0, 4 images of {size}x{size}: a step takes {figure.ours_s:.2f} s with "
        f"the backbone frozen and {figure.peer_s:.2f} s with all of it trained, "
        f"{figure.ratio:.2f} times as long (wanted: at most 1.4)."
    )
    return figure.ratio, text


def detectron2_step(trained: int, batch: Batch) -> Callable[[], object]:
    """A training step of detectron2's own Faster R-CNN, with random weights.

    Args:
        trained: Backbone stages that are trained, from the top.
        batch: Images, uint8, and targets.
    """
    import torch
    from detectron2 import model_zoo
    from detectron2.modeling import build_model
    from detectron2.structures import Boxes, Instances

    cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 20
    cfg.MODEL.BACKBONE.FREEZE_AT = 5 - trained
    network = build_model(cfg).train()
    inputs = []
    for image, target in zip(*batch, strict=True):
        truth = Instances(tuple(image.shape[1:]))
        truth.gt_boxes, truth.gt_classes = Boxes(target["boxes"]), target["labels"] - 1
        inputs.append({"image": image, "instances": truth})
    optimiser = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad], lr=1e-4, momentum=0.9
    )

    def step() -> object:
        optimiser.zero_grad()
        loss = sum(network(inputs).values())
        loss.backward()
        optimiser.step()
        return loss

    return step
