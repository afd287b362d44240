"""What transfer is worth: schedules beside each other, in the same time, on data that change.

    python benchmarks/transfer.py [FOLDER ...] [--minutes M] [--sizes all 100 50 20]
        [--schedules NAME ...] [--seeds 0 1 2] [--out DIR] [--report]

Trains on the embedded `trees`, and on every data set named; with `--sizes` also on so many of their
training images. Each run is a process of its own, as it would be typed, in
OUT/<data>-<size>-<schedule>-<minutes>-<seed>, and has M minutes for training and validation. It is
then scored on the test split and on copies of it that look different, beside the run of `full` with
the same seed. The command can be interrupted and typed again: what is finished is not repeated.
With `--report` the tables go to docs/transfer.md, beside a picture, and the figures to
docs/transfer.json, whose runs are not repeated either.
"""

from __future__ import annotations

import itertools
import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

# Nothing here imports torch at the top: a child's peak memory is counted from its parent's on.
import derived_sets
from training_runs import (
    TREES,
    Outcome,
    data_overrides,
    data_sets,
    group_by,
    make_parser,
    period,
    quoted,
    read_results,
    refuse_other,
    refuse_repeated,
    run_process,
    spread,
    train_all,
)

from detector import DataSet
from detector.core.files import write_json
from detector.core.run_folder import RunFolder

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURE, FIGURES = (DOCS / f"transfer.{end}" for end in ("md", "png", "json"))
START, END = "<!-- figures: made by benchmarks/transfer.py -->", "<!-- end of figures -->"

ALL = "all"  # of the training images
BASELINE = "full"  # what the others are compared with
PLAIN = "test"  # the test split as it is, beside its shifted copies
EVERYTHING = "[stem,layer1,layer2,layer3,layer4,neck,head]"
COSINE = "decay:{type:cosine,final_factor:0.02}"
# Each stage learns 0.7 times as fast as the one above it.
FALLING = (
    "lr_factor:{default:1.0,layer4:0.7,layer3:0.49,layer2:0.343,layer1:0.24,stem:0.168},"
    "warmup:{steps:100},"
)
HEADS = "{name:heads,train:[neck,head],until:{share:0.15},warmup:{steps:50}}"
FULL_RATES = "layer4:0.3,layer3:0.3,layer2:0.3,layer1:0.1,stem:0.1"


def phases(*texts: str) -> str:
    """A list of phases as it is typed after `finetune=full`, whose norms and length it has."""
    return f"finetune.phases=[{','.join(texts)}]"


# What is typed for each schedule.
SCHEDULES: dict[str, tuple[str, ...]] = {
    "full": ("finetune=full",),
    "feature_extraction": ("finetune=feature_extraction",),
    "larger head": ("finetune=feature_extraction", "model/head=conv_mlp", "model.head.width=256"),
    "staged": ("finetune=staged",),
    "auto": ("finetune=auto",),
    "heads, then all": (
        "finetune=full",
        phases(
            HEADS,
            f"{{name:all,train:{EVERYTHING},until:{{share:0.85}},"
            f"lr_factor:{{default:1.0,{FULL_RATES}}},warmup:{{steps:20,groups:new}},{COSINE}}}",
        ),
    ),
    "rates falling by stage": (
        "finetune=full",
        phases(f"{{name:all,train:{EVERYTHING},until:{{share:1}},{FALLING}{COSINE}}}"),
    ),
    "lowest stages": (
        "finetune=full",
        phases(
            "{name:lowest,train:[stem,layer1,neck,head],until:{share:1},"
            f"lr_factor:{{default:1.0,layer1:0.3,stem:0.3}},warmup:{{steps:100}},{COSINE}}}"
        ),
    ),
    "averaged": ("finetune=full", "optim.ema=0.98"),
    "pulled": ("finetune=full", "optim.l2_sp=0.01"),
    "norms trained": ("finetune=full", "finetune.norm=eval_when_frozen"),
    "scratch": ("finetune=scratch", "model.weights=none"),
}


class Named:
    """What a training and its result are called alike."""

    data: str
    size: str
    schedule: str
    seed: int
    minutes: float

    @property
    def name(self) -> str:
        """Of the run and of its folder."""
        words = f"{self.data}-{self.size}-{self.schedule}-{self.minutes:g}-{self.seed}"
        return words.replace(",", "").replace(" ", "_")

    @property
    def kind(self) -> str:
        """The data set and the time: its runs take about as long as each other."""
        return f"{self.data}-{self.size}-{self.minutes:g}"


@dataclass(frozen=True)
class Run(Named):
    """One training.

    Attributes:
        data: The data set's name.
        root: Its folder; None: the embedded one.
        size: Number of training images, or `all`.
        schedule: A key of `SCHEDULES`.
        seed: The run's.
        minutes: How long it lasts.
    """

    data: str
    root: Path | None
    size: str
    schedule: str
    seed: int
    minutes: float

    def overrides(self) -> list[str]:
        """What is typed after `python -m detector.train`, but for the folder of the outputs."""
        # Fewer of the embedded images are a folder: what the experiment says is typed.
        trees = ["augment=aerial", "data.image_size=448"] * (self.data == TREES)
        return [
            *data_overrides(self.data, self.root),
            *(trees if self.root is not None else []),
            *SCHEDULES[self.schedule],
            "trainer.max_epochs=null",
            f"trainer.max_minutes={self.minutes:g}",
            f"seed={self.seed}",
        ]

    def result(self, **outcome: Any) -> Result:
        """What came out of it."""
        from common import machine  # only then: it brings torch

        named = self.data, self.size, self.schedule, self.seed, self.minutes
        return Result(*named, machine(), **outcome)


@dataclass(frozen=True)
class Result(Named, Outcome):
    """What came out of a run.

    Attributes:
        data: The data set's name.
        size: Number of training images, or `all`.
        schedule: A key of `SCHEDULES`.
        seed: The run's.
        minutes: How long it was to last.
        machine: Where it ran.
        checks: Scores on the test split (`test`) and on its shifted copies, by name: `map`, and
            beside the baseline of the same seed `difference` and `interval` (95 %).
    """

    data: str
    size: str
    schedule: str
    seed: int
    minutes: float
    machine: str
    checks: dict[str, dict[str, Any]] = field(default_factory=dict, kw_only=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line.

    Returns:
        The exit code: 0 done, 1 a run failed, 2 the request was wrong, 130 interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)  # also what goes on
    parser = make_parser(__doc__, "transfer")
    parser.add_argument("--minutes", metavar="M", type=float, default=1.5, help="of a run; 1.5")
    parser.add_argument("--sizes", metavar="N", nargs="+", default=[ALL], help="or all")
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    asked = parser.parse_args(typed)
    try:
        refuse_repeated(asked.seeds)
        roots = data_sets(asked)
        results = read_results(FIGURES, Result) | read_results(asked.out / "results.json", Result)
        whole = {name: derived_sets.read(root) for name, root in roots.items()}
        runs = plan(roots, whole, asked)
        for run in runs:
            root = None if run.root is None else str(run.root)
            refuse_other(asked.out / run.name, {"data.root": root})
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        left = [run for run in runs if run.name not in results]
        failed = train_all(left, asked.out, results)
        check_all(runs, whole, asked.out, results)
    except KeyboardInterrupt:
        print(f"\nto go on: python benchmarks/transfer.py {shlex.join(typed)}")
        return 130
    done = list(results.values())
    if done:
        text = tables(done)
        print(f"\n{text}")
        if asked.report:
            write_report(done, text)
    return 1 if failed else 0


def plan(roots: Mapping[str, Path | None], whole: Mapping[str, DataSet], asked: Any) -> list[Run]:
    """All runs in their order: of each seed every data set, of each data set every schedule.

    So that an early end leaves the same number of runs to all, within one.

    Args:
        roots: Folders of the data sets by name; None: the embedded one.
        whole: What is in them.
        asked: What was typed.

    Raises:
        ValueError: If a size cannot be meant.
    """
    folders: dict[tuple[str, str], Path | None] = {}
    for name, size in itertools.product(roots, asked.sizes):
        if size == ALL:
            folders[name, size] = roots[name]
            continue
        if not size.isdigit():
            raise ValueError(f"--sizes {size}: expected a number of images, or {ALL}")
        derived = asked.out / "data" / f"{name}-{size}"
        folders[name, size] = derived_sets.smaller(whole[name], int(size), derived).resolve()
    return [
        Run(name, folder, size, schedule, seed, asked.minutes)
        for seed in asked.seeds
        for (name, size), folder in folders.items()
        for schedule in asked.schedules
    ]


def check_all(
    runs: Sequence[Run],
    whole: Mapping[str, DataSet],
    out: Path,
    results: dict[str, Result],
) -> None:
    """Score finished runs on the test split and its shifted copies, beside the baseline.

    Args:
        runs: Those whose folders are below `out`.
        whole: The whole data sets by name.
        out: Holds the folders.
        results: By the names of runs; completed here, and written.
    """
    for run in runs:
        result = results.get(run.name)
        if result is None or result.checks:
            continue
        data, checks = whole[run.data], {}
        for shift in (PLAIN, *derived_sets.SHIFTS):
            place = out / "data" / f"{run.data}-{shift}".replace(" ", "_")
            root = None if shift == PLAIN else derived_sets.shifted(data, shift, place).resolve()
            checks[shift] = check(run, root, out, out / f"{run.name}-on-{shift.replace(' ', '_')}")
        results[run.name] = replace(result, checks=checks)
        write_json(out / "results.json", [asdict(r) for r in results.values()])
        said = ", ".join(f"{shift} {found['map']:.3f}" for shift, found in checks.items())
        print(f"{run.name}: mAP on {said}", flush=True)


def check(run: Run, root: Path | None, out: Path, folder: Path) -> dict[str, Any]:
    """Score a run on other images, beside the baseline of its seed if that is there.

    Args:
        run: Which.
        root: A data set with other test images; None: the run's own.
        out: Holds the runs' folders.
        folder: For the evaluation.
    """
    baseline = out / replace(run, schedule=BASELINE).name
    beside = run.schedule != BASELINE and RunFolder(baseline).metrics_json.is_file()
    file = RunFolder(folder).metrics_json
    if not file.is_file():
        keys = [f"ckpt={quoted(str(out / run.name))}", f"hydra.run.dir={quoted(str(folder))}"]
        keys += ["gallery=0", "trainer.limit_test_batches=1.0"]
        keys += [] if root is None else [f"data.root={quoted(str(root))}", "data.format=coco"]
        keys += [f"compare={quoted(str(baseline))}"] if beside else []
        code, _ = run_process(
            ["python", "-m", "detector.evaluate", *keys], folder.with_suffix(".log"), {}
        )
        if code:
            raise RuntimeError(f"evaluate failed with exit code {code}, see {folder}.log")
    metrics = json.loads(file.read_text(encoding="utf-8"))
    found = {"map": metrics["coco"]["map"], "map_50": metrics["coco"]["map_50"]}
    if metrics["comparison"]:
        row = metrics["comparison"]["rows"][0]  # of mAP, what is compared with less what is scored
        bounds = row["interval"] and [-bound for bound in reversed(row["interval"])]
        found |= {"difference": -row["difference"], "interval": bounds}
    return found


def tables(results: Sequence[Result]) -> str:
    """A table for each data set and size, as markdown."""
    parts = []
    for rows in group_by(results, "kind").values():
        first = rows[0]
        images = "all training images" if first.size == ALL else f"{first.size} training images"
        shifts = " | ".join(f"mAP {shift}" for shift in derived_sets.SHIFTS)
        head = (
            f"| {first.data}, {images}, {first.minutes:g} min | seeds "
            f"| {first.split} mAP: mean (least-most) "
            f"| points beside {BASELINE}, by seed | {shifts} | epochs | peak memory |"
        )
        lines = [_row(schedule, runs) for schedule, runs in group_by(rows, "schedule").items()]
        parts.append("\n".join([head, "|---|" + "--:|" * 8, *lines]))
    return "\n\n".join(parts)


def _row(schedule: str, runs: Sequence[Result]) -> str:
    """A schedule's row in its table."""
    counts = sorted({r.epochs for r in runs})
    peaks = [r.peak_bytes for r in runs if r.peak_bytes is not None]
    shifted = []
    for shift in derived_sets.SHIFTS:
        scores = [r.checks[shift]["map"] for r in runs if shift in r.checks]
        shifted.append(f"{statistics.mean(scores):.3f}" if scores else "")
    cells = (
        schedule,
        ", ".join(str(r.seed) for r in runs),
        spread([r.map for r in runs]),
        ", ".join(_difference(r.checks.get(PLAIN, {})) for r in runs),
        *shifted,
        str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}",
        f"{max(peaks) / 2**20:.0f} MiB" if peaks else "",
    )
    return f"| {' | '.join(cells)} |"


def _difference(check: Mapping[str, Any]) -> str:
    """A difference to the baseline in points, bold where its interval is clear of 0."""
    if "difference" not in check:
        return ""
    text = f"{100 * check['difference']:+.1f}"
    bounds = check["interval"]
    return f"**{text}**" if bounds and (bounds[0] > 0 or bounds[1] < 0) else text


def write_report(results: Sequence[Result], text: str) -> None:
    """Put the tables into the page, draw the picture and keep the figures.

    Args:
        results: What the tables are of.
        text: The tables.
    """
    from run import between_markers

    minutes = ", ".join(f"{m:g}" for m in dict.fromkeys(r.minutes for r in results))
    machines = " And: ".join(dict.fromkeys(r.machine for r in results))
    head = f"{period([r.day for r in results])}, {minutes} minutes a run: {machines}"
    draw(results, PICTURE)
    picture = (
        f"![mAP of every run, by data set and schedule]({PICTURE.name})\n\n"
        "A point is a run, a bar the mean of a schedule's runs."
    )
    keys = "\n".join(f"- **{k}**: {' '.join(f'`{v}`' for v in vs)}" for k, vs in SCHEDULES.items())
    page = PAGE.read_text(encoding="utf-8")
    content = "\n\n".join((head, keys, text, picture))
    PAGE.write_text(between_markers(page, content, START, END), encoding="utf-8")
    write_json(FIGURES, [asdict(r) for r in results])


def draw(results: Sequence[Result], file: Path) -> None:
    """A panel for each data set and size: mAP of every run, and the schedule's mean as a tick.

    Args:
        results: At least one.
        file: PNG.
    """
    from matplotlib.figure import Figure

    panels = group_by(results, "kind")
    schedules = list(group_by(results, "schedule"))
    figure = Figure(figsize=(1.6 + 3.4 * len(panels), 0.9 + 0.42 * len(schedules)), dpi=150)
    axes: Any = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, rows) in zip(axes, panels.items(), strict=True):
        for place, schedule in enumerate(schedules):
            scores = [r.map for r in rows if r.schedule == schedule]
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
        axis.set_xlabel(f"mAP on the {split} split", size=9)
        # From zero, so that lengths compare; room on the right for the last number.
        axis.set_xlim(0, 1.2 * max([r.map for r in rows if r.map == r.map] or [1]) or 1)
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
