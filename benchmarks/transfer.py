"""What transfer is worth: schedules beside training from scratch, over the same epochs and seeds.

    python benchmarks/transfer.py [FOLDER ...] [--epochs N] [--seeds 0 1 2] [--out DIR] [--report]

Trains on the embedded `trees`, and on every data set named. Each run is a process of its own, as it
would be typed, in OUT/<data>-<schedule>-<seed>. The command can be interrupted and typed again: a
finished run is not repeated, an unfinished one goes on from its last epoch. OUT/results.json is
written whenever a run ends. With `--report` the tables go to docs/transfer.md, beside a picture.

Every schedule gets N epochs, which its phases share.
`auto` has at most N; it stops when a further stage no longer pays.
"""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Nothing here imports torch at the top: a child's peak memory is counted from its parent's on.
from training_runs import (
    Outcome,
    data_overrides,
    data_sets,
    group_by,
    make_parser,
    period,
    read_results,
    refuse_other,
    refuse_repeated,
    spread,
    train_all,
)

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURE = DOCS / "transfer.md", DOCS / "transfer.png"
START, END = "<!-- figures: made by benchmarks/transfer.py -->", "<!-- end of figures -->"

SCHEDULES = ("scratch", "feature_extraction", "staged", "auto", "full")


class Named:
    """What a training and its result are called alike."""

    data: str
    schedule: str
    seed: int

    @property
    def name(self) -> str:
        """Of the run and of its folder."""
        return f"{self.data}-{self.schedule}-{self.seed}"

    @property
    def kind(self) -> str:
        """The data set: its runs take about as long as each other."""
        return self.data


@dataclass(frozen=True)
class Run(Named):
    """One training.

    Attributes:
        data: The data set's name.
        root: Its folder; None: the embedded one.
        schedule: Of conf/finetune.
        seed: The run's.
        epochs: How long it lasts.
    """

    data: str
    root: Path | None
    schedule: str
    seed: int
    epochs: int

    def overrides(self) -> list[str]:
        """What is typed after `python -m detector.train`, but for the folder of the outputs."""
        weights = ["model.weights=none"] if self.schedule == "scratch" else []
        return [
            *data_overrides(self.data, self.root),
            f"finetune={self.schedule}",
            f"trainer.max_epochs={self.epochs}",
            *weights,
            f"seed={self.seed}",
        ]

    def result(self, **outcome: Any) -> Result:
        """What came out of it."""
        return Result(self.data, self.schedule, self.seed, **outcome)


@dataclass(frozen=True)
class Result(Named, Outcome):
    """What came out of a run.

    Attributes:
        data: The data set's name.
        schedule: Of conf/finetune.
        seed: The run's.
    """

    data: str
    schedule: str
    seed: int


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line.

    Returns:
        The exit code: 0 done, 1 a run failed, 2 the request was wrong, 130 interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)  # also what goes on
    parser = make_parser(__doc__, "transfer")
    parser.add_argument("--epochs", metavar="N", type=int, default=10, help="of every run; 10")
    asked = parser.parse_args(typed)
    try:
        runs = plan(asked.folders, asked.epochs, asked.seeds)
        for run in runs:
            root = None if run.root is None else str(run.root)
            wanted = {"trainer.max_epochs": run.epochs, "data.root": root}
            refuse_other(asked.out / run.name, wanted)
        results = read_results(asked.out / "results.json", Result)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        failed = train_all(runs, asked.out, results)
    except KeyboardInterrupt:
        print(f"\nto go on: python benchmarks/transfer.py {shlex.join(typed)}")
        return 130
    done = [results[run.name] for run in runs if run.name in results]
    if done:
        text = tables(done)
        print(f"\n{text}")
        if asked.report:
            write_report(done, text, asked.epochs)
    return 1 if failed else 0


def plan(folders: Sequence[Path], epochs: int, seeds: Sequence[int]) -> list[Run]:
    """All runs in their order: of each seed every data set, of each data set every schedule.

    So that an early end leaves the same number of runs to all, within one.

    Args:
        folders: Data sets beside the embedded one.
        epochs: Of every run.
        seeds: A run of each.

    Raises:
        ValueError: If a folder or number cannot be meant.
    """
    if epochs < 1:
        raise ValueError(f"--epochs {epochs}: expected at least 1")
    refuse_repeated(seeds)
    roots = data_sets(folders)
    return [
        Run(name, root, schedule, seed, epochs)
        for seed in seeds
        for name, root in roots.items()
        for schedule in SCHEDULES
    ]


def tables(results: Sequence[Result]) -> str:
    """A table for each data set, as markdown."""
    parts = []
    for name, rows in group_by(results, "data").items():
        (split,) = {r.split for r in rows}
        head = (
            f"| {name} | seeds | {split} mAP: mean (least-most) | {split} AP50 | best val/map "
            "| epochs | seconds, least | peak memory |"
        )
        lines = [_row(schedule, runs) for schedule, runs in group_by(rows, "schedule").items()]
        parts.append("\n".join([head, "|---|--:|--:|--:|--:|--:|--:|--:|", *lines]))
    return "\n\n".join(parts)


def _row(schedule: str, runs: Sequence[Result]) -> str:
    """A schedule's row in a data set's table."""
    counts = sorted({r.epochs for r in runs})
    peaks = [r.peak_bytes for r in runs if r.peak_bytes is not None]
    cells = (
        f"`{schedule}`",
        ", ".join(str(r.seed) for r in runs),
        spread([r.map for r in runs]),
        spread([r.ap50 for r in runs]),
        f"{statistics.mean(r.val_map for r in runs):.3f}",
        str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}",
        f"{min(r.seconds for r in runs):.0f}",
        f"{max(peaks) / 2**20:.0f} MiB" if peaks else "",
    )
    return f"| {' | '.join(cells)} |"


def write_report(results: Sequence[Result], text: str, epochs: int) -> None:
    """Put the tables into the page, and draw the picture.

    Args:
        results: What the tables are of.
        text: The tables.
        epochs: Of every run, at most.
    """
    from common import machine
    from run import between_markers

    when = period([r.day for r in results])
    head = f"{when}, {epochs} epochs a run: {machine()}"
    draw(results, PICTURE)
    picture = (
        f"![AP50 of every run, by data set and schedule]({PICTURE.name})\n\n"
        "A point is a run, a bar the mean of a schedule's runs."
    )
    page = PAGE.read_text(encoding="utf-8")
    content = "\n\n".join((head, text, picture))
    PAGE.write_text(between_markers(page, content, START, END), encoding="utf-8")


def draw(results: Sequence[Result], file: Path) -> None:
    """A panel for each data set: AP50 of every run as a point, the schedule's mean as a tick.

    Args:
        results: At least one.
        file: PNG.
    """
    from matplotlib.figure import Figure

    panels = group_by(results, "data")
    schedules = list(group_by(results, "schedule"))
    figure = Figure(figsize=(1.6 + 3.4 * len(panels), 0.9 + 0.42 * len(schedules)), dpi=150)
    axes: Any = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, rows) in zip(axes, panels.items(), strict=True):
        for place, schedule in enumerate(schedules):
            scores = [r.ap50 for r in rows if r.schedule == schedule]
            if not scores:
                continue
            mean = statistics.mean(scores)
            axis.plot(scores, [place] * len(scores), "o", color="#2a6f97", alpha=0.55, mew=0)
            axis.plot([mean, mean], [place - 0.3, place + 0.3], color="#1b1b1b", lw=2)
            axis.annotate(
                f"{mean:.2f}",
                (max(scores), place),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                size=8,
            )
        (split,) = {r.split for r in rows}
        axis.set_title(name, loc="left", size=10)
        axis.set_xlabel(f"AP50 on the {split} split", size=9)
        # From zero, so that lengths compare; room on the right for the last number.
        axis.set_xlim(0, 1.2 * max([r.ap50 for r in rows if r.ap50 == r.ap50] or [1]) or 1)
        axis.locator_params(axis="x", nbins=4)
        axis.set_yticks(range(len(schedules)), [s.replace("_", " ") for s in schedules])
        axis.tick_params(labelsize=9, length=0)
        axis.grid(axis="x", color="#dddddd", lw=0.8)
        axis.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylim(len(schedules) - 0.5, -0.5)
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    sys.exit(main())
