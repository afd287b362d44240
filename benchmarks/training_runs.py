"""Trainings that are compared: each a process, as it would be typed; interrupted at any time.

Typed again, a finished run is not repeated and an unfinished one goes on from its last epoch.
OUT/results.json is written whenever a run ends.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol, TypeVar

# Nothing here imports torch at the top: a child's peak memory is counted from its parent's on.
from omegaconf import OmegaConf

from detector.core.files import write_json
from detector.core.run_folder import RunFolder
from detector.training.metrics_csv import read_rows

TREES = "trees"  # the embedded data set
PATIENCE = 15.0  # seconds that an interrupted run has to end by itself


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of a run.

    Attributes:
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

    @property
    def name(self) -> str:
        """Of the run."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """Of the run; those of one kind take about as long as each other."""
        raise NotImplementedError


Result = TypeVar("Result", bound=Outcome)
ResultOf = TypeVar("ResultOf", bound=Outcome, covariant=True)


class Run(Protocol[ResultOf]):
    """One training: `name` is that of its folder, `kind` as in `Outcome`."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def kind(self) -> str: ...  # noqa: D102

    def overrides(self) -> list[str]:
        """What is typed after `python -m detector.train`, but for the folder of the outputs."""
        ...

    def result(self, **outcome: Any) -> ResultOf:
        """The run's result, of what `Outcome` has."""
        ...


def quoted(text: str) -> str:
    """A value for Hydra's command line, in quotes where its grammar needs them."""
    if re.fullmatch(r"[\w./:-]+", text):
        return text
    return "'" + text.replace("'", "\\'") + "'"


def command_of(run: Run[Any], folder: Path) -> list[str]:
    """What starts a run, or goes on with it where an epoch of it was finished.

    Args:
        run: Which.
        folder: Its own.
    """
    if RunFolder(folder).last_checkpoint.is_file():
        typed = [f"ckpt={quoted(str(folder))}"]  # which has the rest
    else:
        typed = [*run.overrides(), f"hydra.run.dir={quoted(str(folder))}"]
    return ["python", "-m", "detector.train", *typed]


def make_parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """A parser of what trainings on several data sets have in common.

    Args:
        doc: The script's docstring.
        name: Of the script, its page and the folder of its outputs.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("folders", metavar="FOLDER", nargs="*", type=Path, help="data sets")
    parser.add_argument("--without-trees", action="store_true", help="the folders alone")
    parser.add_argument("--seeds", metavar="SEED", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("outputs", name))
    parser.add_argument("--report", action="store_true", help=f"write docs/{name}.md and .png")
    return parser


def data_sets(asked: argparse.Namespace) -> dict[str, Path | None]:
    """The data sets that `make_parser`'s arguments name; the embedded one has no folder.

    Raises:
        ValueError: If a folder cannot be meant.
    """
    roots: dict[str, Path | None] = {} if asked.without_trees else {TREES: None}
    for folder in asked.folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
        root = folder.resolve()
        if root.name in roots:
            raise ValueError(f"{folder}: there is already a data set called {root.name}")
        roots[root.name] = root
    return roots


def data_overrides(name: str, root: Path | None) -> list[str]:
    """What is typed to train on one of `data_sets`."""
    if root is None:
        return ["+experiment=trees", "trainer.max_minutes=null"]  # epochs are compared
    data = [f"data.root={quoted(str(root))}", "backbone=efficientnet_lite0"]
    return [*data, "data.on_bad=skip", f"name={quoted(name)}"]


def refuse_repeated(seeds: Sequence[int]) -> None:
    """Raise ValueError if a seed is there twice."""
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {' '.join(map(str, seeds))}: every seed once")


def refuse_other(folder: Path, wanted: Mapping[str, object]) -> None:
    """Raise ValueError if a folder holds a run that was asked for differently.

    Args:
        folder: Perhaps there.
        wanted: Of some of the configuration's keys the values.
    """
    file = RunFolder(folder).config
    if not file.is_file():
        return
    saved = OmegaConf.load(file)
    for key, value in wanted.items():
        found = OmegaConf.select(saved, key)
        if found != value:
            raise ValueError(f"{folder}: trained with {key}={found}; name another --out")


def read_results(file: Path, make: Callable[..., Result]) -> dict[str, Result]:
    """The results so far, by the names of their runs.

    Args:
        file: Perhaps there.
        make: The class of the results.

    Raises:
        ValueError: If the file is another one.
    """
    if not file.is_file():
        return {}
    try:
        results = [make(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not a file of results ({error}); name another --out") from error
    return {result.name: result for result in results}


def train_all(
    runs: Sequence[Run[Result]],
    out: Path,
    results: dict[str, Result],
    environment: Callable[[Any], Mapping[str, str]] = lambda _: {},
) -> list[Run[Result]]:
    """Do what is not done yet, and write results.json after each run.

    Args:
        runs: In their order.
        out: Holds their folders.
        results: So far, by the names of runs; completed here.
        environment: Variables of a run, beside those of this process.

    Returns:
        Those that failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    left = []
    for run in runs:
        folder = out / run.name
        if not RunFolder(folder).metrics_json.is_file():
            left.append(run)
            results.pop(run.name, None)
        elif run.name not in results:  # it ended without us
            results[run.name] = read_result(run, folder)
    failed: list[Run[Result]] = []
    for turn, run in enumerate(left, 1):
        folder = out / run.name
        command = command_of(run, folder)
        print(f"[{turn}/{len(left)}] {run.name}:", end=" ", flush=True)
        started = time.monotonic()
        code, peak = run_process(command, out / f"{run.name}.log", environment(run))
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


def run_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> tuple[int, int]:
    """Run a command of Python to its end.

    Args:
        command: Begins with `python`, which is this one.
        log: What it prints is added here.
        environment: Variables beside those of this process.

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
            env={**os.environ, **environment},
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
    run: Run[Result],
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
    metrics = json.loads(RunFolder(folder).metrics_json.read_text(encoding="utf-8"))
    epochs = [_number(row["val/map"]) for row in read_rows(RunFolder(folder))]
    return run.result(
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


def time_left(rest: Sequence[Run[Any]], done: Sequence[Outcome]) -> float:
    """Seconds that the rest will take: each as long as others of its kind did, on average.

    Args:
        rest: The runs that are left.
        done: Results so far; where there is none of a kind, all of them count.
    """
    known: dict[str, list[float]] = {}
    for result in done:
        whole = result.wall_seconds
        known.setdefault(result.kind, []).append(result.seconds if whole is None else whole)
    everything = [seconds for all_of_one in known.values() for seconds in all_of_one]
    return sum(statistics.mean(known.get(run.kind, everything)) for run in rest)


def summary(result: Outcome) -> str:
    """A result in one line."""
    peak = "" if result.peak_bytes is None else f", {result.peak_bytes / 2**30:.2f} GiB"
    return (
        f"{result.split} mAP {result.map:.3f}, AP50 {result.ap50:.3f}, best val/map "
        f"{result.val_map:.3f}, {result.epochs} epochs, {result.seconds:.0f} s{peak}"
    )


def spread(values: Sequence[float]) -> str:
    """Mean and extremes, to three digits after the point; a single value alone."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def group_by(results: Sequence[Result], attribute: str) -> dict[str, list[Result]]:
    """Results by an attribute, in the order of its first appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(getattr(result, attribute), []).append(result)
    return groups


def period(days: Sequence[str]) -> str:
    """From the first to the last of some days, in words."""
    first, last = min(days), max(days)
    return first if first == last else f"{first} to {last}"
