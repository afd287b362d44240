"""What transfer is worth: schedules beside training from scratch, over the same epochs and seeds.

    python benchmarks/transfer.py [FOLDER ...] [--epochs N] [--seeds 0 1 2] [--out DIR] [--report]

Trains on the embedded `trees`, and on every data set named. Each run is a process of its own, as it
would be typed, in OUT/<data>-<schedule>-<seed>. The command can be interrupted and typed again: a
finished run is not repeated, an unfinished one goes on from its last epoch. OUT/results.json is
written whenever a run ends. With `--report` the tables go to docs/transfer.md, beside a picture.

Every schedule gets N epochs: a longer one is cut off, a shorter one's last phase is lengthened.
`auto` has at most N; it stops when a further stage no longer pays.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

# Nothing here imports torch at the top: a child's peak memory is counted from its parent's on.
from omegaconf import OmegaConf

from detector.cli import compose
from detector.finetune_config import read_schedule
from detector.output import write_json
from detector.request import resolve

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURE = DOCS / "transfer.md", DOCS / "transfer.png"
START, END = "<!-- figures: made by benchmarks/transfer.py -->", "<!-- end of figures -->"

SCHEDULES = ("scratch", "feature_extraction", "staged", "auto", "full")
TREES = "trees"
PATIENCE = 15.0  # seconds that an interrupted run has to end by itself


@dataclass(frozen=True)
class Run:
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

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.data}-{self.schedule}-{self.seed}"

    def overrides(self) -> list[str]:
        """What is typed after `python -m detector.train`, but for the folder of the outputs."""
        if self.root is None:
            data = ["+experiment=trees"]
        else:
            data = [f"data.root={quoted(str(self.root))}", "backbone=efficientnet_lite0"]
            data += ["data.on_bad=skip", f"name={quoted(self.data)}"]
        weights = ["model.weights=none"] if self.schedule == "scratch" else []
        return [*data, *equal_epochs(self.schedule, self.epochs), *weights, f"seed={self.seed}"]

    def command(self, folder: Path) -> list[str]:
        """What starts the run, or goes on with it where an epoch of it was finished.

        Args:
            folder: The run's.
        """
        if (folder / "checkpoints" / "last.ckpt").is_file():
            typed = [f"ckpt={quoted(str(folder))}"]  # which has the rest
        else:
            typed = [*self.overrides(), f"hydra.run.dir={quoted(str(folder))}"]
        return ["python", "-m", "detector.train", *typed]


@dataclass(frozen=True)
class Result:
    """What came out of a run.

    Attributes:
        data: The data set's name.
        schedule: Of conf/finetune.
        seed: The run's.
        split: What the scores are of: `test`, or `val` where the data set has no test split.
        map: COCO's mAP.
        ap50: COCO's AP50.
        val_map: The best epoch's `val/map`, which chose the checkpoint.
        epochs: That were trained.
        seconds: Of training and validation.
        wall_seconds: Of the whole process; None if that is not known.
        peak_bytes: The most memory that the process held; None if that is not known.
        command: What was typed; empty if that is not known. With `ckpt=`, the process' seconds
            and memory are those since the run was continued.
        day: When it ended.
    """

    data: str
    schedule: str
    seed: int
    split: str
    map: float
    ap50: float
    val_map: float
    epochs: int
    seconds: float
    wall_seconds: float | None
    peak_bytes: int | None
    command: str
    day: str


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line.

    Returns:
        The exit code: 0 done, 1 a run failed, 2 the request was wrong, 130 interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)  # also what goes on
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", metavar="FOLDER", nargs="*", type=Path, help="data sets")
    parser.add_argument("--epochs", metavar="N", type=int, default=10, help="of every run; 10")
    parser.add_argument("--seeds", metavar="SEED", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("outputs", "transfer"))
    parser.add_argument("--report", action="store_true", help="write docs/transfer.md and .png")
    asked = parser.parse_args(typed)
    try:
        runs = plan(asked.folders, asked.epochs, asked.seeds)
        for run in runs:
            refuse_other(run, asked.out / run.name)
        results = read_results(asked.out / "results.json")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        failed = train_all(runs, asked.out, results)
    except KeyboardInterrupt:
        print(f"\nto go on: python benchmarks/transfer.py {shlex.join(typed)}")
        return 130
    wanted = [results[run.name] for run in runs if run.name in results]
    if wanted:
        text = tables(wanted)
        print(f"\n{text}")
        if asked.report:
            write_report(wanted, text, asked.epochs)
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
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {' '.join(map(str, seeds))}: every seed once")
    roots: dict[str, Path | None] = {TREES: None}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
        root = folder.resolve()
        if root.name in roots:
            raise ValueError(f"{folder}: there is already a data set called {root.name}")
        roots[root.name] = root
    return [
        Run(name, root, schedule, seed, epochs)
        for seed in seeds
        for name, root in roots.items()
        for schedule in SCHEDULES
    ]


def equal_epochs(schedule: str, epochs: int) -> list[str]:
    """What is typed to make a schedule last so many epochs (`auto`: at most).

    Args:
        schedule: Of conf/finetune.
        epochs: Fewer than it has cut it off, more lengthen its last phase.
    """
    chosen = [f"finetune={schedule}", f"trainer.max_epochs={epochs}"]
    config = resolve("train", compose("train", ["+experiment=trees", *chosen]))
    phases = read_schedule(config).phases
    missing = epochs - sum(phase.max_epochs for phase in phases)
    if missing <= 0:
        return chosen
    if config.finetune.phases == "auto":
        return [*chosen, f"finetune.auto.max_epochs={math.ceil(epochs / len(phases))}"]
    last = len(phases) - 1
    length = phases[last].max_epochs + missing
    return [*chosen, f"finetune.phases.{last}.until.max_epochs={length}"]


def quoted(text: str) -> str:
    """A value for Hydra's command line, in quotes where its grammar needs them."""
    if re.fullmatch(r"[\w./:-]+", text):
        return text
    return "'" + text.replace("'", "\\'") + "'"


def refuse_other(run: Run, folder: Path) -> None:
    """Raise ValueError if the folder holds a run that was asked for differently.

    Args:
        run: Which is to be there.
        folder: Perhaps there.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        return
    saved = OmegaConf.load(file)
    root = None if run.root is None else str(run.root)
    for key, wanted in (("trainer.max_epochs", run.epochs), ("data.root", root)):
        found = OmegaConf.select(saved, key)
        if found != wanted:
            raise ValueError(f"{folder}: trained with {key}={found}; name another --out")


def read_results(file: Path) -> dict[str, Result]:
    """The results so far, by the names of their runs.

    Raises:
        ValueError: If the file is another one.
    """
    if not file.is_file():
        return {}
    try:
        results = [Result(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not a file of results ({error}); name another --out") from error
    return {f"{r.data}-{r.schedule}-{r.seed}": r for r in results}


def train_all(runs: Sequence[Run], out: Path, results: dict[str, Result]) -> list[Run]:
    """Do what is not done yet, and write results.json after each run.

    Args:
        runs: In their order.
        out: Holds their folders.
        results: So far, by the names of runs; completed here.

    Returns:
        Those that failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    left = []
    for run in runs:
        folder = out / run.name
        if not (folder / "metrics.json").is_file():
            left.append(run)
            results.pop(run.name, None)
        elif run.name not in results:  # it ended without us
            results[run.name] = read_result(run, folder)
    failed: list[Run] = []
    for turn, run in enumerate(left, 1):
        folder = out / run.name
        command = run.command(folder)
        print(f"[{turn}/{len(left)}] {run.name}:", end=" ", flush=True)
        started = time.monotonic()
        code, peak = run_process(command, out / f"{run.name}.log")
        if code:
            failed.append(run)
            print(f"failed with exit code {code}, see {out / run.name}.log", flush=True)
            continue
        wall = time.monotonic() - started
        result = read_result(run, folder, wall, peak, shlex.join(command))
        results[run.name] = result
        write_json(out / "results.json", [asdict(r) for r in results.values()])
        rest = left[turn:]
        seconds = time_left(rest, list(results.values()))
        print(f"{summary(result)}; {len(rest)} left, about {seconds / 60:.0f} min", flush=True)
    write_json(out / "results.json", [asdict(r) for r in results.values()])
    return failed


def run_process(command: Sequence[str], log: Path) -> tuple[int, int]:
    """Run a command of Python to its end.

    Args:
        command: Begins with `python`, which is this one.
        log: What it prints is added here.

    Returns:
        Its exit code, and the most memory that it held, bytes.

    Raises:
        KeyboardInterrupt: If one of the two was interrupted; the process has ended then.
    """
    with log.open("a", encoding="utf-8") as stream:
        child = subprocess.Popen(
            [sys.executable, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            # `getrusage(RUSAGE_CHILDREN)` would give the largest of all children so far.
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            # Two would write to one folder if it went on. A terminal interrupts both, `kill` one.
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()  # what it keeps is written in one step
                child.wait()
            raise
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode == 130:
        raise KeyboardInterrupt
    return child.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_result(
    run: Run,
    folder: Path,
    wall_seconds: float | None = None,
    peak_bytes: int | None = None,
    command: str = "",
) -> Result:
    """The result of a finished run, from its files.

    Args:
        run: Which.
        folder: Its own.
        wall_seconds: Of the process.
        peak_bytes: Of the process.
        command: What was typed.
    """
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as stream:
        epochs = [_number(row["val/map"]) for row in csv.DictReader(stream)]
    return Result(
        data=run.data,
        schedule=run.schedule,
        seed=run.seed,
        split=metrics["split"],
        map=_number(metrics["coco"]["map"]),
        ap50=_number(metrics["coco"]["map_50"]),
        val_map=max((score for score in epochs if not math.isnan(score)), default=math.nan),
        epochs=len(epochs),
        seconds=metrics["seconds"]["train"],
        wall_seconds=wall_seconds,
        peak_bytes=peak_bytes,
        command=command,
        day=str(date.today()),
    )


def _number(value: object) -> float:
    """A score as a file has it; NaN where it has none."""
    return float(str(value)) if value not in (None, "") else math.nan


def time_left(rest: Sequence[Run], done: Sequence[Result]) -> float:
    """Seconds that the rest will take: each as long as its data set's others did, on average.

    Args:
        rest: The runs that are left.
        done: Results so far; where there is none of a data set, all of them count.
    """
    known: dict[str, list[float]] = {}
    for result in done:
        whole = result.wall_seconds
        known.setdefault(result.data, []).append(result.seconds if whole is None else whole)
    everything = [seconds for all_of_one in known.values() for seconds in all_of_one]
    return sum(statistics.mean(known.get(run.data, everything)) for run in rest)


def summary(result: Result) -> str:
    """A result in one line."""
    peak = "" if result.peak_bytes is None else f", {result.peak_bytes / 2**30:.2f} GiB"
    return (
        f"{result.split} mAP {result.map:.3f}, AP50 {result.ap50:.3f}, best val/map "
        f"{result.val_map:.3f}, {result.epochs} epochs, {result.seconds:.0f} s{peak}"
    )


def spread(values: Sequence[float]) -> str:
    """Mean and extremes, to three digits after the point."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def tables(results: Sequence[Result]) -> str:
    """A table for each data set, as markdown."""
    parts = []
    for name, rows in _by(results, "data").items():
        (split,) = {r.split for r in rows}
        head = (
            f"| {name} | seeds | {split} mAP: mean (least-most) | {split} AP50 | best val/map "
            "| epochs | seconds, least | peak memory |"
        )
        lines = [_row(schedule, runs) for schedule, runs in _by(rows, "schedule").items()]
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


def _by(results: Sequence[Result], attribute: str) -> Mapping[str, list[Result]]:
    """The results by an attribute, in the order of its first appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(getattr(result, attribute), []).append(result)
    return groups


def write_report(results: Sequence[Result], text: str, epochs: int) -> None:
    """Put the tables into the page, and draw the picture.

    Args:
        results: What the tables are of.
        text: The tables.
        epochs: Of every run, at most.
    """
    from common import machine
    from run import between_markers

    days = sorted({r.day for r in results})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
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

    panels = _by(results, "data")
    schedules = list(_by(results, "schedule"))
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
