"""`trainer.max_epochs` stops a schedule sooner, and is refused where it would do nothing."""

import pytest
from conftest import ask, in_force

from detector.core.errors import RequestError


def refusal(*overrides):
    with pytest.raises(RequestError) as error:
        in_force(ask("train", "data=trees", *overrides))
    return str(error.value)


def test_more_epochs_than_the_schedule_has_are_refused():
    line = refusal("finetune=feature_extraction", "trainer.max_epochs=50")
    assert line.startswith("trainer.max_epochs=50: the schedule has at most 10 epochs (heads 10)")
    assert "finetune.phases.0.until.max_epochs=N" in line
    assert "finetune.auto.max_epochs=N" in refusal("finetune=auto", "trainer.max_epochs=500")
    most = ["data=trees", "finetune=feature_extraction", "trainer.max_epochs=10"]
    assert in_force(ask("train", *most)).trainer.max_epochs == 10


def test_a_cap_that_an_experiment_brings_is_none_that_was_typed():
    typed = [
        "+experiment=trees",
        "finetune=feature_extraction",
        "finetune.phases.0.until.max_epochs=2",
    ]
    config = in_force(ask("train", *typed))
    assert config.trainer.max_epochs == 8
