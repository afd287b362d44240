"""Every benchmark still fits the program: all import, and one is measured."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import run
from common import Figure, Report
from conftest import ask, in_force
from PIL import Image

from detector.config.schedules import read_schedule

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


@pytest.mark.parametrize("page", ["performance", "transfer", "frontier"])
def test_the_pages_have_the_markers_between_which_figures_are_put(page):
    module = run if page == "performance" else importlib.import_module(page)
    text = (Path(run.__file__).parents[1] / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert text.index(module.START) < text.index(module.END)


def test_fewer_training_images_and_shifted_test_images_are_data_sets(voc_root, tmp_path):
    import derived_sets

    data = derived_sets.read(voc_root)
    few = derived_sets.read(derived_sets.smaller(data, 2, tmp_path / "few"))
    assert {name: len(split) for name, split in few.splits.items()} == {
        **{name: len(split) for name, split in data.splits.items()},
        "train": 2,
    }
    assert few.classes.names == data.classes.names
    test = data.splits["test"]
    for shift in derived_sets.SHIFTS:
        other = derived_sets.read(derived_sets.shifted(data, shift, tmp_path / shift))
        np.testing.assert_allclose(other.splits["test"].boxes, test.boxes)
        assert other.splits["test"].labels.tolist() == test.labels.tolist()
        pictures = [np.asarray(Image.open(s.paths[0])) for s in (other.splits["test"], test)]
        assert pictures[0].shape == pictures[1].shape
        assert (pictures[0] != pictures[1]).any()
    with pytest.raises(ValueError, match=r"99 training images: expected 1\.\."):
        derived_sets.smaller(data, 99, tmp_path / "many")


def test_every_schedule_that_is_compared_is_one(voc_root):
    import transfer

    for name in transfer.SCHEDULES:
        run = transfer.Run("a", voc_root, "all", name, 0, 0.5)
        config = in_force(ask("train", *run.overrides()))
        schedule = read_schedule(config)
        assert schedule.by_time
        assert abs(schedule.ends_at(len(schedule.phases) - 1) - 1) < 1e-6
