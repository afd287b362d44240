"""The plot of a run's schedule."""

import math
import subprocess
import sys

import cv2
import pytest

from detector.report import schedule
from detector.report.schedule import Curve, ShadedPhase, draw_schedule, make_figure, merge_curves

HEADS = ShadedPhase("heads", 0, 3, ended="plateau")
TOP = ShadedPhase("top", 3, 5, restored_epoch=1, ended="max_epochs")
SCORES = {0: 0.1, 1: 0.3, 2: 0.2, 3: 0.4, 4: 0.35}
HEAD = Curve("head", [0, 3, 3, 5], [0.01, 0.01, 0.005, 0.005])
STEM = Curve("stem", [0, 3, 3, 5], [0.0, 0.0, 0.0, 0.0])


def figure(phases=(HEADS, TOP), curves=(HEAD,), scores=SCORES, best_epoch=3, metric="val/map"):
    return make_figure(list(phases), list(curves), scores, best_epoch, metric)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def line(axes, label):
    """The points of the one line whose label begins so."""
    (found,) = [each for each in axes.lines if each.get_label().startswith(label)]
    return list(zip(*found.get_data(), strict=True))


def curves(axes):
    """The points of the lines through the scores, without missing ones."""
    lines = [zip(*each.get_data(), strict=True) for each in axes.lines]
    return [[point for point in points if not math.isnan(point[1])] for points in lines]


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_score_is_drawn_at_the_end_of_its_epoch():
    top, _ = figure().axes
    assert line(top, "score") == [(1, 0.1), (2, 0.3), (3, 0.2), (4, 0.4), (5, 0.35)]


@pytest.mark.parametrize(
    ("scores", "limits"), [({0: 0.001}, (0, 0.0066)), ({0: 0.2, 1: 1.0}, (0.152, 1))]
)
def test_the_axis_of_scores_ends_where_scores_do(scores, limits):
    top, _ = figure(scores=scores, best_epoch=0).axes
    assert top.get_ylim() == pytest.approx(limits)


def test_the_best_epoch_is_marked_and_named_with_its_score_counted_from_one():
    top, _ = figure().axes
    assert line(top, "best") == [(4, 0.4)]
    assert "best 0.400 (epoch 4)" in labels(top)


def test_an_epoch_without_a_score_is_not_drawn_and_cuts_the_line():
    top, _ = figure(phases=[HEADS], scores={0: 0.1, 1: math.nan, 2: 0.2}, best_epoch=1).axes
    assert line(top, "score") == [(1, 0.1), (3, 0.2)]
    (drawn,) = [each for each in top.lines if each.get_linestyle() == "-"]
    assert math.isnan(drawn.get_ydata()[2])
    assert labels(top) == ["score"]


def test_a_plot_without_scores_says_so():
    top, _ = figure(scores={}, best_epoch=None).axes
    assert "no validation scores" in texts(top)
    assert "no validation scores" not in texts(figure().axes[0])


def test_after_a_restore_the_line_goes_on_from_the_score_that_was_restored():
    top, _ = figure().axes
    assert line(top, "restored") == [(2, 0.3), (3, 0.3)]
    assert [(1, 0.1), (2, 0.3), (3, 0.2)] in curves(top)
    assert [(3, 0.3), (4, 0.4), (5, 0.35)] in curves(top)


def test_without_a_restore_the_line_goes_on_from_the_epoch_before():
    top, _ = figure([HEADS, ShadedPhase("top", 3, 5)]).axes
    assert [(3, 0.2), (4, 0.4), (5, 0.35)] in curves(top)
    assert "restored" not in labels(top)


def test_a_restored_epoch_without_a_score_is_named_alone():
    top, _ = figure(scores={4: 0.1}, best_epoch=4).axes
    assert "restored" not in labels(top)
    assert "top\nrestored epoch 2\nended: full length" in texts(top)


def test_phases_are_shaded_in_turn_in_both_panels():
    for axes in figure().axes:
        spans = [(patch.get_x(), patch.get_width()) for patch in axes.patches]
        assert spans == [(0, 3), (3, 2)]
        first, second = (patch.get_facecolor() for patch in axes.patches)
        assert first != second


def test_a_phase_that_was_never_begun_is_not_drawn():
    top, below = figure([HEADS, ShadedPhase("top", 3, 3, restored_epoch=1)]).axes
    assert len(top.patches) == len(below.patches) == 1
    assert texts(top) == ["heads\nended: plateau"]


def test_short_phases_are_numbered_and_named_below_within_the_picture():
    phases = [ShadedPhase(f"phase {i} with quite a long name", i, i + 1) for i in range(12)]
    drawn = figure(phases)
    assert texts(drawn.axes[0]) == [str(i) for i in range(1, 13)]
    (legend,) = drawn.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named[11] == "12: phase 11 with quite a long name"
    drawn.draw_without_rendering()
    box, frame = legend.get_window_extent(), drawn.bbox
    assert frame.x0 <= box.x0 < box.x1 <= frame.x1
    assert box.y1 <= drawn.axes[1].get_tightbbox().y0


def test_a_group_has_a_gap_while_it_is_frozen_and_one_that_always_is_is_only_named():
    unfrozen = Curve("layer4", [0, 3, 3, 5], [0.0, 0.0, 0.002, 0.002])
    _, below = figure(curves=[STEM, unfrozen, HEAD]).axes
    points = line(below, "layer4")
    assert points[2:] == [(3, 0.002), (5, 0.002)]
    assert all(math.isnan(rate) for _, rate in points[:2])
    assert labels(below) == ["layer4", "head", "frozen: stem"]


def test_rates_are_on_a_logarithmic_axis_that_shows_every_peak():
    slow = Curve("stem", [0, 1, 5], [1e-12, 1e-5, 1e-12])
    _, below = figure(curves=[HEAD, slow]).axes
    assert below.get_yscale() == "log"
    low, high = below.get_ylim()
    assert 1e-8 < low < 1e-5
    assert high > 0.01


def test_equal_curves_become_one_with_the_names_of_all():
    twin = Curve("neck", HEAD.epochs, HEAD.rates)
    assert merge_curves([HEAD, STEM, twin]) == [
        Curve("head, neck", (0, 3, 3, 5), (0.01, 0.01, 0.005, 0.005)),
        Curve("stem", (0, 3, 3, 5), (0, 0, 0, 0)),
    ]
    _, below = figure(curves=[HEAD, twin]).axes
    assert labels(below) == ["head, neck"]


def test_a_line_is_wider_than_those_drawn_over_it():
    other = Curve("layer4", HEAD.epochs, [0.003, 0.003, 0.005, 0.005])
    _, below = figure(curves=[other, HEAD]).axes
    lower, upper = (each.get_linewidth() for each in below.lines)
    assert lower > upper


def test_a_name_of_any_length_and_content_can_be_drawn(tmp_path):
    names = ["W" * 300, "$x_{$", "two\nlines", "\udcff", "層"]
    phases = [ShadedPhase(name, i, i + 1) for i, name in enumerate(names)]
    for shown in (phases, phases[1:2]):
        draw_schedule(tmp_path / "s.png", shown, [HEAD], SCORES, 3, "$map_{$")
    named = [text.get_text() for text in figure(phases).legends[0].get_texts()]
    assert named[:3] == [f"1: {'W' * 37}...", "2: $x_{$", "3: two lines"]


def test_nothing_at_all_can_be_drawn(tmp_path):
    draw_schedule(tmp_path / "s.png", [], [STEM], {}, None, "val/map")
    assert (tmp_path / "s.png").is_file()


def test_the_file_is_a_picture_and_nothing_lies_beside_it(tmp_path):
    draw_schedule(tmp_path / "schedule.png", [HEADS, TOP], [HEAD], SCORES, 3, "val/map")
    assert [file.name for file in tmp_path.iterdir()] == ["schedule.png"]
    assert cv2.imread(str(tmp_path / "schedule.png")).shape == (620, 1120, 3)


def test_a_plot_that_cannot_be_drawn_leaves_the_older_one(tmp_path, monkeypatch):
    class Broken:
        def savefig(self, draft, **options):
            draft.write_bytes(b"half")
            raise OSError("no space left")

    file = tmp_path / "schedule.png"
    file.write_bytes(b"older")
    monkeypatch.setattr(schedule, "make_figure", lambda *arguments: Broken())
    with pytest.raises(OSError, match="no space left"):
        draw_schedule(file, [HEADS], [HEAD], SCORES, 3, "val/map")
    assert file.read_bytes() == b"older"
    assert [each.name for each in tmp_path.iterdir()] == ["schedule.png"]


def test_matplotlib_is_not_imported_before_something_is_drawn():
    code = "import detector.report.schedule, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
