"""What every backbone costs: parameters, multiply-adds, seconds and memory of a training step.

All stand under the same slim pyramid and head (those of `efficientnet_lite0`), so that only
the backbone differs. Weights are random. OUT/costs.json is written as each backbone is done.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path

import torch
from common import Worker, conditions
from networks import TRAINED, Batch, make_batch, our_step
from training_runs import period

from detector.cli import compose, load_command
from detector.config.resolve import resolve
from detector.core.files import write_json
from detector.models.backbones.table import BACKBONES
from detector.models.compute import step_compute
from detector.models.faster_rcnn import build_faster_rcnn
from detector.models.options import ModelOptions

# Those of the course, in its order, and those of timm whose weights come as packages.
NAMES = (*BACKBONES, *(f"timm/tf_efficientnet_lite{variant}" for variant in (1, 2)))
SIDE, QUICK_SIDE = 512, 96  # pixels
IMAGES, CLASSES = 2, 20
WARMUP = 2  # steps


@dataclass(frozen=True)
class Cost:
    """Of a backbone; steps are those of the whole detector.

    Attributes:
        backbone: As `backbone_spec` has it.
        parameters: The backbone's.
        multiply_adds: Of its forward pass over an image.
        seconds: Of a training step, the median, for every state of the backbone in `TRAINED`.
        peak_bytes: The most memory held in training, without the libraries; the same.
        side: Height and width of the images.
        steps: That were timed in each state.
        wall_seconds: Of it all.
        machine: What it was measured on.
        day: When.
    """

    backbone: str
    parameters: int
    multiply_adds: int
    seconds: dict[str, float]
    peak_bytes: dict[str, int]
    side: int
    steps: int
    wall_seconds: float
    machine: str
    day: str


def slim() -> ModelOptions:
    """The numbers of the small network's pyramid and head."""
    return resolve(
        load_command("train").KEYS, compose("train", ["backbone=efficientnet_lite0"])
    ).model


def read_costs(file: Path) -> dict[str, Cost]:
    """The costs so far, by backbone.

    Args:
        file: Perhaps there.

    Raises:
        ValueError: If the file is another one.
    """
    if not file.is_file():
        return {}
    try:
        costs = [Cost(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not a file of costs ({error}); name another --out") from error
    return {cost.backbone: cost for cost in costs}


def refuse_other(file: Path, side: int, steps: int) -> None:
    """Raise ValueError if a file holds costs that were measured differently.

    Args:
        file: Perhaps there.
        side: Height and width of the images.
        steps: That are timed in each state.
    """
    for cost in read_costs(file).values():
        if (cost.side, cost.steps) != (side, steps):
            raise ValueError(
                f"{file}: measured with {cost.steps} steps at {cost.side} pixels; name another "
                "--out"
            )


def measure_all(names: Sequence[str], file: Path, side: int, steps: int) -> list[str]:
    """Measure what is not done yet, and write the file after each.

    Args:
        names: Of backbones.
        file: Of the costs.
        side: Height and width of the images.
        steps: To time in each state.

    Returns:
        Those that failed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    costs = read_costs(file)
    left, failed = [n for n in dict.fromkeys(names) if n not in costs], []
    for turn, name in enumerate(left, 1):
        print(f"[{turn}/{len(left)}] {name}:", end=" ", flush=True)
        try:
            costs[name] = cost = measure(name, side, steps)
        except (EOFError, ConnectionError):  # of the pipe to its process
            failed.append(name)
            print("failed, its process has ended", flush=True)
            continue
        order = sorted(costs.values(), key=lambda c: NAMES.index(c.backbone))
        write_json(file, [asdict(c) for c in order])
        rest = len(left) - turn
        minutes = rest * statistics.mean(c.wall_seconds for c in costs.values()) / 60
        print(f"{summary(cost)}; {rest} left, about {minutes:.0f} min", flush=True)
    return failed


def measure(name: str, side: int, steps: int) -> Cost:
    """The costs of a backbone; each state is trained in a process of its own.

    Args:
        name: As `backbone_spec` has it.
        side: Height and width of the images.
        steps: To time in each state.

    Raises:
        EOFError: If a process has died; or ConnectionError.
    """
    started = time.monotonic()
    parameters, multiply_adds = count(name, side)
    batch = make_batch(IMAGES, side, side, classes=CLASSES)
    seconds, peaks = dict[str, float](), dict[str, int]()
    for state, trained in TRAINED.items():
        with Worker(partial(checked_step, trained, batch, name)) as worker:
            took = [worker.seconds() for _ in range(WARMUP + steps)]
            peaks[state] = worker.peak_bytes()
        seconds[state] = statistics.median(took[WARMUP:])
    return Cost(
        backbone=name,
        parameters=parameters,
        multiply_adds=multiply_adds,
        seconds=seconds,
        peak_bytes=peaks,
        side=side,
        steps=steps,
        wall_seconds=time.monotonic() - started,
        machine=conditions(),
        day=str(date.today()),
    )


def count(name: str, side: int) -> tuple[int, int]:
    """Parameters of a backbone, and multiply-adds of its forward pass over an image.

    Args:
        name: As `backbone_spec` has it.
        side: The image's height and width.
    """
    with torch.device("meta"):
        network = build_faster_rcnn(name, CLASSES, options=slim())
        costs = step_compute(network, side)
    groups = network.groups()
    stages = [stage.name for stage in network.backbone.stages]
    weights = {p for stage in stages for module in groups[stage] for p in module.parameters()}
    return sum(p.numel() for p in weights), sum(costs[stage].forward for stage in stages)


def checked_step(trained: int, batch: Batch, backbone: str) -> Callable[[], None]:
    """A training step to call.

    Args:
        trained: Backbone stages that are trained, from the top.
        batch: Images and targets.
        backbone: Its name.
    """
    # With random weights the deepest diverge at a usual rate.
    step = our_step(trained, batch, CLASSES, backbone, options=slim(), rate=1e-6)

    def checked() -> None:
        loss = step()
        if not math.isfinite(loss):  # proposals of such a network take another time
            raise ArithmeticError(f"{backbone}: the loss is {loss}")

    return checked


def summary(cost: Cost) -> str:
    """A backbone's costs in one line."""
    steps = ", ".join(f"{state} {seconds:.2f} s" for state, seconds in cost.seconds.items())
    counts = f"{cost.parameters / 1e6:.1f} M, {cost.multiply_adds / 1e9:.1f} G"
    return f"{counts}, {steps}, {max(cost.peak_bytes.values()) / 2**30:.2f} GiB"


def table(costs: Sequence[Cost]) -> str:
    """A row for each backbone, as markdown."""
    head = (
        "| backbone | parameters, M | multiply-adds, G | step, s: backbone frozen "
        "| layer2 to layer4 trained | all trained | peak memory, MiB: frozen | all trained |"
    )
    rows = (
        (
            f"`{c.backbone}`",
            f"{c.parameters / 1e6:.1f}",
            f"{c.multiply_adds / 1e9:.1f}",
            *(f"{c.seconds[state]:.2f}" for state in TRAINED),
            *(f"{c.peak_bytes[state] / 2**20:.0f}" for state in ("frozen", "full")),
        )
        for c in costs
    )
    return "\n".join([head, "|---" + "|--:" * 7 + "|", *(f"| {' | '.join(r)} |" for r in rows)])


def remark(costs: Sequence[Cost]) -> str:
    """What the table shows, in a sentence: how far time follows from multiply-adds.

    Args:
        costs: At least two.
    """

    def rate(cost: Cost) -> float:
        """Milliseconds of a whole step for 10^9 multiply-adds."""
        return 1e3 * cost.seconds["full"] / (IMAGES * cost.multiply_adds / 1e9)

    least, most = min(costs, key=rate), max(costs, key=rate)
    return (
        "Multiply-adds alone do not tell the time: for each G of the backbone's forward pass a "
        f"step with all trained takes {rate(least):.0f} ms with `{least.backbone}` and "
        f"{rate(most):.0f} ms with `{most.backbone}` (pyramid and head included, which weigh more "
        "where the backbone is small)."
    )


def report(costs: Sequence[Cost]) -> str:
    """Conditions, table and remark, as markdown; for costs measured alike."""
    machines = " And: ".join(dict.fromkeys(c.machine for c in costs))
    one = costs[0]
    when = period([c.day for c in costs])
    head = (
        f"{when}: {IMAGES} images of {one.side}x{one.side} with 12 boxes each, medians of "
        f"{one.steps} steps after {WARMUP} (SGD), each in a process of its own. {machines}"
    )
    return "\n\n".join([head, table(costs), *([remark(costs)] if len(costs) > 1 else [])])
