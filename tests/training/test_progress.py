"""The row and the line of an epoch, by a clock that the test sets."""

import csv
from types import SimpleNamespace

import pytest
import torch

from detector.core.bar import Bar
from detector.core.run_folder import RunFolder
from detector.finetune.pace import Pace
from detector.finetune.phases import Phase
from detector.finetune.schedule import Schedule
from detector.training import progress
from detector.training.metrics_csv import read_rows, write_rows


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now.seconds)
    return now


class Recorded:
    def __init__(self):
        self.calls = []

    def log_metrics(self, metrics, step):
        self.calls.append((step, dict(metrics)))

    def save(self):
        self.calls.append("saved")


# Three batches of two to test on.
DATA = SimpleNamespace(splits={"test": range(6)}, options=SimpleNamespace(batch_size=2))


# A short first phase, and one of three epochs, whose steps cost twice as much.
PHASES = [Phase("heads", ("head",), 1), Phase("top", ("layer4", "head"), 3)]


def new_bar(folder, phases=PHASES[1:], **limits):
    """Of a run that is in its only phase, unless phases are given."""
    schedule = Schedule(phases, ("layer4", "head"), **limits)
    start = schedule.start(2)  # steps an epoch
    finetuning = SimpleNamespace(schedule=schedule, progress=start, pace=Pace())
    return progress.RunProgress(RunFolder(folder), finetuning, [1, 2], "")


def an_epoch(bar, clock, number=0, scores=None):
    """An epoch of 26 seconds: two steps until the 20th, validation until the 25th."""
    trainer = SimpleNamespace(
        current_epoch=number,
        global_step=2 * (number + 1),
        num_training_batches=2,
        num_val_batches=[4],
        datamodule=DATA,
        world_size=1,
        limit_test_batches=1.0,
        check_val_every_n_epoch=1,
        callback_metrics={"val/map": torch.tensor(0.25), **(scores or {})},
        optimizers=[SimpleNamespace(param_groups=[{"group": "head", "lr": 0.5}])],
        loggers=[Recorded()],
    )
    start, finetuning = clock.seconds, bar.finetuning
    if not number:
        bar.pace.on_train_start()
    bar.on_train_start(trainer, None)
    both = (bar.pace, bar)
    for each in both:
        each.on_train_epoch_start(trainer, None)
    for step, loss in enumerate((1.0, 2.0)):
        clock.seconds = start + 10 * (step + 1)
        for each in both:
            each.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, step)
    for batch in range(4):
        clock.seconds = start + 21 + batch
        for each in both:
            each.on_validation_batch_end(trainer, None, None, None, batch)
    clock.seconds = start + 25
    bar.pace.on_validation_end(trainer, None)
    clock.seconds = start + 26
    finetuning.progress = finetuning.schedule.update(finetuning.progress, 0.25, 2)
    bar.end_epoch(trainer)
    return trainer.loggers[0].calls


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_validation_is_what_comes_after_the_last_step_of_the_epoch(tmp_path, clock):
    an_epoch(new_bar(tmp_path), clock)
    (row,) = rows(tmp_path)
    assert list(row)[:4] == ["epoch", "phase", "seconds", "seconds_validation"]
    assert (row["seconds"], row["seconds_validation"]) == ("26.0", "5.0")


def test_every_epoch_is_timed_anew(tmp_path, clock):
    bar = new_bar(tmp_path)
    for number in (0, 1):
        an_epoch(bar, clock, number)
    assert [(r["seconds"], r["seconds_validation"]) for r in rows(tmp_path)] == [
        ("26.0", "5.0")
    ] * 2


def test_steps_of_a_later_phase_are_expected_to_take_longer_as_they_cost_more(
    tmp_path, clock, caplog
):
    caplog.set_level("INFO")
    an_epoch(new_bar(tmp_path, PHASES), clock)
    # A step of 10 s and six of 20 s; four validations of 4 batches, and 7 at the end, at 4 s.
    assert caplog.messages[0].endswith("epoch 1/4 step 1/2, loss 1.000, 10 s/step, 4 min left")
    assert pytest.approx(4 * 60, abs=30) == 10 + 6 * 20 + 23 * 4


def test_of_a_run_of_limited_time_that_time_and_the_final_evaluation_are_left(
    tmp_path, clock, caplog
):
    caplog.set_level("INFO")
    an_epoch(new_bar(tmp_path, max_minutes=3), clock)
    # 170 of 180 s, and 7 batches at 4 s; how many epochs that gives is not yet decided.
    assert caplog.messages[0] == "epoch 1 step 1/2, loss 1.000, 10 s/step, 3 min left"
    assert caplog.messages[-1].startswith("epoch 1  top  loss 1.500  val/map 0.250")


@pytest.mark.parametrize(
    ("limits", "steps"),
    # Three epochs of two steps; after 20 of 180 s two steps.
    [({}, 6), ({"max_minutes": 3}, 18), ({"max_minutes": 3, "max_epochs": 2}, 4)],
)
def test_the_bar_is_as_long_as_the_run(tmp_path, clock, monkeypatch, limits, steps):
    bar, lengths = new_bar(tmp_path, **limits), []
    monkeypatch.setattr(Bar, "update", lambda self, *_, **__: lengths.append(self.total))
    an_epoch(bar, clock)
    assert lengths[1] == steps


def test_the_scores_of_an_epoch_that_was_not_validated_are_empty(tmp_path, clock, caplog):
    caplog.set_level("INFO")
    bar = new_bar(tmp_path)
    an_epoch(bar, clock)
    bar.on_train_epoch_start(None, None)
    trainer = SimpleNamespace(
        current_epoch=1,
        check_val_every_n_epoch=5,
        callback_metrics={"val/map": torch.tensor(0.25)},  # Lightning keeps those of before
        optimizers=[SimpleNamespace(param_groups=[])],
        loggers=[],
    )
    bar.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, None, 0)
    clock.seconds += 7
    bar.end_epoch(trainer)
    assert [(r["val/map"], r["seconds_validation"]) for r in rows(tmp_path)] == [
        ("0.25", "5.0"),
        ("", "0.0"),
    ]
    assert caplog.messages[-1] == "epoch 2/3  top  loss 1.000  not validated  7 s"


def test_where_there_is_no_bar_a_line_says_how_far_the_run_is(tmp_path, clock, caplog):
    caplog.set_level("INFO")
    bar = new_bar(tmp_path)
    for number in (0, 1):
        an_epoch(bar, clock, number)
    said = [message for message in caplog.messages if "left" in message]
    # 5 steps are left, 3 validations of 4 batches, and 4 + 3 at the end, at 4 s per batch.
    assert said[0] == "epoch 1/3 step 1/2, loss 1.000, 10 s/step, 2 min left"  # 126 s
    # 3 steps, 2 validations, 7 batches at the end, of which four took 5 s, and a second between
    # two epochs: 30 + 15 * 5 / 4 + 2 s.
    assert said[1] == "epoch 2/3 step 1/2, loss 1.000, 10 s/step, 51 s left"


@pytest.mark.parametrize(
    ("splits", "limit", "batches"),
    [
        ({"test": range(5)}, 1.0, 4 + 3),  # two in a batch
        ({"test": range(5)}, 2, 4 + 2),
        ({"test": range(40)}, 0.25, 4 + 5),
        ({}, 1.0, 4),  # the validation split is then evaluated once
    ],
)
def test_the_final_evaluation_is_on_test_and_once_more_on_val(splits, limit, batches):
    trainer = SimpleNamespace(
        num_val_batches=[4],
        datamodule=SimpleNamespace(splits=splits, options=DATA.options),
        world_size=1,
        limit_test_batches=limit,
    )
    assert progress._final_batches(trainer) == batches


def test_the_line_of_an_epoch_ends_with_its_seconds_and_the_share_of_validation(
    tmp_path, clock, caplog
):
    with caplog.at_level("INFO"):
        an_epoch(new_bar(tmp_path), clock)
    assert caplog.messages[-1].endswith("26 s, 19 % of it validation")  # 5 of 26


def test_the_log_gets_the_rows_numbers_with_the_steps_done_and_the_phase_counted_from_0(
    tmp_path, clock
):
    calls = an_epoch(new_bar(tmp_path), clock, scores={"val/map_small": torch.tensor(float("nan"))})
    assert calls == [
        (
            2,
            {
                "epoch": 0,
                "seconds": 26,
                "seconds_validation": 5,
                "validation_share": pytest.approx(5 / 26),
                "train/loss": 1.5,
                "val/map": 0.25,
                "lr/head": 0.5,
                "phase": 0,
            },
        ),
        "saved",
    ]


def test_rows_from_before_validation_was_timed_stay_as_they_are(tmp_path, clock):
    old = "epoch,stage,seconds,train/loss,val/map,lr/head\n0,heads,30,3.0,0.1,0.5\n"
    (tmp_path / "metrics.csv").write_text(old)
    an_epoch(new_bar(tmp_path), clock, number=1)
    before, after = rows(tmp_path)
    assert (before["seconds"], before["seconds_validation"], before["val/map"]) == ("30", "", "0.1")
    assert (after["seconds"], after["seconds_validation"]) == ("26.0", "5.0")


def test_rows_of_an_older_version_are_read_by_todays_names(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics_csv.write_text("epoch,stage,train/loss\n0,heads,3.0\n")
    assert read_rows(run) == [{"epoch": "0", "phase": "heads", "train/loss": "3.0"}]


def test_columns_that_are_no_longer_logged_come_last_and_stay_empty(tmp_path):
    run = RunFolder(tmp_path)
    write_rows(run, [{"epoch": 0, "train/loss_l1": 0.5}, {"epoch": 1, "lr/head": 0.1}])
    assert run.metrics_csv.read_text() == "epoch,lr/head,train/loss_l1\n0,,0.5\n1,0.1,\n"


def test_without_rows_there_is_no_file(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics_csv.touch()
    write_rows(run, [])
    assert not run.metrics_csv.exists()
    assert read_rows(run) == []


@pytest.mark.parametrize(
    ("finished", "said"),
    [
        (0, ["interrupted before the first epoch was finished: nothing to resume from"]),
        (1, ["interrupted; all finished epochs are kept. To go on:", "  resume it"]),
    ],
)
def test_after_ctrl_c_the_log_says_how_to_go_on(tmp_path, caplog, finished, said):
    caplog.set_level("INFO")
    finetuning = SimpleNamespace(pace=Pace())
    bar = progress.RunProgress(RunFolder(tmp_path), finetuning, [1], "resume it")
    if finished:
        bar.run.last_checkpoint.parent.mkdir()
        bar.run.last_checkpoint.touch()
    bar.on_exception(None, None, KeyboardInterrupt())
    assert caplog.messages == said


def test_of_an_error_in_training_the_progress_says_nothing(tmp_path, caplog):
    caplog.set_level("INFO")
    new_bar(tmp_path).on_exception(None, None, ValueError("loss is not finite"))
    assert caplog.messages == []
