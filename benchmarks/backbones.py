"""What the backbones cost, and how well the small ones detect after the same training time.

    python benchmarks/backbones.py [--costs] [--train] [--report] [--only NAME ...] [--out DIR]

`--costs` measures parameters, multiply-adds and training steps of all backbones. `--train` trains,
on the embedded `trees`, those whose weights come as packages and two from scratch: as many epochs
as take about as long as the reference's N. `--report` puts what is in OUT into docs/backbones.md.

The command can be interrupted and typed again: what is done is not repeated, and an unfinished
training goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import backbone_runs as runs
from training_runs import read_results, refuse_repeated

PAGE = Path(__file__).resolve().parents[1] / "docs" / "backbones.md"
MARKERS = {
    part: (f"<!-- {part}: made by benchmarks/backbones.py -->", f"<!-- end of {part} -->")
    for part in ("costs", "equal time")
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line.

    Returns:
        The exit code: 0 done, 1 something failed, 2 the request was wrong, 130 interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)  # also what goes on
    asked = _parser().parse_args(typed)
    out = asked.out / "quick" if asked.quick else asked.out
    failed = False
    try:
        _check(asked)
        # Costs bring torch into this process, and a child's peak memory counts from its parent's.
        if asked.train:
            failed |= runs.train(asked.only, asked.seeds, asked.epochs, out, quick=asked.quick)
        if asked.costs:
            failed |= measure_costs(asked.only, asked.steps, out, quick=asked.quick)
        if asked.report:
            write_report(out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nto go on: python benchmarks/backbones.py {shlex.join(typed)}")
        return 130
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    """The command line's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--costs", action="store_true", help="measure what all backbones cost")
    parser.add_argument("--train", action="store_true", help="train some for equal time")
    parser.add_argument("--report", action="store_true", help="write docs/backbones.md")
    parser.add_argument("--only", metavar="NAME", nargs="+", help="these backbones; all")
    parser.add_argument("--steps", metavar="N", type=int, default=9, help="timed; 9")
    parser.add_argument(
        "--epochs",
        metavar="N",
        type=int,
        default=8,
        help=f"of {runs.REFERENCE}; 8, the experiment's",
    )
    parser.add_argument("--seeds", metavar="SEED", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("outputs", "backbones"))
    parser.add_argument("--quick", action="store_true", help="small sizes, in OUT/quick")
    return parser


def _check(asked: argparse.Namespace) -> None:
    """Raise ValueError if the request cannot be meant."""
    if not (asked.costs or asked.train or asked.report):
        raise ValueError("say what to do: --costs, --train, --report")
    if asked.quick and asked.report:
        raise ValueError("--report: not of what was measured with --quick")
    for option in ("steps", "epochs"):
        if (value := getattr(asked, option)) < 1:
            raise ValueError(f"--{option} {value}: expected at least 1")
    refuse_repeated(asked.seeds)
    if asked.train and (unknown := set(asked.only or ()) - set(runs.NETWORKS)):
        raise ValueError(
            f"--only {' '.join(sorted(unknown))}: trained are {', '.join(runs.NETWORKS)}"
        )


def measure_costs(only: Sequence[str] | None, steps: int, out: Path, *, quick: bool) -> bool:
    """Measure what backbones cost.

    Args:
        only: Their names; None: all.
        steps: To time.
        out: Gets costs.json.
        quick: With small images.

    Returns:
        Whether any failed.

    Raises:
        ValueError: If a name is unknown, or `out` holds something else.
    """
    import backbone_costs as costs

    if unknown := set(only or ()) - set(costs.NAMES):
        raise ValueError(f"--only {' '.join(sorted(unknown))}: there are {', '.join(costs.NAMES)}")
    file, side = out / "costs.json", costs.QUICK_SIDE if quick else costs.SIDE
    costs.refuse_other(file, side, steps)
    return bool(costs.measure_all(only or costs.NAMES, file, side, steps))


def write_report(out: Path) -> None:
    """Put what has been measured so far into the page.

    Args:
        out: Holds costs.json and results.json.

    Raises:
        ValueError: If there is nothing, or something else.
    """
    import backbone_costs as costs
    from run import between_markers

    measured = list(costs.read_costs(out / "costs.json").values())
    results = list(read_results(out / "results.json", runs.Result).values())
    if not (measured or results):
        raise ValueError(f"{out}: nothing was measured yet; --costs and --train do that")
    page = PAGE.read_text(encoding="utf-8")
    if measured:
        page = between_markers(page, costs.report(measured), *MARKERS["costs"])
    if results:
        page = between_markers(page, runs.report(results), *MARKERS["equal time"])
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
