import math

import pytest

from detector.finetune.schedule import Phase, Schedule
from detector.types import RequestError

GROUPS = ("stem", "layer4", "neck", "head")
HEADS = Phase("heads", ("neck", "head"), {"default": 1.0}, 3, warmup_steps=4)
TOP = Phase("top", ("layer4", "neck", "head"), {"default": 0.5, "layer4": 0.1}, 2, final_factor=0.1)


def test_phases_follow_each_other():
    schedule = Schedule([HEADS, TOP], GROUPS)
    assert schedule.epochs == 5
    assert [schedule.locate(e) for e in range(6)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 1),
    ]


def test_a_cap_cuts_the_schedule_off_but_never_stretches_it():
    assert Schedule([HEADS, TOP], GROUPS, 2).epochs == 2
    assert Schedule([HEADS, TOP], GROUPS, 50).epochs == 5


def test_frozen_groups_have_rate_zero_and_thawed_ones_their_own():
    schedule = Schedule([HEADS, TOP], GROUPS)
    assert schedule.lr_factor("stem", 4, 0, 10) == 0
    assert schedule.lr_factor("layer4", 2, 9, 10) == 0
    assert schedule.lr_factor("layer4", 3, 0, 10) == pytest.approx(0.1)
    assert schedule.lr_factor("head", 3, 0, 10) == pytest.approx(0.5)


def test_warm_up_climbs_linearly_to_the_full_rate():
    schedule = Schedule([HEADS], GROUPS)
    rates = [schedule.lr_factor("head", 0, step, 10) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_decay_is_a_cosine_over_the_phase():
    schedule = Schedule([HEADS, TOP], GROUPS)
    middle = schedule.lr_factor("head", 4, 0, 10)
    assert middle == pytest.approx(0.5 * (0.1 + 0.9 * 0.5))
    end = schedule.lr_factor("head", 4, 9, 10)
    assert end == pytest.approx(0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi * 19 / 20)) / 2))


def test_a_capped_phase_still_decays_to_its_end():
    capped = Schedule([HEADS, TOP], GROUPS, 4)
    assert capped.lr_factor("head", 3, 5, 10) == pytest.approx(0.5 * (0.1 + 0.9 * 0.5))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": ("heads",)}, r"phases\[0\]\.train: no group 'heads'; the network has stem"),
        ({"train": ()}, r"phases\[0\]\.train: empty"),
        ({"train": ("head", "head")}, "listed twice"),
        ({"lr_factor": {"layer4": 1.0}}, r"lr_factor: 'layer4' is not trained"),
        ({"lr_factor": {"head": -1.0}}, r"lr_factor\.head: -1\.0"),
        ({"lr_factor": {"head": math.nan}}, r"lr_factor\.head: nan"),
        ({"epochs": 0}, "epochs: 0, expected at least 1"),
        ({"warmup_steps": -1}, "warmup_steps: -1"),
        ({"final_factor": 2.0}, "final_factor: 2.0"),
    ],
)
def test_a_phase_that_cannot_be_meant_is_refused(change, said):
    phase = Phase(**{"name": "x", "train": ("head",), "lr_factor": {}, "epochs": 1, **change})
    with pytest.raises(RequestError, match=said):
        Schedule([phase], GROUPS)


def test_no_phases_are_refused():
    with pytest.raises(RequestError, match=r"finetune\.phases: empty"):
        Schedule([], GROUPS)
