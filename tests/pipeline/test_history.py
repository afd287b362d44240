import json
import math

import pytest

from detector.core.run_folder import RunFolder
from detector.finetune.options import Decay, Warmup
from detector.finetune.phases import Phase
from detector.finetune.schedule import Entry, Progress, Schedule
from detector.pipeline import history
from detector.pipeline.history import read_training, write_history
from detector.report.schedule import ShadedPhase

GROUPS = ("layer4", "neck", "head")
HEADS = Phase("heads", ("neck", "head"), 2, warmup=Warmup(2, 0.5))
TOP = Phase(
    "top",
    ("layer4", "neck", "head"),
    1,
    lr_factor={"default": 0.5, "layer4": 0.1},
    decay=Decay("cosine"),
    restore_best=True,
)
SCHEDULE = Schedule([HEADS, TOP], GROUPS)
DONE = Progress(
    (
        Entry(0, "heads", 0, 0, None, "max_epochs", HEADS.train, 8),
        Entry(1, "top", 2, 8, 0, "max_epochs", TOP.train, 4),
    ),
    per_epoch=4,
    epochs=1,
    steps=4,
    best=0.4,
    best_epoch=0,
)
ROWS = [
    {"epoch": "0", "val/map": "0.4", "val/map_50": "0.7"},
    {"epoch": "1", "val/map": "0.25", "val/map_50": "0.9"},
    {"epoch": "2", "val/map": "0.375", "val/map_50": "0.8"},
]


@pytest.fixture
def drawn(monkeypatch):
    """What the picture is made of."""
    calls = []
    monkeypatch.setattr(history, "draw_schedule", lambda *given: calls.append(given))

    def write(folder, schedule=SCHEDULE, progress=DONE, rows=ROWS, monitor="val/map"):
        write_history(RunFolder(folder), schedule, progress, 0.01, GROUPS, rows, monitor)
        _, phases, curves, scores, best_epoch, metric = calls[-1]
        rates = {c.label: dict(zip(c.epochs, c.rates, strict=True)) for c in curves}
        return phases, curves, rates, scores, best_epoch, metric

    return write


def records(folder):
    return json.loads((folder / "phases.json").read_text())


def test_rates_follow_warm_up_and_decay(drawn, tmp_path):
    _, (_, neck, head), *_ = drawn(tmp_path)
    # Two phases meet at 2.0: the last rate of the one, the first of the other.
    steps = [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2, 2.25, 2.5, 2.75, 3]
    assert head.epochs == steps
    warm_up = [0.005, 0.0075, *[0.01] * 7]
    # 0.005 * (1 + cos(pi s / 4)) / 2
    decay = [0.005, 0.00426777, 0.0025, 0.00073223, 0.00073223]
    assert head.rates == pytest.approx(warm_up + decay, rel=1e-5)
    assert neck.rates == head.rates


def test_a_group_has_rate_zero_while_it_is_frozen_and_then_its_own(drawn, tmp_path):
    _, (layer4, *_), *_ = drawn(tmp_path)
    assert layer4.rates[:9] == [0] * 9
    assert layer4.rates[9:] == pytest.approx([0.001, 8.5355e-4, 5e-4, 1.4645e-4, 1.4645e-4], 1e-4)


def test_a_phase_that_ended_early_decays_by_the_epochs_it_might_have_had(drawn, tmp_path):
    schedule = Schedule([Phase("all", GROUPS, 4, decay=Decay("linear"))], GROUPS)
    entry = Entry(0, "all", 0, 0, None, "plateau", GROUPS, steps=4)
    progress = Progress((entry,), per_epoch=1, epochs=2, steps=2)
    _, _, rates, *_ = drawn(tmp_path, schedule, progress)
    assert rates["head"] == pytest.approx({0: 0.01, 1: 0.0075, 2: 0.0075})


def test_epochs_of_a_phase_are_equally_long_also_where_they_are_cut(drawn, tmp_path):
    schedule = Schedule([Phase("all", GROUPS, 4, decay=Decay("linear"))], GROUPS, max_minutes=2)
    progress = Progress((Entry(0, "all", 0, 0, train=GROUPS, steps=4),), 3, epochs=2, steps=4)
    _, _, rates, *_ = drawn(tmp_path, schedule, progress)
    assert rates["head"] == pytest.approx({0: 0.01, 0.5: 0.0075, 1: 0.005, 1.5: 0.0025, 2: 0.0025})


def test_many_steps_are_sampled_with_the_end_of_warm_up_among_them(drawn, tmp_path):
    schedule = Schedule([Phase("all", GROUPS, 2, warmup=Warmup(499, 0.5))], GROUPS)
    entry = Entry(0, "all", 0, 0, train=GROUPS, steps=2000)
    progress = Progress((entry,), 1000, epochs=2, steps=2000)
    _, (curve, *_), rates, *_ = drawn(tmp_path, schedule, progress)
    assert 100 < len(curve.epochs) <= 123  # of 2000
    assert rates["head"][0.499] == pytest.approx(0.01)
    assert rates["head"][1.999] == rates["head"][2] == pytest.approx(0.01)


def test_phases_of_another_schedule_have_the_rates_that_were_recorded(drawn, tmp_path):
    # The name alone is not enough: this "heads" trained layer4 as well.
    before = Entry(0, "heads", 0, 0, None, "changed", GROUPS)
    top = Entry(1, "top", 2, 8, train=TOP.train, steps=4)
    progress = Progress((before, top), 4, epochs=1, steps=4)
    rows = [{**row, "lr/head": "0.03", "lr/layer4": "0.02"} for row in ROWS]
    _, _, rates, *_ = drawn(tmp_path, progress=progress, rows=rows)
    assert list(rates["head"]) == [1, 2, 2.25, 2.5, 2.75, 3]
    assert (rates["head"][1], rates["layer4"][1]) == (0.03, 0.02)
    assert [record["train"] for record in records(tmp_path)] == [list(GROUPS), list(TOP.train)]


def test_phases_end_where_the_next_begins_and_the_last_where_the_run_stands(drawn, tmp_path):
    phases, *_ = drawn(tmp_path)
    assert phases == [
        ShadedPhase("heads", 0, 2, None, "max_epochs"),
        ShadedPhase("top", 2, 3, 0, "max_epochs"),
    ]


def test_scores_are_those_monitored_and_an_empty_cell_is_none(drawn, tmp_path):
    rows = [*ROWS[:1], {"epoch": "1", "val/map_50": ""}, {"epoch": "2"}]
    *_, scores, best_epoch, metric = drawn(tmp_path, rows=rows, monitor="val/map_50")
    assert scores[0] == 0.7
    assert math.isnan(scores[1])
    assert math.isnan(scores[2])
    assert (best_epoch, metric) == (0, "val/map_50")


def test_the_record_has_every_phase_with_its_own_best_score(drawn, tmp_path):
    drawn(tmp_path)
    assert records(tmp_path) == [
        {
            "name": "heads",
            "train": ["neck", "head"],
            "start_epoch": 0,
            "start_step": 0,
            "epochs": 2,
            "restored_epoch": None,
            "ended": "max_epochs",
            "best": 0.4,
        },
        {
            "name": "top",
            "train": ["layer4", "neck", "head"],
            "start_epoch": 2,
            "start_step": 8,
            "epochs": 1,
            "restored_epoch": 0,
            "ended": "max_epochs",
            "best": 0.375,
        },
    ]


def test_a_phase_without_scores_has_no_best(drawn, tmp_path):
    drawn(tmp_path, rows=[{"epoch": "0", "val/map": "nan"}, *ROWS[1:2]])
    assert [record["best"] for record in records(tmp_path)] == [0.25, None]


def test_a_phase_of_no_epoch_yet_has_no_rates(drawn, tmp_path):
    _, curves, *_ = drawn(tmp_path, progress=SCHEDULE.start(), rows=[])
    assert [list(curve.epochs) for curve in curves] == [[], [], []]


def test_both_files_are_written_and_nothing_else(tmp_path):
    write_history(RunFolder(tmp_path), SCHEDULE, DONE, 0.01, GROUPS, ROWS, "val/map")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["phases.json", "schedule.png"]


def test_a_run_before_its_first_epoch_has_a_history_too(tmp_path):
    write_history(RunFolder(tmp_path), SCHEDULE, SCHEDULE.start(), 0.01, GROUPS, [], "val/map")
    assert [(r["name"], r["epochs"], r["best"]) for r in records(tmp_path)] == [("heads", 0, None)]


@pytest.mark.parametrize(
    ("rows", "phases"),
    [
        (None, "[]"),
        ("epoch,phase\n0,heads\n", None),
        ("step,loss\n1,0.5\n", "[]"),
        ("epoch,phase,loss\n0,heads,high\n", "[]"),
        ("epoch,phase\n0,heads\n", '[{"name": "heads"}]'),
        ("epoch,phase\n0,heads\n", "[1]"),
        ("epoch,phase\n0,heads\n", "no JSON"),
    ],
)
def test_files_that_are_missing_or_of_another_program_are_no_history(tmp_path, rows, phases):
    for name, text in (("metrics.csv", rows), ("phases.json", phases)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert read_training(RunFolder(tmp_path), 0, "val/map") is None
