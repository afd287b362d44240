"""The report's plots, as the data that plotly gets."""

import re

import pytest
from run_content import comparison, content, embedded, section, training, write

from detector.report import plot_table, plots_curves, plots_errors, plots_training
from detector.report.plots import figure, label


def test_a_class_has_curves_of_its_own_that_wait_to_be_chosen():
    plot = plots_curves.thresholds(content()["curves"], ["cat", "dog"], 10)
    assert [trace["meta"] for trace in plot["data"]] == [""] * 3 + ["cat"] * 3 + ["dog"] * 3
    assert [trace["visible"] for trace in plot["data"]] == [True] * 3 + [False] * 6
    assert [trace["name"] for trace in plot["data"][:3]] == ["Precision", "Recall", "F1"]
    assert plot["data"][2]["y"] == [0.33, 0.69, 0.18]
    assert plot["choose"] == "only"


def test_a_few_classes_are_told_apart_by_colour_and_many_are_grey():
    def draw(count):
        run = content(classes=[f"class {i}" for i in range(count)])
        return plots_curves.recall_precision(
            run["recall_precision"], run["per_class"], run["classes"]
        )

    few, many = draw(6), draw(7)
    assert len({trace["line"]["color"] for trace in few["data"]}) == 6
    assert few["data"][0]["name"] == "class 0  60.0"
    assert {trace["line"]["color"] for trace in many["data"]} == {"--quiet"}
    assert (few["layout"]["showlegend"], many["layout"]["showlegend"]) == (True, False)


def test_a_class_without_truth_has_no_curve():
    run = content()
    curves = run["recall_precision"] | {"classes": {"cat": [1.0, 0.5, 0.0]}}
    plot = plots_curves.recall_precision(curves, run["per_class"], ["cat", "dog"])
    assert [trace["meta"] for trace in plot["data"]] == ["cat"]


def test_bars_of_a_range_say_of_how_many():
    rows = content()["sizes"] + [{**content()["sizes"][0], "range": "1 to 2", "truths": 1}]
    any_score, recall, precision = plots_curves.ranges(rows, "size")["data"]
    assert (any_score["y"], recall["y"], precision["y"]) == ([0.9, 0.9], [0.5, 0.5], [0.4, 0.4])
    assert recall["x"] == ["&lt; 16", "1<br>to 2"]
    assert recall["customdata"] == ["3 boxes", "1 box"]
    assert precision["customdata"] == ["4 detections", "4 detections"]


def test_calibration_shows_bins_that_hold_something_and_all_counts():
    diagonal, precision, counts = plots_curves.calibration(content()["calibration"])["data"]
    assert (diagonal["x"], diagonal["y"]) == ([0, 1], [0, 1])
    assert (precision["x"], precision["y"]) == ([0.3], [0.2])
    assert counts["y"] == [8, 0]


def test_cells_of_the_confusion_matrix_are_shares_of_their_class():
    plot = plots_errors.confusion(
        {"matrix": [[6, 0, 2], [0, 0, 0], [3, 1, 0]], "labels": ["a", "b", "background"]}
    )
    (trace,) = plot["data"]
    # The last row: 3 of the 9 detections of a, and the only one of b.
    assert trace["z"] == [[0.75, 0, 0.25], [None] * 3, [0.33333, 1, None]]
    assert trace["customdata"][0] == [[n, "8 true boxes"] for n in "602"]
    assert trace["customdata"][2][:2] == [["3", "9 detections"], ["1", "1 detection"]]
    assert trace["text"] == [["6", "0", "2"], ["0"] * 3, ["3", "1", ""]]
    assert plot["layout"]["yaxis"]["autorange"] == "reversed"


def test_a_matrix_of_many_classes_has_no_numbers_but_every_name_and_scrolls():
    names = [*(f"a rather long name {i}" for i in range(80)), "background"]
    plot = plots_errors.confusion({"matrix": [[1] * 81] * 81, "labels": names})
    assert "texttemplate" not in plot["data"][0]
    assert len(set(plot["data"][0]["x"])) == 81
    assert plot["layout"]["xaxis"]["ticktext"][0] == "a rather long…"
    assert plot["least"] / 81 >= 9.6
    small = {"matrix": [[1, 1], [1, 0]], "labels": ["a", "background"]}
    assert plots_errors.confusion(small)["least"] == 0


def test_bars_of_errors_leave_room_for_their_numbers():
    plot = plots_errors.errors(content()["errors"])
    assert plot["data"][0]["x"] == [0.25, 0.01]
    assert plot["data"][0]["customdata"][0] == ["9", "nothing found it"]
    assert plot["layout"]["xaxis"]["range"] == [0, pytest.approx(0.3)]


def test_losses_have_the_total_in_front_and_end_with_their_epoch():
    plot = plots_training.losses(training())
    assert [trace["name"] for trace in plot["data"]] == ["train/loss", "train/loss_classifier"]
    assert plot["data"][0]["x"] == [1, 2, 3]
    assert plot["data"][0]["y"] == [1.0, 0.9, 0.8]
    assert plot["data"][0]["line"]["color"] == "--ink"


def test_scores_have_the_monitored_one_in_front_and_mark_the_best_epoch():
    plot = plots_training.scores(training())
    assert [trace["name"] for trace in plot["data"]] == ["val/map", "val/map_50"]
    assert [trace["visible"] for trace in plot["data"]] == [True, True]
    best = plot["layout"]["shapes"][-1]
    assert (best["type"], best["x0"], best["x1"]) == ("line", 3, 3)


def test_scores_that_few_look_at_wait_in_the_legend():
    rows = [{**row, "val/mar_1": 0.3, "val/map_small": 0.2} for row in training()["rows"]]
    monitored = training() | {"rows": rows, "monitor": "val/mar_1"}
    shown = {t["name"]: t["visible"] for t in plots_training.scores(monitored)["data"]}
    assert shown == {
        **{"val/mar_1": True, "val/map": True, "val/map_50": True},
        "val/map_small": "legendonly",
    }


def test_phases_are_shaded_up_to_where_training_ended():
    plot = plots_training.losses(training())
    shades = plot["layout"]["shapes"][:-1]
    assert [(shade["x0"], shade["x1"]) for shade in shades] == [(0, 1), (1, 3)]
    assert [name["text"] for name in plot["layout"]["annotations"]] == ["head", "all"]
    early = plots_training.losses(training(epochs=1))
    assert [(s["x0"], s["x1"]) for s in early["layout"]["shapes"][:-1]] == [(0, 1)]


def test_a_phase_too_short_for_its_name_has_none():
    names = plots_training.losses(training(epochs=40))["layout"]["annotations"]
    assert [name["text"] for name in names] == ["", "all"]


def test_equal_rates_are_one_line_and_a_frozen_group_has_a_gap():
    first, stem = plots_training.rates(training())["data"]
    assert (first["name"], first["y"]) == ("head, neck", [0.01] * 3)
    assert (stem["name"], stem["y"]) == ("stem", [None, 0.001, 0.001])


def test_a_legend_has_no_name_without_a_line():
    plot = plots_training.rates(training(epochs=1))
    assert [trace["name"] for trace in plot["data"]] == ["head, neck"]
    assert plot["note"] == "Frozen in every epoch: stem."
    assert "note" not in plots_training.rates(training())
    rows = [{**row, "val/map_small": None} for row in training()["rows"]]
    names = [trace["name"] for trace in plots_training.scores(training() | {"rows": rows})["data"]]
    assert names == ["val/map", "val/map_50"]


def test_a_training_without_epochs_or_values_has_no_plots():
    assert plots_training.losses(training() | {"rows": []}) is None
    rows = [{"epoch": 0, "phase": "head", "train/loss": None}]
    assert plots_training.losses(training() | {"rows": rows}) is None
    assert plots_training.scores(training() | {"rows": rows}) is None


def test_a_long_name_is_cut_before_it_is_escaped():
    assert label("<<<<", 3) == "&lt;&lt;…"
    assert label("<b>") == "&lt;b&gt;"


def test_a_plot_is_added_by_one_row(tmp_path, monkeypatch):
    def count(classes):
        return figure([{"type": "bar", "x": ["classes"], "y": [len(classes)]}], {})

    row = plot_table.Plot("toy", "confidence", "Toy plot", count, ("classes",), "", "")
    monkeypatch.setattr(plot_table, "PLOTS", (*plot_table.PLOTS, row))
    page = write(tmp_path)
    (trace,) = embedded(page)["figures"]["toy"]["data"]
    assert trace["y"] == [2]
    assert "Toy plot" in section(page, "confidence")
    assert 'data-figure="toy"' in section(page, "confidence")


def test_every_plot_is_in_the_section_that_its_row_names(tmp_path):
    page = write(tmp_path, training=training(), comparison=comparison())
    places = re.findall(r'data-figure="(\w+)"', page)
    assert places == [row.name for row in plot_table.PLOTS]


def test_a_plot_whose_data_are_missing_is_none():
    row = plot_table.Plot("toy", "confidence", "Toy", lambda training: {}, ("training",), "", "")
    assert row.draw(content()) is None
    assert row.draw(content(training=training())) == {}
