"""AP50 over seconds of training: what each setting gives for its time, on two kinds of processor.

    python benchmarks/frontier.py [FOLDER ...] [--kinds bf16 avx2] [--settings NAME ...]
        [--epochs N ...] [--seeds 0 1 2] [--out DIR] [--report]

Trains on the embedded `trees`, and on every data set named. Each run is a process of its own, as it
would be typed, and has the machine for itself. The command can be interrupted and typed again: a
finished run is not repeated, an unfinished one goes on from its last epoch. With `--report` tables
and plot go to docs/frontier.md, and the figures to docs/frontier.json, whose runs are not repeated
either. `bf16` needs a processor with such instructions; `avx2` is any, limited to AVX2 and float32.
"""

from __future__ import annotations

import itertools
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training_runs import (
    Outcome,
    data_overrides,
    data_sets,
    group_by,
    make_parser,
    period,
    read_results,
    refuse_repeated,
    spread,
    train_all,
)

from detector.core.files import write_json

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURE, FIGURES = (DOCS / f"frontier.{end}" for end in ("md", "png", "json"))
START, END = "<!-- figures: made by benchmarks/frontier.py -->", "<!-- end of figures -->"

# Kinds of processor: environment and precision.
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
KINDS: dict[str, tuple[Mapping[str, str], str]] = {"bf16": ({}, "bf16-mixed"), "avx2": (AVX2, "32")}

# As finetune=full, but without the two lowest stages, whose maps are largest.
UPPER = (
    "finetune.phases=[{name:upper,train:[layer2,layer3,layer4,neck,head],until:{max_epochs:12},"
    "lr_factor:{default:1.0,layer2:0.3,layer3:0.3,layer4:0.3},warmup:{steps:50},"
    "decay:{type:cosine,final_factor:0.02}}]"
)
# How backbone=efficientnet_lite0 was before its pyramid, head, levels and batches were chosen by
# these figures.
BEFORE = (
    "model.fpn_channels=128",
    "model.head.width=512",
    "model.levels=[4,8,16,32,64]",
    "model.anchors=fixed",
    "data.batch_size=4",
)
# What is typed beside the data.
SETTINGS: dict[str, tuple[str, ...]] = {
    "before": BEFORE,
    "default": (),
    "all levels": BEFORE[2:3],
    "standard anchors": BEFORE[3:4],
    "pyramid of 128": BEFORE[:1],
    "head of 512": BEFORE[1:2],
    "batches of 4": BEFORE[4:],
    "2000 proposals": ("model.rpn_top_n_train=2000",),
    "half the samples": ("model.rpn_batch_per_image=128", "model.box_batch_per_image=64"),
    "image_size=auto": ("data.image_size=auto",),
    "images of 256": ("data.image_size=256",),
    "images of 320": ("data.image_size=320",),
    "no augmentation": ("augment=none",),
    "flips alone": ("augment=flip",),
    "standard augmentation": ("augment=standard",),
    "nothing kept": ("trainer.cache_features=false",),
    "all trained": ("finetune=full",),
    "upper stages trained": (UPPER,),
}


class Named:
    """What a training and its result are called alike."""

    data: str
    processor: str
    setting: str
    epochs_asked: int
    seed: int

    @property
    def name(self) -> str:
        """Of the run and of its folder."""
        words = (self.data, self.processor, self.setting, str(self.epochs_asked), str(self.seed))
        return "-".join(words).replace(" ", "_").replace("=", "_")

    @property
    def kind(self) -> str:
        """Runs of one take about as long as each other."""
        return f"{self.data}-{self.processor}-{self.setting}-{self.epochs_asked}"


@dataclass(frozen=True)
class Run(Named):
    """One training.

    Attributes:
        data: The data set's name.
        root: Its folder; None: the embedded one.
        processor: A key of `KINDS`.
        setting: A key of `SETTINGS`.
        epochs_asked: How long it lasts.
        seed: The run's.
    """

    data: str
    root: Path | None
    processor: str
    setting: str
    epochs_asked: int
    seed: int

    def overrides(self) -> list[str]:
        """What is typed after `python -m detector.train`, but for the folder of the outputs."""
        return [
            *data_overrides(self.data, self.root),
            f"trainer.precision={KINDS[self.processor][1]}",
            f"trainer.max_epochs={self.epochs_asked}",
            f"seed={self.seed}",
            *SETTINGS[self.setting],
            # The demo had anchors of its own.
            *(["model.anchor_scales=[4,8]"] if self.setting == "before" and not self.root else []),
        ]

    def result(self, **outcome: Any) -> Result:
        """What came out of it."""
        from common import machine  # only then: it brings torch

        where = machine()
        return Result(
            self.data, self.processor, self.setting, self.epochs_asked, self.seed, where, **outcome
        )


@dataclass(frozen=True)
class Result(Named, Outcome):
    """What came out of a run.

    Attributes:
        data: The data set's name.
        processor: A key of `KINDS`.
        setting: A key of `SETTINGS`.
        epochs_asked: How long it was to last.
        seed: The run's.
        machine: Where it ran.
    """

    data: str
    processor: str
    setting: str
    epochs_asked: int
    seed: int
    machine: str


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line.

    Returns:
        The exit code: 0 done, 1 a run failed, 2 the request was wrong, 130 interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)  # also what goes on
    parser = make_parser(__doc__, "frontier")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--epochs", metavar="N", nargs="+", type=int, default=[4], help="4")
    asked = parser.parse_args(typed)
    try:
        refuse_repeated(asked.seeds)
        roots = data_sets(asked)
        done = read_results(FIGURES, Result) | read_results(asked.out / "results.json", Result)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    runs = [
        Run(name, root, kind, setting, epochs, seed)
        for seed, (name, root), epochs, kind, setting in itertools.product(
            asked.seeds, roots.items(), asked.epochs, asked.kinds, asked.settings
        )
    ]
    try:
        left = [run for run in runs if run.name not in done]
        failed = train_all(left, asked.out, done, lambda run: KINDS[run.processor][0])
    except KeyboardInterrupt:
        print(f"\nto go on: python benchmarks/frontier.py {shlex.join(typed)}")
        return 130
    text = tables(list(done.values()))
    print(f"\n{text}")
    if asked.report and done:
        write_report(list(done.values()), text)
    return 1 if failed else 0


def tables(results: Sequence[Result]) -> str:
    """A table for each data set and kind of processor, as markdown; the best at their time bold."""
    parts = []
    for data, of_data in group_by(results, "data").items():
        for kind, rows in group_by(of_data, "processor").items():
            (split,) = {r.split for r in rows}
            head = (
                f"| {data}, {kind} | epochs | seeds | seconds | {split} AP50: mean (least-most) "
                f"| {split} mAP |"
            )
            lines = [_row(point) for point in points(rows)]
            parts.append("\n".join([head, "|---|--:|--:|--:|--:|--:|", *lines]))
    return "\n\n".join(parts)


@dataclass(frozen=True)
class Point:
    """The runs of one setting and length, on one data set and kind of processor.

    Attributes:
        runs: One of each seed.
        best: Whether no other point has at least its AP50 in less time.
    """

    runs: tuple[Result, ...]
    best: bool = False

    @property
    def seconds(self) -> float:
        """Median time of training and validation."""
        return statistics.median(r.seconds for r in self.runs)

    @property
    def ap50(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(r.ap50 for r in self.runs)


def points(rows: Sequence[Result]) -> list[Point]:
    """The points of some runs, the quickest first."""
    groups = group_by(rows, "kind").values()
    found = sorted((Point(tuple(group)) for group in groups), key=lambda p: p.seconds)
    highest, marked = -1.0, []
    for point in found:
        marked.append(Point(point.runs, point.ap50 > highest))
        highest = max(highest, point.ap50)
    return marked


def _row(point: Point) -> str:
    """A point's row in its table."""
    first = point.runs[0]
    seeds = ", ".join(str(r.seed) for r in sorted(point.runs, key=lambda r: r.seed))
    cells = (
        f"**{first.setting}**" if point.best else first.setting,
        str(first.epochs_asked),
        seeds,
        f"{point.seconds:.0f}",
        spread([r.ap50 for r in point.runs]),
        spread([r.map for r in point.runs]),
    )
    return f"| {' | '.join(cells)} |"


def write_report(results: Sequence[Result], text: str) -> None:
    """Put the tables into the page, draw the plot and keep the figures.

    Args:
        results: What the tables are of, at least one.
        text: The tables.
    """
    from run import between_markers

    machines = " And: ".join(dict.fromkeys(r.machine for r in results))
    keys = "\n".join(
        f"- **{name}**: {' '.join(f'`{key}`' for key in keys) or 'no key'}"
        for name, keys in SETTINGS.items()
    )
    picture = f"![AP50 over seconds of training]({PICTURE.name})"
    head = f"{period([r.day for r in results])}: {machines}"
    content = "\n\n".join((head, picture, keys, text))
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(between_markers(page, content, START, END), encoding="utf-8")
    write_json(FIGURES, [asdict(r) for r in results])
    draw(results, PICTURE)


def draw(results: Sequence[Result], file: Path) -> None:
    """A panel for each data set and kind: AP50 over seconds, and the line of the best.

    Args:
        results: At least one.
        file: PNG.
    """
    from matplotlib.figure import Figure

    data = group_by(results, "data")
    kinds = list(group_by(results, "processor"))
    figure = Figure(figsize=(5.2 * len(kinds), 3.8 * len(data)), dpi=130, layout="constrained")
    axes: Any = figure.subplots(len(data), len(kinds), squeeze=False)
    for line, (name, of_data) in zip(axes, data.items(), strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            found = points([r for r in of_data if r.processor == kind])
            if not found:
                axis.axis("off")
                continue
            _panel(axis, found)
            axis.set_title(f"{name}, {kind}", loc="left", size=10)
        line[0].set_ylabel("AP50 on the test split", size=9)
    for axis in axes[-1]:
        axis.set_xlabel("training and validation, seconds", size=9)
    figure.savefig(file)


def _panel(axis: Any, found: Sequence[Point]) -> None:
    """Draw the points of one data set on one kind of processor."""
    best = [point for point in found if point.best]
    axis.plot([p.seconds for p in best], [p.ap50 for p in best], color="#c9a227", lw=1.5, zorder=1)
    usual = statistics.mode(point.runs[0].epochs_asked for point in found)
    for point in found:
        scores, first = [r.ap50 for r in point.runs], point.runs[0]
        other = first.epochs_asked != usual
        epochs = f", {first.epochs_asked} epochs" if other else ""
        colour = "#2a6f97" if point.best else "#8a8a8a"
        axis.plot([point.seconds] * 2, [min(scores), max(scores)], color=colour, lw=1, alpha=0.5)
        axis.plot(point.seconds, point.ap50, "o", color=colour, ms=5)
        axis.annotate(
            first.setting + epochs,
            (point.seconds, point.ap50),
            xytext=(3, -3),
            textcoords="offset points",
            rotation=-28,  # away from the line, so that neighbours can be read
            rotation_mode="anchor",
            va="top",
            size=6.5,
            color=colour,
        )
    axis.margins(x=0.1, y=0.1)
    axis.set_xlim(0, 1.25 * max(p.seconds for p in found))
    low, high = axis.get_ylim()
    axis.set_ylim(low - 0.15 * (high - low), high)
    axis.tick_params(labelsize=8)
    axis.grid(color="#e5e5e5", lw=0.7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
