"""`model.summary`: the network by group as a table, and where its training steps spend their time.

Shown is the network in one phase of its schedule. Torch is imported when a table is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detector.config.schedules import read_schedule
from detector.config.schema import Config
from detector.core.console import WIDTH, hang, percent
from detector.finetune.phases import Phase
from detector.pipeline import build
from detector.training.checkpoint import checkpoint_path, read_progress

if TYPE_CHECKING:
    import lightning.pytorch as pl
    import torch

    from detector.models.faster_rcnn import FasterRCNN
    from detector.models.summary import GroupSummary, Seconds

LABEL = 15
ROW = "{:<8}{:>6}{:>9}{:>12}{:>8}{:>9}{:>10}{:>8}{:>10}"
ABOVE = "{:>62}{:>18}"
HEADER = ("group", "stride", "channels", "parameters", "trained", "forward", "step")


def print_summary(config: Config) -> None:
    """Print the table of a run that is not begun: its data are not read, its weights not fetched.

    Args:
        config: Configuration in force. If the run continues from a checkpoint, that is read.
    """
    schedule, trainer = read_schedule(config), None
    path = checkpoint_path("train", config.ckpt) if config.ckpt else None
    progress = schedule.resume(read_progress(path)) if path else schedule.start()
    profiled = config.model.summary == "profile"
    if profiled:
        alone = replace(config.trainer, devices=1, num_nodes=1)
        trainer = build.build_trainer(replace(config, trainer=alone), Path())
    task = build.untrained_task(config, "cpu" if profiled else "meta")
    if profiled and path:
        build.load_weights(task, path)
    lines = summary_table(config, task.network, schedule.upcoming_phase(progress), trainer)
    if profiled and not path:
        lines += hang(f"{'weights':<{LABEL}}", "random here: the run's are not fetched for this")
    print("\n".join(lines), flush=True)


def summary_table(
    config: Config, network: FasterRCNN, phase: Phase, trainer: pl.Trainer | None = None
) -> list[str]:
    """Format the groups as lines of at most 80 characters, with notes on the numbers below.

    Args:
        config: Configuration in force.
        network: Stays as it is.
        phase: Phase of the schedule, which says what is trained.
        trainer: Trainer whose device and precision are used for timing; None: no timing.
    """
    from detector.models.summary import profile_step, summarise

    side, seconds = config.data.side, None
    rows = summarise(network, phase.train, side)
    verb = "continues" if config.ckpt else "begins"
    notes = {
        "phase": f"{phase.name}, with which the run {verb}",
        "multiply-adds": f"in millions, for one image of {side} x {side} pixels; "
        "step: forward and backward together",
    }
    if config.model.summary == "profile":
        assert trainer is not None
        device = trainer.strategy.root_device
        autocast = trainer.precision_plugin.forward_context
        batch = config.data.batch_size
        seconds = profile_step(network, phase.train, side, batch, device, autocast)
        notes["time"] = _conditions(config, device, _whole(seconds))
    lines = list(_table(rows, seconds))
    for name, text in notes.items():
        lines += hang(f"{name:<{LABEL}}", text)
    return lines


def _table(rows: Sequence[GroupSummary], seconds: Mapping[str, Seconds] | None) -> Iterator[str]:
    """Header, groups, and all of them together."""
    yield ABOVE.format("multiply-adds, M", "time" if seconds else "").rstrip()
    yield ROW.format(*HEADER, *(("step", "backward") if seconds else ("", ""))).rstrip()
    yield "-" * WIDTH
    for row in rows:
        stride = "-".join(str(s) for s in sorted({row.strides[0], row.strides[-1]}))
        yield _line(row.name, stride, f"{row.channels:,}", [row], seconds)
    yield "-" * WIDTH
    yield _line("network", "", "", rows, seconds)


def _line(
    name: str,
    stride: str,
    channels: str,
    rows: Sequence[GroupSummary],
    seconds: Mapping[str, Seconds] | None,
) -> str:
    """One or more groups as a line of the table."""
    parameters = sum(row.parameters for row in rows)
    trained = sum(row.trained for row in rows)
    share = {parameters: "all", 0: "none"}.get(trained) or percent(trained / parameters)
    products = sum(row.compute.forward for row in rows), sum(row.compute.total for row in rows)
    cells = [f"{parameters:,}", share, *(f"{count / 1e6:,.0f}" for count in products)]
    times = ["", ""]
    if seconds:
        parts = [seconds[row.name] for row in rows]
        shares = sum(s.total for s in parts), sum(s.backward for s in parts)
        times = [percent(share / _whole(seconds)) for share in shares]
    return ROW.format(name, stride, channels, *cells, *times).rstrip()


def _whole(seconds: Mapping[str, Seconds]) -> float:
    """Duration of a step, in seconds."""
    return sum(s.total for s in seconds.values())


def _conditions(config: Config, device: torch.device, whole: float) -> str:
    """Duration of a step, and the conditions it was measured under."""
    import torch

    run, data = config.trainer, config.data
    threads = torch.get_num_threads()
    where = f"the CPU with {threads} thread{'s' * (threads > 1)}"
    if device.type != "cpu":
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return (
        f"{whole:.3g} s a step (median), forward and backward, without loading and optimiser; "
        f"batch of {data.batch_size} random images of {data.side} x {data.side}, "
        f"precision {build.precision(run.precision, run.accelerator)}, on {where}"
    )
