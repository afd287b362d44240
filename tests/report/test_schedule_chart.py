import math

import cv2
import pytest

from detector.report import schedule
from detector.report.schedule import (
    Curve,
    ShadedPhase,
    draw_schedule,
    make_figure,
    merge_curves,
    stagger,
)

HEADS = ShadedPhase("heads", 0, 3, ended="plateau")
TOP = ShadedPhase("top", 3, 5, restored_epoch=1, ended="max_epochs")
SCORES = {0: 0.1, 1: 0.3, 2: 0.2, 3: 0.4, 4: 0.35}
HEAD = Curve("head", [0, 3, 3, 5], [0.01, 0.01, 0.005, 0.005])
STEM = Curve("stem", [0, 3, 3, 5], [0.0, 0.0, 0.0, 0.0])


def figure(phases=(HEADS, TOP), curves=(HEAD,), scores=SCORES, best_epoch=3, metric="val/map"):
    return make_figure(list(phases), list(curves), scores, best_epoch, metric)


def texts(axis):
    return [text.get_text() for text in axis.texts if text.get_text()]


def arrows(axis):
    """From where to where, of arrows with a head."""
    return [
        (text.xyann, text.xy)
        for text in axis.texts
        if text.arrow_patch is not None and text.get_text() == "" and text.xycoords == "data"
    ]


def line(axis, label):
    (found,) = [each for each in axis.lines if each.get_label() == label]
    return list(zip(*found.get_data(), strict=True))


def labels(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def boxes(drawn, wanted):
    """Where texts came out, in pixels."""
    drawn.canvas.draw()
    return [
        text.get_window_extent()
        for text in drawn.axes[0].texts
        if text.get_text() and wanted(text.get_text())
    ]


def test_a_score_stands_at_the_end_of_its_epoch():
    top, _ = figure().axes
    assert line(top, "scores") == [(1, 0.1), (2, 0.3), (3, 0.2), (4, 0.4), (5, 0.35)]


def test_the_best_epoch_is_marked_and_its_value_written_counted_from_one():
    top, _ = figure().axes
    assert line(top, "best") == [(4, 0.4)]
    assert "best 0.400 (epoch 4)" in texts(top)


def test_an_epoch_without_a_score_is_not_drawn_and_cuts_the_line():
    top, _ = figure(phases=[HEADS], scores={0: 0.1, 1: math.nan, 2: 0.2}, best_epoch=1).axes
    assert line(top, "scores") == [(1, 0.1), (3, 0.2)]
    assert all(len(each.get_xdata()) < 2 for each in top.lines if each.get_linestyle() == "-")
    assert not any(text.startswith("best") for text in texts(top))


def test_a_picture_without_scores_says_so():
    top, _ = figure(scores={}, best_epoch=None).axes
    assert "no validation scores" in texts(top)
    assert "no validation scores" not in texts(figure().axes[0])


def test_a_restore_is_an_arrow_from_the_restored_epoch_to_the_start_of_the_phase():
    top, _ = figure().axes
    assert arrows(top) == [((2, 0.3), (3, 0.3))]
    assert "restored epoch 2" in texts(top)


def test_after_a_restore_the_line_goes_on_from_the_score_that_was_restored():
    top, _ = figure().axes
    lines = [list(zip(*each.get_data(), strict=True)) for each in top.lines]
    assert [(1, 0.1), (2, 0.3), (3, 0.2)] in lines
    assert [(3, 0.3), (4, 0.4), (5, 0.35)] in lines


def test_a_restore_of_the_epoch_just_before_is_a_ring():
    top, _ = figure([HEADS, ShadedPhase("top", 3, 5, restored_epoch=2)]).axes
    assert not arrows(top)
    assert line(top, "restored") == [(3, 0.2)]


def test_a_restore_of_an_epoch_without_a_score_has_its_label_alone():
    top, _ = figure(scores={4: 0.1}, best_epoch=4).axes
    assert not arrows(top)
    assert "restored epoch 2" in texts(top)


def test_a_phase_without_a_restore_has_no_arrow():
    top, _ = figure([HEADS]).axes
    assert not arrows(top)
    assert not any(text.startswith("restored") for text in texts(top))


def test_phases_are_shaded_in_turn_and_parted_by_a_line_in_both_panels():
    for axis in figure().axes:
        spans = [(patch.get_x(), patch.get_width()) for patch in axis.patches]
        assert spans == [(0, 3), (3, 2)]
        first, second = (patch.get_facecolor() for patch in axis.patches)
        assert first != second
        assert [0, 0] not in [list(each.get_xdata()) for each in axis.lines]
        assert [3, 3] in [list(each.get_xdata()) for each in axis.lines]


def test_a_phase_that_was_never_begun_is_not_drawn():
    top, below = figure([HEADS, ShadedPhase("top", 3, 3, restored_epoch=1)]).axes
    assert len(top.patches) == len(below.patches) == 1
    assert "top" not in texts(top)


def test_names_and_reasons_are_written_above_the_phases():
    top, _ = figure([HEADS, ShadedPhase("top", 3, 5)]).axes
    assert {"heads", "ended: plateau", "top"} <= set(texts(top))
    assert sum(text.startswith("ended") for text in texts(top)) == 1


def test_a_frozen_stretch_is_a_gap_and_a_group_that_stayed_frozen_is_only_named():
    thawed = Curve("layer4", [0, 3, 3, 5], [0.0, 0.0, 0.002, 0.002])
    _, below = figure(curves=[STEM, thawed, HEAD]).axes
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


def test_where_lines_run_together_the_lower_one_is_wider():
    other = Curve("layer4", HEAD.epochs, [0.003, 0.003, 0.005, 0.005])
    _, below = figure(curves=[other, HEAD]).axes
    wide = [each for each in below.lines if each.get_linewidth() > 2]
    assert [list(each.get_xdata()) for each in wide] == [[0, 3, 3, 5]]
    visible = [not math.isnan(rate) for rate in wide[0].get_ydata()]
    assert visible == [False, False, True, True]


def test_texts_that_fit_side_by_side_share_a_row():
    assert stagger([0, 50, 100], [50, 50, 500]) == [0, 0, 0]


def test_a_text_goes_above_all_whose_line_it_would_cover():
    assert stagger([0, 20, 40, 100], [60, 10, 80, 30]) == [2, 0, 1, 0]


@pytest.mark.parametrize("lengths", [[1] * 6, [4, 1, 2, 1, 4, 1], [20, 1, 1, 1, 1, 1]])
@pytest.mark.parametrize("wanted", ["phase", "restored"])
def test_no_two_labels_overlap_and_none_leaves_the_picture(lengths, wanted):
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    phases = [
        ShadedPhase(
            f"phase {i} with quite a long name", start, start + length, start - 1 if start else None
        )
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]
    scores = dict.fromkeys(range(sum(lengths)), 0.3)
    drawn = figure(phases, scores=scores)
    found = boxes(drawn, lambda text: text.startswith(wanted))
    assert len(found) >= 5
    assert not any(a.overlaps(b) for i, a in enumerate(found) for b in found[:i])
    width, height = drawn.get_size_inches() * drawn.dpi
    assert min(box.x0 for box in found) >= 0
    assert min(box.y0 for box in found) >= 0
    assert max(box.x1 for box in found) <= width
    assert max(box.y1 for box in found) <= height


def test_a_name_of_any_length_and_content_is_drawn_on_one_line(tmp_path):
    names = ["W" * 300, "$x_{$", "two\nlines", "\udcff", "層"]
    phases = [ShadedPhase(name, i, i + 1) for i, name in enumerate(names)]
    draw_schedule(tmp_path / "s.png", phases, [HEAD], SCORES, 3, "$map_{$")
    top = figure(phases[:3]).axes[0]
    assert {"$x_{$", "two lines"} <= set(texts(top))
    assert any(text.startswith("WWWW") and text.endswith("...") for text in texts(top))


def test_nothing_at_all_can_be_drawn(tmp_path):
    draw_schedule(tmp_path / "s.png", [], [STEM], {}, None, "val/map")
    assert (tmp_path / "s.png").is_file()


def test_the_file_is_a_png_some_1100_pixels_wide_and_nothing_lies_beside_it(tmp_path):
    draw_schedule(tmp_path / "schedule.png", [HEADS, TOP], [HEAD], SCORES, 3, "val/map")
    assert [file.name for file in tmp_path.iterdir()] == ["schedule.png"]
    assert (tmp_path / "schedule.png").read_bytes().startswith(b"\x89PNG")
    height, width, _ = cv2.imread(str(tmp_path / "schedule.png")).shape
    assert width == 1120
    assert 500 < height < 700


def test_a_picture_that_cannot_be_drawn_leaves_the_older_one(tmp_path, monkeypatch):
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
