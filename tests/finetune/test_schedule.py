"""The schedule's arithmetic: by hand where a number is meant, by property where a rule is."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.core.errors import RequestError
from detector.finetune.options import AutoOptions, Decay, Plateau, Warmup
from detector.finetune.phases import Phase, work_backwards
from detector.finetune.schedule import Progress, Schedule

GROUPS = ("stem", "layer3", "layer4", "neck", "head")
HEADS = Phase("heads", ("neck", "head"), 3, warmup=Warmup(4, 0.2))
TOP = Phase(
    "top",
    ("layer4", "neck", "head"),
    2,
    lr_factor={"default": 0.5, "layer4": 0.1},
    warmup=Warmup(2, 0.5, "new"),
    decay=Decay("cosine", 0.1),
)


def follow(schedule, scores, steps=10):
    """The progress after every epoch, as a run makes it."""
    progress, history = schedule.start(steps), []
    for score in scores:
        if schedule.finished(progress):
            break
        if progress.ended:
            progress = schedule.next_phase(progress)
        progress = schedule.update(progress, score, progress.epoch_steps)
        history.append(progress)
    return history


def names(history):
    return [p.phases[-1].name for p in history]


def test_phases_follow_each_other():
    history = follow(Schedule([HEADS, TOP], GROUPS), [0.1] * 9)
    assert names(history) == ["heads"] * 3 + ["top"] * 2
    first, second = history[-1].phases
    assert (first.start_epoch, first.start_step, first.ended) == (0, 0, "max_epochs")
    assert (second.start_epoch, second.start_step) == (3, 30)


def test_the_next_epochs_phase_is_the_one_under_way_until_it_has_ended():
    schedule = Schedule([HEADS, TOP], GROUPS)
    history = [schedule.start(), *follow(schedule, [0.1] * 9)]
    phases = [schedule.upcoming_phase(each).name for each in history]
    assert phases == ["heads"] * 3 + ["top"] * 3  # after the last epoch none is left


def lengths(epochs, *most, steps=10):
    """Steps of each phase of a run, whose epochs are as many as wanted."""
    phases = [replace(HEADS, name=f"{i}", max_epochs=n) for i, n in enumerate(most)]
    history = follow(Schedule(phases, GROUPS, epochs), [0.1] * 99, steps)
    return [entry.steps for entry in history[-1].phases]


@pytest.mark.parametrize(
    ("epochs", "wanted"),
    [
        (None, [20, 20, 80]),
        (12, [20, 20, 80]),
        (24, [40, 40, 160]),
        (6, [10, 10, 40]),
        # By hand: 7 * 2 / 12 is 1.2, 6 * 2 / 10 is 1.2; 10 * 2 / 12 and 8 * 2 / 10 are 1.7 and 1.6.
        (7, [10, 10, 50]),
        (10, [20, 20, 60]),
        (3, [10, 10, 10]),
        # Too few for whole ones: sixths of 20 and of 10 steps.
        (2, [3, 3, 14]),
        (1, [2, 2, 6]),
    ],
)
def test_phases_share_the_epochs_of_the_run_in_proportion_to_their_own(epochs, wanted):
    assert lengths(epochs, 2, 2, 8) == wanted


def test_a_phase_that_is_not_of_whole_epochs_has_epochs_of_equal_length():
    schedule = Schedule([HEADS, replace(TOP, max_epochs=12)], GROUPS, 1)
    # A fifth and four fifths of 1000 steps; with two epochs 400, and 1600 in two of 800.
    assert [p.steps for p in follow(schedule, [0.1] * 9, 1000)] == [200, 800]
    twice = Schedule([HEADS, replace(TOP, max_epochs=12), replace(TOP, name="c")], GROUPS, 2)
    assert lengths(2, 3, 12, 5, steps=1000) == [300, 1200, 500]
    steps = [p.steps for p in follow(twice, [0.1] * 9, 1700)]
    assert steps == [600, 1200, 2400, 400]


def test_what_a_phase_leaves_by_ending_early_goes_to_those_after_it():
    waiting = replace(HEADS, max_epochs=6, plateau=Plateau(1))
    short = follow(Schedule([waiting, TOP], GROUPS), [0.5, 0.4] + [0.6] * 9)
    assert names(short) == ["heads"] * 2 + ["top"] * 2
    whole = follow(Schedule([waiting, TOP], GROUPS, 8), [0.5, 0.4] + [0.6] * 9)
    assert names(whole) == ["heads"] * 2 + ["top"] * 6


def test_a_plateau_ends_a_phase_after_its_patience():
    waiting = replace(HEADS, max_epochs=9, plateau=Plateau(patience=2, min_delta=0.05))
    # 0.24 is above 0.2, but not by as much as counts; neither is 0.25, by less than rounding.
    history = follow(Schedule([waiting, TOP], GROUPS), [0.1, 0.2, 0.24, 0.249, 0.5, 0.6])
    assert names(history) == ["heads"] * 4 + ["top"] * 2
    assert [p.bad_epochs for p in history[:4]] == [0, 0, 1, 2]
    assert history[3].ended == "plateau"


def test_small_steps_up_do_not_add_up_to_a_plateau():
    waiting = replace(HEADS, max_epochs=9, plateau=Plateau(patience=2, min_delta=0.05))
    history = follow(Schedule([waiting], GROUPS), [0.1, 0.14, 0.18, 0.2, 0.24])
    assert [p.bad_epochs for p in history] == [0, 1, 0, 1, 0]


def test_a_plateau_waits_for_its_first_epochs():
    waiting = replace(HEADS, max_epochs=9, plateau=Plateau(1, min_epochs=4))
    assert names(follow(Schedule([waiting, TOP], GROUPS), [0.5] * 5)) == ["heads"] * 4 + ["top"]


def test_patience_starts_anew_with_every_phase():
    one = replace(HEADS, max_epochs=9, plateau=Plateau(2))
    two = replace(TOP, max_epochs=9, plateau=Plateau(2))
    # The second phase begins below the first one's best: its own first epoch is what it must beat.
    history = follow(Schedule([one, two], GROUPS), [0.5, 0.4, 0.4, 0.2, 0.3, 0.2, 0.2])
    assert names(history) == ["heads"] * 3 + ["top"] * 4
    assert [p.bad_epochs for p in history[3:]] == [0, 0, 1, 2]


def test_the_schedule_ends_when_its_last_phase_no_longer_improves():
    schedule = Schedule([replace(HEADS, max_epochs=9, plateau=Plateau(2))], GROUPS)
    history = follow(schedule, [0.1, 0.3, 0.2, 0.3, 0.9])
    assert len(history) == 4
    assert schedule.finished(history[-1])
    assert (history[-1].best, history[-1].best_epoch) == (0.3, 1)


def test_the_best_epoch_is_the_first_with_the_best_score_and_nan_is_worst():
    history = follow(Schedule([HEADS, TOP], GROUPS), [math.nan, 0.2, 0.1, 0.2, math.nan])
    assert [p.best_epoch for p in history] == [0, 1, 1, 1, 1]
    assert history[0].best == -math.inf


def test_a_restore_is_of_the_best_epoch_of_the_run():
    schedule = Schedule([HEADS, replace(TOP, restore_best=True)], GROUPS)
    history = follow(schedule, [0.1, 0.3, 0.2, 0.2])
    assert history[-1].phases[1].restored_epoch == 1
    assert follow(Schedule([HEADS, TOP], GROUPS), [0] * 4)[-1].phases[1].restored_epoch is None


def backwards(**changes):
    numbers = {"max_epochs": 3, "patience": 1, "min_delta": 0.02, "head_factor": 0.7}
    numbers |= {"stage_factor": 0.4, "falloff": 0.5, "warmup": Warmup(), "decay": Decay()}
    return Schedule(work_backwards(GROUPS[:-2], AutoOptions(**numbers | changes)), GROUPS)


def test_working_backwards_unfreezes_one_more_stage_from_the_top():
    phases = backwards().phases
    assert [p.name for p in phases] == ["heads", "layer4", "layer3", "stem"]
    assert [p.train for p in phases] == [GROUPS[i:] for i in (3, 2, 1, 0)]
    assert phases[-1].lr_factor == {"default": 0.7, "layer4": 0.4, "layer3": 0.2, "stem": 0.1}
    assert [p.restore_best for p in phases] == [False, True, True, True]


def test_working_backwards_ends_with_the_first_stage_that_gains_too_little():
    schedule = backwards()
    # heads 0.30, layer4 0.33 (+0.03), layer3 0.345 (+0.015 < 0.02).
    history = follow(schedule, [0.3, 0.3, 0.33, 0.33, 0.345, 0.345, 0.9, 0.9])
    assert names(history) == ["heads"] * 2 + ["layer4"] * 2 + ["layer3"] * 2
    assert history[-1].ended == "no gain"
    assert schedule.finished(history[-1])
    assert (history[-1].best, history[-1].best_epoch) == (0.345, 4)


def test_working_backwards_wants_some_gain_even_where_none_is_asked_for():
    same = follow(backwards(min_delta=0.0), [0.3, 0.3, 0.3, 0.3, 0.9])
    assert (names(same), same[-1].ended) == (["heads"] * 2 + ["layer4"] * 2, "no gain")
    nothing = follow(backwards(), [math.nan] * 9)
    assert (names(nothing), nothing[-1].ended) == (["heads"] * 2 + ["layer4"] * 2, "no gain")


def test_frozen_groups_have_learning_rate_zero_and_unfrozen_ones_their_own():
    schedule = Schedule([HEADS, TOP], GROUPS)
    assert schedule.lr_factor(0, "layer4", 29, 30) == 0
    assert schedule.lr_factor(0, "head", 29, 30) == 1
    assert schedule.lr_factor(1, "stem", 0, 20) == 0
    assert schedule.lr_factor(1, "layer4", 0, 20) == pytest.approx(0.1 * 0.5)
    assert schedule.lr_factor(1, "head", 0, 20) == pytest.approx(0.5)


def test_warm_up_climbs_linearly_to_the_full_rate():
    rates = [Schedule([HEADS], GROUPS).lr_factor(0, "head", step, 30) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_warm_up_may_be_for_new_groups_alone():
    schedule = Schedule([HEADS, replace(TOP, decay=Decay())], GROUPS)
    rates = [schedule.lr_factor(1, "layer4", s, 20) for s in range(3)]
    assert rates == pytest.approx([0.05, 0.075, 0.1])
    assert [schedule.lr_factor(1, "head", s, 20) for s in range(3)] == [0.5] * 3


@pytest.mark.parametrize(
    ("kind", "quarter", "half"), [("cosine", (2 + 2**0.5) / 4, 0.5), ("linear", 0.75, 0.5)]
)
def test_decay_runs_over_the_phase(kind, quarter, half):
    schedule = Schedule([HEADS, replace(TOP, warmup=Warmup(), decay=Decay(kind, 0.2))], GROUPS)
    rates = [schedule.lr_factor(1, "head", step, 20) for step in (0, 5, 10, 20, 25)]
    assert rates == pytest.approx(
        [0.5, 0.5 * (0.2 + 0.8 * quarter), 0.5 * (0.2 + 0.8 * half), 0.1, 0.1]
    )


def test_a_warm_up_takes_at_most_a_quarter_of_its_phase():
    schedule = Schedule([HEADS], GROUPS)
    assert [schedule.lr_factor(0, "head", step, 8) for step in range(3)] == pytest.approx(
        [0.2, 0.6, 1.0]
    )
    assert schedule.lr_factor(0, "head", 0, 3) == 1
    assert schedule.lr_factor(0, "head", 2, None) == pytest.approx(0.6)  # its end is not known


def test_a_changed_schedule_goes_on_in_the_phase_of_the_same_name_and_groups():
    before = follow(Schedule([HEADS, TOP], GROUPS), [0.1, 0.2, 0.3, 0.4])[-1]
    other = Schedule([replace(HEADS, name="new"), HEADS, replace(TOP, max_epochs=1)], GROUPS)
    after = other.resume(before)
    assert (after.phase, after.epochs, after.best) == (2, 1, 0.4)
    assert after.ended == "max_epochs"


@pytest.mark.parametrize(
    ("phases", "index"),
    [
        ([replace(HEADS, name="a"), replace(TOP, name="b"), replace(TOP, name="c")], 1),
        ([replace(HEADS, name="a")], 0),
        ([replace(TOP, name="a"), HEADS, replace(TOP, train=("head",), lr_factor={})], 2),
    ],
)
def test_otherwise_the_phase_of_the_same_name_or_number_begins(phases, index):
    before = follow(Schedule([HEADS, TOP], GROUPS), [0.1, 0.2, 0.3, 0.4])[-1]
    after = Schedule(phases, GROUPS).resume(before)
    *past, closed, begun = after.phases
    assert past == list(before.phases[:-1])
    assert (closed.name, closed.train, closed.ended) == ("top", TOP.train, "changed")
    assert (begun.phase, begun.name, begun.train) == (
        index,
        phases[index].name,
        phases[index].train,
    )
    assert (begun.start_epoch, begun.start_step) == (4, 40)
    assert (after.epochs, after.ended) == (0, "")
    assert (after.best, after.best_epoch, after.best_before) == (0.4, 3, 0.4)


def test_another_schedule_that_is_gone_on_with_has_its_own_epochs():
    before = follow(Schedule([replace(HEADS, max_epochs=10)], GROUPS), [0.1] * 10)[-1]
    other = Schedule([HEADS, TOP], GROUPS)
    # "heads" has had more than its three; "top" begins after ten.
    assert other.total(other.resume(before)) == 12
    assert other.total(other.start()) == 5


fractions = st.floats(0, 1)
plateaus = st.builds(Plateau, st.integers(1, 3), st.sampled_from([0.0, 0.01, 0.2]))
warmups = st.builds(Warmup, st.integers(0, 25), fractions, st.sampled_from(["all", "new"]))
decays = st.builds(Decay, st.sampled_from(["none", "linear", "cosine"]), fractions)


@st.composite
def schedules(draw):
    count = draw(st.integers(1, 4))
    phases = []
    for i in range(count):
        train = draw(st.lists(st.sampled_from(GROUPS), min_size=1, unique=True))
        rates = draw(st.dictionaries(st.sampled_from([*train, "default"]), fractions))
        restore = i > 0 and draw(st.booleans())
        phases.append(
            Phase(
                f"phase{i}",
                tuple(train),
                draw(st.integers(1, 5)),
                draw(st.none() | plateaus),
                rates,
                draw(warmups),
                draw(decays),
                restore_best=restore,
                gain=draw(st.none() | st.sampled_from([0.0, 0.1])) if i else None,
            )
        )
    return Schedule(phases, GROUPS, draw(st.none() | st.integers(1, 12)))


scores = st.lists(fractions | st.just(math.nan), min_size=40, max_size=40)


@given(schedules(), scores)
def test_every_phase_keeps_its_bounds_and_the_run_its_end(schedule, scores):
    history = follow(schedule, scores)
    assert schedule.finished(history[-1])
    totals = [schedule.total(p) for p in (schedule.start(10), *history)]
    assert schedule.max_epochs or all(b <= a for a, b in pairwise(totals))
    assert totals[-1] == len(history)
    if schedule.max_epochs:
        done = history[-1].step / 10
        early = any(e.ended != "max_epochs" for e in history[-1].phases[-1:])
        assert done == schedule.max_epochs or early or len(schedule.phases) > done
    order = [p.phase for p in history]
    assert all(b - a in (0, 1) for a, b in zip([0, *order], order, strict=False))
    for index in set(order):
        phase, lasted = schedule.phases[index], order.count(index)
        if schedule.max_epochs is None:
            assert lasted <= phase.max_epochs
            bounded = phase.plateau is None and index < order[-1]
            assert not bounded or lasted == phase.max_epochs
    entries = history[-1].phases
    assert [e.start_epoch for e in entries] == [order.index(e.phase) for e in entries]


@given(schedules(), scores)
def test_the_best_score_is_the_first_of_the_largest(schedule, scores):
    history = follow(schedule, scores)
    seen = [-math.inf if math.isnan(s) else s for s in scores[: len(history)]]
    assert history[-1].best == max(seen)
    assert history[-1].best_epoch == seen.index(max(seen))


@given(schedules(), scores, st.integers(0, 11))
def test_a_run_that_is_stopped_after_any_epoch_goes_on_the_same(schedule, scores, stop):
    history = follow(schedule, scores)
    stop = min(stop, len(history) - 1)
    # Through a checkpoint, which holds plain data, and through a look at the same schedule.
    plain = json.loads(json.dumps(history[stop].to_plain()))
    progress = schedule.resume(Progress.from_plain(plain))
    assert progress == history[stop]
    for epoch in range(stop + 1, len(history)):
        if progress.ended:
            progress = schedule.next_phase(progress)
        progress = schedule.update(progress, scores[epoch], progress.epoch_steps)
        assert progress == history[epoch]


@given(schedules(), st.integers(0, 3), st.integers(1, 60), st.data())
def test_rates_stay_between_zero_and_the_groups_own(schedule, index, steps, data):
    index = min(index, len(schedule.phases) - 1)
    phase = schedule.phases[index]
    step = data.draw(st.integers(0, steps - 1))
    for group in GROUPS:
        rate = schedule.lr_factor(index, group, step, steps)
        most = phase.lr_factor.get(group, phase.lr_factor.get("default", 1.0))
        least = most * phase.warmup.start_factor
        least *= 1.0 if phase.decay.type == "none" else phase.decay.final_factor
        if group in phase.train:
            assert least - 1e-12 <= rate <= most + 1e-12
        else:
            assert rate == 0


@given(schedules(), st.integers(0, 3), st.integers(2, 60))
def test_rates_climb_in_the_warm_up_and_never_after_it(schedule, index, steps):
    index = min(index, len(schedule.phases) - 1)
    phase = schedule.phases[index]
    flat = Schedule([replace(p, decay=Decay()) for p in schedule.phases], GROUPS)
    for group in phase.train:
        climb = [flat.lr_factor(index, group, step, steps) for step in range(steps)]
        assert all(b >= a - 1e-12 for a, b in pairwise(climb))
        fall = [schedule.lr_factor(index, group, step, steps) for step in range(steps)]
        fall = fall[min(phase.warmup.steps, steps // 4) :]
        assert all(b <= a + 1e-12 for a, b in pairwise(fall))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": " "}, r"phases\[1\]\.name=' ': expected a name on one line"),
        ({"name": "a\nb"}, r"phases\[1\]\.name='a.*nb': expected a name on one line"),
        ({"lr_factor": {"head": 1e300}}, r"lr_factor\.head=1e\+300: expected 0\.\.1000"),
        ({"train": ("heads",)}, r"\.train: no group 'heads'; did you mean head\? .* has stem"),
        ({"train": ("layer7",)}, r"phases\[1\]\.train: no group 'layer7'; did you mean layer"),
        ({"train": ("backbone",)}, r"\.train: no group 'backbone'; the network has stem"),
        ({"train": ()}, r"phases\[1\]\.train: empty"),
        ({"train": ("head", "head")}, "listed twice"),
        ({"lr_factor": {"layer4": 1.0}}, r"lr_factor: 'layer4' is not trained"),
        ({"lr_factor": {"head": -1.0}}, r"lr_factor\.head=-1\.0"),
        ({"lr_factor": {"head": math.nan}}, r"lr_factor\.head=nan"),
        ({"plateau": Plateau(1, 0, 3)}, r"plateau\.min_epochs=3: expected 1\.\.2"),
        ({"optimizer_state": "checkpoint"}, r"optimizer_state: checkpoint, which needs restore"),
        ({"name": "heads"}, r"phases\[1\]\.name: there is another phase 'heads'"),
    ],
)
def test_a_phase_that_cannot_be_meant_is_refused(change, said):
    phase = Phase(**{"name": "x", "train": ("head",), "max_epochs": 2, **change})
    with pytest.raises(RequestError, match=said):
        Schedule([HEADS, phase], GROUPS)


def test_a_schedule_without_phases_or_a_past_is_refused():
    with pytest.raises(RequestError, match=r"finetune\.phases: empty"):
        Schedule([], GROUPS)
    with pytest.raises(RequestError, match=r"phases\[0\]\.restore_best: there is nothing yet"):
        Schedule([replace(HEADS, restore_best=True)], GROUPS)
