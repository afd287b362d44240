"""Every benchmark still fits the program: all import, and one is measured."""

import importlib
import json
from pathlib import Path

import pytest
import run
from common import Figure, Report

MODULES = sorted(path.stem for path in Path(run.__file__).parent.glob("*.py"))


def test_every_benchmark_can_be_imported():
    for name in MODULES:
        module = importlib.import_module(name)
        if name in run.BENCHMARKS:
            assert callable(module.measure)


def test_figures_are_measured_written_and_kept_off_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "PAGE", tmp_path / "page.md")
    run.PAGE.write_text(f"Before.\n{run.START}\n{run.END}\nAfter.\n")
    before, file = run.PAGE.read_text(), tmp_path / "figures.json"
    assert run.main(["bootstrap", "--quick", "--json", str(file)]) == 0
    assert "bootstrap" in json.loads(file.read_text())
    shown = capsys.readouterr().out
    assert "bootstrap: ours" in shown
    assert "of at most" in shown
    assert run.PAGE.read_text() == before


def test_the_bound_of_a_ratio_stands_beside_it_on_the_page():
    figure = Figure.of([1.0, 1.0], [2.0, 2.0], "x", bound=[0.5, 0.5], bound_by="a copy of it")
    results: run.Results = {}
    run.keep(results, "startup", Report({"startup": figure}), quick=False)
    assert "| 2.00 | 4.00 |" in run.page(results)
    assert "- `startup`: a copy of it" in run.page(results)


def test_figures_of_a_file_from_before_there_were_bounds_are_still_shown():
    results: run.Results = {}
    figure = Figure.of([1.0, 1.0], [2.0, 2.0], "x")
    run.keep(results, "startup", Report({"startup": figure}), quick=False)
    for name in ("bound_s", "bound_by"):
        del results["startup"][name]
    assert "| 2.00 |  |" in run.page(results)
    assert "bound is" not in run.page(results)


@pytest.mark.parametrize("page", ["performance", "transfer"])
def test_the_pages_have_the_markers_between_which_figures_are_put(page):
    module = {"performance": run, "transfer": importlib.import_module("transfer")}[page]
    text = (Path(run.__file__).parents[1] / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert text.index(module.START) < text.index(module.END)
