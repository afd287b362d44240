"""Measure speed and memory beside the libraries' own, and keep the figures.

    python benchmarks/run.py [NAME ...] [--json FILE] [--quick]

A name is that of a benchmark, or of one of its figures, which runs the benchmark that has it.
Without names, all are run but those in `ON_REQUEST`.

After each benchmark the JSON file is written. What it holds of other benchmarks stays, so that a
run that was interrupted goes on when the rest is named. The tables in docs/performance.md are made
from that file, without what was measured with `--quick`. Beside a ratio stands its bound,
measured in the same rounds: what the ratio can be at most on this machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from common import Figure, Report, machine

from detector.core.files import write_json

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
START, END = "<!-- figures: made by benchmarks/run.py -->", "<!-- end of figures -->"

# Modules beside this one, each with `measure(quick) -> Report`, and the figures they report.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "step": tuple(
        f"step_{state}{peer}"
        for state in ("frozen", "partial", "full")
        for peer in ("", "_detectron2")
    ),
    "inference": ("inference", "inference_batch"),
    "switches": (),
    "memory": (),
    "metric": ("metric",),
    "bootstrap": ("bootstrap",),
    "loader": ("loader", "loader_ram_cache", "loader_workers"),
    "startup": ("startup",),
    "scaling": (),
    "parity": (),
    "transition": (),
    "coco_load": ("coco_load",),
    "check": (),
}
ON_REQUEST = {"coco_load", "check"}  # changed by the readers alone

Results = dict[str, dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line.

    Returns:
        The exit code: 0 done, 2 an unknown name, 130 interrupted.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help="what to measure")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="for the figures; outputs/bench.json by default"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes; the page stays as it is")
    asked = parser.parse_args(arguments)
    owners = {figure: name for name, figures in BENCHMARKS.items() for figure in (name, *figures)}
    if unknown := [name for name in asked.names if name not in owners]:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(owners)}", file=sys.stderr)
        return 2
    wanted = [owners[name] for name in asked.names] or [
        n for n in BENCHMARKS if n not in ON_REQUEST
    ]
    names = list(dict.fromkeys(wanted))
    # Another default: what took an hour is not replaced by what took a minute.
    file = asked.json or Path("outputs", "bench_quick.json" if asked.quick else "bench.json")
    try:
        results: Results = dict(json.loads(file.read_text())) if file.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        print(f"--json {file}: not a file of figures ({error}); name another", file=sys.stderr)
        return 2
    for turn, name in enumerate(names):
        place = f"[{turn + 1}/{len(names)}] {name}"
        print(place, flush=True)
        started = time.monotonic()
        try:
            report: Report = importlib.import_module(name).measure(asked.quick)
        except KeyboardInterrupt:
            rest = [*names[turn:], "--json", str(file), *(["--quick"] if asked.quick else [])]
            print(f"\nto go on: python benchmarks/run.py {shlex.join(rest)}")
            return 130
        print(f"{place}: {time.monotonic() - started:.0f} s", flush=True)
        for key, figure in report.figures.items():
            print(f"  {key}: {_line(figure)}", flush=True)
        if report.tables:
            print(report.tables, flush=True)
        keep(results, name, report, asked.quick)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, results)
        if not asked.quick:
            text = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(between_markers(text, page(results)), encoding="utf-8")
    return 0


def keep(results: Results, name: str, report: Report, quick: bool) -> None:
    """Put a report in the place of the benchmark's last one.

    Args:
        results: By the names of figures. The entry of the benchmark's own name also has what
            belongs to the whole report.
        name: The benchmark.
        report: What it found.
        quick: Whether at small sizes.
    """
    assert set(report.figures) <= set(BENCHMARKS[name]), f"{name}: figures of other names"
    for key in (name, *BENCHMARKS[name]):
        results.pop(key, None)
    results |= {key: asdict(figure) for key, figure in report.figures.items()}
    whole = {
        "tables": report.tables,
        "quick": quick,
        "machine": machine(),
        "date": str(date.today()),
    }
    results[name] = {**results.get(name, {}), **report.extra, **whole}


def page(results: Results) -> str:
    """The tables of all results but the quick ones, as markdown, in the registry's order."""
    whole = {n: results[n] for n in BENCHMARKS if not results.get(n, {}).get("quick", True)}
    measured: dict[tuple[str, str], list[str]] = {}
    for name, entry in whole.items():
        measured.setdefault((entry["date"], entry["machine"]), []).append(name)
    parts = [f"{day}, {', '.join(names)}: {on}" for (day, on), names in measured.items()]
    figures = {
        key: _figure(results[key])
        for name in whole
        for key in BENCHMARKS[name]
        if "ratio" in results.get(key, {})
    }
    head = [
        "| what | ours | peer | ratio | bound | rounds differ by | wanted |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    if figures:
        parts.append("\n".join(head + [_row(*item) for item in figures.items()]))
    parts += _bounds(figures)
    parts += [entry["tables"].strip() for entry in whole.values() if entry["tables"]]
    return "\n\n".join(parts)


def between_markers(text: str, content: str, first: str = START, last: str = END) -> str:
    """The text of a page with the content between its markers.

    Args:
        text: The page.
        content: Replaces what stands between them.
        first: The line before the content.
        last: The line after it.

    Raises:
        ValueError: If a marker is missing.
    """
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        raise ValueError(f"the page needs the lines {first} and {last}")
    return f"{before}{first}\n\n{content}\n\n{last}{after}"


def _figure(entry: dict[str, Any]) -> Figure:
    """The comparison in an entry; one of an older file has no bound."""
    return Figure(**{key: entry[key] for key in Figure.__dataclass_fields__ if key in entry})


def _bounds(figures: dict[str, Figure]) -> list[str]:
    """What bounds the ratios, as a paragraph and a list; nothing if no bound is known."""
    names: dict[str, list[str]] = {}
    for name, figure in figures.items():
        if figure.bound is not None:
            names.setdefault(figure.bound_by, []).append(f"`{name}`")
    if not names:
        return []
    said = (
        "The bound is the ratio if ours took only the time of the following, which it cannot do "
        "without, measured in the same rounds. What else it has to do is not counted, so some "
        "bounds are far from what can be reached:"
    )
    return [said, "\n".join(f"- {', '.join(every)}: {by}" for by, every in names.items())]


def _row(name: str, figure: Figure) -> str:
    """One comparison as a row of the table."""
    cells = (
        f"`{name}`: {figure.what}",
        _time(figure.ours_s),
        _time(figure.peer_s),
        f"{figure.ratio:.2f}",
        "" if figure.bound is None else f"{figure.bound:.2f}",
        f"{figure.spread:.0%}",
        "" if figure.target is None else f"{figure.target:g}",
    )
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _line(figure: Figure) -> str:
    """One comparison as a line on the terminal."""
    ours, peer = _time(figure.ours_s), _time(figure.peer_s)
    wanted = "" if figure.target is None else f", wanted {figure.target:g}"
    spread = f"rounds differ by {figure.spread:.0%}"
    ratio, by = f"{figure.ratio:.2f}", ""
    if figure.bound is not None:
        ratio, by = f"{ratio} of at most {figure.bound:.2f}", f"; bound by {figure.bound_by}"
    return f"ours {ours}, peer {peer}, ratio {ratio} ({spread}{wanted}){by}"


def _time(value: float) -> str:
    """Seconds to three digits, in seconds or milliseconds."""
    value, unit = (value, "s") if value >= 1 else (value * 1e3, "ms")
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


if __name__ == "__main__":
    sys.exit(main())
