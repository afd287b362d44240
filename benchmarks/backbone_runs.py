"""Trainings of several backbones on the embedded `trees` that take about the same time.

How many epochs that is for each goes by how long an epoch takes in a short training, a probe.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_runs import (
    Outcome,
    group_by,
    period,
    read_results,
    refuse_other,
    spread,
    train_all,
)

from detector.core.run_folder import RunFolder
from detector.models.backbones.table import BACKBONES
from detector.training.metrics_csv import read_rows

# Names of backbones, the first of which sets the time; each with its schedule in conf/finetune.
NETWORKS = {
    "efficientnet_lite0": "full",
    "timm/tf_efficientnet_lite1": "full",
    "timm/tf_efficientnet_lite2": "full",
    "resnet18": "scratch",
    "zfnet": "scratch",
}
REFERENCE = next(iter(NETWORKS))
# What backbone=efficientnet_lite0 also sets, so that only the backbone differs.
SLIM = tuple(f"{key}={value}" for key, value in BACKBONES["efficientnet_lite0"].settings.items())
QUICK = (
    "data.image_size=96",
    *(f"trainer.limit_{split}_batches=1" for split in ("train", "val", "test")),
)
PROBE_EPOCHS = 2


class Named:
    """What a training and its result are called alike."""

    backbone: str
    seed: int

    @property
    def name(self) -> str:
        """Of the run and of its folder."""
        return f"{self.backbone.rpartition('/')[2]}-{self.seed}"

    @property
    def kind(self) -> str:
        """The same for all: they take equal time."""
        return ""


@dataclass(frozen=True)
class Run(Named):
    """One training.

    Attributes:
        backbone: A key of `NETWORKS`.
        seed: The run's.
        epochs: How long it lasts.
        quick: With small images, a batch an epoch.
    """

    backbone: str
    seed: int
    epochs: int
    quick: bool = False

    def overrides(self) -> list[str]:
        """What is typed after `python -m detector.train`, but for the folder of the outputs."""
        schedule = NETWORKS[self.backbone]
        library, _, name = self.backbone.rpartition("/")
        backbone = [f"backbone={library}", f"backbone.name={name}"] if library else []
        return [
            "+experiment=trees",
            *(backbone or [f"backbone={name}"]),
            *SLIM,
            f"finetune={schedule}",
            f"trainer.max_epochs={self.epochs}",
            *(["model.weights=none"] if schedule == "scratch" else []),
            *(QUICK if self.quick else ()),
            f"seed={self.seed}",
        ]

    def result(self, **outcome: Any) -> Result:
        """What came out of it."""
        from common import conditions  # only then: it brings torch

        return Result(self.backbone, self.seed, conditions(), **outcome)


@dataclass(frozen=True)
class Result(Named, Outcome):
    """What came out of a run.

    Attributes:
        backbone: A key of `NETWORKS`.
        seed: The run's.
        machine: Where it ran.
    """

    backbone: str
    seed: int
    machine: str


def train(
    only: Sequence[str] | None, seeds: Sequence[int], epochs: int, out: Path, *, quick: bool
) -> bool:
    """Train networks for about the same time.

    Args:
        only: Their names; None: all.
        seeds: A run of each.
        epochs: Of the reference.
        out: Holds the runs' folders.
        quick: With small images, a batch an epoch.

    Returns:
        Whether any failed.

    Raises:
        ValueError: If `out` holds something else.
    """
    wanted = [name for name in NETWORKS if only is None or name in only]
    probes = [Run(n, 0, PROBE_EPOCHS, quick) for n in dict.fromkeys((REFERENCE, *wanted))]
    _refuse_others(probes, out / "probes")
    results = read_results(out / "results.json", Result)
    print("How long an epoch takes:", flush=True)
    if train_all(probes, out / "probes", read_results(out / "probes" / "results.json", Result)):
        return True  # nothing can be said of the others' epochs without them
    took = {probe.backbone: epoch_seconds(out / "probes" / probe.name) for probe in probes}
    chosen = equal_time(took, epochs)
    for name, count in chosen.items():
        print(f"{name}: {count} epochs of {took[name]:.1f} s", flush=True)
    runs = [Run(name, seed, chosen[name], quick) for seed in seeds for name in wanted]
    _refuse_others(runs, out)
    return bool(train_all(runs, out, results))


def _refuse_others(runs: Sequence[Run], out: Path) -> None:
    """Raise ValueError if a run's folder holds another one."""
    for run in runs:
        name = run.backbone.rpartition("/")[2]
        keys = {"trainer.max_epochs": run.epochs, "backbone.name": name, "seed": run.seed}
        refuse_other(out / run.name, keys)


def epoch_seconds(folder: Path) -> float:
    """How long an epoch of a run took, validation included; the quickest, as others may disturb."""
    return min(float(row["seconds"]) for row in read_rows(RunFolder(folder)))


def equal_time(took: Mapping[str, float], epochs: int) -> dict[str, int]:
    """Whole epochs of each network that last about as long as the reference's; at least one.

    Args:
        took: Seconds of an epoch of each.
        epochs: Of the reference.
    """
    return {name: max(1, round(epochs * took[REFERENCE] / each)) for name, each in took.items()}


def report(results: Sequence[Result]) -> str:
    """Conditions, table and remark, as markdown."""
    machines = " And: ".join(dict.fromkeys(r.machine for r in results))
    head = f"{period([r.day for r in results])}: {machines}"
    said = remark(results)
    return "\n\n".join([head, table(results), *([said] if said else [])])


def table(results: Sequence[Result]) -> str:
    """A row for each network, as markdown, in the order of `NETWORKS`."""
    (split,) = {r.split for r in results}
    head = (
        f"| backbone | weights | seeds | epochs | seconds | {split} AP50: mean (least-most) "
        f"| {split} mAP |"
    )
    rows, groups = [], group_by(results, "backbone")
    for name, schedule in NETWORKS.items():
        if not (runs := sorted(groups.get(name, []), key=lambda r: r.seed)):
            continue
        cells = (
            f"`{name}`",
            "none" if schedule == "scratch" else "ImageNet",
            ", ".join(str(r.seed) for r in runs),
            ", ".join(map(str, sorted({r.epochs for r in runs}))),
            f"{statistics.mean(r.seconds for r in runs):.0f}",
            spread([r.ap50 for r in runs]),
            spread([r.map for r in runs]),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([head, "|---|---|--:|--:|--:|--:|--:|", *rows])


def remark(results: Sequence[Result]) -> str:
    """Which network is ahead, in a sentence; empty if a single run would have to show it."""
    groups = {n: [r.ap50 for r in runs] for n, runs in group_by(results, "backbone").items()}
    if len(groups) < 2 or min(map(len, groups.values())) < 2:
        return ""
    best = max(groups, key=lambda name: statistics.mean(groups[name]))
    near = [n for n, scores in groups.items() if n != best and max(scores) >= min(groups[best])]
    if not near:
        return f"Every run of `{best}` has a higher AP50 than every run of the others."
    names = ", ".join(f"`{name}`" for name in near)
    return f"`{best}` has the highest mean AP50, but its runs overlap with those of {names}."
