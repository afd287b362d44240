"""What the benchmark of phase changes trains."""

from transition import alternating

from detector.config.schedules import GROUPS
from detector.finetune.schedule import Schedule


def test_every_epoch_changes_the_phase_and_the_last_trains_what_the_first_did():
    schedule = Schedule(alternating(13), GROUPS)
    assert schedule.epochs == 13
    trained = [set(phase.train) for phase in schedule.phases]
    assert trained[::2] == [set(GROUPS)] * 7
    assert trained[1::2] == [{"neck", "head"}] * 6
    assert not schedule.phases[0].restore_best
    assert {p.optimizer_state for p in schedule.phases[1:]} == {"checkpoint"}
