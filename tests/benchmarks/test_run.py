"""The benchmarks' own machinery, on made-up benchmarks and a made-up clock."""

import functools
import importlib
import json
import sys
from types import SimpleNamespace

import bootstrap
import common
import metric
import pytest
import run
from common import Figure, Report

PROSE = "# Title\n\nBefore.\n\n{}\n\nAfter | with a bar.\n"
EMPTY = PROSE.format(f"{run.START}\n\n{run.END}")


def figure(ratio, what="thing", target=None):
    return Figure(ratio, 0.5, 0.5 * ratio, 0.1, what, target)


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Benchmarks by name, each an entry that a test may replace; and a page."""
    measures = {
        "first": lambda quick: Report({"first": figure(2), "first_again": figure(3, target=2.5)}),
        "second": lambda quick: Report({"second": figure(4, "a|b")}, "| table |", {"extra": 7}),
        "third": lambda quick: Report({}, extra={"quick": quick, "value": 1}),
    }
    names = {"first": ("first", "first_again"), "second": ("second",), "third": ()}
    monkeypatch.setattr(run, "BENCHMARKS", names)
    monkeypatch.setattr(run, "ON_REQUEST", {"third"})
    monkeypatch.setattr(run, "PAGE", tmp_path / "page.md")
    run.PAGE.write_text(EMPTY)
    for name in names:
        module = SimpleNamespace(measure=lambda quick, name=name: measures[name](quick))
        monkeypatch.setitem(sys.modules, name, module)
    file = tmp_path / "new" / "bench.json"
    return SimpleNamespace(
        measures=measures,
        file=file,
        run=lambda *arguments: run.main([*arguments, "--json", str(file)]),
        results=lambda: json.loads(file.read_text()),
    )


def test_an_unknown_name_is_one_line_with_the_known_ones(bench, capsys):
    assert bench.run("first", "forth") == 2
    assert capsys.readouterr().err == (
        "no benchmark forth; there are first, first_again, second, third\n"
    )
    assert not bench.file.exists()


@pytest.mark.parametrize("content", ["{bad", "3"])
def test_a_file_that_holds_no_figures_is_refused_before_measuring(bench, capsys, tmp_path, content):
    file = tmp_path / "figures.json"
    file.write_text(content)
    assert run.main(["first", "--json", str(file)]) == 2
    assert f"--json {file}: not a file of figures" in capsys.readouterr().err
    assert file.read_text() == content


def test_without_names_all_are_run_but_those_on_request(bench):
    assert bench.run() == 0
    assert set(bench.results()) == {"first", "first_again", "second"}


def test_a_figures_name_runs_its_benchmark_once(bench):
    calls = []
    report = Report({"first": figure(2), "first_again": figure(3)})
    bench.measures["first"] = lambda quick: calls.append(quick) or report
    assert bench.run("first_again", "first", "--quick") == 0
    assert calls == [True]
    assert set(bench.results()) == {"first", "first_again"}


def test_results_are_written_after_each_benchmark_and_others_kept(bench):
    bench.run("second")
    seen = {}

    def third(quick):
        seen.update(bench.results())
        return Report({}, extra={"value": 5})

    bench.measures["third"] = third
    assert bench.run("first", "third") == 0
    assert set(seen) == {"second", "first", "first_again"}
    results = bench.results()
    assert set(results) == {"second", "first", "first_again", "third"}
    assert results["second"]["extra"] == 7
    assert results["third"]["value"] == 5
    first = results["first_again"]
    assert (first["ratio"], first["ours_s"], first["peer_s"], first["spread"]) == (3, 0.5, 1.5, 0.1)


def test_a_benchmark_replaces_all_of_its_own_last_results(bench):
    bench.run("first")
    bench.measures["first"] = lambda quick: Report({"first": figure(9)})
    bench.run("first")
    assert set(bench.results()) == {"first"}
    assert bench.results()["first"]["ratio"] == 9


def test_an_interrupted_run_keeps_what_is_done_and_prints_how_to_go_on(bench, capsys):
    def second(quick):
        raise KeyboardInterrupt

    bench.measures["second"] = second
    assert bench.run("first", "second", "third", "--quick") == 130
    assert set(bench.results()) == {"first", "first_again"}
    last = capsys.readouterr().out.splitlines()[-1]
    command = f"python benchmarks/run.py second third --json {bench.file} --quick"
    assert last == f"to go on: {command}"


def test_the_page_has_the_figures_between_its_markers_and_its_prose_as_it_was(bench):
    bench.run("second")
    bench.run("first")
    text = run.PAGE.read_text()
    before, after = PROSE.split("{}")
    assert text.startswith(before + run.START)
    assert text.endswith(run.END + after)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `first`: thing | 500 ms | 1 s | 2.00 | 10% |  |",
        "| `first_again`: thing | 500 ms | 1.5 s | 3.00 | 10% | 2.5 |",
        "| `second`: a&#124;b | 500 ms | 2 s | 4.00 | 10% |  |",
    ]
    assert text.index("| `second`") < text.index("| table |")
    assert bench.results()["first"]["date"] in text
    assert text.count(common.machine()) == 1
    bench.run("second")
    assert run.PAGE.read_text() == text


def test_quick_figures_do_not_get_into_the_page(bench):
    bench.run("first", "--quick")
    assert run.PAGE.read_text() == EMPTY
    bench.run("second")
    assert "`first`" not in run.PAGE.read_text()
    assert "`second`" in run.PAGE.read_text()


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="the page needs the lines"):
        run.between_markers(f"text {run.START} text", "figures")


def test_the_registry_names_what_there_is():
    for name in run.BENCHMARKS:
        assert callable(importlib.import_module(name).measure)
    assert set(run.BENCHMARKS) >= run.ON_REQUEST
    text = run.PAGE.read_text(encoding="utf-8")
    assert "figures of today" in run.between_markers(text, "figures of today")


def test_compare_takes_turns_and_medians(monkeypatch):
    now, calls = [100.0], []
    durations = {"ours": iter([9, 1, 2, 4]), "peer": iter([9, 4, 4, 4])}
    monkeypatch.setattr(common, "perf_counter", lambda: now[0])

    def work(name):
        calls.append(name)
        now[0] += next(durations[name])

    found = common.compare(
        lambda: work("ours"), lambda: work("peer"), 3, what="w", target=1.5, count=2
    )
    assert calls == ["ours", "peer"] * 4
    # The first round only warms up; the others' ratios are 4, 2 and 1.
    assert found == Figure(ratio=2, ours_s=1, peer_s=2, spread=1.5, what="w", target=1.5)


def test_ours_and_torchmetrics_agree_on_the_benchmarks_detections():
    report = metric.measure_at(images=6, rounds=1)
    assert report.extra["largest_difference"] <= 1e-6
    assert report.figures["metric"].ratio > 0


def test_our_comparison_and_hotcocos_agree_on_the_benchmarks_detections():
    report = bootstrap.measure_at(images=6, resamples=10, rounds=1)
    assert report.figures["bootstrap"].ratio > 0
    assert set(report.extra) == {"bootstrap_1_s", "bootstrap_20_s", "bootstrap_80_s"}


def test_a_worker_works_when_told_and_says_how_much_memory_it_took():
    with common.Worker(functools.partial(make_list, 100)) as worker:
        assert worker.seconds() > 0
        assert 90 * 2**20 < worker.peak_bytes() < 200 * 2**20


def make_list(mebibytes):
    """Work that holds memory from its first time on."""
    held = []
    return lambda: held.append(b"x" * mebibytes * 2**20) if not held else None
