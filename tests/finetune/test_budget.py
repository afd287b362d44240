"""A run of limited time, by a clock that training and validation advance."""

from types import SimpleNamespace

import pytest
import torch
from conftest import assert_same
from toys import ToyTask, in_processes, rank_and_count, run_toy

from detector.core.errors import RequestError
from detector.core.run_folder import RunFolder
from detector.finetune import pace
from detector.finetune.options import Decay
from detector.finetune.phases import Phase

PHASES = [
    Phase("heads", ("head",), 1),
    Phase("all", ("stem", "top", "head"), 3, restore_best=True),
]


class Timed(ToyTask):
    """A step takes `step` seconds, twice as long where more than the head is trained.

    The first step of an epoch takes two more, a validation with its scores `validation`, and
    writing a checkpoint one.
    """

    def __init__(self, clock, step=1.0, validation=2.0, slower_after=None):
        super().__init__([[0.1 * ((7 * i) % 9) for i in range(999)]] * 2)
        self.clock, self.step, self.validation = clock, step, validation
        self.slower_after = slower_after

    def training_step(self, batch, index):
        seconds = self.step * (2 if self.network.stem.weight.requires_grad else 1)
        if self.slower_after is not None and self.clock.now > self.slower_after:
            seconds *= 1.5
        self.clock.now += seconds + (0 if index else 2)
        return super().training_step(batch, index)

    def on_validation_epoch_end(self):
        self.clock.now += self.validation
        super().on_validation_epoch_end()

    def on_save_checkpoint(self, checkpoint):
        self.clock.now += 1.0
        super().on_save_checkpoint(checkpoint)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(now=100.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: now.now))
    return now


def train(clock, folder, minutes, phases=PHASES, **options):
    """Train, with four steps an epoch; the callbacks, and the time that it took."""
    kinds = {k: options.pop(k) for k in ("step", "validation", "slower_after") if k in options}
    start, task = clock.now, Timed(clock, **kinds)
    trainer, tuning, records = run_toy(task, phases, folder, minutes=minutes, **options)
    return trainer, tuning, records, clock.now - start


@pytest.mark.parametrize(
    "paces",
    [
        {"step": 0.5, "validation": 0.5},
        {"step": 1, "validation": 20},
        {"step": 12, "validation": 30},
        {"step": 1, "validation": 2, "slower_after": 300},
    ],
)
@pytest.mark.parametrize("minutes", [5, 10])
def test_training_with_its_validations_takes_the_time_it_is_given(clock, tmp_path, paces, minutes):
    _, tuning, _, seconds = train(clock, tmp_path, minutes, **paces)
    assert seconds == pytest.approx(60 * minutes, rel=0.1)
    assert tuning.schedule.finished(tuning.progress)


def test_phases_share_the_time_as_they_share_the_epochs(clock, tmp_path):
    _, _, records, _seconds = train(clock, tmp_path, 10)
    second = next(i for i, s in enumerate(records.steps) if s["rates"]["stem"])
    # A quarter of ten minutes. An epoch takes 6 s, its checkpoint 1 s, and a validation, of every
    # third, 2 s.
    assert second == pytest.approx(0.25 * 600 / (6 + 1 + 2 / 3) * 4, rel=0.1)


def test_the_decay_ends_where_the_time_does(clock, tmp_path):
    phases = [Phase("all", ("stem", "top", "head"), 3, decay=Decay("linear"))]
    _, _, records, _ = train(clock, tmp_path, 10, phases)
    rates = [step["rates"]["head"] for step in records.steps]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.1 / len(rates), rel=0.2)


def test_an_epoch_may_end_before_all_images_were_seen_but_never_without_a_last_validation(
    clock, tmp_path
):
    # Three steps of 10 s and a validation fit into 50 s, but not the epoch's four.
    trainer, tuning, _, _ = train(
        clock, tmp_path, 5 / 6, [Phase("a", ("head",), 1)], step=10, validation=12
    )
    assert trainer.global_step == 3
    assert tuning.progress.best == 0


def test_validations_take_a_tenth_of_the_time_where_there_are_many(clock, tmp_path):
    _, tuning, _, seconds = train(clock, tmp_path, 20, step=1, validation=9)
    best = torch.load(RunFolder(tmp_path).best_checkpoint, weights_only=True)
    assert best["epoch"] == tuning.progress.best_epoch
    epochs = tuning.progress.done
    # An epoch takes 7 or 11 s, so that every seventh to twelfth is validated.
    assert 7 <= tuning.progress.every <= 13
    assert seconds == pytest.approx(1200, rel=0.1)
    assert epochs > 60


@pytest.mark.parametrize("cut", [2, 9, 12])
def test_a_resumed_run_keeps_the_plan_and_ends_with_the_same_weights(clock, tmp_path, cut):
    _, whole, records, _ = train(clock, tmp_path / "whole", 4)
    train(clock, tmp_path / "cut", 4, max_epochs=cut)
    last = RunFolder(tmp_path / "cut").last_checkpoint
    _, resumed, rest, _ = train(clock, tmp_path / "cut", 4, ckpt=last)
    assert resumed.progress == whole.progress
    assert_same(rest.ended[-1]["weights"], records.ended[-1]["weights"])
    assert_same(rest.ended[-1]["optimiser"], records.ended[-1]["optimiser"])


def test_more_time_for_a_resumed_run_is_used(clock, tmp_path):
    _, _, _, first = train(clock, tmp_path, 4)
    last = RunFolder(tmp_path).last_checkpoint
    _, _, _, second = train(clock, tmp_path, 8, ckpt=last)
    assert first + second == pytest.approx(8 * 60, rel=0.1)


def test_with_a_number_of_epochs_a_phase_ends_by_what_comes_first(clock, tmp_path):
    trainer, _, _, _ = train(clock, tmp_path / "a", 60, epochs=8)
    assert trainer.global_step == 8 * 4
    _, _, _, seconds = train(clock, tmp_path / "b", 2, epochs=800)
    assert seconds == pytest.approx(120, rel=0.1)


def test_too_little_time_is_refused_with_the_shortest_that_would_do(clock, tmp_path):
    # Two steps of 12 and 10 s, one for the other phase, and a validation, guessed at 4 s a batch.
    said = r"trainer\.max_minutes=0\.3: expected at least 0\.8 here, where a step takes 10 s and "
    with pytest.raises(RequestError, match=said + "a validation about 16 s"):
        train(clock, tmp_path, 0.3, step=10)
    assert not RunFolder(tmp_path).last_checkpoint.exists()
    trainer, _, _, _ = train(clock, tmp_path, 0.81, step=10)
    assert trainer.global_step >= 3


def test_a_run_that_becomes_slower_than_it_was_is_late_but_not_refused(clock, tmp_path):
    # Planned by two steps of 12 and 10 s: a third, and a validation of 16 s, would end after 48 s.
    _, tuning, _, seconds = train(
        *(clock, tmp_path, 5 / 6, [Phase("a", ("head",), 1)]),
        **{"step": 10, "validation": 16, "slower_after": clock.now + 20},
    )
    assert seconds == 12 + 10 + 15 + 16 + 1
    assert tuning.progress.best == 0


def with_own_clock(folder):
    """A process whose clock goes three times as fast as the first one's."""
    rank, _ = rank_and_count()
    now = SimpleNamespace(now=0.0)
    pace.time = SimpleNamespace(perf_counter=lambda: now.now * (1 + 2 * rank))
    trainer, tuning, records = run_toy(Timed(now), PHASES, folder, minutes=4)
    return trainer.global_step, tuning.progress.to_plain(), records.ended[-1]["weights"], now.now


def test_the_first_process_decides_for_all(tmp_path):
    first, second = in_processes(2, with_own_clock, tmp_path, tmp_path)
    assert first[:2] == second[:2]
    assert_same(first[2], second[2])
    assert first[3] == pytest.approx(240, rel=0.1)
